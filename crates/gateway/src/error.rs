//! Why something was not done.

use edgeproxy_store::peers::{PeerId, PeersError};
use edgeproxy_tunnel::{Prefix, PublicKey};

use crate::addresses::AddressError;
use crate::request::RequestError;

/// Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GatewayError {
    /// A field breaks its rule.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// There is no address, or not this one.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// This key is this gateway's own.
    #[error("{0} is the key of this gateway itself")]
    OwnKey(PublicKey),
    /// This key is of another peer, or was until a rotation that is not over.
    #[error("{0} belongs to another peer, or belonged to one that has another key since a moment ago")]
    KeyTaken(PublicKey),
    /// Somebody creates this very peer now.
    #[error("a peer with the key {0} is being created at this moment; ask again")]
    Busy(PublicKey),
    /// There are as many peers as there may be.
    #[error("there are {0} peers, as many as gateway.max_peers allows")]
    Full(usize),
    /// A file that no gateway wrote.
    #[error(
        "{path}: peer {id} has a key, an address or a network that another one has; remove one of the two with sqlite3"
    )]
    Twice {
        /// The file.
        path: String,
        /// The second of the two.
        id: PeerId,
    },
    /// The file is from before the configuration was changed.
    #[error(
        "{path}: peer {id} has {has}, which overlaps {by}: the configuration has that for this gateway itself, for a peer \
         of the wg-quick file, or for a pool; change it, or end the peer while the former one is in use"
    )]
    Reserved {
        /// The file.
        path: String,
        /// Whose it is.
        id: PeerId,
        /// An address of the peer, or a network behind it.
        has: Prefix,
        /// What it overlaps.
        by: Prefix,
    },
    /// No such peer.
    #[error("there is no peer {0}")]
    Unknown(PeerId),
    /// The file fails.
    #[error(transparent)]
    Store(#[from] PeersError),
}
