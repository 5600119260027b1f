//! The network namespace in which everything runs: the harness starts itself again inside it.
//!
//! It has a process namespace as well, so that nothing started here outlives the harness, however that ends.

use std::env;
use std::fs;
use std::process::{Command, ExitCode, Stdio};

use crate::failure::{Context, Failure};

/// Set in the copy that runs inside.
const INSIDE: &str = "BENCHMARKS_INSIDE_NAMESPACE";

/// 50,000 ephemeral ports, and few enough connections in TIME_WAIT that the cost of connecting does not drift with the
/// number of earlier ones. Reno may be chosen in any namespace and does not pace on loopback.
const SYSCTLS: [(&str, &str); 4] = [
    ("net.ipv4.tcp_congestion_control", "reno"),
    ("net.ipv4.ip_local_port_range", "10000 59999"),
    ("net.ipv4.tcp_max_tw_buckets", "2000"),
    ("net.core.somaxconn", "8192"),
];

pub(crate) fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Runs this command line again inside a fresh namespace, and ends as it ends.
pub(crate) fn enter() -> Result<ExitCode, Failure> {
    let myself = env::current_exe().context("cannot find the harness binary")?;
    let mut command = isolation()?;
    let status = command.arg(myself).args(env::args_os().skip(1)).env(INSIDE, "1").status();
    let code = status.context("cannot start the namespace")?.code();
    Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Loopback up, and the settings of the namespace.
pub(crate) fn configure() -> Result<(), Failure> {
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("cannot run ip")?;
    if !up.success() {
        return Err(Failure::new("cannot bring loopback up"));
    }
    for (name, value) in SYSCTLS {
        fs::write(sysctl_path(name), value).context(format!("cannot set {name}"))?;
    }
    Ok(())
}

/// Network settings that the figures depend on, as the kernel has them now.
pub(crate) fn settings() -> Vec<(&'static str, String)> {
    let read = [
        "net.ipv4.ip_local_port_range",
        "net.ipv4.tcp_max_tw_buckets",
        "net.core.somaxconn",
        "net.ipv4.tcp_congestion_control",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
        "fs.pipe-user-pages-soft",
    ];
    let value = |name| fs::read_to_string(sysctl_path(name)).unwrap_or_else(|_| "not readable".to_owned());
    read.map(|name| (name, value(name).split_whitespace().collect::<Vec<_>>().join(" "))).into()
}

/// `unshare` as root, or with a user namespace of its own. Both end what runs inside when the harness outside ends.
fn isolation() -> Result<Command, Failure> {
    let common = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"];
    for rights in [&[][..], &["--user", "--map-root-user"][..]] {
        let build = || {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "unshare"]).args(rights).args(common);
            command
        };
        let trial = build().arg("true").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if trial.context("cannot run setpriv and unshare (util-linux)")?.success() {
            return Ok(build());
        }
    }
    Err(Failure::new("this user may not make a network namespace, neither as it is nor with a user namespace"))
}

fn sysctl_path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}
