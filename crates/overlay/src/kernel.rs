//! The kernel's own WireGuard: an interface that is created, told its keys and peers, asked how they are, and deleted.
//!
//! It outlives a process that is killed. The next one with the same key finds it and deletes it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use edgeproxy_tunnel::{PrivateKey, PublicKey, Routes};
use netlink_packet_route::link::InfoKind;
use parking_lot::Mutex;
use rustix::io::Errno;

use crate::link::{self, LinkError, LinkSettings};
use crate::random::OsRandom;
use crate::registry::{PeerSettings, PeerStatus};

mod generic;
mod wireguard;

use generic::Conversation;
use wireguard::Status;

/// An interface of the kernel that does WireGuard. It is deleted when this is dropped.
pub struct KernelDevice {
    name: String,
    index: u32,
    conversation: Mutex<Conversation>,
    /// Whom the last answer told of, for when there is none any more.
    last: Mutex<(PublicKey, u16)>,
    /// What is reached through it, by what was said at the start.
    routes: Routes<()>,
}

/// Why the kernel does no WireGuard for us.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel has none.
    #[error("this kernel has no WireGuard: load its module (modprobe wireguard), or set the overlay's mode to \"tun\"")]
    Missing,
    /// It is for those alone who may change the network.
    #[error(
        "an interface of the kernel needs CAP_NET_ADMIN: give it to the process, or set the overlay's mode to \"userns\""
    )]
    NotPermitted,
    /// It cannot be created or found.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It does not take what it is told.
    #[error("the kernel's WireGuard refuses {what}: {error}")]
    Refused {
        /// What it was told.
        what: &'static str,
        /// Why it does not take it.
        error: Errno,
    },
}

impl KernelDevice {
    /// Creates the interface in the network namespace of the calling thread, with this key and these peers, and puts it
    /// into use. The port is `None` for any that is free.
    ///
    /// # Errors
    /// What is missing, and what to do about it. Nothing is left behind then.
    pub fn start(
        private: &PrivateKey,
        port: Option<u16>,
        peers: &[PeerSettings],
        link: &LinkSettings,
    ) -> Result<Self, KernelError> {
        let created = link::create(InfoKind::Wireguard).map_err(|error| match error.error {
            Errno::OPNOTSUPP => KernelError::Missing,
            Errno::PERM => KernelError::NotPermitted,
            _ => error.into(),
        });
        let (name, index) = created?;
        let conversation = match Conversation::with(wireguard::FAMILY) {
            Ok(conversation) => conversation,
            Err(error) => {
                link::delete(&name, index)?;
                return Err(KernelError::Refused { what: "a conversation", error });
            }
        };
        let mut routes = Routes::new(OsRandom::new().number());
        for prefix in peers.iter().flat_map(|peer| &peer.allowed_ips) {
            routes.insert(*prefix, ());
        }
        let last = Mutex::new((private.public(), port.unwrap_or(0)));
        // From here on it is deleted whatever fails.
        let device = Self { name, index, conversation: Mutex::new(conversation), last, routes };
        device.delete_left_behind(&private.public());
        device.tell("our key", &wireguard::identity(index, private, port))?;
        for peer in peers {
            for message in wireguard::peer(index, peer) {
                device.tell("a peer", &message)?;
            }
        }
        link::configure(&device.name, link)?;
        Ok(device)
    }

    /// A process that was killed has left its interface behind. It has our port, and our routes.
    fn delete_left_behind(&self, public: &PublicKey) {
        for (name, index) in link::numbered().into_iter().filter(|(_, index)| *index != self.index) {
            let is_ours = self.ask(index).is_ok_and(|status| status.public == Some(*public));
            if is_ours {
                tracing::warn!(interface = name, "deleting what an earlier process with this key has left behind");
                if let Err(error) = link::delete(&name, index) {
                    tracing::warn!("{error}");
                }
            }
        }
    }

    fn tell(&self, what: &'static str, attributes: &[u8]) -> Result<(), KernelError> {
        let told = self.conversation.lock().exchange(wireguard::SET_DEVICE, attributes, false);
        told.map(drop).map_err(|error| KernelError::Refused { what, error })
    }

    fn ask(&self, index: u32) -> Result<Status, Errno> {
        let answers = self.conversation.lock().exchange(wireguard::GET_DEVICE, &wireguard::of(index), true)?;
        Ok(Status::read(&answers, SystemTime::now()))
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What others know us by, and the UDP port.
    pub(crate) fn bearings(&self) -> (PublicKey, u16) {
        let mut last = self.last.lock();
        if let Ok(Status { public: Some(public), port, .. }) = self.ask(self.index) {
            *last = (public, port);
        }
        *last
    }

    /// All its peers.
    ///
    /// # Errors
    /// Somebody has deleted the interface, or memory is short.
    pub fn peers(&self) -> io::Result<Vec<PeerStatus>> {
        Ok(self.ask(self.index)?.peers)
    }

    /// A peer is found there now.
    pub(crate) fn set_endpoint(&self, public: &PublicKey, endpoint: SocketAddr) {
        if let Err(error) = self.tell("an endpoint", &wireguard::endpoint(self.index, public, endpoint)) {
            tracing::warn!(peer = %public, %error, "endpoint not changed");
        }
    }

    /// Whether an address inside the overlay is some peer's.
    pub(crate) fn has_route(&self, address: IpAddr) -> bool {
        self.routes.lookup(address).is_some()
    }
}

impl Drop for KernelDevice {
    fn drop(&mut self) {
        if let Err(error) = link::delete(&self.name, self.index) {
            tracing::warn!("{error}");
        }
    }
}
