//! A run as a folder: what was found, and every form of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::chart::ChartError;
use super::log::{LogError, log};
use super::published::Marks;
use super::{chart, csv, honest, notes, page, ranked, table};
use crate::fleet::{Run, VERSION};

/// The run itself, from which all the rest can be made again.
pub const RUN_FILE: &str = "run.json";

/// Why a run cannot be saved or read.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file or the folder.
    #[error("{path}: {error}")]
    Io {
        #[allow(missing_docs)]
        path: PathBuf,
        #[allow(missing_docs)]
        error: io::Error,
    },
    /// It is there and no run.
    #[error(
        "{path}: is no saved run: {error}; name a folder that `bench db --out` made, its run.json, or what --json printed"
    )]
    Odd {
        #[allow(missing_docs)]
        path: PathBuf,
        #[allow(missing_docs)]
        error: serde_json::Error,
    },
    /// It is a run of another form.
    #[error("{path}: is a saved run of version {version}; {VERSION} is known")]
    Version {
        #[allow(missing_docs)]
        path: PathBuf,
        #[allow(missing_docs)]
        version: u32,
    },
    #[allow(missing_docs)]
    #[error(transparent)]
    Chart(#[from] ChartError),
    #[allow(missing_docs)]
    #[error(transparent)]
    Log(#[from] LogError),
    #[allow(missing_docs)]
    #[error("the run has no JSON form: {0}")]
    Json(#[from] serde_json::Error),
}

/// Writes `run.json`, `table.md`, `summary.csv`, `chart.svg`, `page.html` and `latencies.hlog`; the folder is made if it is
/// not there.
///
/// # Errors
/// [`FolderError`].
pub fn save(run: &Run, folder: &Path) -> Result<(), FolderError> {
    fs::create_dir_all(folder).map_err(|error| FolderError::Io { path: folder.to_owned(), error })?;
    let mut markdown =
        format!("{}\n{}\n{}", table(run, Marks::Unicode), ranked(run, Marks::Unicode), honest(run).markdown());
    let notes = notes(run);
    if !notes.is_empty() {
        markdown.push('\n');
        markdown.extend(notes.iter().map(|note| format!("- {note}\n")));
    }
    let files = [
        (RUN_FILE, serde_json::to_vec_pretty(run)?),
        ("table.md", markdown.into_bytes()),
        ("summary.csv", csv(run).into_bytes()),
        ("chart.svg", chart(run)?.into_bytes()),
        ("page.html", page(run)?.into_bytes()),
        ("latencies.hlog", log(run)?),
    ];
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::write(&path, bytes).map_err(|error| FolderError::Io { path, error })?;
    }
    Ok(())
}

/// Reads a saved run: its folder, or the file in it.
///
/// # Errors
/// [`FolderError`].
pub fn read_run(path: &Path) -> Result<Run, FolderError> {
    let path = if path.is_dir() { path.join(RUN_FILE) } else { path.to_owned() };
    let bytes = fs::read(&path).map_err(|error| FolderError::Io { path: path.clone(), error })?;
    match serde_json::from_slice::<Run>(&bytes) {
        Ok(run) if run.version == VERSION => Ok(run),
        Ok(Run { version, .. }) => Err(FolderError::Version { path, version }),
        Err(error) => Err(FolderError::Odd { path, error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::published::tests::example;

    #[test]
    fn what_is_saved_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep").join("run");
        save(&example(), &path).unwrap();
        assert_eq!(read_run(&path).unwrap(), example());
        assert_eq!(read_run(&path.join(RUN_FILE)).unwrap(), example());
        assert!(read_run(folder.path()).unwrap_err().to_string().contains("run.json"));
        let odd = read_run(&path.join("table.md")).unwrap_err().to_string();
        assert!(odd.contains("is no saved run"), "{odd}");
        let newer = path.join("newer.json");
        fs::write(&newer, serde_json::to_vec(&Run { version: 2, ..example() }).unwrap()).unwrap();
        assert!(read_run(&newer).unwrap_err().to_string().contains("of version 2; 1 is known"));
        fs::remove_file(&newer).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 6);
    }
}
