//! A routing table in a directory of its own, written to by the `sqlite3` tool as an operator would.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// The table as the older tool makes it, with or without the country column.
pub(crate) const WITH_COUNTRY: &str = "CREATE TABLE backends (id TEXT PRIMARY KEY, app TEXT, region TEXT, country TEXT, \
     wg_ip TEXT, port INTEGER, healthy INTEGER, weight INTEGER, soft_limit INTEGER, hard_limit INTEGER, \
     deleted INTEGER);";
pub(crate) const WITHOUT_COUNTRY: &str = "CREATE TABLE backends (id TEXT PRIMARY KEY, app TEXT, region TEXT, wg_ip TEXT, \
     port INTEGER, healthy INTEGER, weight INTEGER, soft_limit INTEGER, hard_limit INTEGER, deleted INTEGER);";

pub(crate) struct Site {
    dir: TempDir,
}

#[allow(dead_code, reason = "each test file is a program of its own and uses its part")]
impl Site {
    /// An empty directory.
    pub(crate) fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// With a table of one backend, b1.
    pub(crate) fn new(journal_mode: &str) -> Self {
        let site = Self::empty();
        site.sql(&format!("PRAGMA journal_mode={journal_mode}; {WITH_COUNTRY} {}", insert("b1", "fra", "'DE'")));
        site
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.path("routing.db")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        sqlite3(&self.db(), sql)
    }

    /// A `sqlite3` that stays, fed by its standard input.
    pub(crate) fn shell(&self) -> Child {
        let mut command = Command::new("sqlite3");
        command.arg(self.db()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }
}

pub(crate) fn sqlite3(path: &Path, sql: &str) -> String {
    let output = Command::new("sqlite3").args(["-cmd", ".timeout 5000"]).arg(path).arg(sql).output().unwrap();
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub(crate) fn insert(id: &str, region: &str, country: &str) -> String {
    format!(
        "INSERT INTO backends (id, app, region, country, wg_ip, port, healthy, weight, soft_limit, hard_limit, deleted) \
         VALUES ('{id}', 'web', '{region}', {country}, '10.50.1.1', 8080, 1, 1, 100, 150, 0);"
    )
}
