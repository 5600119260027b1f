//! What this machine knows of each backend right now: connections in use, check verdict, ejection, round-trip time.
//!
//! It outlives every snapshot of the table (a reload must forget neither counts nor verdicts) and is read on every
//! route decision, so it sits in contiguous arrays of atomics, addressed by [`Slot`]. One 64-bit word per backend holds
//! all that decides whether a connection may be reserved, which makes the reservation one compare-and-swap and the
//! hard limit exact.

use std::collections::HashMap;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::latency::RoundTrip;
use crate::moment::Moment;
use crate::outlier::{FailureRun, OutlierPolicy};

const CHUNK: usize = 1024;
const MAX_CHUNKS: usize = 64;

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

/// One backend's word: connections in the low half, marks above.
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
    generation: AtomicU32,
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
    /// Slots whose backend left the table; reused once their last connection is gone.
    retired: Vec<Slot>,
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

    /// Gives every id its slot: the one it had, or a fresh one. Ids no longer named lose theirs.
    ///
    /// The caller has checked that there are at most [`Self::CAPACITY`] ids; `None` when retired slots that still carry
    /// connections leave too little room for them.
    pub(crate) fn assign<'a>(&self, ids: impl Iterator<Item = &'a str>) -> Option<Vec<SlotKey>> {
        let mut owners = self.owners();
        let mut previous = std::mem::take(&mut owners.by_id);
        let ids: Vec<&str> = ids.collect();
        let mut kept: Vec<Option<Slot>> = ids.iter().map(|id| previous.remove(*id)).collect();
        owners.retired.extend(previous.into_values());
        let mut keys = Vec::with_capacity(ids.len());
        for (id, kept) in ids.iter().zip(&mut kept) {
            let slot = match kept.take() {
                Some(slot) => slot,
                None => self.vacant(&mut owners)?,
            };
            owners.by_id.insert((*id).to_owned(), slot);
            keys.push(SlotKey { slot, generation: self.detail(slot).generation.load(Relaxed) });
        }
        Some(keys)
    }

    fn vacant(&self, owners: &mut Owners) -> Option<Slot> {
        if let Some(at) = owners.retired.iter().position(|&slot| self.word(slot).connections() == 0) {
            let slot = owners.retired.swap_remove(at);
            self.clear(slot);
            return Some(slot);
        }
        let index = owners.next as usize;
        if index >= Self::CAPACITY {
            return None;
        }
        owners.next += 1;
        self.chunks[index / CHUNK].get_or_init(Chunk::new);
        Some(Slot(u32::try_from(index).expect("below CAPACITY")))
    }

    fn clear(&self, slot: Slot) {
        let detail = self.detail(slot);
        detail.generation.fetch_add(1, Relaxed);
        detail.ejected_until.store(0, Relaxed);
        detail.failures.clear();
        detail.round_trip.clear();
        detail.served.store(0, Relaxed);
        self.atomic(slot).store(0, Relaxed);
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

    /// The verdict of the active checks.
    pub fn set_down(&self, slot: Slot, down: bool) {
        self.mark(slot, Word::DOWN, down);
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

    /// Takes one connection if the backend has one left below `hard` and is in service, on trial, or `forced`.
    pub(crate) fn reserve(self: &Arc<Self>, slot: Slot, hard: u32, now: Moment, forced: bool) -> Option<Reservation> {
        let mut current = self.atomic(slot).load(Acquire);
        loop {
            let word = Word(current);
            if word.connections() >= hard {
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
        let slot = keys[0].slot;
        let held: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..100).filter_map(|_| pool.reserve(slot, 50, T0, false)).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(held.len(), 50);
        assert_eq!(pool.connections(slot), 50);
        drop(held);
        assert_eq!(pool.connections(slot), 0);
    }

    #[test]
    fn counts_survive_a_reload_and_slots_are_reused_only_when_empty() {
        let (pool, keys) = pool(&["a", "b"]);
        let held = pool.reserve(keys[0].slot, 9, T0, false).unwrap();
        let again = pool.assign(["b", "a"].into_iter()).unwrap();
        assert_eq!(again[1], keys[0]);
        assert_eq!(pool.connections(again[1].slot), 1);

        // "a" leaves with a connection still open: its slot may not be given away yet.
        let without_a = pool.assign(["b", "c"].into_iter()).unwrap();
        assert_ne!(without_a[1].slot, keys[0].slot);
        drop(held);
        let later = pool.assign(["b", "c", "d"].into_iter()).unwrap();
        assert_eq!(later[2].slot, keys[0].slot);
        assert_ne!(later[2], keys[0], "a new owner is a new generation");
    }

    #[test]
    fn an_ejected_backend_is_tried_by_one_connection_at_a_time() {
        let (pool, keys) = pool(&["a"]);
        let slot = keys[0].slot;
        let policy = OutlierPolicy { consecutive_failures: 2, ..OutlierPolicy::default() };
        let reserve = |now| pool.reserve(slot, 9, now, false);
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
        let pause = pool.reserve(keys[0].slot, 9, T0, false).unwrap().failed(&policy, T0).unwrap();
        let due = T0.after(pause);
        drop(pool.reserve(keys[0].slot, 9, due, false).unwrap());
        assert!(pool.reserve(keys[0].slot, 9, due, false).is_some());
        assert_eq!(pool.connections(keys[0].slot), 0);
    }
}
