//! The registered peers in memory: a row each, found by key or by number.
//!
//! A million of them take 130 MB. No operation touches more than one of them, or waits while a table of all of them grows:
//! rows stand in chunks that never move, and each index is a thousand small tables.

use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use edgeproxy_store::peers::{FormerKey, PeerId, PeerRow};
use edgeproxy_tunnel::{Keyed, Prefix, PresharedKey, PublicKey, Tai64N};
use hashbrown::HashTable;

use crate::addresses::Pair;
use crate::chunks::Chunks;

/// Tables of an index. A power of two.
const SHARDS: usize = 1024;
/// The place of no extra.
const NO_EXTRA: u32 = u32::MAX;

/// Where a row is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Place(u32);

/// A registered peer.
pub(crate) struct Row {
    pub(crate) public: PublicKey,
    pub(crate) greatest: Tai64N,
    pub(crate) id: PeerId,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    /// Times as seconds since 1970, 0: never.
    created: u32,
    expires: u32,
    idle: u32,
    handshake: u32,
    pub(crate) keep: bool,
    /// What is seen of it is yet to be written.
    pub(crate) dirty: bool,
    /// Its place among the extras, or [`NO_EXTRA`].
    extra: u32,
}

/// What few peers have.
#[derive(Clone, Default)]
struct Extra {
    preshared: PresharedKey,
    prefixes: Vec<Prefix>,
    former: Option<FormerKey>,
}

pub(crate) struct Rows {
    rows: Chunks<Row>,
    extras: Chunks<Extra>,
    by_key: Index,
    by_id: Index,
    /// By keys that were replaced and count still.
    by_former: Index,
    count: usize,
    hash: Keyed,
}

impl Row {
    fn of(row: &PeerRow) -> Self {
        let seconds = |time: Option<u64>| time.map_or(0, |time| u32::try_from(time).unwrap_or(u32::MAX).max(1));
        Self {
            public: row.public,
            greatest: row.greatest,
            id: row.id,
            v4: row.v4.unwrap_or(Ipv4Addr::UNSPECIFIED),
            v6: row.v6.unwrap_or(Ipv6Addr::UNSPECIFIED),
            created: seconds(Some(row.created)),
            expires: seconds(row.expires),
            idle: seconds(row.idle),
            handshake: seconds(row.handshake),
            keep: row.keep,
            dirty: false,
            extra: NO_EXTRA,
        }
    }

    pub(crate) fn pair(&self) -> Pair {
        Pair {
            v4: Some(self.v4).filter(|v4| !v4.is_unspecified()),
            v6: Some(self.v6).filter(|v6| !v6.is_unspecified()),
        }
    }

    pub(crate) fn expires(&self) -> Option<u64> {
        (self.expires != 0).then_some(self.expires.into())
    }

    /// After so many seconds without a handshake it ends, unless it is kept.
    pub(crate) fn idle(&self) -> Option<u64> {
        (self.idle != 0 && !self.keep).then_some(self.idle.into())
    }

    pub(crate) fn handshake(&self) -> Option<u64> {
        (self.handshake != 0).then_some(self.handshake.into())
    }

    /// When it was last known to be wanted: at a handshake, or when it was made.
    pub(crate) fn last_use(&self) -> u64 {
        self.handshake.max(self.created).into()
    }

    /// When it will have been idle for so long that it ends. `since`: nobody could be heard before.
    pub(crate) fn idle_until(&self, since: u64, grace: u64) -> Option<u64> {
        self.idle().map(|idle| self.last_use().max(since) + idle + grace)
    }

    pub(crate) fn note_handshake(&mut self, now: u64) {
        self.handshake = u32::try_from(now).unwrap_or(u32::MAX);
    }
}

impl Rows {
    /// `secret` has to be random.
    pub(crate) fn new(secret: u64) -> Self {
        Self {
            rows: Chunks::new(),
            extras: Chunks::new(),
            by_key: Index::new(),
            by_id: Index::new(),
            by_former: Index::new(),
            count: 0,
            hash: Keyed(secret),
        }
    }

    /// Those there are, in no order.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> {
        self.rows.places().map(Place)
    }

    /// When one has to be looked at: it ends, could have been idle for long enough, or its former key ends.
    pub(crate) fn due(&self, place: Place, since: u64, grace: u64) -> Option<u64> {
        let row = self.get(place)?;
        let former = self.former(place).map(|former| former.until);
        row.expires().into_iter().chain(row.idle_until(since, grace)).chain(former).min()
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The peer with this key; whether the key is the one it had before.
    pub(crate) fn find(&self, public: &PublicKey) -> Option<(Place, bool)> {
        let hash = self.hash.hash_one(public);
        let current = self.by_key.find(hash, |place| self.rows.get(place).is_some_and(|row| row.public == *public));
        let had = |place| self.former(Place(place)).is_some_and(|former| former.public == *public);
        current
            .map(|place| (Place(place), false))
            .or_else(|| self.by_former.find(hash, had).map(|place| (Place(place), true)))
    }

    pub(crate) fn by_id(&self, id: PeerId) -> Option<Place> {
        let hash = self.hash.hash_one(id);
        self.by_id.find(hash, |place| self.rows.get(place).is_some_and(|row| row.id == id)).map(Place)
    }

    pub(crate) fn get(&self, place: Place) -> Option<&Row> {
        self.rows.get(place.0)
    }

    pub(crate) fn get_mut(&mut self, place: Place) -> Option<&mut Row> {
        self.rows.get_mut(place.0)
    }

    /// The caller has seen that neither its key nor its number is there.
    pub(crate) fn insert(&mut self, peer: &PeerRow) -> Place {
        let place = self.rows.insert(Row::of(peer));
        self.by_key.insert(self.hash.hash_one(peer.public), place);
        self.by_id.insert(self.hash.hash_one(peer.id), place);
        self.count += 1;
        let extra = Extra { preshared: peer.preshared.clone(), prefixes: peer.prefixes.clone(), former: peer.former };
        self.set_extra(Place(place), extra);
        Place(place)
    }

    /// Returns it as it was.
    pub(crate) fn remove(&mut self, place: Place) -> Option<PeerRow> {
        let peer = self.peer(place)?;
        self.set_extra(place, Extra::default());
        self.by_key.remove(self.hash.hash_one(peer.public), place.0);
        self.by_id.remove(self.hash.hash_one(peer.id), place.0);
        self.rows.remove(place.0);
        self.count -= 1;
        Some(peer)
    }

    /// Gives it these keys. The caller has seen that nobody else has the new one.
    pub(crate) fn rekey(&mut self, place: Place, peer: &PeerRow) {
        let Some(row) = self.get_mut(place) else { return };
        let before = std::mem::replace(&mut row.public, peer.public);
        // It may have been answered since the caller looked.
        let greatest = std::mem::take(&mut row.greatest);
        let former = peer.former.map(|former| FormerKey { greatest: former.greatest.max(greatest), ..former });
        self.by_key.remove(self.hash.hash_one(before), place.0);
        self.by_key.insert(self.hash.hash_one(peer.public), place.0);
        self.set_extra(place, Extra { preshared: peer.preshared.clone(), prefixes: peer.prefixes.clone(), former });
    }

    /// The key it had before counts no more.
    pub(crate) fn drop_former(&mut self, place: Place, former: &PublicKey) {
        if let Some(extra) = self.extra(place)
            && extra.former.is_some_and(|known| known.public == *former)
        {
            let extra = Extra { former: None, ..extra.clone() };
            self.set_extra(place, extra);
        }
    }

    /// All that is known of it.
    pub(crate) fn peer(&self, place: Place) -> Option<PeerRow> {
        let row = self.get(place)?;
        let extra = self.extra(place).cloned().unwrap_or_default();
        let pair = row.pair();
        Some(PeerRow {
            id: row.id,
            public: row.public,
            preshared: extra.preshared,
            v4: pair.v4,
            v6: pair.v6,
            prefixes: extra.prefixes,
            created: row.created.into(),
            expires: row.expires(),
            idle: (row.idle != 0).then_some(row.idle.into()),
            keep: row.keep,
            handshake: row.handshake(),
            greatest: row.greatest,
            former: extra.former,
        })
    }

    /// Addresses that are its own, each alone, and the networks behind it.
    pub(crate) fn allowed_ips(&self, place: Place) -> Vec<Prefix> {
        let Some(row) = self.get(place) else { return Vec::new() };
        let networks = self.extra(place).into_iter().flat_map(|extra| extra.prefixes.iter().copied());
        row.pair().iter().map(|address: IpAddr| Prefix::host(address)).chain(networks).collect()
    }

    pub(crate) fn preshared(&self, place: Place) -> PresharedKey {
        self.extra(place).map(|extra| extra.preshared.clone()).unwrap_or_default()
    }

    /// The key it had before, while it counts.
    pub(crate) fn former(&self, place: Place) -> Option<FormerKey> {
        self.extra(place)?.former
    }

    /// An initiation with the key it had before was answered.
    pub(crate) fn note_former(&mut self, place: Place, timestamp: Tai64N) {
        let extra = self.get(place).map_or(NO_EXTRA, |row| row.extra);
        if let Some(former) = self.extras.get_mut(extra).and_then(|extra| extra.former.as_mut()) {
            former.greatest = timestamp;
        }
    }

    fn extra(&self, place: Place) -> Option<&Extra> {
        self.extras.get(self.get(place)?.extra)
    }

    fn set_extra(&mut self, place: Place, extra: Extra) {
        let [before, after] = [self.former(place), extra.former].map(|former| former.map(|former| former.public));
        if before != after {
            before.iter().for_each(|key| self.by_former.remove(self.hash.hash_one(key), place.0));
            after.iter().for_each(|key| self.by_former.insert(self.hash.hash_one(key), place.0));
        }
        let Some(row) = self.rows.get_mut(place.0) else { return };
        let has = extra.preshared.is_set() || !extra.prefixes.is_empty() || extra.former.is_some();
        match self.extras.get_mut(row.extra) {
            Some(stands) if has => *stands = extra,
            None if has => row.extra = self.extras.insert(extra),
            Some(_) => {
                self.extras.remove(row.extra);
                row.extra = NO_EXTRA;
            }
            None => {}
        }
    }
}

/// Places by hash. Half of the hash stands beside each, so that no row is looked at when a table grows, and none in vain.
struct Index(Vec<HashTable<(u32, u32)>>);

impl Index {
    fn new() -> Self {
        Self(std::iter::repeat_with(HashTable::new).take(SHARDS).collect())
    }

    fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let tag = tag(hash);
        let found = self.0[shard(hash)].find(spread(tag), |entry| entry.0 == tag && is_it(entry.1));
        found.map(|entry| entry.1)
    }

    fn insert(&mut self, hash: u64, place: u32) {
        let tag = tag(hash);
        self.0[shard(hash)].insert_unique(spread(tag), (tag, place), |entry| spread(entry.0));
    }

    fn remove(&mut self, hash: u64, place: u32) {
        let tag = tag(hash);
        if let Ok(entry) = self.0[shard(hash)].find_entry(spread(tag), |entry| *entry == (tag, place)) {
            entry.remove();
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the last bits are wanted")]
fn shard(hash: u64) -> usize {
    hash as usize % SHARDS
}

#[allow(clippy::cast_possible_truncation, reason = "half of it is wanted")]
fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// A table takes the first bits and the last.
fn spread(tag: u32) -> u64 {
    u64::from(tag) << 32 | u64::from(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u32) -> PeerRow {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        PeerRow {
            id: PeerId(number.into()),
            public: PublicKey(key),
            preshared: PresharedKey::default(),
            v4: Some(Ipv4Addr::from_bits(number + 1)),
            v6: None,
            prefixes: Vec::new(),
            created: 7,
            expires: None,
            idle: None,
            keep: false,
            handshake: None,
            greatest: Tai64N::default(),
            former: None,
        }
    }

    #[test]
    fn each_of_very_many_is_found() {
        const MANY: u32 = 50_000;
        let mut rows = Rows::new(3);
        let find = |rows: &Rows, peer: &PeerRow| {
            let place = rows.find(&peer.public).map(|(place, _)| place);
            assert_eq!(place, rows.by_id(peer.id));
            place.and_then(|place| rows.peer(place))
        };
        (0..MANY).for_each(|number| _ = rows.insert(&peer(number)));
        for number in (0..MANY).step_by(3) {
            let place = rows.by_id(PeerId(number.into())).unwrap();
            assert_eq!(rows.remove(place), Some(peer(number)));
        }
        (MANY..MANY + 1000).for_each(|number| _ = rows.insert(&peer(number)));
        for number in 0..MANY + 1000 {
            let peer = peer(number);
            let is_there = number >= MANY || !number.is_multiple_of(3);
            assert_eq!(find(&rows, &peer), is_there.then_some(peer));
        }
        assert_eq!(rows.len(), (0..MANY + 1000).filter(|n| *n >= MANY || !n.is_multiple_of(3)).count());
    }

    /// Beside 2 × 8 bytes of the indexes, which are between half and seven eighths full.
    #[test]
    fn a_row_costs_no_more_than_it_may() {
        let (row, extra) = (size_of::<Option<Row>>(), size_of::<Option<Extra>>());
        println!("{row} bytes for a row, at most 96; {extra} for what few have, at most 128");
        assert!(row <= 96 && extra <= 128);
    }

    #[test]
    fn what_few_peers_have_goes_with_them() {
        let mut rows = Rows::new(3);
        let former = FormerKey { public: PublicKey([8; 32]), until: 9, greatest: Tai64N([1; 12]) };
        let site = PeerRow {
            preshared: PresharedKey::from_bytes([5; 32]),
            prefixes: vec!["172.16.0.0/24".parse().unwrap()],
            former: Some(former),
            ..peer(1)
        };
        let place = rows.insert(&site);
        assert_eq!(rows.find(&former.public), Some((place, true)));
        rows.note_former(place, Tai64N([2; 12]));
        assert_eq!(rows.former(place).unwrap().greatest, Tai64N([2; 12]));
        rows.drop_former(place, &former.public);
        assert_eq!(rows.find(&former.public), None);
        assert_eq!(rows.remove(place), Some(PeerRow { former: None, ..site }));
        // Another in the same place has nothing of it.
        assert_eq!(rows.insert(&peer(2)), place);
        assert_eq!(rows.peer(place), Some(peer(2)));
    }
}
