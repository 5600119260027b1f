//! A running gateway, and the folder of its files.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use edgeproxy_tunnel::{PrivateKey, PublicKey};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::Client;

/// Far longer than anything takes; only a failure takes as long.
pub(crate) const LONG: Duration = Duration::from_secs(20);
/// The base64 of bytes that are all 1.
const PRIVATE_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

/// A gateway's files.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// With more tables in its configuration.
    pub(crate) fn with(tables: &str) -> Self {
        let folder = Self(TempDir::new().unwrap());
        folder.write("hub.conf", &format!("[Interface]\nPrivateKey = {PRIVATE_KEY}\nAddress = 10.50.0.1/16\n"));
        let gateway = "[gateway]\ndb = \"db/peers.db\"\npools = [\"10.50.0.0/16\", \"fd00:50::/64\"]\n";
        let overlay = "[overlay]\nconfig = \"hub.conf\"\nmode = \"netstack\"\nthreads = 1\n";
        let admin = "[admin]\nlisten = \"127.0.0.1:0\"\n";
        folder.write("gw.toml", &format!("{overlay}{admin}{gateway}{tables}"));
        std::fs::create_dir(folder.path().join("db")).unwrap();
        folder
    }

    /// A file that only its owner can read.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.path().join("db/peers.db")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path().join("gw.toml")
    }
}

/// `edgeproxy gateway`.
pub(crate) struct Hub {
    child: Child,
    pub(crate) admin: SocketAddr,
    /// UDP port of its overlay.
    pub(crate) port: u16,
    log: Arc<Mutex<Vec<Value>>>,
}

impl Hub {
    pub(crate) fn start(folder: &Folder) -> Self {
        let mut command = edgeproxy();
        command.args(["gateway", "-c"]).arg(folder.config());
        Self::run(command)
    }

    /// A command that becomes the gateway.
    pub(crate) fn run(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (send, ready) = mpsc::channel();
        let copy = Arc::clone(&log);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let entry: Value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                let is_ready = entry["message"] == "ready";
                copy.lock().unwrap().push(entry);
                if is_ready {
                    let _ = send.send(());
                }
            }
        });
        if ready.recv_timeout(LONG).is_err() {
            let _ = child.kill();
            panic!("it did not start: {:#?}", log.lock().unwrap());
        }
        let find = |is_it: fn(&Value) -> bool, key: &str| {
            let log = log.lock().unwrap();
            log.iter().find(|entry| is_it(entry)).map(|entry| entry[key].clone()).unwrap()
        };
        // Services that are published listen as well, at addresses that are not for this process to connect to.
        let admin = find(|entry| entry["message"] == "listening" && entry["what"] == "admin", "address");
        let admin: SocketAddr = admin.as_str().unwrap().parse().unwrap();
        assert!(admin.ip().is_loopback(), "{admin}");
        let port = find(|entry| entry["message"] == "overlay up", "port").as_u64().unwrap().try_into().unwrap();
        Self { child, admin, port, log }
    }

    /// Who it is.
    pub(crate) fn public() -> PublicKey {
        PrivateKey::from_bytes([1; 32]).public()
    }

    pub(crate) fn client(&self) -> Client {
        Client::of(self.admin)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lines of the log with this target.
    pub(crate) fn told(&self, target: &str) -> Vec<Value> {
        self.log.lock().unwrap().iter().filter(|entry| entry["target"] == target).cloned().collect()
    }

    /// Without any warning.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Tells it to stop, and waits until it has.
    pub(crate) fn stop(mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        eventually("it stops", || self.child.try_wait().unwrap())
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn edgeproxy() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgeproxy"));
    command.env_clear();
    command
}

/// Asks until there is an answer.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {LONG:?}");
        thread::sleep(Duration::from_millis(10));
    }
}
