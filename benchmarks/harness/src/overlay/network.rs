//! Network namespaces of the ends of a tunnel, and the links between them.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::failure::{Context, Failure};
use crate::namespace;

/// A network namespace; it ends with this value and the processes in it, and takes its interfaces along.
pub(super) struct Network {
    namespace: File,
}

impl Network {
    /// A fresh one with loopback and the settings of the benchmark.
    pub(super) fn make() -> Result<Self, Failure> {
        let network = Self { namespace: on_a_thread(fresh)? };
        network.within(namespace::configure)?;
        Ok(network)
    }

    /// Runs `work` on a thread inside. Sockets and processes that it makes belong to this namespace.
    pub(super) fn within<T: Send>(&self, work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
        on_a_thread(|| {
            move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .context("cannot enter a network namespace")?;
            work()
        })
    }

    /// A veth pair to `other`, in a /24 of the documentation addresses.
    pub(super) fn link(&self, own: (&str, Ipv4Addr), other: (&Self, &str, Ipv4Addr)) -> Result<(), Failure> {
        let (far, far_name, far_address) = other;
        let there = format!("/proc/{}/fd/{}", std::process::id(), far.namespace.as_raw_fd());
        self.within(|| {
            ip(&["link", "add", own.0, "type", "veth", "peer", "name", far_name, "netns", &there])?;
            address(own.0, own.1)
        })?;
        far.within(|| address(far_name, far_address))
    }
}

fn address(interface: &str, address: Ipv4Addr) -> Result<(), Failure> {
    ip(&["address", "add", &format!("{address}/24"), "dev", interface])?;
    ip(&["link", "set", interface, "up"])
}

/// Runs `ip` in the namespace of the calling thread.
pub(super) fn ip(words: &[&str]) -> Result<(), Failure> {
    let output = Command::new("ip").args(words).stdin(Stdio::null()).output().context("cannot run ip")?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("ip {}: {}", words.join(" "), reason.trim())))
}

fn fresh() -> Result<File, Failure> {
    // SAFETY: CLONE_NEWNET concerns the namespace of this thread; no descriptor table is unshared.
    #[allow(unsafe_code, reason = "the flags could unshare descriptors; these do not")]
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("cannot make a network namespace")?;
    File::open("/proc/thread-self/ns/net").context("cannot hold a network namespace")
}

/// The namespace of a thread ends with the thread, so that this program itself stays where it is.
fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|_| Err(Failure::new("a thread panicked")))
}
