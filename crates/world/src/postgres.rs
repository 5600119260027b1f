//! PostgreSQL as it is, for the length of a test or a demo: a primary with the schema of the published benchmark, and
//! standbys that stream from it.
//!
//! A server is a child of this process and ends with it, whatever ends it; its directory goes when it is dropped. It
//! keeps its port while it is stopped or killed, and listens on 127.0.0.1 alone.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;

use crate::deadline::{LONG, eventually};
use crate::process::{self, Process};

mod account;
mod binaries;
mod query;

pub use binaries::{BINARIES_VARIABLE, Binaries, Missing};
pub use query::Session;

use account::Account;

/// The database of the published benchmark.
pub const DATABASE: &str = "contacts";
/// Who may use its table, and nothing else.
pub const USER: &str = "contacts_user";
/// Password of [`USER`], of [`SUPERUSER`] and of the standbys.
pub const PASSWORD: &str = "scratch";
/// Who may do anything.
pub const SUPERUSER: &str = "postgres";

const REPLICATOR: &str = "replicator";
/// What every server is started with.
const COMMON: [(&str, &str); 14] = [
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
    // At a standby no fewer than at its primary; ten pools, and room.
    ("max_connections", "200"),
    ("shared_buffers", "16MB"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    // A standby that lost its primary asks again soon, and takes a silent one for dead in seconds.
    ("wal_retrieve_retry_interval", "200ms"),
    ("wal_receiver_timeout", "6s"),
    ("wal_receiver_status_interval", "1s"),
    // Kept for standbys without a slot; for one with a slot that is gone, no more than that.
    ("wal_keep_size", "64MB"),
    ("max_slot_wal_keep_size", "1GB"),
    ("max_wal_size", "1GB"),
];

const SCHEMA: &str = "
    CREATE TABLE contacts (
        id serial PRIMARY KEY,
        name varchar(255) NOT NULL,
        email varchar(255),
        notes text,
        created_at timestamp DEFAULT now()
    );
    GRANT SELECT, INSERT, UPDATE, DELETE ON contacts TO contacts_user;
    GRANT USAGE, SELECT ON SEQUENCE contacts_id_seq TO contacts_user;";

/// How long a server may take to shut down.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A server of its own: primary, or standby of another.
#[derive(Debug)]
pub struct ScratchPostgres {
    region: String,
    address: SocketAddr,
    binaries: Binaries,
    account: Account,
    settings: Vec<(String, String)>,
    // In the order in which they are to end.
    process: Option<Process>,
    directory: TempDir,
    /// Bound and never listening itself: keeps the port while the server is down.
    _claim: Socket,
}

/// A primary that can be started.
#[derive(Clone, Debug)]
pub struct Plan {
    region: String,
    settings: Vec<(String, String)>,
    tls: Option<(String, String)>,
}

impl Plan {
    /// With this value of a setting of postgresql.conf.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A commit waits for the disk, as in production; where this is not said it does not.
    #[must_use]
    pub fn durable(self) -> Self {
        self.setting("fsync", "on").setting("full_page_writes", "on")
    }

    /// With TLS by this certificate and key, both PEM, where the server knows it.
    #[must_use]
    pub fn tls(mut self, certificate: &str, key: &str) -> Self {
        self.tls = Some((certificate.to_owned(), key.to_owned()));
        self
    }

    /// Makes it and waits until it answers: about a second.
    ///
    /// # Errors
    /// `NotFound` where no PostgreSQL is installed ([`Missing`] says what would help); what the server said where it
    /// does not start.
    pub async fn start(self) -> io::Result<ScratchPostgres> {
        let mut server = ScratchPostgres::empty(self.region, self.settings)?;
        server.initialise().await?;
        if let Some((certificate, key)) = self.tls {
            server.account.write(&server.file("server.crt"), &certificate)?;
            server.account.write(&server.file("server.key"), &key)?;
            let files = [("ssl", "on"), ("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key")];
            server.settings.extend(files.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        server.restart().await?;
        server.furnish().await?;
        Ok(server)
    }
}

impl ScratchPostgres {
    /// A primary in this region, which is also its `cluster_name`.
    pub fn plan(region: &str) -> Plan {
        Plan { region: region.to_owned(), settings: Vec::new(), tls: None }
    }

    /// A primary as it is planned where nothing else is said: commits do not wait for the disk.
    ///
    /// # Errors
    /// As [`Plan::start`].
    pub async fn start(region: &str) -> io::Result<Self> {
        Self::plan(region).start().await
    }

    /// A standby in this region that streams from this server, by a slot of its own.
    ///
    /// # Errors
    /// It cannot be copied or does not start; this server is down.
    pub async fn standby(&self, region: &str) -> io::Result<Self> {
        self.standby_through(region, self.address).await
    }

    /// The same where the WAL comes by another address, behind which this server is: a path of a virtual WAN. The copy
    /// that the standby begins with is taken directly.
    ///
    /// # Errors
    /// As [`standby`](Self::standby).
    pub async fn standby_through(&self, region: &str, upstream: SocketAddr) -> io::Result<Self> {
        let mut standby = Self::empty(region.to_owned(), self.settings.clone())?;
        let mut copy = standby.command("pg_basebackup");
        copy.args(["-h", "127.0.0.1", "-U", REPLICATOR, "-X", "stream", "-R", "-C", "-c", "fast"]);
        copy.args(["--no-sync", "--no-manifest", "--no-password", "-S", &slot(region)]);
        copy.arg("-p").arg(self.address.port().to_string()).arg("-D").arg(standby.data());
        copy.env("PGPASSWORD", PASSWORD);
        Process::run(copy, &standby.log()).await?;
        // The last word about a setting counts, and here it is the last.
        let settings = standby.file("postgresql.auto.conf");
        let text = std::fs::read_to_string(&settings)?;
        standby.account.write(&settings, &format!("{text}primary_conninfo = '{}'\n", conninfo(upstream)))?;
        standby.restart().await?;
        Ok(standby)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its region.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The URL for [`USER`].
    pub fn url(&self) -> String {
        format!("postgres://{USER}:{PASSWORD}@{}/{DATABASE}", self.address)
    }

    /// The URL for [`SUPERUSER`].
    pub fn superuser_url(&self) -> String {
        format!("postgres://{SUPERUSER}:{PASSWORD}@{}/{DATABASE}", self.address)
    }

    /// The programs it was made with, `psql` and `pgbench` among them where they are installed.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// A connection as [`SUPERUSER`].
    ///
    /// # Errors
    /// It is down.
    pub async fn session(&self) -> io::Result<Session> {
        Session::open(self.address, DATABASE).await
    }

    /// Runs SQL as [`SUPERUSER`] on a connection of its own: the rows as text.
    ///
    /// # Errors
    /// It is down, or does not like the SQL.
    pub async fn sql(&self, sql: &str) -> io::Result<Vec<Vec<Option<String>>>> {
        self.session().await?.sql(sql).await
    }

    /// The first column of the first row; empty where there is none, or NULL.
    ///
    /// # Errors
    /// As [`sql`](Self::sql).
    pub async fn value(&self, sql: &str) -> io::Result<String> {
        self.session().await?.value(sql).await
    }

    /// Makes a standby the primary, and waits until it is.
    ///
    /// # Errors
    /// It is no standby, or down.
    pub async fn promote(&self) -> io::Result<()> {
        self.sql("SELECT pg_promote(true, 20)").await.map(drop)
    }

    /// A standby keeps what comes and shows none of it any more; returns once that is so.
    ///
    /// # Errors
    /// It is no standby, or down.
    pub async fn pause_replay(&self) -> io::Result<()> {
        self.sql("SELECT pg_wal_replay_pause()").await?;
        self.until("SELECT pg_get_wal_replay_pause_state()", "paused").await
    }

    /// It shows what has come, and what comes.
    ///
    /// # Errors
    /// It is no standby, or down.
    pub async fn resume_replay(&self) -> io::Result<()> {
        self.sql("SELECT pg_wal_replay_resume()").await.map(drop)
    }

    /// Waits until it has replayed all that `primary` has on disk now.
    ///
    /// # Errors
    /// One of them is down; the standby does not get there.
    pub async fn catch_up(&self, primary: &Self) -> io::Result<()> {
        let lsn = primary.value("SELECT pg_current_wal_flush_lsn()").await?;
        self.until(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"), "t").await
    }

    /// A standby streams from another server from now on: from a promoted one, say.
    ///
    /// # Errors
    /// One of them is down.
    pub async fn follow(&self, primary: &Self) -> io::Result<()> {
        let slot = slot(&self.region);
        let missing = format!("NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = '{slot}')");
        primary.sql(&format!("SELECT pg_create_physical_replication_slot('{slot}') WHERE {missing}")).await?;
        self.follow_through(primary.address).await
    }

    /// A standby gets its WAL by another address from now on.
    ///
    /// # Errors
    /// It is down.
    pub async fn follow_through(&self, upstream: SocketAddr) -> io::Result<()> {
        self.sql(&format!("ALTER SYSTEM SET primary_conninfo = '{}'", conninfo(upstream))).await?;
        self.sql("SELECT pg_reload_conf()").await.map(drop)
    }

    /// Kills it and all its processes, as a machine that loses power does. Its port refuses connections.
    ///
    /// # Errors
    /// It does not die.
    pub async fn kill(&mut self) -> io::Result<()> {
        match self.process.take() {
            Some(process) => process.kill_all().await,
            None => Ok(()),
        }
    }

    /// Shuts it down; sessions are ended. Its port refuses connections.
    ///
    /// # Errors
    /// It does not end.
    pub async fn stop(&mut self) -> io::Result<()> {
        match self.process.take() {
            Some(process) => process.end(Signal::INT, STOP_WITHIN).await.map(drop),
            None => Ok(()),
        }
    }

    /// Starts it on its port, with what it had on disk, and waits until it answers. One that runs is stopped before.
    ///
    /// # Errors
    /// It does not start; the error tells what it said.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.stop().await?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-p").arg(self.address.port().to_string());
        let given = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        // The last one given counts.
        for (name, value) in COMMON.into_iter().chain(given).chain([("cluster_name", self.region.as_str())]) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let mut process = Process::start(command, &self.log())?;
        let address = self.address;
        let answers = eventually("a PostgreSQL that answers", LONG, async || {
            process.still_runs()?;
            Ok(Session::open(address, SUPERUSER).await.ok())
        });
        answers
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("{error}; {}", process::tail(&self.log()))))?;
        self.process = Some(process);
        Ok(())
    }

    /// A place for a server that is not there yet.
    fn empty(region: String, settings: Vec<(String, String)>) -> io::Result<Self> {
        let binaries = Binaries::find().map_err(|missing| io::Error::new(io::ErrorKind::NotFound, missing))?;
        let account = Account::choose()?;
        let directory = tempfile::Builder::new().prefix("edgeproxy-postgres-").tempdir()?;
        account.give(directory.path())?;
        let claim = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        claim.set_reuse_address(true)?;
        claim.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let address = claim.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { region, address, binaries, account, settings, process: None, directory, _claim: claim })
    }

    async fn initialise(&self) -> io::Result<()> {
        let password = self.directory.path().join("password");
        self.account.write(&password, PASSWORD)?;
        let mut initdb = self.command("initdb");
        initdb.arg("-D").arg(self.data()).args(["-U", SUPERUSER, "-A", "scram-sha-256"]);
        initdb.arg(format!("--pwfile={}", password.display()));
        initdb.args(["-E", "UTF8", "--locale=C", "--wal-segsize=1", "--no-sync", "--no-instructions"]);
        Process::run(initdb, &self.log()).await
    }

    /// Role, database and table.
    async fn furnish(&self) -> io::Result<()> {
        let roles = format!(
            "CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE {REPLICATOR} LOGIN REPLICATION PASSWORD '{PASSWORD}'"
        );
        let session = Session::open(self.address, SUPERUSER).await?;
        session.sql(&roles).await?;
        // Not in a transaction, as which several statements count.
        session.sql(&format!("CREATE DATABASE {DATABASE}")).await?;
        self.sql(SCHEMA).await.map(drop)
    }

    async fn until(&self, sql: &str, wanted: &str) -> io::Result<()> {
        let mut last = String::new();
        let reached = eventually(sql, LONG, async || {
            last = self.value(sql).await?;
            Ok((last == wanted).then_some(()))
        });
        reached.await.map_err(|error| io::Error::new(error.kind(), format!("{error}: it is {last:?}, not {wanted:?}")))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.program(program));
        command.env_clear().env("LC_ALL", "C").envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.current_dir(self.directory.path());
        self.account.run_as(&mut command);
        command
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.data().join(name)
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// What it has written to its log.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn read_log(&self) -> io::Result<String> {
        std::fs::read_to_string(self.log())
    }

    /// Its directory, for tests that look whether it is gone.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

/// A name that a slot may have.
fn slot(region: &str) -> String {
    let allowed = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '_' };
    format!("standby_{}", region.to_ascii_lowercase().chars().map(allowed).collect::<String>())
}

fn conninfo(upstream: SocketAddr) -> String {
    format!("host={} port={} user={REPLICATOR} password={PASSWORD}", upstream.ip(), upstream.port())
}
