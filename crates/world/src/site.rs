//! The place of one POP: a directory with its routing table and its configuration.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use edgeproxy_route::RawBackend;
use edgeproxy_store::RoutingEditor;
use tempfile::TempDir;

use crate::backend::Backend;
use crate::pop::{Pop, PopPlan};

/// A directory with a routing table, for one POP of the given binary.
#[derive(Debug)]
pub struct Site {
    directory: TempDir,
    routing: RoutingEditor,
    binary: PathBuf,
}

impl Site {
    /// With an empty table.
    ///
    /// # Errors
    /// The table cannot be made.
    pub fn new(binary: &Path) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("edgeproxy-").tempdir()?;
        let routing = RoutingEditor::create(&directory.path().join("routing.db")).map_err(io::Error::other)?;
        Ok(Self { directory, routing, binary: binary.to_owned() })
    }

    /// A file of the site.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The routing table.
    pub fn db(&self) -> PathBuf {
        self.file("routing.db")
    }

    /// Adds a row.
    ///
    /// # Errors
    /// It breaks a rule, or the table cannot be written to.
    pub fn add(&self, row: RawBackend) -> io::Result<()> {
        self.routing.add(row).map(drop).map_err(io::Error::other)
    }

    /// Adds a backend in this region, of the region's country.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_backend(&self, region: &str, backend: &Backend) -> io::Result<()> {
        self.add(row(backend.id(), region, backend.address()))
    }

    /// Changes the fields that are given.
    ///
    /// # Errors
    /// There is no such backend, a rule is broken, or the table cannot be written to.
    pub fn set(&self, id: &str, fields: RawBackend) -> io::Result<()> {
        self.routing.set(id, fields).map(drop).map_err(io::Error::other)
    }

    /// Runs SQL by the `sqlite3` tool, as an operator would.
    ///
    /// # Errors
    /// There is no such tool, or it does not like the SQL.
    pub fn sql(&self, sql: &str) -> io::Result<String> {
        let output = Command::new("sqlite3").args(["-cmd", ".timeout 5000"]).arg(self.db()).arg(sql).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(io::Error::other(format!("{sql}: {}", String::from_utf8_lossy(&output.stderr))))
    }

    /// A POP of this site in region fra, listening on a free port unless the configuration has listeners.
    pub fn plan(&self, toml: &str) -> PopPlan {
        PopPlan::new(&self.binary, self.directory.path(), toml)
    }

    /// Runs the POP of [`plan`](Self::plan).
    ///
    /// # Errors
    /// It does not start; the error tells what it said.
    pub async fn start(&self, toml: &str) -> io::Result<Pop> {
        self.plan(toml).start().await
    }
}

/// A row that is healthy and takes many connections; the country is that of the region.
pub fn row(id: &str, region: &str, address: SocketAddr) -> RawBackend {
    RawBackend {
        id: Some(id.to_owned()),
        app: Some("web".to_owned()),
        region: Some(region.to_owned()),
        wg_ip: Some(address.ip().to_string()),
        port: Some(i64::from(address.port())),
        healthy: Some(1),
        weight: Some(1),
        soft_limit: Some(10_000),
        hard_limit: Some(20_000),
        ..RawBackend::default()
    }
}
