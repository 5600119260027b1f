//! A WireGuard device: its threads, and how it is steered from outside.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edgeproxy_tunnel::{GateSettings, Handshakes, Owners, PrivateKey, PublicKey};
use parking_lot::Mutex;

use crate::clock::Clock;
use crate::counters::Counters;
use crate::mailbox::Mailbox;
use crate::random::OsRandom;
use crate::reception::{self, BARRIER_WITHIN, Reception};
use crate::registry::{PeerSettings, PeerStatus, Registry};
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
}

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
    public: PublicKey,
    port: u16,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Device {
    /// Starts a worker for each queue of the interface above, and the thread of the handshakes.
    ///
    /// # Errors
    /// The port is taken, or threads or descriptors are short.
    pub fn start(settings: DeviceSettings, queues: Vec<Queue>) -> io::Result<Self> {
        let DeviceSettings { private, port, mtu, addresses, forward, tenants, gate } = settings;
        let count = u32::try_from(queues.len()).unwrap_or(Owners::MOST).clamp(1, Owners::MOST);
        let mut random = OsRandom::new();
        let owners = Owners::new(count, random.number());
        let (port, mut sockets) = Udp::bind_all(port, count)?;
        let shared = Arc::new(Shared {
            clock: Clock::start(),
            mtu,
            addresses,
            forward,
            tenants,
            owners,
            registry: Registry::new(owners, random.number()),
            counters: Counters::default(),
            workers: (0..count).map(|_| Mailbox::new()).collect::<io::Result<_>>()?,
            reception: Mailbox::new()?,
        });
        let device = Self { shared: Arc::clone(&shared), public: private.public(), port, threads: Mutex::default() };
        let handshakes = Handshakes::new(private, gate, owners, random);
        if let Some(udp) = sockets.pop() {
            let reception = Reception::new(Arc::clone(&shared), handshakes, udp);
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

    /// What others know us by.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Registers a peer, or changes what is said of one.
    pub fn set_peer(&self, settings: PeerSettings) {
        let remote = self.shared.registry.set(settings);
        self.shared.post(remote.owner, worker::Letter::Changed(remote));
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
        let Some(remote) = self.shared.registry.remove(public) else { return false };
        self.shared.reception.post(reception::Letter::Forget(*public));
        self.shared.post(remote.owner, worker::Letter::Revoked(remote));
        self.wait_for_all();
        true
    }

    /// Waits until every thread has read the letters it has now.
    fn wait_for_all(&self) {
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
        let now = self.shared.clock.now();
        self.shared.registry.all().iter().map(|remote| remote.status(now)).collect()
    }

    /// How many peers are registered.
    pub fn peer_count(&self) -> usize {
        self.shared.registry.len()
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

/// The wheel's resolution bounds how long a thread sleeps.
pub(crate) const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// What a thread does last, even if it panics.
struct Last<F: Fn()>(F);

impl<F: Fn()> Drop for Last<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
