//! The distances between regions, on one machine and without any privilege.
//!
//! A [`Wan`] has a thread that holds back what passes: each datagram or piece of a stream is released at the time it came
//! plus what its [`Link`] says, so that lateness of the thread never adds up. Three ways through it:
//!
//! - [`UdpPath`] between WireGuard endpoints: TCP inside the tunnel meets a real path, its handshake, slow start and
//!   losses included;
//! - [`TcpPath`] between a client and a server: a relay, which also counts how often the client had to wait;
//! - [`TunPath`] between two network namespaces: whole IP packets, for programs that know nothing of any of this.
//!
//! A path that carries nothing costs nothing. While something is about to be released the thread watches the clock, for
//! at most [`WATCHED`] at a time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

mod chance;
mod engine;
mod flight;
mod link;
mod tcp;
mod tun;
mod udp;

pub use engine::WATCHED;
pub use link::{Counts, Direction, Link};
pub use tcp::TcpPath;
pub use tun::{End, TunPath};
pub use udp::UdpPath;

use engine::Engine;

/// Time to the hub and back, by region, as the published benchmark has it: the least that a read took.
pub const REGION_ROUND_TRIPS: [(&str, Duration); 10] = [
    ("lhr", Duration::from_micros(11_890)),
    ("cdg", Duration::from_micros(18_480)),
    ("fra", Duration::from_micros(26_690)),
    ("iad", Duration::from_micros(86_100)),
    ("ord", Duration::from_micros(121_680)),
    ("lax", Duration::from_micros(138_190)),
    ("sin", Duration::from_micros(165_960)),
    ("gru", Duration::from_micros(197_720)),
    ("nrt", Duration::from_micros(261_360)),
    ("syd", Duration::from_micros(268_850)),
];

/// Time from a region to the hub and back.
pub fn round_trip(region: &str) -> Option<Duration> {
    REGION_ROUND_TRIPS.iter().find_map(|(known, time)| (*known == region).then_some(*time))
}

/// A virtual wide-area network. Its thread ends when it and all its paths are gone.
#[derive(Debug)]
pub struct Wan {
    engine: Arc<Engine>,
    seed: u64,
}

impl Wan {
    /// Equal seeds make equal decisions about what is lost, for equal traffic on paths made in the same order.
    ///
    /// # Errors
    /// No thread, or no descriptors for it.
    pub fn start(seed: u64) -> io::Result<Self> {
        Ok(Self { engine: Arc::new(Engine::start()?), seed })
    }

    /// A path for datagrams on loopback: what is sent to its address comes to `target`, from a socket per sender, and
    /// the answers go back. Both directions are as `link` says until one is changed.
    ///
    /// # Errors
    /// No socket.
    pub fn udp(&self, target: SocketAddr, link: Link) -> io::Result<UdpPath> {
        UdpPath::lay(&self.engine, self.seed, target, link)
    }

    /// A path for TCP connections on loopback: what connects to its address is connected to `target`.
    ///
    /// # Errors
    /// No socket.
    pub fn tcp(&self, target: SocketAddr, link: Link) -> io::Result<TcpPath> {
        TcpPath::lay(&self.engine, self.seed, target, link)
    }

    /// A path for packets between two network namespaces, made for it. Needs CAP_NET_ADMIN and CAP_SYS_ADMIN, which an
    /// ordinary process has in a user namespace: [`edgeproxy_overlay::enter_user_namespace`], before it starts a thread.
    ///
    /// # Errors
    /// What is missing.
    pub fn tun(&self, link: Link) -> io::Result<TunPath> {
        TunPath::lay(&self.engine, self.seed, link)
    }
}
