//! A device whose interface is the ends of pairs of sockets, one for each worker: the test has the others.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::{Duration, Instant};

use edgeproxy_overlay::{Device, DeviceSettings, PeerSettings, Queue, Tenants};
use edgeproxy_tunnel::{GateSettings, Prefix, PresharedKey, PrivateKey};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// Longer than anything here may take.
pub(crate) const LONG: Duration = Duration::from_secs(10);
/// Workers of each device: what one takes in may be another's to send.
pub(crate) const WORKERS: usize = 3;
/// Bytes of the header in front of each packet.
const HEADER: usize = 10;

pub(crate) struct Host {
    pub(crate) device: Arc<Device>,
    above: Vec<OwnedFd>,
    /// The queue that takes the next packet.
    next: AtomicUsize,
    pub(crate) ip: Ipv4Addr,
}

impl Host {
    /// The host of this number: its key and its address 10.50.0.n follow from that.
    pub(crate) fn start(number: u8, forward: bool) -> Self {
        Self::start_with(number, forward, Tenants::default())
    }

    pub(crate) fn start_with(number: u8, forward: bool, tenants: Tenants) -> Self {
        Self::start_gated(number, forward, tenants, GateSettings::default())
    }

    pub(crate) fn start_gated(number: u8, forward: bool, tenants: Tenants, gate: GateSettings) -> Self {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let pair = || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let (above, below): (Vec<_>, Vec<_>) = (0..WORKERS).map(|_| pair()).unzip();
        let ip = Ipv4Addr::new(10, 50, 0, number);
        let settings =
            DeviceSettings { forward, tenants, gate, ..DeviceSettings::new(private(number), 1420, vec![ip.into()]) };
        let device = Device::start(settings, below.into_iter().map(Queue::from).collect()).unwrap();
        Self { device: Arc::new(device), above, next: AtomicUsize::new(0), ip }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.device.port()))
    }

    /// Registers another host, at its address if that is to be known.
    pub(crate) fn know(&self, other: &Self, reachable: bool, allowed_ips: &[&str]) {
        self.device.set_peer(PeerSettings {
            public: other.device.public(),
            preshared: PresharedKey::default(),
            endpoint: reachable.then(|| other.address()),
            keepalive: None,
            allowed_ips: allowed_ips.iter().map(|prefix| prefix.parse::<Prefix>().unwrap()).collect(),
        });
    }

    /// Sends a packet as a program on this host would.
    pub(crate) fn send(&self, packet: &[u8]) {
        self.send_by(self.next.fetch_add(1, Relaxed) % WORKERS, packet);
    }

    /// The same by the worker of this number, as soon as it has room.
    pub(crate) fn send_by(&self, worker: usize, packet: &[u8]) {
        let mut framed = vec![0; HEADER];
        framed.extend_from_slice(packet);
        loop {
            match rustix::io::write(&self.above[worker], &framed) {
                Ok(_) => return,
                Err(rustix::io::Errno::AGAIN) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next packet that comes up, within `time`.
    pub(crate) fn receive_within(&self, time: Duration) -> Option<Vec<u8>> {
        let until = Instant::now() + time;
        let mut buffer = vec![0; 70_000];
        loop {
            let mut came = self.above.iter().filter_map(|queue| rustix::io::read(queue, &mut buffer).ok());
            if let Some(length) = came.next() {
                return Some(buffer[HEADER..length].to_vec());
            }
            if Instant::now() >= until {
                return None;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    pub(crate) fn receive(&self) -> Vec<u8> {
        self.receive_within(LONG).expect("a packet comes")
    }
}

pub(crate) fn private(number: u8) -> PrivateKey {
    PrivateKey::from_bytes([number; 32])
}

/// A UDP datagram in an IPv4 packet.
pub(crate) fn packet(from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let udp = 8 + u16::try_from(payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&(20 + udp).to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&to.octets());
    let sum = edgeproxy_overlay::packet::Sum::ZERO.bytes(&packet).checksum();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(&[0x10, 0, 0x20, 0]);
    packet.extend_from_slice(&udp.to_be_bytes());
    // No checksum, which IPv4 allows.
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(payload);
    packet
}

/// Sets it at the end, however that comes.
pub(crate) struct AtEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Waits until it holds.
pub(crate) fn eventually(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < until, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(1));
    }
}
