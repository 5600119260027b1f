//! What is counted of a device's traffic, for metrics and for whoever asks why nothing gets through.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use edgeproxy_tunnel::{Dropped, Rejected};

/// Why something that came in was not passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// A handshake message was dropped.
    Handshake(Dropped),
    /// A transport message was dropped.
    Transport(Rejected),
    /// A transport message of a session that is not known.
    NoSession,
    /// What was inside is no IP packet.
    MalformedPacket,
    /// A peer sent from an address that is not its own.
    ForeignSource,
    /// There is no peer with that address.
    NoRoute,
    /// Nobody knows yet where the peer is.
    NoEndpoint,
    /// Another worker did not keep up.
    Overtaxed,
    /// It was for another tenant.
    OtherTenant,
    /// A packet that would have gone back to where it came from.
    Loop,
    /// A packet that has passed too many machines.
    Expired,
    /// The interface took no more.
    InterfaceFull,
    /// The network took no more.
    NetworkFull,
}

impl Loss {
    /// All of them, in the order they are shown.
    pub const ALL: [Self; 25] = [
        Self::Handshake(Dropped::Malformed),
        Self::Handshake(Dropped::NoMac),
        Self::Handshake(Dropped::Forged),
        Self::Handshake(Dropped::LowOrder),
        Self::Handshake(Dropped::UnknownPeer),
        Self::Handshake(Dropped::Replayed),
        Self::Handshake(Dropped::TooSoon),
        Self::Handshake(Dropped::NotAsked),
        Self::Handshake(Dropped::SourceLimited),
        Self::Handshake(Dropped::Overloaded),
        Self::Handshake(Dropped::NoIndex),
        Self::Transport(Rejected::Replayed),
        Self::Transport(Rejected::Forged),
        Self::Transport(Rejected::Expired),
        Self::NoSession,
        Self::MalformedPacket,
        Self::ForeignSource,
        Self::NoRoute,
        Self::NoEndpoint,
        Self::Overtaxed,
        Self::OtherTenant,
        Self::Loop,
        Self::Expired,
        Self::InterfaceFull,
        Self::NetworkFull,
    ];

    /// The word in metric labels and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Handshake(Dropped::Malformed) => "malformed",
            Self::Handshake(Dropped::NoMac) => "handshake_not_for_us",
            Self::Handshake(Dropped::Forged) => "handshake_forged",
            Self::Handshake(Dropped::LowOrder) => "handshake_low_order",
            Self::Handshake(Dropped::UnknownPeer) => "handshake_unknown_peer",
            Self::Handshake(Dropped::Replayed) => "handshake_replayed",
            Self::Handshake(Dropped::TooSoon) => "handshake_too_soon",
            Self::Handshake(Dropped::NotAsked) => "handshake_not_asked",
            Self::Handshake(Dropped::SourceLimited) => "handshake_source_limited",
            Self::Handshake(Dropped::Overloaded) => "handshake_overloaded",
            Self::Handshake(Dropped::NoIndex) => "handshake_no_index",
            Self::Transport(Rejected::Replayed) => "replayed",
            Self::Transport(Rejected::Forged) => "forged",
            Self::Transport(Rejected::Expired) => "expired_session",
            Self::NoSession => "no_session",
            Self::MalformedPacket => "malformed_packet",
            Self::ForeignSource => "foreign_source",
            Self::NoRoute => "no_route",
            Self::NoEndpoint => "no_endpoint",
            Self::Overtaxed => "overtaxed",
            Self::OtherTenant => "other_tenant",
            Self::Loop => "loop",
            Self::Expired => "hops_expired",
            Self::InterfaceFull => "interface_full",
            Self::NetworkFull => "network_full",
        }
    }

    fn place(self) -> usize {
        Self::ALL.iter().position(|loss| *loss == self).unwrap_or(0)
    }
}

/// Counts by cause.
#[derive(Default)]
pub struct Counters([AtomicU64; Loss::ALL.len()]);

impl Counters {
    /// How often this has happened.
    pub fn get(&self, loss: Loss) -> u64 {
        self.0[loss.place()].load(Relaxed)
    }

    pub(crate) fn lost(&self, loss: Loss) {
        self.add(loss, 1);
    }

    pub(crate) fn add(&self, loss: Loss, count: u64) {
        self.0[loss.place()].fetch_add(count, Relaxed);
    }

    pub(crate) fn dropped(&self, why: Dropped) {
        self.lost(Loss::Handshake(why));
    }
}
