//! What this machine knows of each backend right now: connections in use, check verdict, role,
//! ejection, round-trip time.
//!
//! It outlives every snapshot of the table (a reload must forget neither counts nor verdicts) and is read on every
//! route decision, so it sits in contiguous arrays of atomics, addressed by [`Slot`]. One 64-bit word per backend holds
//! its connections, its marks and whose it is, which makes a reservation one compare-and-swap and the hard limit exact;
//! only when an ejected backend may be tried is kept beside it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::latency::{Estimate, RoundTrip};
use crate::moment::Moment;
use crate::outlier::{FailureRun, OutlierPolicy};
use crate::role::{KnownLag, KnownRole, Lag, Role};

/// Slots in one piece of memory, made when its first slot is handed out: 1,024 cost 74 KB.
const CHUNK: usize = 1024;
/// 64 pieces are room for the 65,536 backends of [`StatePool::CAPACITY`]; a table with more is refused.
const MAX_CHUNKS: usize = 64;
/// Backends that have left the table and whose state is kept, in case they come back: a row that was invalid for one
/// load, or deleted and inserted again, finds its connections and its history. Past this many, the slot of the one that
/// left first goes to the next newcomer, once its last connection is gone.
const KEPT_RETIRED: usize = 64;

/// Where a backend's state is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
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

/// A table's idea of a backend: its key, and how often it had moved to another address when the table was made. What
/// connects to a former address find says nothing of the backend.
#[derive(Clone, Copy)]
pub(crate) struct Claim {
    pub(crate) key: SlotKey,
    pub(crate) moves: u32,
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
    roles: [KnownRole; CHUNK],
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
    /// How often the backend has moved to another address.
    moves: AtomicU32,
    lag: KnownLag,
}

impl Chunk {
    fn new() -> Box<Self> {
        // Built in a vector first: the array is too large for the stack of a small thread.
        let words: Vec<AtomicU64> = (0..CHUNK).map(|_| AtomicU64::new(0)).collect();
        let roles: Vec<KnownRole> = (0..CHUNK).map(|_| KnownRole::default()).collect();
        let round_trips: Vec<RoundTrip> = (0..CHUNK).map(|_| RoundTrip::default()).collect();
        let details: Vec<Detail> = (0..CHUNK).map(|_| Detail::default()).collect();
        let (Ok(words), Ok(roles), Ok(round_trips), Ok(details)) =
            (words.try_into(), roles.try_into(), round_trips.try_into(), details.try_into())
        else {
            unreachable!("the vectors hold CHUNK elements each")
        };
        Box::new(Self { words, roles, round_trips, details })
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
    pub(crate) fn assign(&self, applicants: &[Applicant<'_>]) -> Result<Vec<Claim>, NoSlots> {
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
        let mut claims = Vec::with_capacity(applicants.len());
        for (&Applicant { id, addr }, known) in applicants.iter().zip(known) {
            if let Some(owner) = known.filter(|owner| owner.addr != addr) {
                self.forget(owner.slot);
            }
            let slot = known.map_or_else(|| fresh.next().expect("one for each newcomer"), |owner| owner.slot);
            by_id.insert(id.to_owned(), Owner { slot, addr });
            let key = SlotKey { slot, generation: self.word(slot).generation() };
            claims.push(Claim { key, moves: self.detail(slot).moves.load(Relaxed) });
        }
        let before = std::mem::replace(&mut owners.by_id, by_id);
        let mut leaving: Vec<_> = before.into_iter().filter(|(id, _)| !named.contains(id.as_str())).collect();
        leaving.sort_unstable_by_key(|(_, owner)| owner.slot.index());
        owners.retired.retain(|(id, _)| !named.contains(id.as_str()));
        owners.retired.extend(leaving);
        Ok(claims)
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
            // Only a connection that comes just now can still leave too few; those already taken are then out until the
            // next load.
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
        detail.lag.set(Lag::default());
        self.known_role(slot).set(Role::Unknown);
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

    fn known_role(&self, slot: Slot) -> &KnownRole {
        &self.chunk(slot).roles[slot.index() % CHUNK]
    }

    /// Reads the connections of many backends, in a row if `is_run`. Returns whether the upper half of any word is
    /// another than that of a backend in service, as `in_service` has them.
    pub(crate) fn read_connections(
        &self,
        slots: &[Slot],
        is_run: bool,
        in_service: &[u32],
        connections: &mut [u32],
    ) -> bool {
        fn take<'a>(words: impl Iterator<Item = &'a AtomicU64>, in_service: &[u32], connections: &mut [u32]) -> bool {
            let mut odd = 0;
            for ((word, in_service), connections) in words.zip(in_service).zip(connections) {
                let word = Word(word.load(Relaxed));
                *connections = word.connections();
                odd |= word.upper_half() ^ in_service;
            }
            odd != 0
        }
        if is_run {
            let (chunk, run) = self.run(slots);
            take(chunk.words[run].iter(), in_service, connections)
        } else {
            take(self.each_of(slots).map(|(chunk, at)| &chunk.words[at]), in_service, connections)
        }
    }

    /// Reads how far away many backends are taken to be, in ms; `guess` stands for what is not known of them.
    pub(crate) fn read_round_trips(
        &self,
        slots: &[Slot],
        is_run: bool,
        estimate: Estimate,
        guess: f32,
        millis: &mut [f32],
    ) {
        let take = |(trip, millis): (&RoundTrip, &mut f32)| *millis = estimate.millis(trip.average_and_stamp(), guess);
        if is_run {
            let (chunk, run) = self.run(slots);
            chunk.round_trips[run].iter().zip(millis).for_each(take);
        } else {
            self.each_of(slots).map(|(chunk, at)| &chunk.round_trips[at]).zip(millis).for_each(take);
        }
    }

    pub(crate) fn words<'a>(&'a self, slots: &'a [Slot]) -> impl Iterator<Item = Word> {
        self.each_of(slots).map(|(chunk, at)| Word(chunk.words[at].load(Relaxed)))
    }

    /// Whether these, which ascend, follow one another within a chunk, as those of neighbours do until the table has
    /// changed much.
    pub(crate) fn is_run(slots: &[Slot]) -> bool {
        let (first, last) = (slots[0].index(), slots[slots.len() - 1].index());
        // This many in so short a stretch leave no gap.
        last - first + 1 == slots.len() && last / CHUNK == first / CHUNK
    }

    fn run(&self, slots: &[Slot]) -> (&Chunk, Range<usize>) {
        let start = slots[0].index() % CHUNK;
        (self.chunk(slots[0]), start..start + slots.len())
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
    pub(crate) fn reserve(self: &Arc<Self>, claim: Claim, hard: u32, now: Moment, forced: bool) -> Option<Reservation> {
        let Claim { key, moves } = claim;
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
                Ok(_) => return Some(Reservation { pool: Arc::clone(self), slot, moves, trial }),
                Err(changed) => current = changed,
            }
        }
    }

    /// A probe reached whoever has the slot in `millis`.
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
    /// The backend's moves as the table has them that it was taken by: that table's address is the one dialled.
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

mod roles;
#[cfg(test)]
mod tests;
