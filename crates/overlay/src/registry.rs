//! The registered peers, and whose each address is.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edgeproxy_tunnel::{Introduction, Keyed, Moment, Outlet, Owners, Prefix, PresharedKey, PublicKey, Routes, Tai64N};
use parking_lot::{Mutex, RwLock};

use crate::change::{AllowedIp, PeerChange};
use crate::directory::Directory;

/// What an operator says of a peer.
#[derive(Clone, Debug)]
pub struct PeerSettings {
    /// Who it is.
    pub public: PublicKey,
    /// A secret mixed into its handshakes; all zero for none.
    pub preshared: PresharedKey,
    /// Where it is, if that is known beforehand.
    pub endpoint: Option<SocketAddr>,
    /// How often it hears from us at least.
    pub keepalive: Option<Duration>,
    /// Addresses inside the overlay that are its own. One that another peer had is moved.
    pub allowed_ips: Vec<Prefix>,
}

/// What is known of a peer now.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// What the operator said; the endpoint is where the peer is now.
    pub settings: PeerSettings,
    /// When its last handshake was complete, counted back from now.
    pub last_handshake: Option<Duration>,
    /// The same by the wall clock as it stood then.
    pub last_handshake_at: Option<SystemTime>,
    /// The timestamp of its last initiation that was answered: whoever remembers it beyond the end of this process gives it
    /// back by [`PeerChange::greatest`].
    pub greatest: Tai64N,
    /// Bytes of datagrams from it.
    pub received: u64,
    /// Bytes of datagrams to it.
    pub sent: u64,
}

/// A registered peer.
pub(crate) struct Remote {
    pub(crate) public: PublicKey,
    /// The worker that has its sessions.
    pub(crate) owner: u32,
    pub(crate) outlet: Arc<Outlet>,
    pub(crate) terms: Mutex<Terms>,
    received: AtomicU64,
    /// When its last handshake was complete; `u64::MAX` for never.
    handshake: AtomicU64,
    /// The same in milliseconds since 1970, which stay the same when somebody sets the clock.
    handshake_wall: AtomicU64,
    /// It is of the directory: known here only while it is awake.
    pub(crate) listed: bool,
    /// Sessions agreed on with it, and those of them that its owner knows of.
    agreed: AtomicU32,
    taken: AtomicU32,
    /// It is told to sleep, and does not yet.
    leaving: AtomicBool,
}

/// What may change of a registered peer.
pub(crate) struct Terms {
    pub(crate) preshared: PresharedKey,
    pub(crate) keepalive: Option<Duration>,
    /// The timestamp of its last initiation that was answered.
    pub(crate) greatest: Tai64N,
    prefixes: Vec<Prefix>,
}

impl Remote {
    pub(crate) fn note_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Relaxed);
    }

    /// Told again of the same one, nothing changes.
    pub(crate) fn note_handshake(&self, at: Moment) {
        if self.handshake.load(Relaxed) == at.as_millis() {
            return;
        }
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.handshake_wall.store(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX), Relaxed);
        self.handshake.store(at.as_millis(), Relaxed);
    }

    /// A session with it is on the way to its owner. Returns how many that makes.
    pub(crate) fn note_agreed(&self) -> u32 {
        self.agreed.fetch_add(1, Relaxed).wrapping_add(1)
    }

    pub(crate) fn agreed(&self) -> u32 {
        self.agreed.load(Relaxed)
    }

    pub(crate) fn taken(&self) -> u32 {
        self.taken.load(Relaxed)
    }

    /// Its owner has taken note of a session.
    pub(crate) fn note_taken(&self) {
        self.taken.fetch_add(1, Relaxed);
    }

    pub(crate) fn introduction(&self) -> Introduction {
        let terms = self.terms.lock();
        Introduction { preshared: terms.preshared.clone(), greatest: terms.greatest }
    }

    pub(crate) fn status(&self, now: Moment) -> PeerStatus {
        let terms = self.terms.lock();
        let handshake = Some(self.handshake.load(Relaxed)).filter(|at| *at != u64::MAX).map(Moment::from_millis);
        PeerStatus {
            settings: PeerSettings {
                public: self.public,
                preshared: terms.preshared.clone(),
                endpoint: self.outlet.endpoint(),
                keepalive: terms.keepalive,
                allowed_ips: terms.prefixes.clone(),
            },
            last_handshake: handshake.map(|at| now.since(at)),
            last_handshake_at: handshake
                .and_then(|_| UNIX_EPOCH.checked_add(Duration::from_millis(self.handshake_wall.load(Relaxed)))),
            greatest: terms.greatest,
            received: self.received.load(Relaxed),
            sent: self.outlet.bytes(),
        }
    }
}

/// All registered peers.
pub(crate) struct Registry {
    peers: RwLock<HashMap<PublicKey, Arc<Remote>, Keyed>>,
    routes: RwLock<Routes<Arc<Remote>>>,
    owners: Owners,
    directory: Option<Arc<dyn Directory>>,
    /// How many of the peers are of the directory.
    listed: AtomicUsize,
    /// How many of those are told to sleep.
    leaving: AtomicUsize,
}

impl Registry {
    /// `secret` has to be random.
    pub(crate) fn new(owners: Owners, secret: u64, directory: Option<Arc<dyn Directory>>) -> Self {
        Self {
            peers: RwLock::new(HashMap::with_hasher(Keyed(secret))),
            routes: RwLock::new(Routes::new(secret)),
            owners,
            directory,
            listed: AtomicUsize::new(0),
            leaving: AtomicUsize::new(0),
        }
    }

    /// What a handshake with a peer needs, awake or not.
    pub(crate) fn introduce(&self, public: &PublicKey) -> Option<Introduction> {
        match self.get(public) {
            Some(remote) => Some(remote.introduction()),
            None => self.directory.as_ref()?.introduce(public),
        }
    }

    /// A peer that has just spoken. `None`: it was removed meanwhile.
    pub(crate) fn wake(&self, public: &PublicKey) -> Option<Arc<Remote>> {
        if let Some(remote) = self.get(public) {
            return Some(remote);
        }
        let directory = self.directory.as_ref()?;
        // Whoever removes a peer takes it out of the directory first and out of here then: either this finds it gone, or
        // that finds what this makes.
        let mut routes = self.routes.write();
        // The operator may have registered it meanwhile.
        if let Some(remote) = self.get(public) {
            return Some(remote);
        }
        let settings = directory.wake(public)?;
        let remote = self.get_or_register(*public, true);
        self.listed.fetch_add(1, Relaxed);
        remote.terms.lock().preshared = settings.preshared;
        for prefix in settings.allowed_ips {
            give(&mut routes, prefix, &remote);
        }
        Some(remote)
    }

    /// An initiation of a peer was answered.
    pub(crate) fn note_answered(&self, remote: &Remote, timestamp: Tai64N) {
        remote.terms.lock().greatest = timestamp;
        if let Some(directory) = self.directory.as_ref().filter(|_| remote.listed) {
            directory.note_answered(&remote.public, timestamp);
        }
    }

    /// A peer of the directory sleeps, unless another session was agreed on since its owner had taken note of so many.
    pub(crate) fn retire(&self, remote: &Arc<Remote>, taken: u32, now: Moment) {
        let mut routes = self.routes.write();
        self.note_staying(remote);
        if remote.agreed() != taken || !self.has(remote) {
            return;
        }
        self.peers.write().remove(&remote.public);
        self.listed.fetch_sub(1, Relaxed);
        for prefix in std::mem::take(&mut remote.terms.lock().prefixes) {
            routes.remove(prefix);
        }
        drop(routes);
        if let Some(directory) = &self.directory {
            directory.note_asleep(&remote.status(now));
        }
    }

    pub(crate) fn get(&self, public: &PublicKey) -> Option<Arc<Remote>> {
        self.peers.read().get(public).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Remote>> {
        self.peers.read().values().cloned().collect()
    }

    /// It is told to sleep.
    pub(crate) fn note_leaving(&self, remote: &Remote) {
        let before = remote.leaving.swap(true, Relaxed);
        self.leaving.fetch_add(usize::from(!before), Relaxed);
    }

    /// It is not told to sleep any more, as it agreed on another session, or sleeps.
    pub(crate) fn note_staying(&self, remote: &Remote) {
        let before = remote.leaving.swap(false, Relaxed);
        self.leaving.fetch_sub(usize::from(before), Relaxed);
    }

    /// How many peers of the directory are awake and not told to sleep.
    pub(crate) fn staying(&self) -> usize {
        self.listed().saturating_sub(self.leaving.load(Relaxed))
    }

    /// How many peers of the directory are awake.
    pub(crate) fn listed(&self) -> usize {
        self.listed.load(Relaxed)
    }

    pub(crate) fn len(&self) -> usize {
        self.peers.read().len()
    }

    /// Whom an address inside the overlay belongs to.
    pub(crate) fn owner_of(&self, address: IpAddr) -> Option<Arc<Remote>> {
        self.routes.read().lookup(address).cloned()
    }

    /// Whether an address inside the overlay belongs to this peer.
    pub(crate) fn is_of(&self, address: IpAddr, remote: &Arc<Remote>) -> bool {
        !is_mapped(address) && self.routes.read().lookup(address).is_some_and(|owner| Arc::ptr_eq(owner, remote))
    }

    /// Registers a peer, or changes what is named of one. `None`: it was to be changed only if it is there, and is not.
    pub(crate) fn change(&self, change: PeerChange) -> Option<Arc<Remote>> {
        // Held throughout: whoever changes or removes the same peer comes before or after, and no lookup sees the middle.
        let mut routes = self.routes.write();
        let remote = match change.update_only {
            true => self.get(&change.public)?,
            false => self.get_or_register(change.public, false),
        };
        // Unless the operator says otherwise, the peer stays where it was last heard.
        if change.endpoint.is_some() {
            remote.outlet.set_endpoint(change.endpoint);
        }
        {
            let mut terms = remote.terms.lock();
            if let Some(preshared) = change.preshared {
                terms.preshared = preshared;
            }
            if let Some(keepalive) = change.keepalive {
                terms.keepalive = keepalive;
            }
            if let Some(greatest) = change.greatest {
                terms.greatest = terms.greatest.max(greatest);
            }
            if change.replace_allowed_ips {
                for prefix in terms.prefixes.drain(..) {
                    routes.remove(prefix);
                }
            }
        }
        for allowed in change.allowed_ips {
            match allowed {
                AllowedIp::Added(prefix) => give(&mut routes, prefix, &remote),
                AllowedIp::Removed(prefix) => {
                    if routes.get(prefix).is_some_and(|owner| Arc::ptr_eq(owner, &remote)) {
                        routes.remove(prefix);
                        remote.terms.lock().prefixes.retain(|kept| *kept != prefix);
                    }
                }
            }
        }
        Some(remote)
    }

    fn get_or_register(&self, public: PublicKey, listed: bool) -> Arc<Remote> {
        let mut peers = self.peers.write();
        let remote = peers.entry(public).or_insert_with(|| {
            Arc::new(Remote {
                public,
                owner: self.owners.of_peer(&public),
                outlet: Arc::default(),
                terms: Mutex::new(Terms {
                    preshared: PresharedKey::default(),
                    keepalive: None,
                    greatest: Tai64N::default(),
                    prefixes: Vec::new(),
                }),
                received: AtomicU64::new(0),
                handshake: AtomicU64::new(u64::MAX),
                handshake_wall: AtomicU64::new(0),
                listed,
                agreed: AtomicU32::new(0),
                taken: AtomicU32::new(0),
                leaving: AtomicBool::new(false),
            })
        });
        Arc::clone(remote)
    }

    /// Takes a peer out. Its sessions are for its owner to end.
    pub(crate) fn remove(&self, public: &PublicKey) -> Option<Arc<Remote>> {
        // As above: a change that is under way must not give a route to a peer that is gone.
        let mut routes = self.routes.write();
        let remote = self.peers.write().remove(public)?;
        self.listed.fetch_sub(usize::from(remote.listed), Relaxed);
        self.note_staying(&remote);
        for prefix in std::mem::take(&mut remote.terms.lock().prefixes) {
            routes.remove(prefix);
        }
        Some(remote)
    }

    /// Whether this very peer is registered still.
    pub(crate) fn has(&self, remote: &Arc<Remote>) -> bool {
        self.peers.read().get(&remote.public).is_some_and(|known| Arc::ptr_eq(known, remote))
    }
}

/// A prefix is this peer's now; whoever had it before has it no more.
fn give(routes: &mut Routes<Arc<Remote>>, prefix: Prefix, remote: &Arc<Remote>) {
    match routes.insert(prefix, Arc::clone(remote)) {
        Some(before) if Arc::ptr_eq(&before, remote) => {}
        before => {
            remote.terms.lock().prefixes.push(prefix);
            if let Some(loser) = before {
                loser.terms.lock().prefixes.retain(|kept| *kept != prefix);
            }
        }
    }
}

/// An address of IPv4 in the guise of IPv6 is for programs, and on no wire. Taken for one of IPv6 here and for one of IPv4
/// by a program, it would be a way around whose an address is.
pub(crate) fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

#[cfg(test)]
mod tests;
