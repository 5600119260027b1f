//! Debian packages of the peers and tools, installed without starting their services.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::failure::{Context, Failure};
use crate::peer::find_program;

/// Debian asks this program before it starts a service; 101 says no.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const REFUSE: &str = "#!/bin/sh\nexit 101\n";

/// Tools that every run needs, and the packages that bring them.
const TOOLS: [(&str, &str); 4] =
    [("sqlite3", "sqlite3"), ("ip", "iproute2"), ("unshare", "util-linux"), ("setpriv", "util-linux")];

/// Installs what is missing. Without root or apt that is an error which names the packages.
pub(crate) fn provide<'a>(packages: impl Iterator<Item = &'a str>) -> Result<(), Failure> {
    let tools = TOOLS.iter().filter(|(tool, _)| find_program(tool).is_none()).map(|&(_, package)| package);
    let mut missing: Vec<&str> = tools.chain(packages.filter(|package| !is_installed(package))).collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let guard = Guard::set()?;
    let installed = apt(&["update", "-qq"]) && {
        let mut words = vec!["install", "-y", "-qq", "--no-install-recommends"];
        words.extend(&missing);
        apt(&words)
    };
    drop(guard);
    if installed {
        return Ok(());
    }
    Err(Failure::new(format!("cannot install {}; install them by hand or leave peers out", missing.join(" "))))
}

fn is_installed(package: &str) -> bool {
    let query = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]).output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

fn apt(words: &[&str]) -> bool {
    let mut command = Command::new("apt-get");
    command.args(words).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Keeps services from being started while it lives. A policy that is already there is respected.
struct Guard {
    ours: bool,
}

impl Guard {
    fn set() -> Result<Self, Failure> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        fs::write(POLICY, REFUSE).context(format!("cannot write {POLICY}"))?;
        let guard = Self { ours: true };
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)).context(format!("cannot set up {POLICY}"))?;
        Ok(guard)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}
