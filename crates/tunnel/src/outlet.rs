//! What every core needs in order to send to a peer: its session, where it is, and stamps of what was sent.
//!
//! The core that owns the peer writes the first two and reads the stamps when a timer of the peer is due; others need
//! not tell it of each packet.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::ArcSwapOption;

use crate::moment::Moment;
use crate::session::SendingHalf;

/// Where a peer is, and where it believes us to be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Path {
    /// Its address.
    pub remote: SocketAddr,
    /// Ours that it sends to: whoever stands between lets an answer through only from there. `None`: any.
    pub local: Option<IpAddr>,
}

impl From<SocketAddr> for Path {
    /// An address of IPv4 in the guise of IPv6 is one of IPv4.
    fn from(remote: SocketAddr) -> Self {
        let remote = match remote.ip().to_canonical() {
            IpAddr::V4(ip) => SocketAddr::new(ip.into(), remote.port()),
            // With its scope, without which a link-local address leads nowhere.
            IpAddr::V6(_) => remote,
        };
        Self { remote, local: None }
    }
}

/// The way out to one peer.
#[derive(Default)]
pub struct Outlet {
    session: ArcSwapOption<SendingHalf>,
    path: ArcSwapOption<Path>,
    /// When something was last sent.
    pub(crate) sent: Stamp,
    /// When the first packet was sent after which nothing has come.
    pub(crate) unanswered: Stamp,
    bytes: AtomicU64,
}

impl Outlet {
    /// The session to send in and where to, if there are both.
    pub fn ready(&self, now: Moment) -> Option<(Arc<SendingHalf>, Path)> {
        let session = self.session.load_full().filter(|session| session.is_usable(now))?;
        Some((session, self.path()?))
    }

    /// Where the peer is, as far as is known.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        self.path().map(|path| path.remote)
    }

    /// The same, and which of our addresses it sends to.
    pub fn path(&self) -> Option<Path> {
        self.path.load().as_deref().copied()
    }

    /// Datagrams with packets were sent, of so many bytes in all.
    pub fn note_packets(&self, bytes: u64, now: Moment) {
        self.note(bytes, now);
        self.unanswered.set_first(now);
    }

    /// A datagram without a packet was sent: a handshake message or a keepalive. Nobody answers it for itself.
    pub fn note(&self, bytes: u64, now: Moment) {
        self.bytes.fetch_add(bytes, Relaxed);
        self.sent.set(now);
    }

    /// Bytes of datagrams sent so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    pub(crate) fn set_session(&self, session: Option<SendingHalf>) {
        self.session.store(session.map(Arc::new));
    }

    pub(crate) fn session(&self) -> Option<Arc<SendingHalf>> {
        self.session.load_full()
    }

    /// The peer is there now, as an operator says.
    pub fn set_endpoint(&self, endpoint: Option<SocketAddr>) {
        let path = endpoint.map(Path::from);
        if self.endpoint() != path.map(|path| path.remote) {
            self.path.store(path.map(Arc::new));
        }
    }

    /// The peer was heard from there.
    pub fn set_path(&self, path: Path) {
        if self.path() != Some(path) {
            self.path.store(Some(Arc::new(path)));
        }
    }

    /// An address of ours is none any more: the kernel chooses another.
    pub fn forget_local(&self, local: IpAddr) {
        if let Some(path) = self.path().filter(|path| path.local == Some(local)) {
            self.set_path(Path { local: None, ..path });
        }
    }
}

/// A moment that several cores may set, or none.
pub(crate) struct Stamp(AtomicU64);

impl Stamp {
    const NEVER: u64 = u64::MAX;

    pub(crate) fn get(&self) -> Option<Moment> {
        Some(self.0.load(Relaxed)).filter(|millis| *millis != Self::NEVER).map(Moment::from_millis)
    }

    pub(crate) fn set(&self, now: Moment) {
        self.0.store(now.as_millis(), Relaxed);
    }

    fn set_first(&self, now: Moment) {
        // Most packets find it set: they need not own the cache line.
        if self.0.load(Relaxed) == Self::NEVER {
            self.0.store(now.as_millis(), Relaxed);
        }
    }

    pub(crate) fn clear(&self) {
        if self.0.load(Relaxed) != Self::NEVER {
            self.0.store(Self::NEVER, Relaxed);
        }
    }
}

impl Default for Stamp {
    fn default() -> Self {
        Self(AtomicU64::new(Self::NEVER))
    }
}
