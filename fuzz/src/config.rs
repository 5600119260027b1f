//! The configuration: a file and the environment.
//!
//! The input is the file's text; behind a NUL follow variables as `NAME=VALUE`, with a NUL between two.
//!
//! - It is refused with at least one message, each of one line and about a line that the file has; or it has a
//!   region and a listener, and nothing is 0 where 0 would mean that it never happens.
//! - Reading it twice gives the same.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use self::binary::config::{Config, Origin, Problem, ProxyFlags, Role};

// The binary's own module, not a copy: of a crate that has no library.
#[allow(dead_code, unused_imports, reason = "a part of the binary is used here")]
#[path = "../../crates/edgeproxy/src"]
mod binary {
    pub(crate) mod config;
}

/// Whatever bytes: see the head of this module.
pub fn config(data: &[u8]) {
    let mut parts = data.split(|&byte| byte == 0);
    let text = parts.next().unwrap_or_default();
    let variables: Vec<(OsString, OsString)> = parts.filter_map(variable).collect();
    SCRATCH.with_borrow(|scratch| {
        std::fs::write(&scratch.0, text).expect("the directory for temporary files can be written to");
        let flags = ProxyFlags { config: Some(scratch.0.clone()), ..ProxyFlags::default() };
        for role in [Role::Proxy, Role::Gateway] {
            let loaded = Config::load(role, &flags, variables.clone());
            let again = Config::load(role, &flags, variables.clone());
            assert_eq!(format!("{loaded:?}"), format!("{again:?}"));
            match loaded {
                Ok(config) => check(&config),
                Err(problems) => {
                    assert!(!problems.is_empty(), "refused without a word");
                    problems.iter().for_each(|problem| check_problem(problem, text));
                }
            }
        }
    });
}

fn check_problem(problem: &Problem, text: &[u8]) {
    crate::assert_one_line(&problem.to_string());
    if let Origin::File { line: Some(line), .. } = problem.origin {
        let lines = text.iter().filter(|byte| **byte == b'\n').count() + 1;
        assert!((1..=lines).contains(&line), "line {line} of {lines}: {problem}");
    }
}

fn check(config: &Config) {
    config.notices.iter().for_each(|notice| crate::assert_one_line(notice));
    let proxy = &config.proxy;
    assert!(!proxy.region.is_empty() && proxy.threads > 0);
    // A gateway has what it publishes.
    assert_eq!(proxy.listeners.is_empty(), config.role == Role::Gateway);
    assert!(!proxy.checks.is_empty());
    for listener in &proxy.listeners {
        assert!((1..=8).contains(&listener.connect_attempts) && listener.affinity_capacity > 0);
        let never_zero = [
            listener.connect_timeout,
            listener.connect_deadline,
            listener.proxy_header_timeout,
            listener.queue_timeout,
        ];
        assert!(never_zero.iter().all(|duration| !duration.is_zero()), "{listener:?}");
        let zero_is_none = [listener.idle_timeout, listener.max_lifetime, listener.keepalive, listener.user_timeout];
        assert!(zero_is_none.iter().flatten().all(|duration| !duration.is_zero()), "{listener:?}");
    }
    for check in &proxy.checks {
        assert!(check.pace.rise > 0 && check.pace.fall > 0 && check.port != Some(0), "{check:?}");
        assert!(!check.pace.interval.is_zero() && !check.timeout.is_zero(), "{check:?}");
    }
    let outlier = &proxy.outlier;
    assert!(outlier.failure_ratio > 0.0 && outlier.base_pause <= outlier.max_pause, "{outlier:?}");
    assert!(config.routing.heartbeat_ttl > 0);
}

fn variable(bytes: &[u8]) -> Option<(OsString, OsString)> {
    let at = bytes.iter().position(|&byte| byte == b'=')?;
    let part = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    Some((part(&bytes[..at]), part(&bytes[at + 1..])))
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
}

/// A file of this thread's own, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let name = format!("edgeproxy-fuzz-{}-{}.toml", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let path = folder.join(name);
        File::create(&path).expect("the directory for temporary files can be written to");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left behind at worst: it is a temporary file.
        let _ = std::fs::remove_file(&self.0);
    }
}
