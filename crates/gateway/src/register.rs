//! What the device asks for: who is registered, and what is seen of them.

use std::collections::HashMap;
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
    dirty: Vec<PeerId>,
    asleep: HashMap<PeerId, Left>,
}

/// What is left of a peer that sleeps.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Left {
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

impl Register {
    pub(crate) fn new(rows: Rows, outdated: UnboundedSender<PeerId>) -> Self {
        Self { rows: RwLock::new(rows), seen: Mutex::default(), outdated }
    }

    /// What was seen since this was last asked.
    pub(crate) fn take_sightings(&self) -> Vec<Sighting> {
        let mut rows = self.rows.write();
        let Seen { dirty, mut asleep } = std::mem::take(&mut *self.seen.lock());
        let sightings = dirty.into_iter().filter_map(|id| {
            let place = rows.by_id(id)?;
            let former = rows.former(place);
            let row = rows.get_mut(place)?;
            row.dirty = false;
            let left = asleep.remove(&id).unwrap_or_default();
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

    /// These could not be written: they are seen still.
    pub(crate) fn put_back(&self, sightings: &[Sighting]) {
        let mut rows = self.rows.write();
        for sighting in sightings {
            let Some(place) = rows.by_id(sighting.id) else { continue };
            self.mark(&mut rows, place);
            self.add_left(sighting.id, sighting.endpoint, sighting.received, sighting.sent);
        }
    }

    /// What is to be added to what is written of a peer.
    pub(crate) fn left(&self, id: PeerId) -> Left {
        self.seen.lock().asleep.get(&id).copied().unwrap_or_default()
    }

    /// They are to be written at the next occasion.
    fn mark(&self, rows: &mut Rows, place: Place) -> Option<PeerId> {
        let row = rows.get_mut(place)?;
        if !std::mem::replace(&mut row.dirty, true) {
            self.seen.lock().dirty.push(row.id);
        }
        Some(row.id)
    }
}

impl Register {
    fn add_left(&self, id: PeerId, endpoint: Option<SocketAddr>, received: u64, sent: u64) {
        let mut seen = self.seen.lock();
        let left = seen.asleep.entry(id).or_default();
        left.endpoint = endpoint.or(left.endpoint);
        left.received += received;
        left.sent += sent;
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
        let Some((place, _)) = rows.find(&status.settings.public) else { return };
        // Those that were begun here were not told of when they were answered.
        if let (Some(row), Some(last)) = (rows.get_mut(place), unix_of(status)) {
            row.note_handshake(last.max(row.handshake().unwrap_or(0)));
        }
        if let Some(id) = self.mark(&mut rows, place) {
            self.add_left(id, status.settings.endpoint, status.received, status.sent);
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
