//! Who does WireGuard for an overlay: threads of this process, or the kernel.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use edgeproxy_tunnel::PublicKey;

use crate::counters::Counters;
use crate::device::Device;
use crate::kernel::KernelDevice;
use crate::registry::PeerStatus;

/// One of them.
pub enum Engine {
    /// Threads of this process, between an interface of any kind and UDP.
    Device(Arc<Device>),
    /// The kernel, by an interface of its own.
    Kernel(Box<KernelDevice>),
}

impl Engine {
    /// The threads of this process, if it is they.
    pub fn device(&self) -> Option<&Arc<Device>> {
        match self {
            Self::Device(device) => Some(device),
            Self::Kernel(_) => None,
        }
    }

    /// What others know us by, and the UDP port.
    pub fn bearings(&self) -> (PublicKey, u16) {
        match self {
            Self::Device(device) => (device.public(), device.port()),
            Self::Kernel(device) => device.bearings(),
        }
    }

    /// All registered peers.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn peers(&self) -> io::Result<Vec<PeerStatus>> {
        match self {
            Self::Device(device) => Ok(device.peers()),
            Self::Kernel(device) => device.peers(),
        }
    }

    /// How many peers are registered; none where the kernel does not tell.
    pub fn peer_count(&self) -> usize {
        match self {
            Self::Device(device) => device.peer_count(),
            Self::Kernel(device) => device.peers().map_or(0, |peers| peers.len()),
        }
    }

    /// What was counted since the start. The kernel's losses cannot be told by their cause.
    pub fn counters(&self) -> Option<&Counters> {
        match self {
            Self::Device(device) => Some(device.counters()),
            Self::Kernel(_) => None,
        }
    }

    /// Whether and how this peer is known.
    pub(crate) fn peer(&self, public: &PublicKey) -> Option<PeerStatus> {
        match self {
            Self::Device(device) => device.peer(public),
            Self::Kernel(device) => device.peers().ok()?.into_iter().find(|peer| peer.settings.public == *public),
        }
    }

    /// A peer is found there now.
    pub(crate) fn set_endpoint(&self, public: &PublicKey, endpoint: SocketAddr) {
        match self {
            Self::Device(device) => device.set_endpoint(public, endpoint),
            Self::Kernel(device) => device.set_endpoint(public, endpoint),
        }
    }

    /// Whether an address inside the overlay is some peer's.
    pub(crate) fn has_route(&self, address: IpAddr) -> bool {
        match self {
            Self::Device(device) => device.has_route(address),
            Self::Kernel(device) => device.has_route(address),
        }
    }
}
