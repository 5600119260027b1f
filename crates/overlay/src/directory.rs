//! Who else is registered: peers that the device is not told of beforehand. It asks when one of them speaks, and forgets it
//! when it has been silent for long: what a registered peer costs the device is nothing.

use std::fmt;

use edgeproxy_tunnel::{Introduction, PublicKey, Tai64N};

use crate::registry::{PeerSettings, PeerStatus};

/// Asked by the thread of the handshakes; it must answer at once.
pub trait Directory: fmt::Debug + Send + Sync {
    /// What a handshake with this peer needs. `None`: nobody has this key.
    fn introduce(&self, public: &PublicKey) -> Option<Introduction>;

    /// All that the device needs to know of it from now on. `None`: it has been removed meanwhile.
    fn wake(&self, public: &PublicKey) -> Option<PeerSettings>;

    /// An initiation of it was answered; none whose timestamp is not later may be.
    fn note_answered(&self, public: &PublicKey, timestamp: Tai64N);

    /// It was forgotten, and this is how it was.
    fn note_asleep(&self, status: &PeerStatus);
}
