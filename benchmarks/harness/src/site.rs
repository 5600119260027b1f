//! Where a benchmark runs: addresses, limits, folders, and the words that stand for them in peer templates.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::failure::{Context, Failure};

/// All listening ports lie below the ephemeral range that the namespace sets.
pub(crate) const LISTEN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7000);
pub(crate) const ADMIN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7001);
pub(crate) const BACKEND: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8000);

/// Wanted descriptor limit; a machine that allows less gets what it allows.
const DESCRIPTORS: u64 = 262_144;
/// Two sockets per connection, and for HAProxy half a pipe more; the rest is left for files.
const DESCRIPTORS_PER_CONNECTION: u64 = 3;
/// More connections than any case opens; larger limits would only cost start-up memory.
const CONNECTIONS: u64 = 20_000;

pub(crate) struct Site {
    /// The `benchmarks` folder.
    pub(crate) root: PathBuf,
    pub(crate) edgeproxy: PathBuf,
    /// Holds one folder per start of a peer, and the routing database.
    pub(crate) scratch: PathBuf,
    /// Whether the scratch folder outlives the run.
    keep: bool,
    pub(crate) cores: usize,
    pub(crate) descriptors: u64,
}

impl Site {
    /// Raises the descriptor limit, makes the scratch folder and the routing database.
    pub(crate) fn prepare(root: &Path, edgeproxy: &Path, keep: Option<&Path>) -> Result<Self, Failure> {
        let temporary = || std::env::temp_dir().join(format!("edgeproxy-benchmarks-{}", scratch_number()));
        let scratch = keep.map_or_else(temporary, Path::to_path_buf);
        fs::create_dir_all(&scratch).context(format!("cannot make {}", scratch.display()))?;
        let site = Self {
            root: root.to_path_buf(),
            edgeproxy: edgeproxy.canonicalize().unwrap_or_else(|_| edgeproxy.to_path_buf()),
            scratch: scratch.canonicalize().context(format!("cannot find {}", scratch.display()))?,
            keep: keep.is_some(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            descriptors: raise_descriptors(),
        };
        site.make_database()?;
        Ok(site)
    }

    pub(crate) fn peers_folder(&self) -> PathBuf {
        self.root.join("peers")
    }

    fn database(&self) -> PathBuf {
        self.scratch.join("routing.db")
    }

    /// One healthy backend of one app, with limits that no case reaches.
    fn make_database(&self) -> Result<(), Failure> {
        let sql = format!(
            "DROP TABLE IF EXISTS backends; CREATE TABLE backends(id TEXT PRIMARY KEY, app TEXT, region TEXT, country TEXT, wg_ip TEXT, port INTEGER, \
             healthy INTEGER, weight INTEGER, soft_limit INTEGER, hard_limit INTEGER, deleted INTEGER); \
             INSERT INTO backends VALUES('b1','web','fra','DE','{}',{},1,1,100000,200000,0);",
            BACKEND.ip(),
            BACKEND.port()
        );
        let made = Command::new("sqlite3").arg(self.database()).arg(sql).status();
        match made.context("cannot run sqlite3")? {
            status if status.success() => Ok(()),
            status => Err(Failure::new(format!("sqlite3 could not make routing.db: {status}"))),
        }
    }

    /// Replaces the placeholders of arguments and templates; `dir` belongs to one start of one peer.
    pub(crate) fn fill(&self, text: &str, dir: &Path) -> String {
        let connections = (self.descriptors / DESCRIPTORS_PER_CONNECTION).min(CONNECTIONS);
        let words = [
            ("{listen}", LISTEN.to_string()),
            ("{listen_port}", LISTEN.port().to_string()),
            ("{admin}", ADMIN.to_string()),
            ("{backend}", BACKEND.to_string()),
            ("{backend_port}", BACKEND.port().to_string()),
            ("{db}", self.database().display().to_string()),
            ("{dir}", dir.display().to_string()),
            ("{config}", dir.join("config").display().to_string()),
            ("{cores}", self.cores.to_string()),
            ("{nofile}", self.descriptors.to_string()),
            ("{maxconn}", connections.to_string()),
            ("{edgeproxy}", self.edgeproxy.display().to_string()),
        ];
        words.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be removed stays in the temporary folder.
            let _ = fs::remove_dir_all(&self.scratch);
        }
    }
}

/// Process numbers repeat inside the namespace, so the clock tells two runs apart.
fn scratch_number() -> u128 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_micros())
}

/// The limit that holds afterwards; children inherit it.
fn raise_descriptors() -> u64 {
    for wanted in [DESCRIPTORS, getrlimit(Resource::Nofile).maximum.unwrap_or(DESCRIPTORS)] {
        let limit = Rlimit { current: Some(wanted), maximum: Some(wanted) };
        if setrlimit(Resource::Nofile, limit).is_ok() {
            return wanted;
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(DESCRIPTORS)
}
