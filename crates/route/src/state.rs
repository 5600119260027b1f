//! What this machine knows of each backend right now: connections in use, check verdict, ejection, round-trip time.
//!
//! It outlives every snapshot of the table (a reload must forget neither counts nor verdicts) and is read on every
//! route decision, so it sits in contiguous arrays of atomics, addressed by [`Slot`]. One 64-bit word per backend holds
//! all that decides whether a connection may be reserved, which makes the reservation one compare-and-swap and the
//! hard limit exact.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::latency::RoundTrip;
use crate::moment::Moment;
use crate::outlier::{FailureRun, OutlierPolicy};

const CHUNK: usize = 1024;
const MAX_CHUNKS: usize = 64;
/// Backends that have left the table and whose state is kept, in case they come back: a row that was invalid for one
/// load, or deleted and inserted again, finds its connections and its history.
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
    /// Within the near set of the latency policy.
    const NEAR: u64 = 1 << 35;
    const BARRED: u64 = Self::DOWN | Self::EJECTED;
    const GENERATION_SHIFT: u32 = 36;

    #[allow(clippy::cast_possible_truncation, reason = "28 bits")]
    pub(crate) fn generation(self) -> u32 {
        (self.0 >> Self::GENERATION_SHIFT) as u32
    }

    /// The next owner's first word.
    fn next_owner(self) -> u64 {
        ((self.0 >> Self::GENERATION_SHIFT) + 1) << Self::GENERATION_SHIFT
    }

    #[allow(clippy::cast_possible_truncation, reason = "the low half is the count")]
    pub(crate) fn connections(self) -> u32 {
        self.0 as u32
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

    pub(crate) fn is_near(self) -> bool {
        self.0 & Self::NEAR != 0
    }

    /// Neither down nor ejected: the common case, decided by one test.
    pub(crate) fn in_service(self) -> bool {
        self.0 & Self::BARRED == 0
    }
}

struct Chunk {
    words: [AtomicU64; CHUNK],
    details: [Detail; CHUNK],
}

/// Reads the words of many backends in a row: those of one chunk without finding the chunk again.
pub(crate) struct Words<'a> {
    pool: &'a StatePool,
    chunk: &'a Chunk,
    number: usize,
}

impl Words<'_> {
    pub(crate) fn get(&mut self, slot: Slot) -> Word {
        if slot.index() / CHUNK != self.number {
            self.chunk = self.pool.chunk(slot);
            self.number = slot.index() / CHUNK;
        }
        Word(self.chunk.words[slot.index() % CHUNK].load(Relaxed))
    }
}

#[derive(Default)]
struct Detail {
    /// When the pause of an ejected backend ends, in [`Moment`] milliseconds.
    ejected_until: AtomicU64,
    failures: FailureRun,
    round_trip: RoundTrip,
    served: AtomicU64,
}

impl Chunk {
    fn new() -> Box<Self> {
        // Built in a vector first: the array is too large for the stack of a small thread.
        let words: Vec<AtomicU64> = (0..CHUNK).map(|_| AtomicU64::new(0)).collect();
        let details: Vec<Detail> = (0..CHUNK).map(|_| Detail::default()).collect();
        let (Ok(words), Ok(details)) = (words.try_into(), details.try_into()) else {
            unreachable!("both vectors hold CHUNK elements")
        };
        Box::new(Self { words, details })
    }
}

#[derive(Default)]
struct Owners {
    by_id: HashMap<String, Slot>,
    /// Slots whose backend left the table, longest first; reused once their last connection is gone.
    retired: VecDeque<(String, Slot)>,
    next: u32,
}

/// The state of every backend this process has seen. One per process, shared by all snapshots and cores.
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

    /// Gives every id its slot: the one it has or had, or a fresh one. Ids no longer named lose theirs.
    ///
    /// The caller has checked that there are at most [`Self::CAPACITY`] ids; `None` when retired slots that still carry
    /// connections leave too little room for them.
    pub(crate) fn assign<'a>(&self, ids: impl Iterator<Item = &'a str>) -> Option<Vec<SlotKey>> {
        let mut owners = self.owners();
        let mut previous = std::mem::take(&mut owners.by_id);
        let ids: Vec<&str> = ids.collect();
        let kept: Vec<Option<Slot>> = ids.iter().map(|id| previous.remove(*id)).collect();
        let returning: HashMap<String, Slot> = owners.retired.drain(..).collect();
        let (mut returning, retired): (HashMap<_, _>, Vec<_>) = {
            let named: std::collections::HashSet<&str> = ids.iter().copied().collect();
            let (back, gone): (Vec<_>, Vec<_>) = returning.into_iter().partition(|(id, _)| named.contains(id.as_str()));
            (back.into_iter().collect(), gone)
        };
        owners.retired.extend(retired);
        owners.retired.extend(previous);
        let mut keys = Vec::with_capacity(ids.len());
        for (id, kept) in ids.iter().zip(kept) {
            let slot = match kept.or_else(|| returning.remove(*id)) {
                Some(slot) => slot,
                None => self.vacant(&mut owners)?,
            };
            owners.by_id.insert((*id).to_owned(), slot);
            keys.push(SlotKey { slot, generation: self.word(slot).generation() });
        }
        Some(keys)
    }

    /// A slot nobody owns: a new one, or that of the backend that left first and has no connection left.
    fn vacant(&self, owners: &mut Owners) -> Option<Slot> {
        let exhausted = owners.next as usize >= Self::CAPACITY;
        if exhausted || owners.retired.len() > KEPT_RETIRED {
            let free = owners.retired.iter().position(|&(_, slot)| self.pass_on(slot));
            if let Some((_, slot)) = free.and_then(|at| owners.retired.remove(at)) {
                return Some(slot);
            }
        }
        if exhausted {
            return None;
        }
        let index = owners.next as usize;
        owners.next += 1;
        self.chunks[index / CHUNK].get_or_init(Chunk::new);
        Some(Slot(u32::try_from(index).expect("below CAPACITY")))
    }

    /// Makes a slot ready for its next owner, unless a connection is on it or gets on it meanwhile.
    fn pass_on(&self, slot: Slot) -> bool {
        let word = self.word(slot);
        let passed = word.connections() == 0
            && self.atomic(slot).compare_exchange(word.0, word.next_owner(), AcqRel, Relaxed).is_ok();
        if passed {
            let detail = self.detail(slot);
            detail.ejected_until.store(0, Relaxed);
            detail.failures.clear();
            detail.round_trip.clear();
            detail.served.store(0, Relaxed);
        }
        passed
    }

    fn owners(&self) -> MutexGuard<'_, Owners> {
        // The map is valid after every step of `assign`, so a panic elsewhere does not spoil it.
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

    /// A reader that begins where `slot` is.
    pub(crate) fn words(&self, slot: Slot) -> Words<'_> {
        Words { pool: self, chunk: self.chunk(slot), number: slot.index() / CHUNK }
    }

    pub(crate) fn word(&self, slot: Slot) -> Word {
        Word(self.atomic(slot).load(Relaxed))
    }

    pub(crate) fn round_trip(&self, slot: Slot) -> &RoundTrip {
        &self.detail(slot).round_trip
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

    pub(crate) fn set_near(&self, slot: Slot, near: bool) {
        self.mark(slot, Word::NEAR, near);
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
                Ok(_) => return Some(Reservation { pool: Arc::clone(self), slot, trial }),
                Err(changed) => current = changed,
            }
        }
    }

    /// A probe or connect reached the backend in `millis`.
    pub fn observe_round_trip(&self, slot: Slot, millis: f32, now: Moment) {
        self.detail(slot).round_trip.observe(millis, now);
    }

    /// The measured round trip in ms, if anything was measured yet.
    pub fn round_trip_ms(&self, slot: Slot) -> Option<f32> {
        self.detail(slot).round_trip.estimate()
    }
}

/// One connection's place on a backend, given back when dropped.
pub struct Reservation {
    pool: Arc<StatePool>,
    slot: Slot,
    /// This connection decides whether an ejected backend returns.
    trial: bool,
}

impl Reservation {
    /// The backend's slot.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// The connect succeeded after `millis`: the backend's failures are forgotten and its round trip is known.
    ///
    /// Returns whether this ended an ejection.
    pub fn connected(&mut self, millis: f32, policy: &OutlierPolicy, now: Moment) -> bool {
        let detail = self.pool.detail(self.slot);
        detail.served.fetch_add(1, Relaxed);
        detail.round_trip.observe(millis, now);
        detail.failures.succeeded(policy, now);
        if self.trial {
            self.trial = false;
            detail.failures.returned();
            self.pool.atomic(self.slot).fetch_and(!(Word::EJECTED | Word::TRIAL), AcqRel);
            return true;
        }
        false
    }

    /// The connect failed. Returns for how long the backend is ejected, if this was one failure too many.
    pub fn failed(self, policy: &OutlierPolicy, now: Moment) -> Option<std::time::Duration> {
        let detail = self.pool.detail(self.slot);
        let pause = detail.failures.failed(policy, self.trial, now)?;
        detail.ejected_until.store(now.after(pause).as_millis(), Relaxed);
        self.pool.mark(self.slot, Word::EJECTED, true);
        Some(pause)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let word = self.pool.atomic(self.slot);
        if self.trial {
            word.fetch_and(!Word::TRIAL, AcqRel);
        }
        word.fetch_sub(1, AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(ids: &[&str]) -> (Arc<StatePool>, Vec<SlotKey>) {
        let pool = Arc::new(StatePool::default());
        let keys = pool.assign(ids.iter().copied()).unwrap();
        (pool, keys)
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
        let again = pool.assign(["b", "a"].into_iter()).unwrap();
        assert_eq!(again[1], keys[0]);
        assert_eq!(pool.connections(again[1].slot), 1);

        // "a" leaves with a connection still open and comes back: it is still counted.
        pool.assign(["b"].into_iter()).unwrap();
        let back = pool.assign(["b", "a"].into_iter()).unwrap();
        assert_eq!(back[1], keys[0]);
        assert_eq!(pool.connections(back[1].slot), 1);
        drop(held);
    }

    #[test]
    fn a_slot_is_passed_on_when_empty_and_never_to_holders_of_an_older_table() {
        let pool = Arc::new(StatePool::default());
        let names: Vec<String> = (0..=KEPT_RETIRED).map(|n| format!("old{n}")).collect();
        let old = pool.assign(names.iter().map(String::as_str)).unwrap();
        let held = pool.reserve(old[0], 9, T0, false).unwrap();
        let new = pool.assign(["new"].into_iter()).unwrap();
        let former = old.iter().find(|key| key.slot == new[0].slot).expect("an old slot is reused");
        assert_ne!(former.slot, old[0].slot, "one with a connection is not");
        assert!(pool.reserve(*former, 9, T0, false).is_none(), "the former owner has no claim on it");
        pool.set_down(*former, true);
        assert!(pool.reserve(new[0], 9, T0, false).is_some());
        drop(held);
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
