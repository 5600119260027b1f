//! A gateway that hands out peers, and the command that asks it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use edgeproxy_overlay::OsRandom;
use edgeproxy_tunnel::{PrivateKey, Random};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_edgeproxy");
/// Longer than anything here may take; only a failure takes as long.
pub(crate) const LONG: Duration = Duration::from_secs(30);
/// Ports that are free may be taken a moment later.
const TRIES: usize = 5;

/// `edgeproxy gateway` in a folder of its own, with a TCP stack of its own, on loopback. Its network is 10.50.0.0/16.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) admin: SocketAddr,
    folder: TempDir,
    log: Arc<Mutex<String>>,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    pub(crate) fn done(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// It has failed with this code, and says this.
    #[track_caller]
    pub(crate) fn failed(self, code: i32, why: &str) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.err.contains(why), "{why:?} is not in {self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Gateway {
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// With these lines of its section.
    pub(crate) fn start_with(lines: &str) -> Self {
        (0..TRIES).find_map(|_| Self::try_start(Some(lines))).expect("one port of several is free")
    }

    /// One that hands out no peers.
    pub(crate) fn start_bare() -> Self {
        (0..TRIES).find_map(|_| Self::try_start(None)).expect("one port of several is free")
    }

    fn try_start(lines: Option<&str>) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let file = |name: &str| folder.path().join(name);
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let key = private();
        let hub =
            format!("[Interface]\nPrivateKey = {}\nAddress = 10.50.0.1/16\nListenPort = {port}\n", *key.to_base64());
        write_private(&file("hub.conf"), &hub);
        let overlay = "[overlay]\nconfig = \"hub.conf\"\nmode = \"netstack\"\n[admin]\nlisten = \"127.0.0.1:0\"\n";
        let gateway =
            lines.map(|lines| format!("[gateway]\ndb = \"peers.db\"\nendpoint = \"127.0.0.1:{port}\"\n{lines}\n"));
        fs::write(file("gw.toml"), format!("{overlay}{}", gateway.unwrap_or_default())).unwrap();
        let mut command = edgeproxy();
        command.args(["gateway", "-c", "gw.toml"]).current_dir(folder.path());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (send, ready) = channel();
        let (lines, ours) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&log));
        thread::spawn(move || follow(lines, &ours, &send));
        let Ok(admin) = ready.recv_timeout(LONG) else {
            let log = log.lock().unwrap().clone();
            let _ = child.kill();
            let _ = child.wait();
            assert!(log.contains("in use"), "it did not start:\n{log}");
            return None;
        };
        Some(Self { child, admin, folder, log })
    }

    /// A file of its folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Everything it has said.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// `edgeproxy peer` with these arguments, in its folder.
    pub(crate) fn peer(&self, arguments: &[&str]) -> Said {
        self.peer_with(arguments, "")
    }

    /// The same, with this on standard input.
    pub(crate) fn peer_with(&self, arguments: &[&str], input: &str) -> Said {
        let mut command = edgeproxy();
        command.arg("peer").args(arguments).env("EDGEPROXY_ADMIN_ADDR", self.admin.to_string());
        command.current_dir(self.folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // A command that reads nothing may be gone already.
        let writer = thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let said = Said::of(child.wait_with_output().unwrap());
        writer.join().unwrap();
        said
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the log to its end; tells where the API is once all is ready.
fn follow(lines: impl BufRead, log: &Mutex<String>, ready: &Sender<SocketAddr>) {
    let mut admin = None;
    for line in lines.lines().map_while(Result::ok) {
        let entry: Value = serde_json::from_str(&line).unwrap_or_default();
        let mut log = log.lock().unwrap();
        log.push_str(&line);
        log.push('\n');
        match (entry["message"].as_str(), entry["what"].as_str()) {
            (Some("listening"), Some("admin")) => admin = entry["address"].as_str().and_then(|at| at.parse().ok()),
            // Nobody waits any more where it took too long.
            (Some("ready"), _) => drop(admin.map(|admin| ready.send(admin))),
            _ => {}
        }
    }
}

pub(crate) fn edgeproxy() -> Command {
    let mut command = Command::new(BINARY);
    command.env_clear();
    command
}

pub(crate) fn private() -> PrivateKey {
    PrivateKey::from_bytes(OsRandom::new().bytes())
}

pub(crate) fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

/// Looks until it is so.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < until, "{what}: not within {LONG:?}");
        thread::sleep(Duration::from_millis(10));
    }
}
