//! What the device asks for: who is registered, and what is seen of them.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edgeproxy_overlay::{Directory, PeerSettings, PeerStatus};
use edgeproxy_store::peers::{PeerId, Sighting};
use edgeproxy_tunnel::{Introduction, PublicKey, Tai64N};
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc::UnboundedSender;

use crate::rows::{Place, Rows};

/// All registered peers.
pub(crate) struct Register {
    pub(crate) rows: RwLock<Rows>,
    /// What is seen and not yet written.
    seen: Mutex<Seen>,
    /// Keys whose successor is in use.
    outdated: UnboundedSender<PeerId>,
}

#[derive(Default)]
struct Seen {
    /// Peers of whom there is something to write, in the order in which it was first seen.
    dirty: VecDeque<PeerId>,
    asleep: HashMap<PeerId, Left>,
    /// What is being written: it counts as seen until the disk has it.
    writing: HashMap<PeerId, Left>,
}

/// What is left of a peer that sleeps.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Left {
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

impl Left {
    /// Both together.
    fn and_later(self, later: Self) -> Self {
        Self {
            endpoint: later.endpoint.or(self.endpoint),
            received: self.received + later.received,
            sent: self.sent + later.sent,
        }
    }
}

impl Register {
    pub(crate) fn new(rows: Rows, outdated: UnboundedSender<PeerId>) -> Self {
        Self { rows: RwLock::new(rows), seen: Mutex::default(), outdated }
    }

    /// What was seen and is not yet written, of so many peers at most: others wait meanwhile. The caller says what became
    /// of it, by [`Self::note_written`] or [`Self::put_back`], before it asks again.
    pub(crate) fn take_sightings(&self, most: usize) -> Vec<Sighting> {
        let mut rows = self.rows.write();
        let mut seen = self.seen.lock();
        let Seen { dirty, asleep, writing } = &mut *seen;
        let taken = dirty.len().min(most);
        let sightings = dirty.drain(..taken).filter_map(|id| {
            let left = asleep.remove(&id).unwrap_or_default();
            let place = rows.by_id(id)?;
            let former = rows.former(place);
            let row = rows.get_mut(place)?;
            row.dirty = false;
            writing.insert(id, left);
            Some(Sighting {
                id,
                handshake: row.handshake(),
                public: row.public,
                greatest: row.greatest,
                former,
                endpoint: left.endpoint,
                received: left.received,
                sent: left.sent,
            })
        });
        sightings.collect()
    }

    /// What was taken last is on disk.
    pub(crate) fn note_written(&self) {
        self.seen.lock().writing.clear();
    }

    /// What was taken last could not be written: it is seen still.
    pub(crate) fn put_back(&self) {
        let mut rows = self.rows.write();
        let writing = std::mem::take(&mut self.seen.lock().writing);
        for (id, before) in writing {
            let Some(place) = rows.by_id(id) else { continue };
            self.mark(&mut rows, place);
            let mut seen = self.seen.lock();
            let left = seen.asleep.entry(id).or_default();
            *left = before.and_later(*left);
        }
    }

    /// Of how many peers there is something to write.
    pub(crate) fn unwritten(&self) -> usize {
        self.seen.lock().dirty.len()
    }

    /// What is to be added to what is written of a peer.
    pub(crate) fn left(&self, id: PeerId) -> Left {
        let seen = self.seen.lock();
        let of = |part: &HashMap<PeerId, Left>| part.get(&id).copied().unwrap_or_default();
        of(&seen.writing).and_later(of(&seen.asleep))
    }

    /// The device has forgotten a key of this peer, and this is how it was.
    pub(crate) fn note_forgotten(&self, id: PeerId, status: &PeerStatus) {
        let mut rows = self.rows.write();
        if let Some(place) = rows.by_id(id) {
            self.note_left(&mut rows, place, status);
        }
    }

    fn note_left(&self, rows: &mut Rows, place: Place, status: &PeerStatus) {
        // Those that were begun here were not told of when they were answered.
        if let (Some(row), Some(last)) = (rows.get_mut(place), unix_of(status)) {
            row.note_handshake(last.max(row.handshake().unwrap_or(0)));
        }
        if let Some(id) = self.mark(rows, place) {
            let mut seen = self.seen.lock();
            let left = seen.asleep.entry(id).or_default();
            let PeerStatus { settings, received, sent, .. } = status;
            *left = left.and_later(Left { endpoint: settings.endpoint, received: *received, sent: *sent });
        }
    }

    /// They are to be written at the next occasion.
    fn mark(&self, rows: &mut Rows, place: Place) -> Option<PeerId> {
        let row = rows.get_mut(place)?;
        if !std::mem::replace(&mut row.dirty, true) {
            self.seen.lock().dirty.push_back(row.id);
        }
        Some(row.id)
    }
}

impl Directory for Register {
    fn introduce(&self, public: &PublicKey) -> Option<Introduction> {
        let rows = self.rows.read();
        let (place, greatest) = admitted(&rows, public)?;
        Some(Introduction { preshared: rows.preshared(place), greatest })
    }

    fn wake(&self, public: &PublicKey) -> Option<PeerSettings> {
        let rows = self.rows.read();
        let (place, _) = admitted(&rows, public)?;
        Some(PeerSettings {
            public: *public,
            preshared: rows.preshared(place),
            endpoint: None,
            keepalive: None,
            allowed_ips: rows.allowed_ips(place),
        })
    }

    fn note_answered(&self, public: &PublicKey, timestamp: Tai64N) {
        let mut rows = self.rows.write();
        let Some((place, was_replaced)) = rows.find(public) else { return };
        if let Some(row) = rows.get_mut(place) {
            row.note_handshake(unix_now());
            if !was_replaced {
                row.greatest = timestamp;
            }
        }
        if was_replaced {
            rows.note_former(place, timestamp);
        }
        let id = self.mark(&mut rows, place);
        if let Some(id) = id.filter(|_| !was_replaced && rows.former(place).is_some()) {
            // Only when the process ends there is nobody who reads it.
            let _ = self.outdated.send(id);
        }
    }

    fn note_asleep(&self, status: &PeerStatus) {
        let mut rows = self.rows.write();
        if let Some((place, _)) = rows.find(&status.settings.public) {
            self.note_left(&mut rows, place, status);
        }
    }
}

/// Where the peer is that may use this key now, and the timestamp that it has to be later than.
fn admitted(rows: &Rows, public: &PublicKey) -> Option<(Place, Tai64N)> {
    let (place, was_replaced) = rows.find(public)?;
    let (row, now) = (rows.get(place)?, unix_now());
    if row.expires().is_some_and(|expires| expires <= now) {
        return None;
    }
    if !was_replaced {
        return Some((place, row.greatest));
    }
    // Until its successor has spoken: two that count would take the addresses from one another.
    let is_alone = row.greatest == Tai64N::default();
    rows.former(place).filter(|former| is_alone && former.until > now).map(|former| (place, former.greatest))
}

impl fmt::Debug for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Register({} peers)", self.rows.read().len())
    }
}

/// When the last handshake was complete, as the device knows.
pub(crate) fn unix_of(status: &PeerStatus) -> Option<u64> {
    status.last_handshake_at?.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
