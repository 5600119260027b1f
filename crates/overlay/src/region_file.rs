//! Which file of a folder is meant for this machine.

use std::fs;
use std::path::{Path, PathBuf};

/// How the files are called, after the region.
const EXTENSION: &str = "conf";
/// What the hub's own file is called after; no region is.
pub const HUB: &str = "hub";

/// Why there is no file for a region.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RegionFileError {
    /// It would lead out of the folder, or to nothing.
    #[error("{0:?} is not a region: a code of 1 to 32 lower-case letters, digits and '-' (such as fra)")]
    NotACode(String),
    /// Nobody made one. A machine elsewhere than planned may well go on without a tunnel.
    #[error("{}: no such file, so region {region} has no tunnel; {}", path.display(), there(known))]
    Missing {
        /// As it was given.
        region: String,
        /// Where it would be.
        path: PathBuf,
        /// Regions that have one, sorted.
        known: Vec<String>,
    },
}

/// The wg-quick file of a region in a folder made by `edgeproxy overlay init`: `<folder>/<region>.conf`.
///
/// # Errors
/// The region is no code, or there is no file for it.
pub fn region_file(folder: &Path, region: &str) -> Result<PathBuf, RegionFileError> {
    if !is_code(region) {
        return Err(RegionFileError::NotACode(region.to_owned()));
    }
    let path = folder.join(format!("{region}.{EXTENSION}"));
    // The hub's key in the hands of a machine that calls itself so would make two hubs.
    if is_region(region) && path.is_file() {
        return Ok(path);
    }
    Err(RegionFileError::Missing { region: region.to_owned(), path, known: regions(folder) })
}

/// Whether a region of this code can have a file.
pub fn is_region(code: &str) -> bool {
    is_code(code) && code != HUB
}

fn is_code(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=32).contains(&text.len()) && text.bytes().all(plain)
}

fn regions(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let configs = files.filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION));
    let codes = configs.filter_map(|path| path.file_stem()?.to_str().map(str::to_owned));
    let mut regions: Vec<String> = codes.filter(|code| is_region(code)).collect();
    regions.sort_unstable();
    regions
}

fn there(known: &[String]) -> String {
    match known {
        [] => "the folder has none for any region; make them with `edgeproxy overlay init`".to_owned(),
        _ => format!("the folder has those of {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_region_finds_its_own_file() {
        let folder = tempfile::tempdir().unwrap();
        let missing = region_file(folder.path(), "fra").unwrap_err().to_string();
        assert!(missing.contains("fra.conf: no such file") && missing.contains("overlay init"), "{missing}");
        for name in ["hub.conf", "gru.conf", "fra.conf", "us-east-1.conf", "notes.txt"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(region_file(folder.path(), "fra").unwrap(), folder.path().join("fra.conf"));
        for (region, path) in [("local", "local.conf"), ("hub", "hub.conf")] {
            let error = region_file(folder.path(), region).unwrap_err();
            let known = ["fra", "gru", "us-east-1"].map(str::to_owned).to_vec();
            let path = folder.path().join(path);
            assert_eq!(error, RegionFileError::Missing { region: region.to_owned(), path, known });
            assert!(error.to_string().ends_with("the folder has those of fra, gru, us-east-1"), "{error}");
        }
    }

    #[test]
    fn a_region_leads_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        for region in ["", "..", "../fra", "a/b", "FRA", "fra.conf", "f\0", &"a".repeat(33)] {
            let error = region_file(folder.path(), region).unwrap_err();
            assert_eq!(error, RegionFileError::NotACode(region.to_owned()));
        }
    }
}
