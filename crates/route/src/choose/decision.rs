//! One decision over a view: weighs groups, and scans the backends of as few as it can.
//!
//! A scan takes one look at the words of a block of backends, and stops to think only where a word is not what that of
//! a backend in service is. From then on connections are all it goes by, and it turns them into loads several at a time.
//! Words change while it looks: what it finds is a proposal, and the reservation is what is exact.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::{Choice, Nearness, NoRoute, Policy, Request, score};
use crate::latency::{Estimate, NearSet};
use crate::role::{Role, Roles};
use crate::table::Table;
use crate::view::{BLOCK, Block, Group, LANES, View};

/// Of a backend that cannot take this client, and of the lanes past the last backend of a block: more than any limit.
const NO_ROOM: u32 = i32::MAX.cast_unsigned();

pub(super) struct Decision<'a> {
    table: &'a Table,
    view: &'a View,
    request: &'a Request<'a>,
    /// Backends of these roles only.
    roles: Roles,
    /// Whether backends out of service are taken as well.
    forced: bool,
    marks: bool,
    estimate: Estimate,
    /// Of the block looked at: what its backends have, or that they cannot take this client.
    connections: [u32; BLOCK],
}

/// The backend chosen, by its cell.
#[derive(Clone, Copy)]
struct Pick {
    cell: u32,
    group: u32,
}

/// The round trips of a block: nobody was below the one or above the other at the last look into it, which is at most
/// one stamp ago.
#[derive(Clone, Copy)]
struct Span {
    floor: f32,
    ceiling: f32,
}

/// Below which number of connections a scan takes backends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    BelowSoftLimit,
    BelowHardLimit,
}

/// The least loaded of the nearest backends seen so far. Among equals each is drawn with the probability that its
/// weight has among theirs: idle backends too get the share their weights say.
struct Leader {
    nearness: Nearness,
    load: f64,
    /// Of all that are as near and as loaded, together.
    weight: u64,
    pick: Option<Pick>,
    random: u64,
}

impl Leader {
    fn new(random: u64) -> Self {
        Self { nearness: Nearness::ANY, load: f64::INFINITY, weight: 0, pick: None, random }
    }

    /// Whether somebody this near, and at best this loaded, would be as good or better.
    fn could_lose_to(&self, nearness: Nearness, load: f64) -> bool {
        self.pick.is_none() || nearness < self.nearness || (nearness == self.nearness && load <= self.load)
    }

    /// Some backends of a block, together of this weight, take the lead or share it. Gives how far into them the draw
    /// fell, if it fell to them and not to those before.
    fn lead(&mut self, block: &Block, nearness: Nearness, load: f64, weight: u64) -> Option<u64> {
        if self.pick.is_none() || nearness != self.nearness || load < self.load {
            (self.nearness, self.load, self.weight) = (nearness, load, 0);
        }
        self.weight += weight;
        Some(below(self.weight, mixed(self.random, block.start))).filter(|draw| *draw < weight)
    }
}

/// A block's number in this request's draw.
fn mixed(random: u64, block: u32) -> u64 {
    let mixed = (random ^ u64::from(block).wrapping_mul(0xD6E8_FEB8_6659_FD93)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

/// A number below `bound`, as far along as `random` is among all numbers.
#[allow(clippy::cast_possible_truncation, reason = "the upper half is less than `bound`")]
fn below(bound: u64, random: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

/// What a scan compares; infinite for a backend without room.
fn load(connections: u32, limit: u32, per_connection: f64, base: f64) -> f64 {
    // Signed, because such numbers are compared and converted several at a time.
    let (connections, limit) = (connections.cast_signed(), limit.cast_signed());
    let load = base + f64::from(connections) * per_connection;
    if connections < limit { load } else { f64::INFINITY }
}

/// The lowest load, infinite if nobody has room.
fn lowest(connections: &[u32], limits: &[u32], per_connection: &[f64], base: f64) -> f64 {
    let (connections, limits) = (connections.as_chunks::<LANES>().0, limits.as_chunks::<LANES>().0);
    let per_connection = per_connection.as_chunks::<LANES>().0;
    let mut lowest = [f64::INFINITY; LANES];
    for ((connections, limits), per_connection) in connections.iter().zip(limits).zip(per_connection) {
        for lane in 0..LANES {
            let load = load(connections[lane], limits[lane], per_connection[lane], base);
            lowest[lane] = if load < lowest[lane] { load } else { lowest[lane] };
        }
    }
    lowest.into_iter().fold(f64::INFINITY, f64::min)
}

/// The least of all, where connections are all that tells the backends of a block apart.
fn fewest(connections: &[u32]) -> u32 {
    let mut fewest = [i32::MAX; LANES];
    for connections in connections.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            // Signed, for the same reason.
            let connections = connections[lane].cast_signed();
            fewest[lane] = if connections < fewest[lane] { connections } else { fewest[lane] };
        }
    }
    fewest.into_iter().fold(i32::MAX, i32::min).cast_unsigned()
}

impl<'a> Decision<'a> {
    pub(super) fn new(table: &'a Table, view: &'a View, request: &'a Request<'a>, roles: Roles, marks: bool) -> Self {
        let estimate = Estimate::at(request.now);
        // What is near among some says nothing to those who look at others.
        let marks = marks && roles.is_all();
        Self { table, view, request, roles, forced: false, marks, estimate, connections: [0; BLOCK] }
    }

    /// The same question once more, in which backends out of service count as well. It leaves no marks.
    pub(super) fn force(&mut self) {
        (self.forced, self.marks) = (true, false);
    }

    pub(super) fn decide(&mut self) -> Result<Choice, NoRoute> {
        let pick = match self.request.policy {
            Policy::Geo => self.nearest(),
            Policy::Score => self.lowest_score(),
            Policy::Latency => self.quickest(),
        };
        pick.map(|pick| self.answer(pick)).ok_or_else(|| self.why_none())
    }

    fn nearest(&mut self) -> Option<Pick> {
        let (view, table, place) = (self.view, self.table, &self.request.place);
        let (mut closest, mut first, mut is_tied) = (Nearness::FARTHEST, 0, false);
        for (number, group) in view.groups.iter().enumerate() {
            let nearness = table.nearness(group, place);
            if nearness < closest {
                (closest, first, is_tied) = (nearness, number, false);
            } else {
                is_tied |= nearness == closest;
            }
        }
        // Most decisions end with the closest; of the others only those are scanned that could still be better.
        let mut leader = Leader::new(self.request.random);
        self.offer_group(&mut leader, &view.groups[first], closest);
        if is_tied {
            for group in view.groups[first + 1..].iter().filter(|group| table.nearness(group, place) == closest) {
                self.offer_group(&mut leader, group, closest);
            }
        }
        if leader.could_lose_to(closest, f64::INFINITY) {
            for group in &view.groups {
                let nearness = table.nearness(group, place);
                if nearness != closest {
                    self.offer_group(&mut leader, group, nearness);
                }
            }
        }
        leader.pick
    }

    /// Offers those of the group that are below their soft limit, or if there are none the others with room.
    fn offer_group(&mut self, leader: &mut Leader, group: &Group, nearness: Nearness) {
        if !leader.could_lose_to(nearness, 0.0) {
            return;
        }
        if self.offer_blocks(leader, group, nearness, Room::BelowSoftLimit, 0.0) {
            return;
        }
        let nearness = nearness.past_soft_limit();
        if leader.could_lose_to(nearness, 0.0) {
            self.offer_blocks(leader, group, nearness, Room::BelowHardLimit, 0.0);
        }
    }

    /// Offers all of the group that have room, with `base` added to their loads. Returns whether there are any.
    fn offer_blocks(&mut self, leader: &mut Leader, group: &Group, nearness: Nearness, room: Room, base: f64) -> bool {
        let mut any = false;
        for block in &self.view.blocks[group.blocks.clone()] {
            self.look(block);
            self.offer(leader, block, nearness, room, base);
            any |= leader.nearness == nearness && leader.pick.is_some();
        }
        any
    }

    fn lowest_score(&mut self) -> Option<Pick> {
        let (view, table, place) = (self.view, self.table, &self.request.place);
        let mut leader = Leader::new(self.request.random);
        let bands = view.groups.iter().fold(0_u8, |bands, group| bands | 1 << table.score_band(group, place));
        for band in (0..=3).filter(|band| bands >> band & 1 == 1) {
            // A higher band starts at 100 × band: once the leader is below that, nobody there can win.
            let base = 100.0 * f64::from(band);
            if leader.load < base {
                break;
            }
            for group in view.groups.iter().filter(|group| table.score_band(group, place) == band) {
                self.offer_blocks(&mut leader, group, Nearness::ANY, Room::BelowHardLimit, base);
            }
        }
        leader.pick
    }

    /// The least loaded of the near set; where nobody in it has room any more, the quickest below its soft limit; then
    /// the least loaded of all. Each is a new look: a peak or the last place taken in between must not leave a client
    /// with nobody while others have room.
    fn quickest(&mut self) -> Option<Pick> {
        let view = self.view;
        // The block that promises most first: of the others only those are looked into that promise more than it kept.
        let mut first = (0, f32::INFINITY);
        for (number, block) in view.blocks.iter().enumerate() {
            let floor = self.span(block).floor;
            if floor < first.1 {
                first = (number, floor);
            }
        }
        let mut best = self.time(&view.blocks[first.0]);
        for (number, block) in view.blocks.iter().enumerate() {
            if number != first.0 && self.span(block).floor < best {
                best = best.min(self.time(block));
            }
        }
        if best == f32::INFINITY {
            return self.least_loaded();
        }
        let near = NearSet::around(best);
        let mut leader = Leader::new(self.request.random);
        for block in &view.blocks {
            let span = self.span(block);
            if !near.may_have(span.floor) {
                self.mark_near(block, 0);
                continue;
            }
            self.look(block);
            if near.has(span.ceiling, false) {
                self.mark_near(block, u64::MAX >> (BLOCK - block.len as usize));
            } else {
                self.keep_near(block, near);
            }
            self.offer(&mut leader, block, Nearness::ANY, Room::BelowSoftLimit, 0.0);
        }
        leader.pick.or_else(|| self.quickest_of_the_rest()).or_else(|| self.least_loaded())
    }

    #[cold]
    fn quickest_of_the_rest(&mut self) -> Option<Pick> {
        let view = self.view;
        let mut best = (f32::INFINITY, None);
        for block in &view.blocks {
            self.look(block);
            let limits = &self.limits(Room::BelowSoftLimit)[block.lanes()];
            let trips = self.round_trips(block);
            for (lane, millis) in (0..block.len).zip(trips) {
                let has_room = self.connections[lane as usize] < limits[lane as usize];
                if has_room && millis < best.0 {
                    best = (millis, Some(Pick { cell: block.start + lane, group: block.group }));
                }
            }
        }
        best.1
    }

    #[cold]
    fn least_loaded(&mut self) -> Option<Pick> {
        let view = self.view;
        let mut leader = Leader::new(self.request.random);
        for group in &view.groups {
            self.offer_blocks(&mut leader, group, Nearness::ANY, Room::BelowHardLimit, 0.0);
        }
        leader.pick
    }

    /// Offers the least loaded of the block looked at, if any have room.
    fn offer(&self, leader: &mut Leader, block: &Block, nearness: Nearness, room: Room, base: f64) {
        let (cells, lanes) = (&self.view.cells, block.lanes());
        let (connections, limits) = (&self.connections[..lanes.len()], &self.limits(room)[lanes.clone()]);
        let (weights, per_connection) = (&cells.weight[lanes.clone()], &cells.per_connection[lanes]);
        let fewest = block.is_even.then(|| fewest(connections));
        let lowest = match fewest {
            Some(fewest) => load(fewest, limits[0], per_connection[0], base),
            None => lowest(connections, limits, per_connection, base),
        };
        if lowest == f64::INFINITY || !leader.could_lose_to(nearness, lowest) {
            return;
        }
        let leads = |lane: usize| match fewest {
            Some(fewest) => connections[lane] == fewest,
            // The same sum comes out the same to the last bit.
            None => load(connections[lane], limits[lane], per_connection[lane], base) == lowest,
        };
        let weight: u32 = if let Some(fewest) = fewest {
            connections.iter().map(|connections| u32::from(*connections == fewest)).sum::<u32>() * weights[0]
        } else {
            (0..connections.len()).map(|lane| weights[lane] * u32::from(leads(lane))).sum()
        };
        let Some(mut draw) = leader.lead(block, nearness, lowest, weight.into()) else { return };
        for (lane, weight) in (0..block.len).zip(weights).filter(|(lane, _)| leads(*lane as usize)) {
            if draw < u64::from(*weight) {
                leader.pick = Some(Pick { cell: block.start + lane, group: block.group });
                return;
            }
            draw -= u64::from(*weight);
        }
    }

    /// The span of a block, found anew once in a stamp: the blocks far away need not be read for every client. Who
    /// becomes quicker is found out a stamp late, and so is who becomes slower, which at 5,000 clients a second is 310
    /// of them sent into a near set of a moment ago.
    fn span(&self, block: &Block) -> Span {
        // The floor says whether both are current, so it is read first and stored last: with a current floor comes a
        // ceiling found with it or later.
        match self.estimate.unpack_if_current(block.floor.load(Acquire)) {
            Some(floor) => Span { floor, ceiling: f32::from_bits(block.ceiling.load(Relaxed)) },
            None => self.keep_span(block, &self.round_trips(block)),
        }
    }

    fn keep_span(&self, block: &Block, round_trips: &[f32; BLOCK]) -> Span {
        let mut span = Span { floor: f32::INFINITY, ceiling: 0.0 };
        for millis in &round_trips[..block.len as usize] {
            span = Span { floor: span.floor.min(*millis), ceiling: span.ceiling.max(*millis) };
        }
        block.ceiling.store(span.ceiling.to_bits(), Relaxed);
        block.floor.store(self.estimate.pack(span.floor), Release);
        span
    }

    /// Looks at a block. Returns the shortest round trip of those below their soft limit.
    fn time(&mut self, block: &Block) -> f32 {
        self.look(block);
        let round_trips = self.round_trips(block);
        let lanes = block.lanes();
        let connections = self.connections[..lanes.len()].as_chunks::<LANES>().0;
        let millis = round_trips[..lanes.len()].as_chunks::<LANES>().0;
        let limits = self.limits(Room::BelowSoftLimit)[lanes].as_chunks::<LANES>().0;
        let mut quickest = [f32::INFINITY; LANES];
        for ((connections, millis), limits) in connections.iter().zip(millis).zip(limits) {
            for lane in 0..LANES {
                let has_room = connections[lane].cast_signed() < limits[lane].cast_signed();
                let taken = if has_room { millis[lane] } else { f32::INFINITY };
                quickest[lane] = if taken < quickest[lane] { taken } else { quickest[lane] };
            }
        }
        let quickest = quickest.into_iter().fold(f32::INFINITY, f32::min);
        // The near set is drawn around it: a span of before would shut out the very block it is in.
        if quickest < self.span(block).floor {
            self.keep_span(block, &round_trips);
        }
        quickest
    }

    /// Of the block looked at, only those stay that belong to the near set.
    fn keep_near(&mut self, block: &Block, near: NearSet) {
        let round_trips = self.round_trips(block);
        let before = block.near.load(Relaxed);
        let mut marks = 0;
        let backends = round_trips.iter().zip(&mut self.connections).take(block.len as usize);
        for (lane, (millis, connections)) in backends.enumerate() {
            if near.has(*millis, before >> lane & 1 == 1) {
                marks |= 1 << lane;
            } else {
                *connections = NO_ROOM;
            }
        }
        self.mark_near(block, marks);
    }

    fn mark_near(&self, block: &Block, marks: u64) {
        if self.marks && block.near.load(Relaxed) != marks {
            block.near.store(marks, Relaxed);
        }
    }

    /// How far away the backends of a block are taken to be, in ms.
    fn round_trips(&self, block: &Block) -> [f32; BLOCK] {
        let slots = &self.view.cells.slots[block.backends()];
        let guess = self.view.groups[block.group as usize].guess_ms;
        let mut millis = [0.0; BLOCK];
        self.table.states.read_round_trips(slots, block.is_run, self.estimate, guess, &mut millis);
        millis
    }

    /// Reads the connections of a block, and sees to it that only those who may take this client can win.
    fn look(&mut self, block: &Block) {
        let (cells, backends) = (&self.view.cells, block.backends());
        let (slots, in_service) = (&cells.slots[backends.clone()], &cells.in_service_half[backends]);
        let (connections, past) = self.connections[..block.lanes().len()].split_at_mut(slots.len());
        past.fill(NO_ROOM);
        if self.table.states.read_connections(slots, block.is_run, in_service, connections) {
            self.bar_those_out(block);
        }
        if !self.roles.is_all() {
            self.bar_other_roles(block);
        }
        for slot in self.request.tried.iter() {
            if let Ok(lane) = slots.binary_search(&slot) {
                self.connections[lane] = NO_ROOM;
            }
        }
    }

    #[cold]
    fn bar_those_out(&mut self, block: &Block) {
        let (cells, backends, states) = (&self.view.cells, block.backends(), &self.table.states);
        let in_service = &cells.in_service_half[backends.clone()];
        let (slots, forced, now) = (&cells.slots[backends], self.forced, self.request.now);
        let lanes = states.words(slots).zip(slots).zip(in_service).zip(&mut self.connections);
        for (((word, slot), in_service), connections) in lanes {
            let may_take = word.is_of(*in_service)
                && (word.in_service() || forced || (!word.is_down() && states.may_try(*slot, word, now)));
            if !may_take {
                *connections = NO_ROOM;
            }
        }
    }

    fn bar_other_roles(&mut self, block: &Block) {
        let slots = &self.view.cells.slots[block.backends()];
        for (role, connections) in self.table.states.roles(slots).zip(&mut self.connections) {
            if !self.roles.has(role) {
                *connections = NO_ROOM;
            }
        }
    }

    fn limits(&self, room: Room) -> &'a [u32] {
        match room {
            Room::BelowSoftLimit => &self.view.cells.soft,
            Room::BelowHardLimit => &self.view.cells.hard,
        }
    }

    fn answer(&self, pick: Pick) -> Choice {
        let cell = pick.cell as usize;
        let index = self.view.cells.index[cell] as usize;
        let word = self.table.states.word(self.view.cells.slots[cell]);
        let group = &self.view.groups[pick.group as usize];
        let band = self.table.shown_band(self.request.policy, group, &self.request.place);
        Choice {
            index,
            band,
            score: score(band, self.table.backend(index).limits, word.connections()),
            affine: false,
            forced: self.forced && !word.in_service(),
        }
    }

    #[cold]
    fn why_none(&self) -> NoRoute {
        let cells = &self.view.cells;
        let has = |cell: usize, role| self.table.states.role(cells.slots[cell]) == role;
        let takes = |cell: usize| self.roles.is_all() || self.roles.has(self.table.states.role(cells.slots[cell]));
        if !self.view.backends().any(takes) {
            return match () {
                () if !self.roles.has(Role::Primary) => NoRoute::NoReplica,
                () if self.view.backends().any(|cell| has(cell, Role::Disputed)) => NoRoute::Disputed,
                () => NoRoute::NoPrimary,
            };
        }
        let untried = || {
            let mine = self.view.backends().filter(|&cell| takes(cell));
            mine.filter(|&cell| !self.request.tried.has(cells.slots[cell]))
        };
        let in_service = |cell: usize| {
            let word = self.table.states.word(cells.slots[cell]);
            // A slot that has another owner says nothing of its former one.
            word.is_of(cells.in_service_half[cell]) && (word.in_service() || self.forced)
        };
        if untried().next().is_none() {
            NoRoute::AllTried
        } else if untried().any(in_service) {
            NoRoute::AllFull
        } else if self.request.tried.is_empty() {
            NoRoute::AllDown
        } else {
            NoRoute::AllTried
        }
    }
}
