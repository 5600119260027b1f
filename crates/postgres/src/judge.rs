//! From what was seen of all servers to what each of them is. Pure: the time is given.
//!
//! A primary is whoever is not in recovery on the highest timeline that any of the servers was ever seen on. Two such on
//! one timeline are a dispute, in which neither is believed, also while one of them is silent. A server that says it is the
//! primary of an older timeline was one.
//!
//! How far a replica lags is measured by what the primary itself had on disk when it was asked, on one clock:
//! `as_of` is the latest moment of which it is known that all that was acknowledged before is replayed. Neither a primary
//! that writes nothing nor one that is dead spoils it, as they do the age of the last replayed transaction and the distance
//! from what was received to what was replayed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::lsn::Lsn;
use crate::observation::{Observation, Observed, Role};

/// How far a replica may lag to be fresh. It is out when it passes one of these, and in again at half of both.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Bytes of log.
    pub lag_bytes: u64,
    /// Time.
    pub lag_time: Duration,
}

/// One segment of log: what a replica replays in well under a second.
const LAG_BYTES: u64 = 16 << 20;
/// Ten questions to the server.
const LAG_TIME: Duration = Duration::from_secs(10);
/// What was seen longer ago than this is not known any more. A monitor speaks at least every 3 s.
const EXPIRY: Duration = Duration::from_secs(5);
/// A server that claimed to be the primary and fell silent may still be one, to others, for so long: several times what
/// a link takes to come back.
const CLAIM_LASTS: Duration = Duration::from_secs(30);
/// Positions of the primary that are remembered: with a question per second, the lags up to so many seconds can be told.
const REMEMBERED: usize = 600;

impl Default for Limits {
    fn default() -> Self {
        Self { lag_bytes: LAG_BYTES, lag_time: LAG_TIME }
    }
}

/// What is remembered from one judgement to the next; `K` names a server.
#[derive(Debug)]
pub struct Judge<K> {
    limits: Limits,
    /// The highest timeline of them all.
    timeline: u32,
    /// The highest that each server was seen on.
    timelines: HashMap<K, u32>,
    /// Who has said, on this timeline, that it takes writes, and has not said otherwise since.
    claims: HashMap<K, Claim>,
    /// Replicas that passed a limit and have not come back.
    out: HashSet<K>,
    /// Where the primary of this timeline was, and when.
    positions: VecDeque<Position>,
}

#[derive(Clone, Copy, Debug)]
struct Claim {
    /// Which server process it is.
    started: i64,
    /// When it was last said.
    at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Position {
    at: Instant,
    flush: Lsn,
    /// The primary's, in microseconds.
    clock: i64,
}

/// What the servers are.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Who takes writes.
    pub primary: Primary,
    /// The highest timeline that any of these was ever seen on; 0 before the first.
    pub timeline: u32,
    /// Each of them, in the order given.
    pub standings: Vec<Standing>,
    /// When it was judged: nothing that was seen later is in it.
    pub at: Instant,
}

/// Who takes writes. Servers are named by their place in the order given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Primary {
    /// This one; if it was given by several addresses, the nearest of them.
    One(usize),
    /// Nobody that is known.
    None,
    /// These say so of themselves, or did before they fell silent, all of one timeline. Somebody has to look.
    Disputed(Vec<usize>),
}

/// What a server is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Standing {
    /// It takes writes.
    Primary,
    /// It says so, and so does another of the same timeline.
    Claimant,
    /// It says so, and there is a younger timeline: what is written there is lost.
    FormerPrimary,
    /// A replica within the limits.
    Fresh(Lag),
    /// A replica that is not, and what is known of its lag.
    Stale(Why, Option<Lag>),
    /// It does not answer.
    Down,
}

/// Why a replica is not fresh.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    /// It lags too far, or has not come back far enough.
    Behind,
    /// Nothing brings it the log.
    Severed,
    /// It was not seen on the primary's timeline, and may have another history.
    Timeline,
    /// No primary was ever seen to compare it with.
    Unknown,
}

/// How far a replica lags.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lag {
    /// Behind what the primary had on disk.
    pub bytes: u64,
    /// Zero if it had all of that; at most this otherwise.
    pub time: Duration,
    /// All that was acknowledged before is replayed.
    pub as_of: Instant,
}

impl<K: Clone + Eq + Hash> Judge<K> {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            timeline: 0,
            timelines: HashMap::new(),
            claims: HashMap::new(),
            out: HashSet::new(),
            positions: VecDeque::new(),
        }
    }

    /// Who was seen on the highest timeline: it is believed in as long as one of them is among the servers.
    #[must_use]
    pub fn witnesses(&self) -> Vec<K> {
        let of_it = self.timelines.iter().filter(|(_, timeline)| **timeline == self.timeline);
        of_it.map(|(name, _)| name.clone()).collect()
    }

    /// What each of `servers` is, `now`.
    pub fn judge(&mut self, servers: &[(K, Observed)], now: Instant) -> Verdict {
        let current = |observed: &Observed| {
            observed.up().copied().filter(|seen| now.saturating_duration_since(seen.at) <= EXPIRY)
        };
        let seen: Vec<Option<Observation>> = servers.iter().map(|(_, observed)| current(observed)).collect();
        let named = || servers.iter().zip(&seen).filter_map(|((name, _), seen)| Some((name, seen.as_ref()?)));
        // Of servers that were taken away nothing is remembered.
        let given: HashSet<&K> = servers.iter().map(|(name, _)| name).collect();
        self.timelines.retain(|name, _| given.contains(name));
        self.claims
            .retain(|name, claim| given.contains(name) && now.saturating_duration_since(claim.at) <= CLAIM_LASTS);
        self.out.retain(|name| given.contains(name));
        for (name, seen) in named() {
            self.learn_timeline(name, seen.timeline);
        }
        let highest = self.timelines.values().copied().max().unwrap_or(0);
        if highest != self.timeline {
            self.timeline = highest;
            // Of another history.
            self.positions.clear();
            self.claims.clear();
        }
        for (name, seen) in named() {
            self.note_claim(name, seen);
        }
        let primary = self.primary(servers, &seen);
        let at_the_primary = match primary {
            Primary::One(index) => seen.get(index).copied().flatten(),
            _ => None,
        };
        if let Some(observation) = at_the_primary {
            self.remember(&observation);
        }
        let standings = servers.iter().zip(&seen).map(|((name, _), seen)| match seen {
            None => Standing::Down,
            Some(seen) if seen.role == Role::Replica => self.replica(name, seen, at_the_primary.is_some(), now),
            Some(seen) if seen.timeline < self.timeline => Standing::FormerPrimary,
            Some(_) if matches!(primary, Primary::Disputed(_)) => Standing::Claimant,
            Some(_) => Standing::Primary,
        });
        Verdict { standings: standings.collect(), primary, timeline: self.timeline, at: now }
    }

    fn learn_timeline(&mut self, name: &K, timeline: u32) {
        match self.timelines.get_mut(name) {
            Some(highest) => *highest = timeline.max(*highest),
            None => drop(self.timelines.insert(name.clone(), timeline)),
        }
    }

    fn note_claim(&mut self, name: &K, seen: &Observation) {
        if seen.role != Role::Primary || seen.timeline != self.timeline {
            self.claims.remove(name);
            return;
        }
        let claim = Claim { started: seen.started, at: seen.at };
        if let Some(before) = self.claims.insert(name.clone(), claim)
            && before.started != claim.started
        {
            // The process of before is over, by whatever other address it was known.
            self.claims.retain(|_, other| other.started != before.started || other.at > claim.at);
        }
    }

    /// Whoever claims it alone, and is seen now.
    fn primary(&self, servers: &[(K, Observed)], seen: &[Option<Observation>]) -> Primary {
        let claims = servers.iter().zip(seen).enumerate();
        let claims = claims.filter_map(|(index, ((name, _), seen))| Some((index, self.claims.get(name)?, seen)));
        let claimants: Vec<(usize, &Claim, &Option<Observation>)> = claims.collect();
        let audible = claimants.iter().filter_map(|(index, _, seen)| Some((seen.as_ref()?.round_trip, *index)));
        // The nearest address of it.
        let Some((_, nearest)) = audible.min() else { return Primary::None };
        let process = claimants.first().map(|(_, claim, _)| claim.started);
        if claimants.iter().any(|(_, claim, _)| Some(claim.started) != process) {
            return Primary::Disputed(claimants.iter().map(|(index, ..)| *index).collect());
        }
        Primary::One(nearest)
    }

    fn remember(&mut self, seen: &Observation) {
        let position = Position { at: seen.at, flush: seen.flush, clock: seen.clock };
        match self.positions.back_mut() {
            Some(last) if last.at >= position.at => return,
            // It says less than before: not the history that was followed so far.
            Some(last) if last.flush > position.flush => self.positions.clear(),
            _ => {}
        }
        if self.positions.len() == REMEMBERED {
            self.positions.pop_front();
        }
        self.positions.push_back(position);
    }

    /// A replica; `observed` is whether the primary is seen too, now.
    fn replica(&mut self, name: &K, seen: &Observation, observed: bool, now: Instant) -> Standing {
        if seen.timeline < self.timeline {
            return Standing::Stale(Why::Timeline, None);
        }
        let Some(lag) = self.lag(seen, observed, now) else {
            self.out.insert(name.clone());
            let why = if self.positions.is_empty() { Why::Unknown } else { Why::Behind };
            return Standing::Stale(why, None);
        };
        let within = |parts: u32| {
            lag.bytes <= self.limits.lag_bytes / u64::from(parts) && lag.time <= self.limits.lag_time / parts
        };
        if within(2) {
            self.out.remove(name);
        } else if !within(1) {
            self.out.insert(name.clone());
        }
        if !seen.receiver_alive() {
            return Standing::Stale(Why::Severed, Some(lag));
        }
        if self.out.contains(name) { Standing::Stale(Why::Behind, Some(lag)) } else { Standing::Fresh(lag) }
    }

    /// `None` if it lags further than is remembered.
    fn lag(&self, seen: &Observation, observed: bool, now: Instant) -> Option<Lag> {
        let (first, last) = (self.positions.front()?, self.positions.back()?);
        let passed = self.positions.partition_point(|position| position.flush <= seen.replay);
        let by_position = passed.checked_sub(1).and_then(|at| self.positions.get(at)).map(|position| position.at);
        // What was acknowledged before a replayed commit began is before it in the log. Only of commits since this primary
        // is watched: an older one may have had another clock.
        let by_commit = seen.replayed_commit.filter(|&commit| commit >= first.clock).and_then(|commit| {
            let micros = |micros: i64| Duration::from_micros(micros.unsigned_abs());
            let since = commit - last.clock;
            if since <= 0 { last.at.checked_sub(micros(since)) } else { last.at.checked_add(micros(since)) }
        });
        // Its clock may be wrong: when the primary had more than the replica has now, is not to be passed.
        let unreached = self.positions.get(passed).map_or(seen.at, |position| position.at.min(seen.at));
        let as_of = by_position.max(by_commit.map(|at| at.min(unreached)))?;
        let bytes = last.flush.beyond(seen.replay);
        let time = match (observed, bytes) {
            (true, 0) => Duration::ZERO,
            (true, _) => seen.at.saturating_duration_since(as_of),
            (false, _) => now.saturating_duration_since(as_of),
        };
        Some(Lag { bytes, time, as_of })
    }
}

impl Lag {
    /// A read now is at most this old.
    #[must_use]
    pub fn staleness(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.as_of)
    }
}

#[cfg(test)]
mod tests;
