//! A directory that is gone when its user is.

use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A temporary directory, removed with everything in it when dropped.
#[derive(Debug)]
pub struct Scratch(TempDir);

impl Scratch {
    /// An empty one.
    ///
    /// # Errors
    /// The directory for temporary files cannot be written to.
    pub fn new() -> io::Result<Self> {
        tempfile::Builder::new().prefix("edgeproxy-").tempdir().map(Self)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}
