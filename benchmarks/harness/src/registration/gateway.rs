//! The gateway that is measured: without privileges, its peers on the disk of this machine.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::http::Http;
use crate::failure::{Context, Failure};
use crate::site::{ADMIN, Site};

/// A million peers are to be read within three seconds.
const START: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(2);
/// Room for sixteen million of either kind.
const POOLS: &str = "10.0.0.0/8,fd00:50::/64";
pub(super) const UDP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7820);

pub(super) struct Gateway {
    child: Child,
    /// From the start of the process to its first answer.
    pub(super) ready: Duration,
}

impl Gateway {
    /// Starts it on the file of this folder.
    pub(super) fn start(site: &Site, folder: &Path) -> Result<Self, Failure> {
        let log = File::create(folder.join("gateway.log")).context("cannot make a log")?;
        let began = Instant::now();
        let child = Command::new(&site.edgeproxy)
            .args(["gateway", "--overlay", "hub.conf", "--admin", &ADMIN.to_string()])
            .env_clear()
            .env("EDGEPROXY_OVERLAY_MODE", "netstack")
            .env("EDGEPROXY_GATEWAY_DB", "peers.db")
            .env("EDGEPROXY_GATEWAY_POOLS", POOLS)
            .env("EDGEPROXY_GATEWAY_QUARANTINE", "0s")
            // A line for each peer is for whoever wants to know later; here it is work for the log alone.
            .env("EDGEPROXY_LOG", "warn")
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start edgeproxy")?;
        let mut gateway = Self { child, ready: Duration::ZERO };
        while !Http::connect(ADMIN).and_then(|mut http| http.get("/healthz")).is_ok_and(|answer| answer.status == 200) {
            if let Ok(Some(status)) = gateway.child.try_wait() {
                return Err(Failure::new(format!("the gateway ended at start: {status}")));
            }
            if began.elapsed() > START {
                return Err(Failure::new(format!("the gateway does not answer after {START:?}")));
            }
            std::thread::sleep(LOOK);
        }
        gateway.ready = began.elapsed();
        Ok(gateway)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As its supervisor would stop it.
    pub(super) fn stop(mut self) -> Result<(), Failure> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("cannot stop the gateway")?;
        self.child.wait().context("cannot wait for the gateway").map(|_| ())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder with the file of a hub that nobody knows yet.
pub(super) fn make_folder(site: &Site, name: &str) -> Result<PathBuf, Failure> {
    let folder = site.scratch.join(name);
    fs::create_dir_all(&folder).context(format!("cannot make {}", folder.display()))?;
    let made = Command::new(&site.edgeproxy).arg("keygen").output().context("cannot run edgeproxy keygen")?;
    let key = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    let file = folder.join("hub.conf");
    let port = UDP.port();
    let text = format!("[Interface]\nPrivateKey = {key}\nAddress = 10.0.0.1/8, fd00:50::1/64\nListenPort = {port}\n");
    let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&file);
    written.and_then(|mut file| file.write_all(text.as_bytes())).context(format!("cannot write {}", file.display()))?;
    Ok(folder)
}
