//! The gateway whole: what is registered in memory, the file, the addresses, and the device that serves them.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use edgeproxy_overlay::{Device, Directory, OsRandom, PeerStatus};
use edgeproxy_store::peers::{
    PeerFilter, PeerId, PeerPage, PeerPages, PeerRecord, PeerRow, PeersError, PeersJournal, Released,
};
use edgeproxy_tunnel::{Prefix, PublicKey};
use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::addresses::{Addresses, Pair, PoolSettings};
use crate::collect::End;
use crate::deadlines::Deadlines;
use crate::error::GatewayError;
use crate::register::{Register, unix_now, unix_of};
use crate::rows::Rows;

/// Peers whose keys are changed at the same time, at most: they share a flush to disk.
const ROTATING_AT_ONCE: usize = 256;

/// How a gateway is run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GatewaySettings {
    /// The file of the peers.
    pub db: PathBuf,
    /// Where their addresses come from.
    pub pools: Vec<PoolSettings>,
    /// How long an address is given to nobody after its peer is gone.
    pub quarantine: Duration,
    /// For how long beyond its time an idle peer is kept.
    pub grace: Duration,
    /// Registered peers, at most.
    pub max_peers: usize,
}

/// The peers of a file, read and not yet served.
pub struct Opened {
    settings: GatewaySettings,
    register: Arc<Register>,
    outdated: UnboundedReceiver<PeerId>,
    journal: PeersJournal,
    singles: PeerPages,
    lists: PeerPages,
    next_id: PeerId,
    claims: Claims,
    deadlines: Deadlines,
}

/// Connections that come out of the tunnels to services of this gateway.
pub trait Flows: Send + Sync {
    /// Whether there can be any, also such as nobody has taken in yet.
    fn any(&self) -> bool;

    /// Cuts those that come from these addresses, also such as nobody has taken in yet. Once this returns they carry
    /// nothing more.
    fn cut(&self, from: &[Prefix]);
}

/// Hands out peers.
pub struct Gateway {
    pub(crate) settings: GatewaySettings,
    pub(crate) register: Arc<Register>,
    pub(crate) journal: PeersJournal,
    pub(crate) claims: Mutex<Claims>,
    pub(crate) deadlines: Mutex<Deadlines>,
    /// The keys of a peer are changed one after the other, so that disk and memory agree on the last: each peer has one
    /// of these by its number. Others share the flush.
    rotating: Vec<tokio::sync::Mutex<()>>,
    pub(crate) outdated: tokio::sync::Mutex<UnboundedReceiver<PeerId>>,
    /// The turn to write what was seen.
    pub(crate) seeing: tokio::sync::Mutex<()>,
    /// When this began to serve: nobody could be heard before.
    pub(crate) started: u64,
    /// Reads one peer at a time, and lists by another: no list is waited for. Whoever waits takes no thread meanwhile.
    singles: Arc<tokio::sync::Mutex<PeerPages>>,
    lists: Arc<tokio::sync::Mutex<PeerPages>>,
    device: Arc<Device>,
    flows: Arc<dyn Flows>,
    next_id: AtomicU64,
    /// Peers that ended by themselves, by [`crate::End`].
    pub(crate) collected: [AtomicU64; 2],
}

/// What is taken, also by peers that are not on disk yet.
pub(crate) struct Claims {
    pub(crate) addresses: Addresses,
    pub(crate) keys: HashSet<PublicKey>,
}

impl Opened {
    /// Reads the file, or makes it. `taken` are addresses inside the overlay that are this gateway's own, or of peers it
    /// is told of otherwise.
    ///
    /// # Errors
    /// The file cannot be used; two peers have the same key or address, which no gateway writes; or one has what the
    /// configuration has for something else.
    pub fn open(settings: GatewaySettings, taken: &[Prefix]) -> Result<Self, GatewayError> {
        let began = Instant::now();
        let (outdated, receiver) = unbounded_channel();
        let mut rows = Rows::new(OsRandom::new().number());
        let mut addresses = Addresses::new(&settings.pools, taken);
        let mut deadlines = Deadlines::default();
        let (mut unusable, mut resting, now) = (None, Vec::new(), unix_now());
        let path = || settings.db.display().to_string();
        let each = |peer: PeerRow| {
            if unusable.is_some() {
                return;
            }
            let pair = [peer.v4.map(IpAddr::from), peer.v6.map(IpAddr::from)];
            let alone = pair.into_iter().flatten().all(|address| addresses.note(address));
            if rows.find(&peer.public).is_some() || !alone || addresses.take_networks(&peer.prefixes).is_err() {
                let own = Pair { v4: peer.v4, v6: peer.v6 };
                unusable = Some(match addresses.reserved(own, &peer.prefixes) {
                    Some((has, by)) => GatewayError::Reserved { path: path(), id: peer.id, has, by },
                    None => GatewayError::Twice { path: path(), id: peer.id },
                });
                return;
            }
            let place = rows.insert(&peer);
            if let Some(due) = rows.due(place, now, settings.grace.as_secs()) {
                deadlines.set(due, peer.id);
            }
        };
        let (journal, next_id) = PeersJournal::open(&settings.db, each, |released| resting.push(released))?;
        if let Some(error) = unusable {
            return Err(error);
        }
        resting.retain(|released| addresses.note(released.address));
        // The quarantine may have been longer, or the clock ahead.
        let last = now.saturating_add(settings.quarantine.as_secs());
        addresses.rest(resting.into_iter().map(|rests| Released { until: rests.until.min(last), ..rests }));
        let (singles, lists) = (PeerPages::open(&settings.db)?, PeerPages::open(&settings.db)?);
        tracing::info!(peers = rows.len(), took = ?began.elapsed(), db = %settings.db.display(), "peers loaded");
        Ok(Self {
            settings,
            register: Arc::new(Register::new(rows, outdated)),
            outdated: receiver,
            journal,
            singles,
            lists,
            next_id,
            claims: Claims { addresses, keys: HashSet::new() },
            deadlines,
        })
    }

    /// What the device asks when somebody speaks whom it has not been told of.
    pub fn directory(&self) -> Arc<dyn Directory> {
        Arc::clone(&self.register) as Arc<dyn Directory>
    }

    /// Serves them by this device, which has been given the directory.
    pub fn serve(self, device: Arc<Device>, flows: Arc<dyn Flows>) -> Gateway {
        Gateway {
            settings: self.settings,
            register: self.register,
            journal: self.journal,
            claims: Mutex::new(self.claims),
            deadlines: Mutex::new(self.deadlines),
            rotating: std::iter::repeat_with(Default::default).take(ROTATING_AT_ONCE).collect(),
            outdated: tokio::sync::Mutex::new(self.outdated),
            seeing: tokio::sync::Mutex::default(),
            started: unix_now(),
            singles: Arc::new(tokio::sync::Mutex::new(self.singles)),
            lists: Arc::new(tokio::sync::Mutex::new(self.lists)),
            device,
            flows,
            next_id: AtomicU64::new(self.next_id.0),
            collected: Default::default(),
        }
    }
}

/// How full a gateway is.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Registered peers.
    pub peers: usize,
    /// Those of them that the device knows, as they have or had a session.
    pub awake: usize,
    /// Addresses that nobody has any more and nobody gets yet.
    pub resting: usize,
    /// The pools.
    pub pools: Vec<PoolFigures>,
    /// Peers that have ended since the start because their time was over.
    pub expired: u64,
    /// The same, because they were idle.
    pub idled: u64,
}

/// How full a pool is.
#[derive(Clone, Copy, Debug)]
pub struct PoolFigures {
    /// Which.
    pub network: IpNet,
    /// Addresses it has.
    pub size: usize,
    /// Addresses that are somebody's, the network's own, or rest.
    pub taken: usize,
}

/// A peer as it is now.
#[derive(Clone, Debug)]
pub struct Shown {
    /// What is kept of it, up to now.
    pub peer: PeerRecord,
    /// How it is at the device, while it is awake.
    pub awake: Option<PeerStatus>,
}

impl Gateway {
    /// The number of the peer with this key.
    pub fn find(&self, public: &PublicKey) -> Option<PeerId> {
        let rows = self.register.rows.read();
        let (place, _) = rows.find(public)?;
        rows.get(place).map(|row| row.id)
    }

    /// One peer, as the disk has it some 50 us later.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn show(&self, id: PeerId) -> Result<Option<Shown>, GatewayError> {
        if self.peer(id).is_none() {
            return Ok(None);
        }
        let file = Arc::clone(&self.singles).lock_owned().await;
        let record = self.read(move || file.get(id)).await?;
        Ok(record.map(|record| self.shown(record)))
    }

    /// Up to `limit` peers that the filter lets through, in the order of their numbers, from above `after` on, and above
    /// which number the list goes on, if it does: a page may have fewer, as it looks only at so many.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn page(
        self: &Arc<Self>,
        after: PeerId,
        limit: usize,
        filter: PeerFilter,
    ) -> Result<(Vec<Shown>, Option<PeerId>), GatewayError> {
        let (gateway, file) = (Arc::clone(self), Arc::clone(&self.lists).lock_owned().await);
        let read = move || {
            let PeerPage { records, next } = file.page(after, limit, &filter)?;
            drop(file);
            Ok((records.into_iter().map(|record| gateway.shown(record)).collect(), next))
        };
        self.read(read).await
    }

    /// Waits for the disk on a thread where that holds up nobody.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, PeersError> + Send + 'static,
    ) -> Result<T, GatewayError> {
        let path = || self.settings.db.display().to_string();
        let read = tokio::task::spawn_blocking(read).await;
        Ok(read.map_err(|error| PeersError::Failed { path: path(), reason: error.to_string() })??)
    }

    /// With what was seen since it was last written.
    fn shown(&self, mut peer: PeerRecord) -> Shown {
        if let Some(row) = self.peer(peer.row.id) {
            peer.row = row;
        }
        let left = self.register.left(peer.row.id);
        peer.endpoint = left.endpoint.or(peer.endpoint);
        peer.received += left.received;
        peer.sent += left.sent;
        let [former, own] = self.of_device(&peer.row);
        for awake in former.iter().chain(&own) {
            peer.row.handshake = peer.row.handshake.max(unix_of(awake));
            peer.endpoint = awake.settings.endpoint.or(peer.endpoint);
            peer.received += awake.received;
            peer.sent += awake.sent;
        }
        Shown { peer, awake: own.or(former) }
    }

    /// Whether the device knows it.
    pub fn is_awake(&self, peer: &PeerRow) -> bool {
        self.of_device(peer).iter().any(Option::is_some)
    }

    /// How the device knows it, by the key it had before and by its own.
    fn of_device(&self, peer: &PeerRow) -> [Option<PeerStatus>; 2] {
        [peer.former.map(|former| former.public), Some(peer.public)].map(|key| self.device.peer(&key?))
    }

    /// How full it is.
    pub fn figures(&self) -> Figures {
        let claims = self.claims.lock();
        let pools = claims.addresses.figures();
        Figures {
            peers: self.len(),
            awake: self.device.awake(),
            resting: claims.addresses.resting(),
            pools: pools.map(|(network, size, taken)| PoolFigures { network, size, taken }).collect(),
            expired: self.collected[End::Expired as usize].load(Relaxed),
            idled: self.collected[End::Idle as usize].load(Relaxed),
        }
    }

    /// The device that serves them.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Connections of theirs to services here.
    pub(crate) fn flows(&self) -> &Arc<dyn Flows> {
        &self.flows
    }

    /// How many there are, awake or not.
    pub fn len(&self) -> usize {
        self.register.rows.read().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn peer(&self, id: PeerId) -> Option<PeerRow> {
        let rows = self.register.rows.read();
        rows.peer(rows.by_id(id)?)
    }

    /// The turn to change the keys of this peer.
    pub(crate) async fn turn(&self, id: PeerId) -> tokio::sync::MutexGuard<'_, ()> {
        let of = usize::try_from(id.0 % ROTATING_AT_ONCE as u64).unwrap_or(0);
        self.rotating[of].lock().await
    }

    pub(crate) fn next_id(&self) -> PeerId {
        PeerId(self.next_id.fetch_add(1, Relaxed))
    }
}

#[cfg(test)]
mod tests;
