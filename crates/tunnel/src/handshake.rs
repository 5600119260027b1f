//! The handshake: who one is, the two messages, and the keys that follow (paper, section 5.4).
//!
//! The responder goes through an initiation once. In the middle, when it knows who is speaking, it asks its caller for
//! what is known of that peer:
//!
//! ```text
//! initiation -> Identity::identify -> public key -> [the caller looks the peer up]
//!            -> Identified::verify -> timestamp  -> [the caller compares it with the last one]
//!            -> Verified::answer   -> response and keys
//! ```

use std::fmt;

use crate::cookie::MacKey;
use crate::key::{KEY, KeyError, PresharedKey, PrivateKey, PublicKey, Secret, SharedSecret};
use crate::message::{INITIATION, Initiation, RESPONSE, Response, TIMESTAMP};
use crate::noise::{Chain, Forged, MAC};
use crate::tai64n::Tai64N;

/// Why a handshake message is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It was made for another key, or changed on its way.
    #[error("not made for this key")]
    Forged,
    /// A key in it is of low order.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl From<Forged> for HandshakeError {
    fn from(_: Forged) -> Self {
        Self::Forged
    }
}

/// Which end of a handshake, and so of the session it gave, one was.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// It sent the initiation, and sees to it that the session is renewed.
    Initiator,
    /// It answered.
    Responder,
}

/// Our own side of every handshake.
#[derive(Debug)]
pub struct Identity {
    private: PrivateKey,
    /// What every initiation to us begins with.
    begin: Chain,
    mac_key: MacKey,
}

/// The keys of a session, as a handshake gives them.
pub struct SessionKeys {
    /// Which end we are.
    pub role: Role,
    /// The index we know it by.
    pub local: u32,
    /// The index the other end knows it by.
    pub remote: u32,
    pub(crate) send: Secret,
    pub(crate) receive: Secret,
}

impl Identity {
    /// The owner of this key.
    pub fn new(private: PrivateKey) -> Self {
        let public = private.public();
        Self { begin: Chain::begin(&public), mac_key: MacKey::of(&public), private }
    }

    /// What others know us by.
    pub fn public(&self) -> PublicKey {
        self.private.public()
    }

    /// The key of mac1 in all handshake messages to us.
    pub fn mac_key(&self) -> &MacKey {
        &self.mac_key
    }

    /// What we and a peer agree on, whatever the handshake: worth keeping while the peer is awake.
    ///
    /// # Errors
    /// The peer's key is of low order.
    pub fn shared_with(&self, peer: &PublicKey) -> Result<SharedSecret, KeyError> {
        self.private.agree(peer)
    }

    /// Who is speaking. (Anybody can say so: only [`Identified::verify`] proves it.)
    ///
    /// # Errors
    /// It was not made for us.
    pub fn identify(&self, initiation: Initiation<'_>) -> Result<Identified, HandshakeError> {
        let ephemeral = initiation.ephemeral();
        let mut chain = self.begin.clone();
        chain.mix_ephemeral(&ephemeral);
        let key = chain.mix_shared_for_key(&self.private.agree(&ephemeral)?);
        let peer = PublicKey(chain.open(&key, initiation.static_key())?);
        Ok(Identified { peer, chain, ephemeral, remote: initiation.sender(), timestamp: *initiation.timestamp() })
    }

    /// Begins a handshake: the message, still without its MACs, and what has to be kept for the answer.
    ///
    /// `shared` is what [`Self::shared_with`] gave for this peer.
    ///
    /// # Errors
    /// The peer's key is of low order.
    pub fn initiate(
        &self,
        peer: &PublicKey,
        shared: &SharedSecret,
        now: Tai64N,
        ephemeral: PrivateKey,
        local: u32,
    ) -> Result<([u8; INITIATION], Initiated), HandshakeError> {
        let mut chain = Chain::begin(peer);
        chain.mix_ephemeral(&ephemeral.public());
        let key = chain.mix_shared_for_key(&ephemeral.agree(peer)?);
        let mut static_key = [0; KEY + MAC];
        chain.seal(&key, &self.public().0, &mut static_key);
        let key = chain.mix_shared_for_key(shared);
        let mut timestamp = [0; TIMESTAMP + MAC];
        chain.seal(&key, &now.0, &mut timestamp);
        let message = Initiation::write(local, &ephemeral.public(), &static_key, &timestamp);
        Ok((message, Initiated { chain, ephemeral, local }))
    }

    /// Takes the answer to an initiation of ours. What does not fit changes nothing: the right answer may still come.
    ///
    /// # Errors
    /// It is no answer to this initiation, or its sender has another preshared key.
    pub fn finish(
        &self,
        initiated: &Initiated,
        response: Response<'_>,
        preshared: &PresharedKey,
    ) -> Result<SessionKeys, HandshakeError> {
        let theirs = response.ephemeral();
        let mut chain = initiated.chain.clone();
        chain.mix_ephemeral(&theirs);
        chain.mix_shared(&initiated.ephemeral.agree(&theirs)?);
        chain.mix_shared(&self.private.agree(&theirs)?);
        let key = chain.mix_preshared_for_key(preshared.bytes());
        let [] = chain.open(&key, response.nothing())?;
        let (send, receive) = chain.split();
        Ok(SessionKeys { role: Role::Initiator, local: initiated.local, remote: response.sender(), send, receive })
    }
}

/// An initiation whose sender is known by name.
pub struct Identified {
    /// Who it says it is.
    pub peer: PublicKey,
    chain: Chain,
    ephemeral: PublicKey,
    remote: u32,
    timestamp: [u8; TIMESTAMP + MAC],
}

impl Identified {
    /// Whether it is who it says it is. `shared` is what [`Identity::shared_with`] gave for this peer.
    ///
    /// # Errors
    /// It is not.
    pub fn verify(mut self, shared: &SharedSecret) -> Result<Verified, HandshakeError> {
        let key = self.chain.mix_shared_for_key(shared);
        let timestamp = Tai64N(self.chain.open(&key, &self.timestamp)?);
        let Self { peer, chain, ephemeral, remote, .. } = self;
        Ok(Verified { peer, timestamp, chain, ephemeral, remote })
    }
}

/// An initiation that its sender made, now or earlier.
pub struct Verified {
    /// Who made it.
    pub peer: PublicKey,
    /// When: not later than another initiation of the same peer means that somebody else repeats it.
    pub timestamp: Tai64N,
    chain: Chain,
    ephemeral: PublicKey,
    remote: u32,
}

impl Verified {
    /// The index its sender will know the session by.
    pub fn remote(&self) -> u32 {
        self.remote
    }

    /// Answers it: the message, still without its MACs, and the keys.
    ///
    /// # Errors
    /// A key of the initiator is of low order.
    pub fn answer(
        self,
        preshared: &PresharedKey,
        ephemeral: &PrivateKey,
        local: u32,
    ) -> Result<([u8; RESPONSE], SessionKeys), HandshakeError> {
        let mut chain = self.chain;
        chain.mix_ephemeral(&ephemeral.public());
        chain.mix_shared(&ephemeral.agree(&self.ephemeral)?);
        chain.mix_shared(&ephemeral.agree(&self.peer)?);
        let key = chain.mix_preshared_for_key(preshared.bytes());
        let mut nothing = [0; MAC];
        chain.seal(&key, &[], &mut nothing);
        let message = Response::write(local, self.remote, &ephemeral.public(), &nothing);
        let (receive, send) = chain.split();
        Ok((message, SessionKeys { role: Role::Responder, local, remote: self.remote, send, receive }))
    }
}

/// An initiation of ours that waits for its answer.
pub struct Initiated {
    chain: Chain,
    ephemeral: PrivateKey,
    local: u32,
}

impl Initiated {
    /// The index we will know the session by.
    pub fn local(&self) -> u32 {
        self.local
    }
}

macro_rules! keep_secret {
    ($($name:ident),*) => {
        $(impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        })*
    };
}
keep_secret!(Chain, SessionKeys, Identified, Verified, Initiated);
