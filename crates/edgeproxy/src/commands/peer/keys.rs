//! Whose key a peer gets, and who makes it.

use edgeproxy_tunnel::{PrivateKey, PublicKey};

use crate::commands::Failure;
use crate::commands::keygen::new_private_key;

/// Flags of every action that gives a peer a key.
#[derive(clap::Args)]
pub(super) struct KeyFlags {
    /// The public key of a pair that was made elsewhere [default: a pair is made here, and only its public key is sent]
    #[arg(long, value_name = "KEY")]
    public_key: Option<PublicKey>,
    /// Let the gateway make the pair: the private key crosses the network in the answer
    #[arg(long, conflicts_with = "public_key")]
    server_key: bool,
}

/// Who knows the private key.
pub(super) enum Keys {
    /// This command, and whom it tells.
    Here(PrivateKey),
    /// Somebody else.
    Elsewhere(PublicKey),
    /// The gateway makes the pair and answers with it.
    Gateway,
}

impl KeyFlags {
    pub(super) fn keys(&self) -> Result<Keys, Failure> {
        match self.public_key {
            Some(public) => Ok(Keys::Elsewhere(public)),
            None if self.server_key => Ok(Keys::Gateway),
            None => new_private_key().map(Keys::Here),
        }
    }

    /// Whether the same command, run again, asks for the same.
    pub(super) fn are_the_same_again(&self) -> bool {
        self.public_key.is_some() || self.server_key
    }
}

impl Keys {
    /// What the gateway is told.
    pub(super) fn public(&self) -> Option<PublicKey> {
        match self {
            Self::Here(private) => Some(private.public()),
            Self::Elsewhere(public) => Some(*public),
            Self::Gateway => None,
        }
    }
}
