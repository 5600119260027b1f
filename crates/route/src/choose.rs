//! The decision: which backend this client should reach.

use std::str::FromStr;

use crate::latency;
use crate::moment::Moment;
use crate::place::Place;
use crate::state::{Slot, Word};
use crate::table::{Cell, Group, Table, View};

/// How a listener picks among backends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// Country, then part of the world, then this machine's region, then the rest; within each the nearer wins until
    /// its soft limit.
    #[default]
    Geo,
    /// The older tool's formula: 100 × geo + (connections / soft limit) / weight; the lowest wins.
    Score,
    /// The lowest measured round trip; load decides among those about as near.
    Latency,
}

impl Policy {
    /// Every one there is.
    pub const ALL: [Self; 3] = [Self::Geo, Self::Score, Self::Latency];

    /// The setting's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Geo => "geo",
            Self::Score => "score",
            Self::Latency => "latency",
        }
    }
}

/// By the setting's word for it; the error is the rule that another word breaks.
impl FromStr for Policy {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|policy| policy.name() == word).ok_or_else(|| {
            let words = Self::ALL.map(Self::name).join(", ");
            format!("{word:?} is none of {words}")
        })
    }
}

/// Backends a connection has already tried. They are never tried again by it.
#[derive(Clone, Copy, Default, Debug)]
pub struct Exclusions {
    slots: [Option<Slot>; Self::CAPACITY],
}

impl Exclusions {
    /// Most backends one connection can try.
    pub const CAPACITY: usize = 8;

    /// Remembers one more; `false` when there is no room, and so no further try.
    #[must_use]
    pub fn add(&mut self, slot: Slot) -> bool {
        match self.slots.iter_mut().find(|entry| entry.is_none()) {
            Some(entry) => {
                *entry = Some(slot);
                true
            }
            None => false,
        }
    }

    pub(crate) fn has(&self, slot: Slot) -> bool {
        self.slots.contains(&Some(slot))
    }

    fn is_empty(&self) -> bool {
        self.slots[0].is_none()
    }
}

/// One question to the table.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Where the client is.
    pub place: Place,
    /// Backends of this app only; `None`: all.
    pub app: Option<&'a str>,
    /// How to pick.
    pub policy: Policy,
    /// Backends already tried.
    pub tried: &'a Exclusions,
    /// Where this client went before, if affinity remembers. Taken whenever it has room and is in service.
    pub bound: Option<crate::state::SlotKey>,
    /// Also consider backends that checks or failed connects have taken out (the setting `when_all_down = "try"`).
    pub forced: bool,
    /// The present.
    pub now: Moment,
    /// A random number: breaks ties, so that machines with the same table do not all pick the same backend.
    pub random: u64,
}

/// The answer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Choice {
    /// Which backend, for [`Table::backend`].
    pub index: usize,
    /// The geo band: 0 same country, 1 same part of the world, 2 this machine's region, 3 elsewhere. One less from 1 on
    /// for tables without a country column under [`Policy::Score`].
    pub band: u8,
    /// 100 × band + (connections / soft limit) / weight, before this connection.
    pub score: f64,
    /// Affinity decided.
    pub affine: bool,
    /// Chosen although out of service.
    pub forced: bool,
}

/// Why nothing could be chosen. Each calls for another answer to the client, and another entry in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoRoute {
    /// No backend of the app takes new clients: none in the table, or all drained or marked unhealthy.
    NoBackend,
    /// Some take new clients, but checks or failed connects have taken out every one.
    AllDown,
    /// Every one in service is at its hard limit.
    AllFull,
    /// Every one that could take it has been tried by this connection.
    AllTried,
}

impl NoRoute {
    /// The word for it in logs and metric labels.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoBackend => "no_backend",
            Self::AllDown => "all_down",
            Self::AllFull => "all_full",
            Self::AllTried => "all_tried",
        }
    }
}

impl Table {
    /// Picks the best backend for a client. Reads counters, allocates nothing.
    ///
    /// # Errors
    /// [`NoRoute`] says why there is none.
    pub fn choose(&self, request: &Request<'_>) -> Result<Choice, NoRoute> {
        let view = self.view_of(request.app).filter(|view| !view.cells.is_empty()).ok_or(NoRoute::NoBackend)?;
        if let Some(choice) = self.bound(request) {
            return Ok(choice);
        }
        let decision = Decision { table: self, view, request };
        let picked = match request.policy {
            Policy::Geo => decision.nearest(),
            Policy::Score => decision.lowest_score(),
            Policy::Latency => decision.quickest(),
        };
        picked.map(|pick| decision.answer(pick)).ok_or_else(|| decision.why_none())
    }

    /// The backend affinity remembers, if it may take this client. A full or absent one is passed over for this
    /// connection only: the binding stays for the client's return.
    fn bound(&self, request: &Request<'_>) -> Option<Choice> {
        let index = self.find(request.bound?)?;
        let backend = self.backend(index);
        let slot = self.key(index).slot;
        let word = self.states.word(slot);
        let fits = backend.accepts_new()
            && request.app.is_none_or(|app| app == backend.app)
            && word.in_service()
            && word.generation() == self.key(index).generation
            && word.connections() < backend.limits.hard
            && !request.tried.has(slot);
        fits.then(|| {
            let group = self.group(&backend.region, backend.country, 0..0);
            let band = self.band(&group, &request.place);
            Choice { index, band, score: score(band, backend.limits, word.connections()), affine: true, forced: false }
        })
    }

    pub(crate) fn band(&self, group: &Group, client: &Place) -> u8 {
        if client.country.is_some() && group.country == client.country {
            0
        } else if client.area.is_some() && group.area == client.area {
            1
        } else if group.of_pop {
            2
        } else {
            3
        }
    }

    /// The band as the score counts it: without a country column a match of the region is the best there is.
    pub(crate) fn score_band(&self, group: &Group, client: &Place) -> u8 {
        let band = self.band(group, client);
        if self.has_country { band } else { band.saturating_sub(1) }
    }

    /// How remote a group is from the client; 0 where the client's place cannot tell.
    ///
    /// Knowing only the country says nothing about which backend within that country is nearer. Of a client whose place
    /// is unknown the best guess is that it is near this machine, which it has reached.
    pub(crate) fn remoteness(&self, group: &Group, band: u8, client: &Place) -> f32 {
        if band == 0 && !client.precise {
            return 0.0;
        }
        match (client.point.or(self.pop.point), group.point) {
            (Some(client), Some(group)) => client.remoteness(group),
            (_, None) => f32::INFINITY,
            (None, Some(_)) => 0.0,
        }
    }
}

/// 100 × band + (connections / soft limit) / weight, in this order of operations.
pub(crate) fn score(band: u8, limits: crate::backend::Limits, connections: u32) -> f64 {
    100.0 * f64::from(band) + f64::from(connections) / f64::from(limits.soft) / f64::from(limits.weight.max(1))
}

struct Decision<'a> {
    table: &'a Table,
    view: &'a View,
    request: &'a Request<'a>,
}

/// A candidate that leads so far.
#[derive(Clone, Copy)]
struct Pick<'a> {
    cell: &'a Cell,
    group: &'a Group,
}

/// The least loaded of some cells. Among equals the one whose lot is highest: every cell draws one from the request's
/// random number, so that ties are even and no draw waits for the one before.
struct Lightest<'a> {
    load: f64,
    lot: u64,
    cell: Option<&'a Cell>,
    random: u64,
}

impl<'a> Lightest<'a> {
    fn new(random: u64) -> Self {
        Self { load: f64::INFINITY, lot: 0, cell: None, random }
    }

    fn offer(&mut self, cell: &'a Cell, load: f64) {
        if load > self.load {
            return;
        }
        let lot = lot(self.random, cell.slot);
        if load < self.load || lot > self.lot {
            (self.load, self.lot, self.cell) = (load, lot, Some(cell));
        }
    }
}

/// A slot's number in this request's draw.
fn lot(random: u64, slot: Slot) -> u64 {
    let mixed = (random ^ slot.index() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

fn same(a: Option<&Cell>, b: Option<&Cell>) -> bool {
    a.map(std::ptr::from_ref) == b.map(std::ptr::from_ref)
}

impl<'a> Decision<'a> {
    fn nearest(&self) -> Option<Pick<'a>> {
        // What leads: lower band first; within a band those below their soft limit by nearness, then all others by load.
        let mut best: Option<(Rank, Pick<'a>)> = None;
        for group in &self.view.groups {
            let band = self.table.band(group, &self.request.place);
            let remoteness = self.table.remoteness(group, band, &self.request.place);
            let at_best = Rank { band, over_soft: false, remoteness, load: 0.0, lot: u64::MAX };
            if best.as_ref().is_some_and(|(leader, _)| leader.beats(&at_best)) {
                continue;
            }
            let (under, over) = self.lightest_of(group);
            let (rank, cell) = match (under.cell, over.cell) {
                (Some(cell), _) => (Rank { load: under.load, lot: under.lot, ..at_best }, cell),
                (None, Some(cell)) => {
                    (Rank { band, over_soft: true, remoteness: 0.0, load: over.load, lot: over.lot }, cell)
                }
                (None, None) => continue,
            };
            if best.as_ref().is_none_or(|(leader, _)| rank.beats(leader)) {
                best = Some((rank, Pick { cell, group }));
            }
        }
        best.map(|(_, pick)| pick)
    }

    fn lowest_score(&self) -> Option<Pick<'a>> {
        let mut best = Lightest::new(self.request.random);
        let mut leading_group = None;
        for band in 0..=3_u8 {
            // A higher band starts at 100 × band: once the leader is below that, nobody there can win.
            if best.load < 100.0 * f64::from(band) {
                break;
            }
            for group in &self.view.groups {
                if self.table.score_band(group, &self.request.place) != band {
                    continue;
                }
                let before = best.cell;
                self.each_with_room(group, |cell, connections| {
                    let load = f64::from(connections) * cell.per_connection;
                    best.offer(cell, 100.0 * f64::from(band) + load);
                });
                if !same(before, best.cell) {
                    leading_group = Some(group);
                }
            }
        }
        Some(Pick { cell: best.cell?, group: leading_group? })
    }

    fn quickest(&self) -> Option<Pick<'a>> {
        let states = &self.table.states;
        let millis_of = |cell: &Cell, guess: f32| states.round_trip(cell.slot).estimate().unwrap_or(guess);
        let mut best_ms = f32::INFINITY;
        for group in &self.view.groups {
            let guess = self.expected_ms(group);
            self.each_with_room(group, |cell, connections| {
                if connections < cell.soft {
                    best_ms = best_ms.min(millis_of(cell, guess));
                }
            });
        }
        let mut near = Lightest::new(self.request.random);
        let mut far = Lightest::new(self.request.random);
        let (mut near_group, mut far_group) = (None, None);
        for group in &self.view.groups {
            let guess = self.expected_ms(group);
            let before = (near.cell, far.cell);
            self.each_with_room(group, |cell, connections| {
                let load = f64::from(connections) * cell.per_connection;
                if connections >= cell.soft {
                    far.offer(cell, load);
                    return;
                }
                let was_near = states.word(cell.slot).is_near();
                let is_near = latency::is_near(millis_of(cell, guess), best_ms, was_near);
                if is_near != was_near {
                    states.set_near(cell.slot, is_near);
                }
                if is_near {
                    near.offer(cell, load);
                }
            });
            if !same(before.0, near.cell) {
                near_group = Some(group);
            }
            if !same(before.1, far.cell) {
                far_group = Some(group);
            }
        }
        match (near.cell, near_group, far.cell, far_group) {
            (Some(cell), Some(group), _, _) | (None, _, Some(cell), Some(group)) => Some(Pick { cell, group }),
            _ => None,
        }
    }

    /// What an unmeasured backend is taken to be away, from this machine, by its region.
    fn expected_ms(&self, group: &Group) -> f32 {
        match (self.table.pop.point, group.point) {
            (Some(pop), Some(group)) => latency::expected_ms(pop.distance_km(group)),
            _ => latency::expected_ms(10_000.0),
        }
    }

    /// The least loaded backend of a group below its soft limit, and the least loaded of the others.
    fn lightest_of(&self, group: &'a Group) -> (Lightest<'a>, Lightest<'a>) {
        let mut under = Lightest::new(self.request.random);
        let mut over = Lightest::new(self.request.random);
        self.each_with_room(group, |cell, connections| {
            let load = f64::from(connections) * cell.per_connection;
            if connections < cell.soft { under.offer(cell, load) } else { over.offer(cell, load) }
        });
        (under, over)
    }

    /// Visits the backends of a group that can take one more, with their connections.
    fn each_with_room(&self, group: &Group, mut visit: impl FnMut(&'a Cell, u32)) {
        let cells = self.cells(group);
        let Some(first) = cells.first() else { return };
        let mut words = self.table.states.words(first.slot);
        let nothing_tried = self.request.tried.is_empty();
        for cell in cells {
            let word = words.get(cell.slot);
            if word.connections() < cell.hard
                && word.generation() == cell.generation
                && (word.in_service() || self.may_take_anyway(cell.slot, word))
                && (nothing_tried || !self.request.tried.has(cell.slot))
            {
                visit(cell, word.connections());
            }
        }
    }

    fn cells(&self, group: &Group) -> &'a [Cell] {
        &self.view.cells[group.cells.clone()]
    }

    #[cold]
    fn may_take_anyway(&self, slot: Slot, word: Word) -> bool {
        self.request.forced || (!word.is_down() && self.table.states.may_try(slot, word, self.request.now))
    }

    fn answer(&self, pick: Pick<'_>) -> Choice {
        let index = pick.cell.index as usize;
        let word = self.table.states.word(pick.cell.slot);
        let band = match self.request.policy {
            Policy::Score => self.table.score_band(pick.group, &self.request.place),
            Policy::Geo | Policy::Latency => self.table.band(pick.group, &self.request.place),
        };
        Choice {
            index,
            band,
            score: score(band, self.table.backend(index).limits, word.connections()),
            affine: false,
            forced: self.request.forced && !word.in_service(),
        }
    }

    #[cold]
    fn why_none(&self) -> NoRoute {
        let untried = || self.view.cells.iter().filter(|cell| !self.request.tried.has(cell.slot));
        let in_service = |cell: &&Cell| {
            let word = self.table.states.word(cell.slot);
            word.in_service() || self.request.forced
        };
        if untried().next().is_none() {
            NoRoute::AllTried
        } else if untried().any(|cell| in_service(&cell)) {
            NoRoute::AllFull
        } else if self.request.tried.is_empty() {
            NoRoute::AllDown
        } else {
            NoRoute::AllTried
        }
    }
}

/// What decides among groups, from the first field to the last.
#[derive(Clone, Copy)]
struct Rank {
    band: u8,
    over_soft: bool,
    remoteness: f32,
    load: f64,
    lot: u64,
}

impl Rank {
    fn beats(&self, other: &Self) -> bool {
        (self.band, self.over_soft)
            .cmp(&(other.band, other.over_soft))
            .then(self.remoteness.total_cmp(&other.remoteness))
            .then(self.load.total_cmp(&other.load))
            .then(other.lot.cmp(&self.lot))
            .is_lt()
    }
}

#[cfg(test)]
mod tests;
