//! Object stores that others wrote, s3s-fs and s3rver: real signatures and real bytes, in a folder.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::deadline::LONG;
use crate::lines::Lines;
use crate::process::Process;

/// The bucket that is there.
const BUCKET: &str = "speed";
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A store with a bucket `speed`, a child of this process that ends with it.
#[derive(Debug)]
pub struct ForeignStore {
    process: Process,
    /// Read, so that it is never held up by what it says.
    _said: Lines,
    address: SocketAddr,
    folder: TempDir,
}

impl ForeignStore {
    /// The key of s3s-fs, and its secret.
    pub const S3S_KEY: (&str, &str) = ("AKEXAMPLES3S", "SKEXAMPLES3S");
    /// The key of s3rver, and its secret.
    pub const S3RVER_KEY: (&str, &str) = ("S3RVER", "S3RVER");

    /// s3s-fs, which EDGEPROXY_S3S_FS names, or `make tools` put into this folder.
    ///
    /// # Errors
    /// `NotFound`: it is not there. Others: it does not start.
    pub fn s3s(tools: &Path) -> io::Result<Self> {
        let mut command = Command::new(program("EDGEPROXY_S3S_FS", &tools.join("bin/s3s-fs"))?);
        let (key, secret) = Self::S3S_KEY;
        command.args(["--access-key", key, "--secret-key", secret, "--host", "127.0.0.1"]);
        Self::start(command, |command, folder, port| {
            command.args(["--port", &port.to_string()]).arg(folder);
        })
    }

    /// s3rver, which EDGEPROXY_S3RVER names, or `make tools` put into this folder.
    ///
    /// # Errors
    /// `NotFound`: it is not there, or node is not. Others: it does not start.
    pub fn s3rver(tools: &Path) -> io::Result<Self> {
        let script = program("EDGEPROXY_S3RVER", &tools.join("s3rver/node_modules/s3rver/bin/s3rver.js"))?;
        let mut command = Command::new("node");
        command.arg(script).args(["--configure-bucket", BUCKET, "--address", "127.0.0.1", "--silent"]);
        Self::start(command, |command, folder, port| {
            command.args(["--port", &port.to_string(), "--directory"]).arg(folder);
        })
    }

    fn start(mut command: Command, finish: impl FnOnce(&mut Command, &Path, u16)) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join(BUCKET))?;
        // Free a moment ago; neither program tells a port that it chose itself.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        finish(&mut command, folder.path(), port);
        let (mut process, said) = Process::told(command)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let until = Instant::now() + LONG;
        while let Err(error) = TcpStream::connect(address) {
            process.still_runs()?;
            if Instant::now() > until {
                return Err(error);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(Self { process, _said: said, address, folder })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it in the middle of whatever it does.
    ///
    /// # Errors
    /// Whatever `kill` says.
    pub fn kill(&self) -> io::Result<()> {
        self.process.signal(Signal::KILL)
    }

    /// Uploads that are begun and neither completed nor aborted, as s3s-fs keeps them.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn uploads(&self) -> io::Result<usize> {
        let entries = std::fs::read_dir(self.folder.path())?.flatten();
        Ok(entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(".upload")).count())
    }

    /// Where an object is, or would be, as s3s-fs keeps them.
    #[must_use]
    pub fn object(&self, key: &str) -> PathBuf {
        self.folder.path().join(BUCKET).join(key)
    }
}

fn program(variable: &str, built: &Path) -> io::Result<PathBuf> {
    let found = std::env::var_os(variable).map_or_else(|| built.to_owned(), PathBuf::from);
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("{} is not there: make tools", found.display()));
    if found.exists() { Ok(found) } else { Err(missing()) }
}
