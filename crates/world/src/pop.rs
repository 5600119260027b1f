//! The real binary as a process of its own: started, listened to, asked, and stopped.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::client::{Client, Header};
use crate::deadline::{LONG, eventually};
use crate::http;
use crate::lines::Lines;
use crate::process;

/// A POP that can be started.
#[derive(Clone, Debug)]
pub struct PopPlan {
    binary: PathBuf,
    directory: PathBuf,
    region: String,
    toml: String,
    flags: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    admin: SocketAddr,
    descriptors: Option<u32>,
}

/// A running POP. Dropping it ends the process at once.
#[derive(Debug)]
pub struct Pop {
    child: Child,
    /// The operational log.
    pub log: Lines,
    /// The connection log, where it goes to standard output.
    pub connections: Lines,
    addresses: Vec<SocketAddr>,
    admin: SocketAddr,
}

impl PopPlan {
    pub(crate) fn new(binary: &Path, directory: &Path, toml: &str) -> Self {
        Self {
            binary: binary.to_owned(),
            directory: directory.to_owned(),
            region: "fra".to_owned(),
            toml: toml.to_owned(),
            flags: Vec::new(),
            variables: Vec::new(),
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            descriptors: None,
        }
    }

    /// In this region.
    #[must_use]
    pub fn region(mut self, region: &str) -> Self {
        region.clone_into(&mut self.region);
        self
    }

    /// With a flag of its own.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<OsString>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// With an environment variable; PATH is the only other one.
    #[must_use]
    pub fn variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// With its API there, instead of on a free port.
    #[must_use]
    pub fn admin(mut self, address: SocketAddr) -> Self {
        self.admin = address;
        self
    }

    /// With no more than so many descriptors.
    #[must_use]
    pub fn descriptors(mut self, limit: u32) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// Starts it and waits until it says that it is ready.
    ///
    /// # Errors
    /// It does not get there; the error tells what it said.
    pub async fn start(self) -> io::Result<Pop> {
        let (mut child, log, connections) = self.spawn()?;
        let ready = log.wait_for("a POP that is ready", LONG, |line| line["message"] == "ready");
        let ready = tokio::select! {
            ready = ready => ready,
            ended = ended(&mut child) => ended.and_then(|status| {
                Err(io::Error::other(format!("the POP ended ({status}); {}", log.tail())))
            }),
        };
        if let Err(error) = ready {
            let _ = child.kill().and_then(|()| child.wait());
            return Err(error);
        }
        let listening = |what: &str| -> Vec<SocketAddr> {
            let lines = log.all_json().into_iter();
            let ours = lines.filter(|line| line["message"] == "listening" && line["what"] == what);
            ours.filter_map(|line| line["address"].as_str()?.parse().ok()).collect()
        };
        let (addresses, admin) = (listening("proxy"), listening("admin"));
        match admin.first() {
            Some(&admin) => Ok(Pop { child, log, connections, addresses, admin }),
            None => Err(io::Error::other(format!("the POP did not say where its API is; {}", log.tail()))),
        }
    }

    /// Starts it where it is expected to end by itself: its exit status, and what it said on standard error.
    ///
    /// # Errors
    /// It does not end.
    pub async fn run(self) -> io::Result<(ExitStatus, String)> {
        let (mut child, log, _) = self.spawn()?;
        match ended(&mut child).await {
            Ok(status) => {
                // The reader may be a moment behind the process.
                log.ended("its last words", LONG).await?;
                Ok((status, log.all().join("\n")))
            }
            Err(error) => {
                let _ = child.kill().and_then(|()| child.wait());
                Err(error)
            }
        }
    }

    fn spawn(&self) -> io::Result<(Child, Lines, Lines)> {
        let config = self.directory.join("edgeproxy.toml");
        std::fs::write(&config, format!("region = {:?}\n{}", self.region, self.toml))?;
        let mut command = match self.descriptors {
            None => Command::new(&self.binary),
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {limit} && exec \"$0\" \"$@\"")]).arg(&self.binary);
                shell
            }
        };
        command.arg("proxy").arg("--config").arg(&config).arg("--db").arg(self.directory.join("routing.db"));
        command.arg("--admin").arg(self.admin.to_string());
        if !self.toml.contains("bind") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(&self.flags);
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.current_dir(&self.directory);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = process::spawn(command, process::KILL)?;
        let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        Ok((child, Lines::of("stderr", err)?, Lines::of("stdout", out)?))
    }
}

async fn ended(child: &mut Child) -> io::Result<ExitStatus> {
    eventually("the end of the process", LONG, async || child.try_wait()).await
}

impl Pop {
    /// Where clients connect: the first listener.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Every listener, in the order of the configuration.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Metrics, health and API.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// A client that speaks from this machine.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn connect(&self) -> io::Result<Client> {
        Client::connect(self.address()).await
    }

    /// A client that begins with a PROXY header.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn connect_as(&self, header: Header) -> io::Result<Client> {
        Client::connect_as(self.address(), header).await
    }

    /// The first line of the connection log that `matches`.
    ///
    /// # Errors
    /// It does not come.
    pub async fn logged(&self, matches: impl Fn(&Value) -> bool) -> io::Result<Value> {
        self.connections.wait_for("a line of the connection log", LONG, matches).await
    }

    /// The log line of the connection of this client, by the address of its socket.
    ///
    /// # Errors
    /// It does not come.
    pub async fn logged_of(&self, client: SocketAddr) -> io::Result<Value> {
        let client = client.to_string();
        self.logged(|line| line["client"] == client.as_str() || line["via"] == client.as_str()).await
    }

    /// GET from the API: status and body.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn get(&self, path: &str) -> io::Result<(u16, String)> {
        http::get(self.admin, path).await
    }

    /// The sum of a metric's samples with these labels.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> io::Result<f64> {
        let (_, text) = self.get("/metrics").await?;
        Ok(http::sum(&text, name, labels))
    }

    /// The same for a count.
    ///
    /// # Errors
    /// Those of the connection.
    #[expect(clippy::cast_possible_truncation, reason = "counts are whole and small")]
    pub async fn count(&self, name: &str, labels: &[(&str, &str)]) -> io::Result<i64> {
        Ok(self.metric(name, labels).await?.round() as i64)
    }

    /// Waits until a count is this.
    ///
    /// # Errors
    /// It does not get there; the error tells where it is.
    pub async fn until_count(&self, name: &str, labels: &[(&str, &str)], wanted: i64) -> io::Result<()> {
        let mut last = 0;
        let reached = eventually(name, LONG, async || {
            last = self.count(name, labels).await?;
            Ok((last == wanted).then_some(()))
        });
        reached.await.map_err(|error| {
            io::Error::new(error.kind(), format!("{error}: {labels:?} is {last}, not {wanted}; {}", self.log.tail()))
        })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        Ok(kill_process(id, signal)?)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It has not after a long time.
    pub async fn exit(&mut self) -> io::Result<ExitStatus> {
        ended(&mut self.child).await
    }

    /// Stops it as a service manager would, and waits.
    ///
    /// # Errors
    /// It does not end, not with exit code 0, or has panicked.
    pub async fn stop(mut self, within: Duration) -> io::Result<()> {
        self.signal(Signal::TERM)?;
        let status = eventually("the end of the POP", within, async || self.child.try_wait()).await?;
        if status.success() && !self.has_panicked() {
            return Ok(());
        }
        Err(io::Error::other(format!("the POP ended badly ({status}); {}", self.log.tail())))
    }

    /// Whether some thread of it has panicked.
    pub fn has_panicked(&self) -> bool {
        self.log.holds("panicked at")
    }
}

impl Drop for Pop {
    fn drop(&mut self) {
        // Gone already, after `stop`: then both fail, and nothing is left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let panicked = self.has_panicked() && !std::thread::panicking();
        assert!(!panicked, "the POP panicked; {}", self.log.tail());
    }
}
