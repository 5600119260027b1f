//! A WireGuard device: its threads, and how it is steered from outside.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edgeproxy_tunnel::{GateSettings, Handshakes, Owners, PrivateKey, PublicKey};
use parking_lot::Mutex;

use crate::change::{ChangeError, DeviceChange, PeerChange};
use crate::clock::Clock;
use crate::counters::Counters;
use crate::directory::Directory;
use crate::mailbox::Mailbox;
use crate::random::OsRandom;
use crate::reception::{self, BARRIER_WITHIN, Reception};
use crate::registry::{PeerSettings, PeerStatus, Registry, Remote};
use crate::tenants::Tenants;
use crate::tun::Queue;
use crate::udp::Udp;
use crate::worker::{self, Worker};

/// How a device is run.
#[derive(Debug)]
pub struct DeviceSettings {
    /// Who we are.
    pub private: PrivateKey,
    /// The UDP port; 0: the kernel chooses one.
    pub port: u16,
    /// The longest packet that is sent in one piece.
    pub mtu: usize,
    /// Our own addresses inside the overlay: packets for them are never passed on.
    pub addresses: Vec<IpAddr>,
    /// Whether packets of one peer for another are passed on.
    pub forward: bool,
    /// Who has nothing to do with whom.
    pub tenants: Tenants,
    /// How many handshakes are answered.
    pub gate: GateSettings,
    /// Who is registered beside those the device is told of.
    pub directory: Option<Arc<dyn Directory>>,
    /// Peers of the directory that are awake at once, at most: beyond, those sleep whose last handshake is longest ago.
    pub awake_most: usize,
}

impl DeviceSettings {
    /// For an end of the overlay, on any port: it passes nothing on, and knows only the peers it is told of.
    pub fn new(private: PrivateKey, mtu: usize, addresses: Vec<IpAddr>) -> Self {
        Self {
            private,
            port: 0,
            mtu,
            addresses,
            forward: false,
            tenants: Tenants::default(),
            gate: GateSettings::default(),
            directory: None,
            awake_most: 0,
        }
    }
}

/// Where nobody says otherwise: so many awake peers take some 100 MB.
pub const AWAKE_MOST: usize = 100_000;

/// What all threads of a device share.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) mtu: usize,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) forward: bool,
    pub(crate) tenants: Tenants,
    pub(crate) owners: Owners,
    pub(crate) registry: Registry,
    pub(crate) counters: Counters,
    pub(crate) workers: Vec<Mailbox<worker::Letter>>,
    pub(crate) reception: Mailbox<reception::Letter>,
}

impl Shared {
    /// Leaves a letter for the worker of this number.
    pub(crate) fn post(&self, worker: u32, letter: worker::Letter) {
        if let Some(mailbox) = self.workers.get(worker as usize) {
            mailbox.post(letter);
        }
    }
}

/// A running device. It ends when dropped.
pub struct Device {
    shared: Arc<Shared>,
    /// Held while something is changed that concerns all peers: such changes come one after the other.
    steering: Mutex<Steering>,
    bearings: Mutex<Bearings>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What is needed in order to change a device as a whole.
struct Steering {
    /// The port that was asked for, 0 for any.
    asked: u16,
    /// One for each worker and, last, that of the handshakes.
    sockets: Vec<Arc<Udp>>,
}

/// What is told of a device as a whole. Locked for a moment only.
#[derive(Clone)]
struct Bearings {
    private: Option<PrivateKey>,
    public: PublicKey,
    port: u16,
    mark: u32,
}

impl Device {
    /// Starts a worker for each queue of the interface above, and the thread of the handshakes.
    ///
    /// # Errors
    /// The port is taken, or threads or descriptors are short.
    pub fn start(settings: DeviceSettings, queues: Vec<Queue>) -> io::Result<Self> {
        let DeviceSettings { private, port, mtu, addresses, forward, tenants, gate, directory, awake_most } = settings;
        let count = u32::try_from(queues.len()).unwrap_or(Owners::MOST).clamp(1, Owners::MOST);
        let mut random = OsRandom::new();
        let owners = Owners::new(count, random.number());
        let asked = port;
        let (port, sockets) = bind_all(asked, count)?;
        let shared = Arc::new(Shared {
            clock: Clock::start(),
            mtu,
            addresses,
            forward,
            tenants,
            owners,
            registry: Registry::new(owners, random.number(), directory),
            counters: Counters::default(),
            workers: (0..count).map(|_| Mailbox::new()).collect::<io::Result<_>>()?,
            reception: Mailbox::new()?,
        });
        let device = Self {
            shared: Arc::clone(&shared),
            steering: Mutex::new(Steering { asked, sockets: sockets.clone() }),
            bearings: Mutex::new(Bearings { private: Some(private.clone()), public: private.public(), port, mark: 0 }),
            threads: Mutex::default(),
        };
        let handshakes = Handshakes::new(private, gate, owners, random);
        if let Some(udp) = sockets.last() {
            let reception = Reception::new(Arc::clone(&shared), handshakes, Arc::clone(udp), awake_most);
            let ended = Arc::clone(&shared);
            device.spawn("wg-handshakes".to_owned(), move || reception.run(), move || ended.reception.close())?;
        }
        for ((number, queue), udp) in (0..count).zip(queues).zip(sockets) {
            let worker = Worker::new(Arc::clone(&shared), number, udp, queue);
            let ended = Arc::clone(&shared);
            let close = move || {
                if let Some(mailbox) = ended.workers.get(number as usize) {
                    mailbox.close();
                }
            };
            device.spawn(format!("wg-{number}"), move || worker.run(), close)?;
        }
        Ok(device)
    }

    /// Starts a thread. However it ends, nobody waits for it in vain afterwards.
    fn spawn(
        &self,
        name: String,
        run: impl FnOnce() -> io::Result<()> + Send + 'static,
        close: impl Fn() + Send + 'static,
    ) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(name.clone());
        let thread = thread.spawn(move || {
            let _last = Last(close);
            if let Err(error) = run() {
                tracing::error!(%error, thread = name, "a thread of the overlay failed");
            }
        })?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// What others know us by; without a key, what they knew us by last.
    pub fn public(&self) -> PublicKey {
        self.bearings.lock().public
    }

    /// Our private key, unless it was taken away.
    pub fn private(&self) -> Option<PrivateKey> {
        self.bearings.lock().private.clone()
    }

    /// The UDP port.
    pub fn port(&self) -> u16 {
        self.bearings.lock().port
    }

    /// The mark of our datagrams; 0: none.
    pub fn mark(&self) -> u32 {
        self.bearings.lock().mark
    }

    /// Registers a peer, or changes what is said of one. One with our own key is none, nor is one whose key protects nothing.
    pub fn set_peer(&self, settings: PeerSettings) {
        let _steering = self.steering.lock();
        self.change_peer(settings.into());
    }

    /// Changes what is named, all of it or, on an error, nothing.
    ///
    /// # Errors
    /// The port cannot be had, or the mark not be set.
    pub fn apply(&self, change: DeviceChange) -> Result<(), ChangeError> {
        let DeviceChange { private, port, mark, replace_peers, peers } = change;
        let mut steering = self.steering.lock();
        self.move_to(&mut steering, port, mark)?;
        if let Some(private) = private {
            self.set_private(private);
        }
        // Whoever was removed and not yet forgotten by all threads.
        let mut leaving = HashSet::new();
        if replace_peers {
            let all = self.shared.registry.all();
            leaving.extend(all.iter().filter_map(|remote| Some(self.revoke(&remote.public)?.public)));
        }
        for peer in peers {
            if peer.remove {
                leaving.extend(self.revoke(&peer.public).map(|remote| remote.public));
                continue;
            }
            // It has to begin anew.
            if leaving.contains(&peer.public) {
                self.wait_for_all();
                leaving.clear();
            }
            self.change_peer(peer);
        }
        if !leaving.is_empty() {
            self.wait_for_all();
        }
        Ok(())
    }

    /// `steering` has to be held, lest our own key becomes that of a peer meanwhile.
    fn change_peer(&self, change: PeerChange) {
        if change.public == self.public() {
            return tracing::warn!(peer = %change.public, "a peer with our own key is ignored");
        }
        if change.public.is_of_low_order() {
            return tracing::warn!(peer = %change.public, "a peer whose key is of low order is ignored: it protects nothing");
        }
        if let Some(remote) = self.shared.registry.change(change) {
            self.shared.post(remote.owner, worker::Letter::Changed(remote));
        }
    }

    /// Takes other sockets, or marks those we have.
    fn move_to(&self, steering: &mut Steering, port: Option<u16>, mark: Option<u32>) -> Result<(), ChangeError> {
        let (here, marked) = {
            let bearings = self.bearings.lock();
            (bearings.port, bearings.mark)
        };
        let mark = mark.unwrap_or(marked);
        let moved = port.filter(|port| *port != here && *port != steering.asked);
        let taken = moved.map(|asked| {
            let count = u32::try_from(self.shared.workers.len()).unwrap_or(Owners::MOST);
            bind_all(asked, count)
                .map(|(port, sockets)| (asked, port, sockets))
                .map_err(|e| ChangeError::Port(asked, e))
        });
        let taken = taken.transpose()?;
        let sockets = taken.as_ref().map_or(&steering.sockets, |(_, _, sockets)| sockets);
        // A new socket has none.
        if mark != if taken.is_some() { 0 } else { marked } {
            sockets.iter().try_for_each(|udp| udp.set_mark(mark)).map_err(|error| ChangeError::Mark(mark, error))?;
        }
        self.bearings.lock().mark = mark;
        if let Some((asked, port, sockets)) = taken {
            tracing::info!(port, before = here, "listening on another UDP port");
            self.bearings.lock().port = port;
            *steering = Steering { asked, sockets };
            let mut sockets = steering.sockets.iter().map(Arc::clone);
            for (mailbox, udp) in self.shared.workers.iter().zip(&mut sockets) {
                mailbox.post(worker::Letter::Socket(udp));
            }
            if let Some(udp) = sockets.next() {
                self.shared.reception.post(reception::Letter::Socket(udp));
            }
            self.wait_for_all();
        }
        Ok(())
    }

    /// All sessions end. Once this returns nothing is sent or taken in one of them.
    fn set_private(&self, private: Option<PrivateKey>) {
        if private == self.private() {
            return;
        }
        if let Some(own) = &private
            && self.remove_peer(&own.public())
        {
            tracing::warn!(peer = %own.public(), "the peer whose key is now our own is removed");
        }
        tracing::info!(public = ?private.as_ref().map(PrivateKey::public), "our own key is changed, all sessions end");
        {
            let mut bearings = self.bearings.lock();
            bearings.public = private.as_ref().map_or(bearings.public, PrivateKey::public);
            bearings.private.clone_from(&private);
        }
        self.shared.reception.post(reception::Letter::Identity(private));
        // First it tells the workers; then they forget; then what one sealed for another has left.
        for _ in 0..3 {
            self.wait_for_all();
        }
    }

    /// A peer is found there now.
    pub fn set_endpoint(&self, public: &PublicKey, endpoint: SocketAddr) {
        if let Some(remote) = self.shared.registry.get(public) {
            remote.outlet.set_endpoint(Some(endpoint));
            self.shared.post(remote.owner, worker::Letter::Changed(remote));
        }
    }

    /// Whether an address inside the overlay is some peer's.
    pub fn has_route(&self, address: IpAddr) -> bool {
        self.shared.registry.owner_of(address).is_some()
    }

    /// Removes a peer. Once this returns, nothing is taken from it and nothing sent to it. Returns whether it was there.
    pub fn remove_peer(&self, public: &PublicKey) -> bool {
        let removed = self.revoke(public).is_some();
        if removed {
            self.wait_for_all();
        }
        removed
    }

    /// Begins to remove a peer. Returns how it was if it was there, without the addresses it had; then it is gone once
    /// [`Self::wait_for_all`] returns. The directory is not told that it sleeps.
    pub fn begin_removing(&self, public: &PublicKey) -> Option<PeerStatus> {
        self.revoke(public).map(|remote| remote.status(self.shared.clock.now()))
    }

    /// Takes a peer out, and has the threads forget it. Returns it if it was there.
    fn revoke(&self, public: &PublicKey) -> Option<Arc<Remote>> {
        let remote = self.shared.registry.remove(public)?;
        self.shared.reception.post(reception::Letter::Forget(*public));
        self.shared.post(remote.owner, worker::Letter::Revoked(Arc::clone(&remote)));
        Some(remote)
    }

    /// Waits until every thread has read the letters it has now: within a millisecond, unless one of them hangs.
    pub fn wait_for_all(&self) {
        let (reply, replies) = channel();
        for mailbox in &self.shared.workers {
            mailbox.post(worker::Letter::Barrier(reply.clone()));
        }
        self.shared.reception.post(reception::Letter::Barrier(reply));
        let until = Instant::now() + BARRIER_WITHIN;
        // Ends early when all have answered, as nobody holds the sending half then.
        while replies.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok() {}
    }

    /// Whether and how this peer is known.
    pub fn peer(&self, public: &PublicKey) -> Option<PeerStatus> {
        self.shared.registry.get(public).map(|remote| remote.status(self.shared.clock.now()))
    }

    /// All registered peers.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.each_peer().collect()
    }

    /// All registered peers, one after the other.
    pub(crate) fn each_peer(&self) -> impl Iterator<Item = PeerStatus> {
        let now = self.shared.clock.now();
        self.shared.registry.all().into_iter().map(move |remote| remote.status(now))
    }

    /// How many peers are registered.
    pub fn peer_count(&self) -> usize {
        self.shared.registry.len()
    }

    /// How many peers of the directory are awake.
    pub fn awake(&self) -> usize {
        self.shared.registry.listed()
    }

    /// What was counted since the start.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        for mailbox in &self.shared.workers {
            mailbox.post(worker::Letter::End);
        }
        self.shared.reception.post(reception::Letter::End);
        for thread in self.threads.lock().drain(..) {
            // One that panicked has told of itself.
            let _ = thread.join();
        }
    }
}

fn bind_all(port: u16, workers: u32) -> io::Result<(u16, Vec<Arc<Udp>>)> {
    let (port, sockets) = Udp::bind_all(port, workers)?;
    Ok((port, sockets.into_iter().map(Arc::new).collect()))
}

/// A worker with no deadline nearer than this looks at its wheel all the same.
pub(crate) const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// What a thread does last, even if it panics.
struct Last<F: Fn()>(F);

impl<F: Fn()> Drop for Last<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
