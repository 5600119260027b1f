//! What this machine knows of each backend right now: connections in use, check verdict, ejection, round-trip time.
//!
//! It outlives every snapshot of the table (a reload must forget neither counts nor verdicts) and is read on every
//! route decision, so it sits in contiguous arrays of atomics, addressed by [`Slot`]. One 64-bit word per backend holds
//! all that decides whether a connection may be reserved, which makes the reservation one compare-and-swap and the
//! hard limit exact.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::latency::RoundTrip;
use crate::moment::Moment;
use crate::outlier::{FailureRun, OutlierPolicy};

/// Slots in one piece of memory, made when its first slot is handed out: 1,024 cost about 70 KB.
const CHUNK: usize = 1024;
/// 64 pieces are room for the 65,536 backends of [`StatePool::CAPACITY`]; a table with more is refused.
const MAX_CHUNKS: usize = 64;
/// Backends that have left the table and whose state is kept, in case they come back: a row that was invalid for one
/// load, or deleted and inserted again, finds its connections and its history. Past this many, the slot of the one that
/// left first goes to the next newcomer, once its last connection is gone.
const KEPT_RETIRED: usize = 64;

/// Where a backend's state is kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Slot(u32);

impl Slot {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A slot and which of its successive owners is meant: a remembered route must not follow a slot to another backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotKey {
    pub(crate) slot: Slot,
    pub(crate) generation: u32,
}

impl SlotKey {
    /// The slot itself.
    pub fn slot(self) -> Slot {
        self.slot
    }
}

/// One backend's word: connections in the low half, marks above, and the slot's generation in the top 28 bits, so that
/// nobody who holds an older table can reserve on a slot's next owner.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl Word {
    /// Active checks say it is down.
    const DOWN: u64 = 1 << 32;
    /// Too many connects failed: no new clients until its pause is over, then one at a time.
    const EJECTED: u64 = 1 << 33;
    /// An ejected backend is being tried by one connection.
    const TRIAL: u64 = 1 << 34;
    const BARRED: u64 = Self::DOWN | Self::EJECTED;
    const GENERATION_SHIFT: u32 = 36;

    #[allow(clippy::cast_possible_truncation, reason = "28 bits")]
    pub(crate) fn generation(self) -> u32 {
        (self.0 >> Self::GENERATION_SHIFT) as u32
    }

    /// The upper half of the word of a backend of this generation that is in service: what a scan compares with, so
    /// that marks and generation are one test.
    pub(crate) fn in_service_half(generation: u32) -> u32 {
        generation << (Self::GENERATION_SHIFT - 32)
    }

    /// Whether the slot is still that of the backend with this [`Self::in_service_half`].
    pub(crate) fn is_of(self, in_service_half: u32) -> bool {
        Self::in_service_half(self.generation()) == in_service_half
    }

    /// The next owner's first word.
    fn next_owner(self) -> u64 {
        ((self.0 >> Self::GENERATION_SHIFT) + 1) << Self::GENERATION_SHIFT
    }

    #[allow(clippy::cast_possible_truncation, reason = "the low half is the count")]
    pub(crate) fn connections(self) -> u32 {
        self.0 as u32
    }

    #[allow(clippy::cast_possible_truncation, reason = "32 bits are left")]
    pub(crate) fn upper_half(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(crate) fn is_down(self) -> bool {
        self.0 & Self::DOWN != 0
    }

    pub(crate) fn is_ejected(self) -> bool {
        self.0 & Self::EJECTED != 0
    }

    pub(crate) fn on_trial(self) -> bool {
        self.0 & Self::TRIAL != 0
    }

    /// Neither down nor ejected: the common case, decided by one test.
    pub(crate) fn in_service(self) -> bool {
        self.0 & Self::BARRED == 0
    }
}

struct Chunk {
    words: [AtomicU64; CHUNK],
    /// Apart from the details: the latency policy reads them in a row, as every policy does the words.
    round_trips: [RoundTrip; CHUNK],
    details: [Detail; CHUNK],
}

#[derive(Default)]
struct Detail {
    /// When the pause of an ejected backend ends, in [`Moment`] milliseconds.
    ejected_until: AtomicU64,
    failures: FailureRun,
    served: AtomicU64,
    /// How often the backend has moved to another address: what connects to a former one find says nothing of it.
    moves: AtomicU32,
}

impl Chunk {
    fn new() -> Box<Self> {
        // Built in a vector first: the array is too large for the stack of a small thread.
        let words: Vec<AtomicU64> = (0..CHUNK).map(|_| AtomicU64::new(0)).collect();
        let round_trips: Vec<RoundTrip> = (0..CHUNK).map(|_| RoundTrip::default()).collect();
        let details: Vec<Detail> = (0..CHUNK).map(|_| Detail::default()).collect();
        let (Ok(words), Ok(round_trips), Ok(details)) = (words.try_into(), round_trips.try_into(), details.try_into())
        else {
            unreachable!("the vectors hold CHUNK elements each")
        };
        Box::new(Self { words, round_trips, details })
    }
}

/// A backend that is to have a slot.
#[derive(Clone, Copy)]
pub(crate) struct Applicant<'a> {
    pub(crate) id: &'a str,
    pub(crate) addr: SocketAddr,
}

/// Slots could not be handed out. Those of the table before are as they were.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoSlots {
    /// Slots of backends that have left and whose connections go on.
    pub(crate) lingering: usize,
}

#[derive(Clone, Copy)]
struct Owner {
    slot: Slot,
    addr: SocketAddr,
}

#[derive(Default)]
struct Owners {
    by_id: HashMap<String, Owner>,
    /// Backends that left the table, the one that left first in front; their slots are reused once the last connection
    /// is gone.
    retired: VecDeque<(String, Owner)>,
    /// Slots taken from a backend that had left, for one that in the end was not let in.
    spare: Vec<Slot>,
    next: usize,
}

/// The state of the backends in the table and of some that have left it. One per process, shared by all snapshots and cores.
pub struct StatePool {
    chunks: [OnceLock<Box<Chunk>>; MAX_CHUNKS],
    owners: Mutex<Owners>,
}

impl Default for StatePool {
    fn default() -> Self {
        Self { chunks: [const { OnceLock::new() }; MAX_CHUNKS], owners: Mutex::default() }
    }
}

impl StatePool {
    /// Most backends one process can hold. A table with more is rejected as a whole.
    pub const CAPACITY: usize = CHUNK * MAX_CHUNKS;

    /// Gives every backend its slot: the one it has or had, or a fresh one. Ids no longer named lose theirs. Whoever
    /// comes with another address keeps its connections, and nothing that was learnt at the former one.
    ///
    /// The caller has checked that there are at most [`Self::CAPACITY`] and that no id is named twice.
    ///
    /// # Errors
    /// Backends that have left and still carry connections leave too little room.
    pub(crate) fn assign(&self, applicants: &[Applicant<'_>]) -> Result<Vec<SlotKey>, NoSlots> {
        let mut owners = self.owners();
        let named: HashSet<&str> = applicants.iter().map(|applicant| applicant.id).collect();
        let returning: HashMap<&str, Owner> = owners
            .retired
            .iter()
            .filter(|(id, _)| named.contains(id.as_str()))
            .map(|(id, owner)| (id.as_str(), *owner))
            .collect();
        let known: Vec<Option<Owner>> = applicants
            .iter()
            .map(|applicant| owners.by_id.get(applicant.id).or_else(|| returning.get(applicant.id)).copied())
            .collect();
        let newcomers = known.iter().filter(|owner| owner.is_none()).count();
        let mut fresh = self.vacate(&mut owners, &named, newcomers)?.into_iter();

        // Nothing fails from here on, so a load that was refused has changed nothing.
        let mut by_id = HashMap::with_capacity(applicants.len());
        let mut keys = Vec::with_capacity(applicants.len());
        for (&Applicant { id, addr }, known) in applicants.iter().zip(known) {
            if let Some(owner) = known.filter(|owner| owner.addr != addr) {
                self.forget(owner.slot);
            }
            let slot = known.map_or_else(|| fresh.next().expect("one for each newcomer"), |owner| owner.slot);
            by_id.insert(id.to_owned(), Owner { slot, addr });
            keys.push(SlotKey { slot, generation: self.word(slot).generation() });
        }
        let before = std::mem::replace(&mut owners.by_id, by_id);
        let mut leaving: Vec<_> = before.into_iter().filter(|(id, _)| !named.contains(id.as_str())).collect();
        leaving.sort_unstable_by_key(|(_, owner)| owner.slot.index());
        owners.retired.retain(|(id, _)| !named.contains(id.as_str()));
        owners.retired.extend(leaving);
        Ok(keys)
    }

    /// As many slots that nobody owns: new ones, or those of backends that have left, the one that left first in front.
    ///
    /// Who leaves only now keeps its slot as long as others can be found, as the table before serves until this one is
    /// ready. `named` are those whose slots are theirs again.
    fn vacate(&self, owners: &mut Owners, named: &HashSet<&str>, count: usize) -> Result<Vec<Slot>, NoSlots> {
        let Owners { by_id, retired, spare, next } = owners;
        let mut fresh: Vec<Slot> = spare.split_off(spare.len() - count.min(spare.len()));
        let take_retired = |retired: &mut VecDeque<(String, Owner)>, fresh: &mut Vec<Slot>, most: usize| {
            let wanted = count.min(fresh.len() + most);
            retired.retain(|(id, owner)| {
                let taken = fresh.len() < wanted && !named.contains(id.as_str()) && self.pass_on(owner.slot);
                if taken {
                    fresh.push(owner.slot);
                }
                !taken
            });
        };
        if fresh.len() < count && retired.len() > KEPT_RETIRED {
            let beyond = retired.len() - KEPT_RETIRED;
            take_retired(retired, &mut fresh, beyond);
        }
        while fresh.len() < count && *next < Self::CAPACITY {
            self.chunks[*next / CHUNK].get_or_init(Chunk::new);
            fresh.push(Slot(u32::try_from(*next).expect("below CAPACITY")));
            *next += 1;
        }
        if fresh.len() < count {
            take_retired(retired, &mut fresh, count);
        }
        if fresh.len() < count {
            let mut idle: Vec<(String, Slot)> = by_id
                .iter()
                .filter(|(id, owner)| !named.contains(id.as_str()) && self.word(owner.slot).connections() == 0)
                .map(|(id, owner)| (id.clone(), owner.slot))
                .collect();
            // All or none: a load that is refused must not have taken anything from the table that goes on serving.
            if fresh.len() + idle.len() >= count {
                idle.sort_unstable_by_key(|(_, slot)| slot.index());
                for (id, slot) in idle {
                    if fresh.len() < count && self.pass_on(slot) {
                        by_id.remove(&id);
                        fresh.push(slot);
                    }
                }
            }
        }
        if fresh.len() < count {
            spare.append(&mut fresh);
            let leaving = by_id.keys().filter(|id| !named.contains(id.as_str())).count();
            return Err(NoSlots { lingering: retired.len() + leaving });
        }
        Ok(fresh)
    }

    /// Makes a slot ready for its next owner, unless a connection is on it or gets on it meanwhile.
    fn pass_on(&self, slot: Slot) -> bool {
        let word = self.word(slot);
        let passed = word.connections() == 0
            && self.atomic(slot).compare_exchange(word.0, word.next_owner(), AcqRel, Relaxed).is_ok();
        if passed {
            self.clear(slot);
            self.detail(slot).served.store(0, Relaxed);
        }
        passed
    }

    /// The backend is reached at another address from now on: whether the former one failed, and how far away it was,
    /// says nothing of it.
    fn forget(&self, slot: Slot) {
        self.detail(slot).moves.fetch_add(1, Relaxed);
        self.mark(slot, Word::EJECTED, false);
        self.clear(slot);
    }

    fn clear(&self, slot: Slot) {
        let detail = self.detail(slot);
        detail.ejected_until.store(0, Relaxed);
        detail.failures.clear();
        self.round_trip(slot).clear();
    }

    fn owners(&self) -> MutexGuard<'_, Owners> {
        // `assign` changes the maps only once nothing can fail any more, so a panic elsewhere does not spoil them.
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chunk(&self, slot: Slot) -> &Chunk {
        self.chunks[slot.index() / CHUNK].get().expect("a slot is handed out only after its chunk was made")
    }

    fn atomic(&self, slot: Slot) -> &AtomicU64 {
        &self.chunk(slot).words[slot.index() % CHUNK]
    }

    fn detail(&self, slot: Slot) -> &Detail {
        &self.chunk(slot).details[slot.index() % CHUNK]
    }

    /// Reads the connections of many backends. Returns whether the upper half of any word is another than that of a
    /// backend in service, as `in_service` has them.
    pub(crate) fn read_connections(&self, slots: &[Slot], in_service: &[u32], connections: &mut [u32]) -> bool {
        fn take<'a>(words: impl Iterator<Item = &'a AtomicU64>, in_service: &[u32], connections: &mut [u32]) -> bool {
            let mut odd = 0;
            for ((word, in_service), connections) in words.zip(in_service).zip(connections) {
                let word = Word(word.load(Relaxed));
                *connections = word.connections();
                odd |= word.upper_half() ^ in_service;
            }
            odd != 0
        }
        match self.run(slots) {
            Some((chunk, run)) => take(chunk.words[run].iter(), in_service, connections),
            None => take(self.each_of(slots).map(|(chunk, at)| &chunk.words[at]), in_service, connections),
        }
    }

    /// Reads the round trips of many backends: the averages in ms, and the stamps of their last samples.
    pub(crate) fn read_round_trips(&self, slots: &[Slot], averages: &mut [f32], stamps: &mut [u32]) {
        let take = |((trip, average), stamp): ((&RoundTrip, &mut f32), &mut u32)| {
            (*average, *stamp) = trip.average_and_stamp();
        };
        if let Some((chunk, run)) = self.run(slots) {
            chunk.round_trips[run].iter().zip(averages).zip(stamps).for_each(take);
        } else {
            let trips = self.each_of(slots).map(|(chunk, at)| &chunk.round_trips[at]);
            trips.zip(averages).zip(stamps).for_each(take);
        }
    }

    /// Slots that follow one another within a chunk, as those of neighbours do until the table has changed much.
    fn run(&self, slots: &[Slot]) -> Option<(&Chunk, Range<usize>)> {
        let (first, last) = (slots.first()?.index(), slots.last()?.index());
        // They ascend, so that this many in so short a stretch leave no gap.
        let is_run = last - first + 1 == slots.len() && last / CHUNK == first / CHUNK;
        let start = first % CHUNK;
        is_run.then(|| (self.chunk(slots[0]), start..start + slots.len()))
    }

    /// Where each of these is, of which there is at least one.
    fn each_of<'a>(&'a self, slots: &'a [Slot]) -> impl Iterator<Item = (&'a Chunk, usize)> {
        let mut known = (slots[0].index() / CHUNK, self.chunk(slots[0]));
        slots.iter().map(move |slot| {
            let number = slot.index() / CHUNK;
            if number != known.0 {
                known = (number, self.chunk(*slot));
            }
            (known.1, slot.index() % CHUNK)
        })
    }

    pub(crate) fn word(&self, slot: Slot) -> Word {
        Word(self.atomic(slot).load(Relaxed))
    }

    pub(crate) fn round_trip(&self, slot: Slot) -> &RoundTrip {
        &self.chunk(slot).round_trips[slot.index() % CHUNK]
    }

    /// Connections in use.
    pub fn connections(&self, slot: Slot) -> u32 {
        self.word(slot).connections()
    }

    /// Connections ever reserved and then established.
    pub fn served(&self, slot: Slot) -> u64 {
        self.detail(slot).served.load(Relaxed)
    }

    /// Whether active checks (or a missed heartbeat) hold it down.
    pub fn is_down(&self, slot: Slot) -> bool {
        self.word(slot).is_down()
    }

    /// Whether failed connects have ejected it, trial period included.
    pub fn is_ejected(&self, slot: Slot) -> bool {
        self.word(slot).is_ejected()
    }

    /// The verdict of the active checks; of a former owner of the slot it counts for nothing.
    pub fn set_down(&self, key: SlotKey, down: bool) {
        if self.word(key.slot).generation() == key.generation {
            self.mark(key.slot, Word::DOWN, down);
        }
    }

    fn mark(&self, slot: Slot, bit: u64, on: bool) {
        if on {
            self.atomic(slot).fetch_or(bit, AcqRel);
        } else {
            self.atomic(slot).fetch_and(!bit, AcqRel);
        }
    }

    /// Whether an ejected backend's pause is over and nobody is trying it.
    pub(crate) fn may_try(&self, slot: Slot, word: Word, now: Moment) -> bool {
        !word.on_trial() && now.as_millis() >= self.detail(slot).ejected_until.load(Relaxed)
    }

    /// Takes one connection if the slot is still the backend's, has one left below `hard`, and is in service, on trial,
    /// or `forced`.
    pub(crate) fn reserve(self: &Arc<Self>, key: SlotKey, hard: u32, now: Moment, forced: bool) -> Option<Reservation> {
        let slot = key.slot;
        let mut current = self.atomic(slot).load(Acquire);
        loop {
            let word = Word(current);
            if word.connections() >= hard || word.generation() != key.generation {
                return None;
            }
            let mut next = current + 1;
            let mut trial = false;
            if !word.in_service() && !forced {
                if word.is_down() || !self.may_try(slot, word, now) {
                    return None;
                }
                next |= Word::TRIAL;
                trial = true;
            }
            match self.atomic(slot).compare_exchange_weak(current, next, AcqRel, Acquire) {
                Ok(_) => {
                    let moves = self.detail(slot).moves.load(Relaxed);
                    return Some(Reservation { pool: Arc::clone(self), slot, moves, trial });
                }
                Err(changed) => current = changed,
            }
        }
    }

    /// A probe or connect reached the backend in `millis`. The caller knows that the slot is still the backend's.
    pub fn observe_round_trip(&self, slot: Slot, millis: f32, now: Moment) {
        self.round_trip(slot).observe(millis, now);
    }

    /// The measured round trip in ms, if anything was measured yet.
    pub fn round_trip_ms(&self, slot: Slot) -> Option<f32> {
        self.round_trip(slot).measured()
    }
}

/// One connection's place on a backend, given back when dropped.
pub struct Reservation {
    pool: Arc<StatePool>,
    slot: Slot,
    /// The backend's moves when it was taken.
    moves: u32,
    /// This connection decides whether an ejected backend returns.
    trial: bool,
}

impl Reservation {
    /// The connect succeeded after `millis`: the backend's failures are forgotten and its round trip is known.
    ///
    /// Returns whether this ended an ejection.
    pub fn connected(&mut self, millis: f32, policy: &OutlierPolicy, now: Moment) -> bool {
        let detail = self.pool.detail(self.slot);
        detail.served.fetch_add(1, Relaxed);
        if self.is_of_former_address() {
            self.end_trial();
            return false;
        }
        self.pool.round_trip(self.slot).observe(millis, now);
        detail.failures.succeeded(policy, now);
        if self.trial {
            self.trial = false;
            detail.failures.clear();
            self.pool.atomic(self.slot).fetch_and(!(Word::EJECTED | Word::TRIAL), AcqRel);
            return true;
        }
        false
    }

    /// The connect failed. Returns for how long the backend is ejected, if this was one failure too many.
    pub fn failed(self, policy: &OutlierPolicy, now: Moment) -> Option<Duration> {
        if self.is_of_former_address() {
            return None;
        }
        // It began before the ejection, or was forced: it says nothing that the ejection did not, and one outage must
        // not count as several.
        if !self.trial && self.pool.word(self.slot).is_ejected() {
            return None;
        }
        let detail = self.pool.detail(self.slot);
        let pause = detail.failures.failed(policy, self.trial, now)?;
        detail.ejected_until.store(now.after(pause).as_millis(), Relaxed);
        self.pool.mark(self.slot, Word::EJECTED, true);
        Some(pause)
    }

    fn end_trial(&mut self) {
        if std::mem::take(&mut self.trial) {
            self.pool.mark(self.slot, Word::TRIAL, false);
        }
    }

    /// Whether the backend has moved since: what this connection met is no longer there.
    fn is_of_former_address(&self) -> bool {
        self.pool.detail(self.slot).moves.load(Relaxed) != self.moves
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.end_trial();
        self.pool.atomic(self.slot).fetch_sub(1, AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assign(pool: &StatePool, ids: &[&str]) -> Vec<SlotKey> {
        assign_at(pool, ids, "10.0.0.1:80").unwrap()
    }

    fn assign_at(pool: &StatePool, ids: &[&str], addr: &str) -> Result<Vec<SlotKey>, NoSlots> {
        let addr = addr.parse().unwrap();
        pool.assign(&ids.iter().map(|id| Applicant { id, addr }).collect::<Vec<_>>())
    }

    fn pool(ids: &[&str]) -> (Arc<StatePool>, Vec<SlotKey>) {
        let pool = Arc::new(StatePool::default());
        let keys = assign(&pool, ids);
        (pool, keys)
    }

    fn names(prefix: &str, count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{prefix}{n}")).collect()
    }

    fn refs(names: &[String]) -> Vec<&str> {
        names.iter().map(String::as_str).collect()
    }

    const T0: Moment = Moment::from_millis(0);

    #[test]
    fn a_hard_limit_is_exact_under_contention() {
        let (pool, keys) = pool(&["a"]);
        let key = keys[0];
        let held: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..100).filter_map(|_| pool.reserve(key, 50, T0, false)).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(held.len(), 50);
        assert_eq!(pool.connections(key.slot), 50);
        drop(held);
        assert_eq!(pool.connections(key.slot), 0);
    }

    #[test]
    fn counts_survive_a_reload_and_an_absence() {
        let (pool, keys) = pool(&["a", "b"]);
        let held = pool.reserve(keys[0], 9, T0, false).unwrap();
        let again = assign(&pool, &["b", "a"]);
        assert_eq!(again[1], keys[0]);
        assert_eq!(pool.connections(again[1].slot), 1);

        // "a" leaves with a connection still open and comes back: it is still counted.
        assign(&pool, &["b"]);
        let back = assign(&pool, &["b", "a"]);
        assert_eq!(back[1], keys[0]);
        assert_eq!(pool.connections(back[1].slot), 1);
        drop(held);
    }

    #[test]
    fn a_slot_is_passed_on_when_empty_and_never_to_holders_of_an_older_table() {
        let pool = Arc::new(StatePool::default());
        let old = assign(&pool, &refs(&names("old", KEPT_RETIRED + 1)));
        let held = pool.reserve(old[0], 9, T0, false).unwrap();
        let meanwhile = assign(&pool, &["meanwhile"]);
        assert!(old.iter().all(|key| key.slot != meanwhile[0].slot), "the table before serves until this one is ready");
        let new = assign(&pool, &["meanwhile", "new"])[1..].to_vec();
        let former = old.iter().find(|key| key.slot == new[0].slot).expect("an old slot is reused");
        assert_ne!(former.slot, old[0].slot, "one with a connection is not");
        assert!(pool.reserve(*former, 9, T0, false).is_none(), "the former owner has no claim on it");
        pool.set_down(*former, true);
        assert!(pool.reserve(new[0], 9, T0, false).is_some());
        drop(held);
    }

    #[test]
    fn who_left_first_is_the_first_to_lose_its_slot() {
        let (pool, first) = pool(&["first"]);
        let second = assign(&pool, &["second"]);
        assign(&pool, &refs(&names("third", KEPT_RETIRED)));
        assign(&pool, &[]);
        assert_eq!(assign(&pool, &["a"])[0].slot, first[0].slot);
        assert_eq!(assign(&pool, &["a", "b"])[1].slot, second[0].slot);
    }

    #[test]
    fn a_slot_passed_on_begins_anew() {
        let (pool, old) = pool(&["old"]);
        let policy = OutlierPolicy { consecutive_failures: 1, ..OutlierPolicy::default() };
        let mut served = pool.reserve(old[0], 9, T0, false).unwrap();
        served.connected(5.0, &policy, T0);
        drop(served);
        assert!(pool.reserve(old[0], 9, T0, false).unwrap().failed(&policy, T0).is_some());
        pool.set_down(old[0], true);
        assign(&pool, &refs(&names("other", KEPT_RETIRED)));
        assign(&pool, &[]);
        let new = assign(&pool, &["new"])[0];
        assert_eq!(new.slot, old[0].slot);
        assert_ne!(new.generation, old[0].generation);
        assert!(!pool.is_down(new.slot) && !pool.is_ejected(new.slot));
        assert_eq!((pool.served(new.slot), pool.round_trip_ms(new.slot)), (0, None));
    }

    #[test]
    fn a_load_that_does_not_fit_changes_nothing() {
        let half = StatePool::CAPACITY / 2 + 1;
        let (old, new) = (names("old", half), names("new", half));
        let (pool, keys) = pool(&refs(&old));
        let held: Vec<_> = keys.iter().map(|key| pool.reserve(*key, 1, T0, false).unwrap()).collect();
        assert_eq!(assign_at(&pool, &refs(&new), "10.0.0.1:80"), Err(NoSlots { lingering: half }));
        assert_eq!(assign(&pool, &refs(&old)), keys);
        assert!(pool.reserve(keys[7], 1, T0, false).is_none(), "its connection is still counted");
        drop(held);
        assert_eq!(assign(&pool, &refs(&new)).len(), half, "what has ended leaves room, also at the very end");
    }

    #[test]
    fn one_outage_is_one_ejection_however_many_connects_were_under_way() {
        let (pool, keys) = pool(&["a"]);
        let policy = OutlierPolicy::default();
        let under_way: Vec<_> = (0..25).map(|_| pool.reserve(keys[0], 99, T0, false).unwrap()).collect();
        let pauses: Vec<_> = under_way.into_iter().filter_map(|reservation| reservation.failed(&policy, T0)).collect();
        assert_eq!(pauses, [policy.base_pause]);
        let forced = pool.reserve(keys[0], 99, T0, true).unwrap();
        assert_eq!(forced.failed(&policy, T0), None, "nor does one that was sent there all the same");
        let trial = pool.reserve(keys[0], 99, T0.after(policy.base_pause), false).unwrap();
        assert_eq!(trial.failed(&policy, T0.after(policy.base_pause)), Some(policy.base_pause * 2));
    }

    #[test]
    fn at_another_address_a_backend_is_not_judged_by_the_former_one() {
        let (pool, keys) = pool(&["a"]);
        let policy = OutlierPolicy { consecutive_failures: 2, ..OutlierPolicy::default() };
        let reserve = |now| pool.reserve(keys[0], 9, now, false);
        pool.observe_round_trip(keys[0].slot, 300.0, T0);
        let (mut late, stays) = (reserve(T0).unwrap(), reserve(T0).unwrap());
        let others = [reserve(T0).unwrap(), reserve(T0).unwrap()];
        assert_eq!(others.map(|other| other.failed(&policy, T0)), [None, Some(policy.base_pause)]);
        let due = T0.after(policy.base_pause);
        let trial = reserve(due).unwrap();

        assert_eq!(assign_at(&pool, &["a"], "10.0.0.2:80").unwrap(), keys, "the same backend");
        assert!(!pool.is_ejected(keys[0].slot));
        assert_eq!(pool.round_trip_ms(keys[0].slot), None);
        assert_eq!(pool.connections(keys[0].slot), 3, "its connections go on");
        assert_eq!(trial.failed(&policy, due), None, "of connects to the former address nothing counts");
        assert!(!late.connected(300.0, &policy, due));
        assert_eq!(pool.round_trip_ms(keys[0].slot), None);
        assert_eq!(reserve(due).unwrap().failed(&policy, due), None);
        assert_eq!(reserve(due).unwrap().failed(&policy, due), Some(policy.base_pause));
        drop((late, stays));
        assert_eq!(pool.connections(keys[0].slot), 0);
    }

    #[test]
    fn an_ejected_backend_is_tried_by_one_connection_at_a_time() {
        let (pool, keys) = pool(&["a"]);
        let (key, slot) = (keys[0], keys[0].slot);
        let policy = OutlierPolicy { consecutive_failures: 2, ..OutlierPolicy::default() };
        let reserve = |now| pool.reserve(key, 9, now, false);
        assert_eq!(reserve(T0).unwrap().failed(&policy, T0), None);
        let pause = reserve(T0).unwrap().failed(&policy, T0).unwrap();
        assert!(pool.is_ejected(slot));
        assert!(reserve(T0).is_none(), "not before the pause is over");

        let due = T0.after(pause);
        let trial = reserve(due).unwrap();
        assert!(reserve(due).is_none(), "one at a time");
        let longer = trial.failed(&policy, due).unwrap();
        assert_eq!(longer, pause * 2, "a failed trial doubles the pause");

        let mut trial = reserve(due.after(longer)).unwrap();
        assert!(trial.connected(1.0, &policy, due));
        assert!(!pool.is_ejected(slot));
        assert!(reserve(due).is_some());
    }

    #[test]
    fn a_trial_given_up_lets_the_next_one_try() {
        let (pool, keys) = pool(&["a"]);
        let policy = OutlierPolicy { consecutive_failures: 1, ..OutlierPolicy::default() };
        let pause = pool.reserve(keys[0], 9, T0, false).unwrap().failed(&policy, T0).unwrap();
        let due = T0.after(pause);
        drop(pool.reserve(keys[0], 9, due, false).unwrap());
        assert!(pool.reserve(keys[0], 9, due, false).is_some());
        assert_eq!(pool.connections(keys[0].slot), 0);
    }
}
