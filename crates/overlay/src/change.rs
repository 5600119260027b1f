//! What an operator changes of a running device: what is not named stays as it is.

use std::net::SocketAddr;
use std::time::Duration;

use edgeproxy_tunnel::{Prefix, PresharedKey, PrivateKey, PublicKey, Tai64N};

use crate::registry::PeerSettings;

/// What is changed of a device, in this order.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct DeviceChange {
    /// Who we are; `Some(None)`: nobody, until there is a key again.
    pub private: Option<Option<PrivateKey>>,
    /// The UDP port; 0: the kernel chooses one.
    pub port: Option<u16>,
    /// What routing may tell our datagrams by; 0: nothing.
    pub mark: Option<u32>,
    /// All peers are removed first.
    pub replace_peers: bool,
    /// Peers, one after the other. The same one may come more than once.
    pub peers: Vec<PeerChange>,
}

/// What is changed of a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerChange {
    /// Which one.
    pub public: PublicKey,
    /// It is removed, and the rest says nothing.
    pub remove: bool,
    /// Nothing is done if it is not registered.
    pub update_only: bool,
    /// A secret mixed into its handshakes; all zero for none.
    pub preshared: Option<PresharedKey>,
    /// Its initiations up to this one were answered, before this process was started: none of them is answered again. What
    /// is known here to be later stays.
    pub greatest: Option<Tai64N>,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// How often it hears from us at least; `Some(None)`: whenever there is something to say.
    pub keepalive: Option<Option<Duration>>,
    /// It loses all its addresses first.
    pub replace_allowed_ips: bool,
    /// Addresses that it gets or loses, one after the other.
    pub allowed_ips: Vec<AllowedIp>,
}

/// A change of whose an address is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllowedIp {
    /// It is the peer's, even if it was another's.
    Added(Prefix),
    /// It is not the peer's.
    Removed(Prefix),
}

impl PeerChange {
    /// Nothing of this peer.
    pub fn new(public: PublicKey) -> Self {
        Self {
            public,
            remove: false,
            update_only: false,
            preshared: None,
            greatest: None,
            endpoint: None,
            keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

impl From<PeerSettings> for PeerChange {
    fn from(settings: PeerSettings) -> Self {
        let PeerSettings { public, preshared, endpoint, keepalive, allowed_ips } = settings;
        Self {
            preshared: Some(preshared),
            endpoint,
            keepalive: Some(keepalive),
            replace_allowed_ips: true,
            allowed_ips: allowed_ips.into_iter().map(AllowedIp::Added).collect(),
            ..Self::new(public)
        }
    }
}

/// Why a device is not changed. Nothing of the change was done then.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The port is taken, or sockets are short.
    #[error("cannot listen on UDP port {0}: {1}")]
    Port(u16, std::io::Error),
    /// Marks need CAP_NET_ADMIN.
    #[error("cannot mark datagrams with {0:#x}: {1}")]
    Mark(u32, std::io::Error),
}
