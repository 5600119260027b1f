//! One decision over a view: weighs groups, and scans the backends of as few as it can.
//!
//! A scan takes one look at the words of a block of backends, turns them into loads several at a time, and stops to think
//! only where a word is not what that of a backend in service is. Words change while it looks: what it finds is a
//! proposal, and the reservation is what is exact.

use std::sync::atomic::Ordering::Relaxed;

use super::{Choice, Nearness, NoRoute, Policy, Request, score};
use crate::latency::{Estimate, NearSet};
use crate::table::Table;
use crate::view::{BLOCK, Block, Group, LANES, View};

/// Connections of the lanes past the last backend of a block.
const NO_ROOM: u32 = i32::MAX.cast_unsigned();

pub(super) struct Decision<'a> {
    table: &'a Table,
    view: &'a View,
    request: &'a Request<'a>,
    marks: bool,
    estimate: Estimate,
    /// Of the block looked at.
    connections: [u32; BLOCK],
    averages: [f32; BLOCK],
    stamps: [u32; BLOCK],
    /// What was made of it: infinite for a backend that cannot take the client.
    loads: [f64; BLOCK],
    millis: [f32; BLOCK],
    /// The connections of the least loaded, where those of the block are all that tells its backends apart and `loads`
    /// was therefore not filled in.
    fewest: Option<u32>,
}

/// The backend chosen, by its cell.
#[derive(Clone, Copy)]
pub(super) struct Pick {
    cell: u32,
    group: u32,
}

/// The round trips of a block: nobody was below the one or above the other at the last look, which is at most one stamp
/// ago.
#[derive(Clone, Copy)]
struct Span {
    floor: f32,
    ceiling: f32,
}

/// Up to which number of connections a scan takes backends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    BelowSoftLimit,
    BelowHardLimit,
}

/// The nearest and least loaded of the backends seen so far. Among equals each is drawn with the probability that its
/// weight has among theirs: idle backends too get the share their weights say.
struct Leader {
    nearness: Nearness,
    load: f64,
    /// Of all that are as near and as loaded.
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

    /// Draws for some backends of a block, together of this weight. Gives how far into them the draw fell, if it fell
    /// to them and not to those before.
    fn draw(&mut self, block: &Block, nearness: Nearness, load: f64, weight: u64) -> Option<u64> {
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

impl<'a> Decision<'a> {
    pub(super) fn new(table: &'a Table, view: &'a View, request: &'a Request<'a>, marks: bool) -> Self {
        Self {
            table,
            view,
            request,
            marks,
            estimate: Estimate::at(request.now),
            connections: [0; BLOCK],
            averages: [0.0; BLOCK],
            stamps: [0; BLOCK],
            loads: [0.0; BLOCK],
            millis: [0.0; BLOCK],
            fewest: None,
        }
    }

    pub(super) fn pick(&mut self) -> Option<Pick> {
        match self.request.policy {
            Policy::Geo => self.nearest(),
            Policy::Score => self.lowest_score(),
            Policy::Latency => self.quickest(),
        }
    }

    fn nearest(&mut self) -> Option<Pick> {
        let (view, table, place) = (self.view, self.table, &self.request.place);
        let mut leader = Leader::new(self.request.random);
        let closest = view.groups.iter().map(|group| table.nearness(group, place)).min()?;
        // Most decisions end with the closest; of the others only those are scanned that could still be better.
        for group in view.groups.iter().filter(|group| table.nearness(group, place) == closest) {
            self.offer_group(&mut leader, group, closest);
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
            let lowest = self.weigh(block, room, base);
            self.offer(leader, block, nearness, lowest);
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
        for block in &view.blocks {
            if self.span(block).floor < best {
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
            let lowest = if near.has(span.ceiling, false) {
                self.mark_near(block, u64::MAX >> (BLOCK - block.len as usize));
                self.weigh(block, Room::BelowSoftLimit, 0.0)
            } else {
                let odd = self.look(block);
                self.weigh_each(block, Room::BelowSoftLimit, 0.0, odd);
                self.keep_near(block, near)
            };
            self.offer(&mut leader, block, Nearness::ANY, lowest);
        }
        leader.pick.or_else(|| self.quickest_of_the_rest()).or_else(|| self.least_loaded())
    }

    #[cold]
    fn quickest_of_the_rest(&mut self) -> Option<Pick> {
        let view = self.view;
        let mut best = (f32::INFINITY, None);
        for block in &view.blocks {
            if self.time(block) < best.0 {
                for (lane, &millis) in (0..block.len).zip(&self.millis) {
                    if millis < best.0 {
                        best = (millis, Some(Pick { cell: block.start + lane, group: block.group }));
                    }
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

    /// Offers the backends of a block just weighed, the lowest of whose loads is `load`.
    fn offer(&self, leader: &mut Leader, block: &Block, nearness: Nearness, load: f64) {
        if load == f64::INFINITY || !leader.could_lose_to(nearness, load) {
            return;
        }
        let weights = &self.view.cells.weight[block.lanes()];
        let leads = |lane: usize| self.fewest.map_or(self.loads[lane] == load, |it| self.connections[lane] == it);
        let weight: u32 = if let Some(fewest) = self.fewest {
            let connections = &self.connections[..block.lanes().len()];
            let lanes = connections.iter().map(|connections| u32::from(*connections == fewest)).sum::<u32>();
            lanes * weights[0]
        } else {
            let loads = &self.loads[..block.lanes().len()];
            loads.iter().zip(weights).map(|(other, weight)| if *other == load { *weight } else { 0 }).sum()
        };
        let Some(mut draw) = leader.draw(block, nearness, load, weight.into()) else { return };
        for (lane, weight) in (0..block.len).zip(weights).filter(|(lane, _)| leads(*lane as usize)) {
            if draw < u64::from(*weight) {
                leader.pick = Some(Pick { cell: block.start + lane, group: block.group });
                return;
            }
            draw -= u64::from(*weight);
        }
    }

    /// Looks at a block and finds the lowest load.
    fn weigh(&mut self, block: &Block, room: Room, base: f64) -> f64 {
        let odd = self.look(block);
        if odd || !block.is_even {
            return self.weigh_each(block, room, base, odd);
        }
        // As signed numbers, which two billion connections would be needed to tell from these: they are what most
        // processors compare several at a time.
        let mut fewest = [i32::MAX; LANES];
        for connections in self.connections[..block.lanes().len()].as_chunks::<LANES>().0 {
            for lane in 0..LANES {
                let connections = connections[lane].cast_signed();
                fewest[lane] = if connections < fewest[lane] { connections } else { fewest[lane] };
            }
        }
        let fewest = fewest.into_iter().fold(i32::MAX, i32::min).cast_unsigned();
        self.fewest = Some(fewest);
        let first = block.start as usize;
        if fewest < self.limits(room)[first] {
            base + f64::from(fewest) * self.view.cells.per_connection[first]
        } else {
            f64::INFINITY
        }
    }

    /// Fills in the loads of a block just looked at. Returns the lowest.
    fn weigh_each(&mut self, block: &Block, room: Room, base: f64, odd: bool) -> f64 {
        self.fewest = None;
        let (cells, lanes) = (&self.view.cells, block.lanes());
        let connections = self.connections[..lanes.len()].as_chunks::<LANES>().0;
        let limits = self.limits(room)[lanes.clone()].as_chunks::<LANES>().0;
        let per_connection = cells.per_connection[lanes.clone()].as_chunks::<LANES>().0;
        let loads = self.loads[..lanes.len()].as_chunks_mut::<LANES>().0;
        let mut lowest = [f64::INFINITY; LANES];
        for (((connections, limits), per_connection), loads) in
            connections.iter().zip(limits).zip(per_connection).zip(loads)
        {
            for lane in 0..LANES {
                // Signed for the same reason, and because such numbers are converted several at a time too.
                let (connections, limit) = (connections[lane].cast_signed(), limits[lane].cast_signed());
                let load = base + f64::from(connections) * per_connection[lane];
                let load = if connections < limit { load } else { f64::INFINITY };
                lowest[lane] = if load < lowest[lane] { load } else { lowest[lane] };
                loads[lane] = load;
            }
        }
        if odd {
            for lane in 0..block.len as usize {
                let load = base + f64::from(self.connections[lane]) * cells.per_connection[block.start as usize + lane];
                self.loads[lane] = if self.fits(block, lane, room) { load } else { f64::INFINITY };
            }
            return self.loads[..block.len as usize].iter().copied().fold(f64::INFINITY, f64::min);
        }
        lowest.into_iter().fold(f64::INFINITY, f64::min)
    }

    /// The span of a block, found anew once in a stamp. Who becomes quicker does so over many stamps, and one slow connect
    /// more or less within a stamp is no matter: the blocks far away need not be read for every client.
    fn span(&mut self, block: &Block) -> Span {
        let ceiling = f32::from_bits(block.ceiling.load(Relaxed));
        match self.estimate.unpack_if_current(block.floor.load(Relaxed)) {
            Some(floor) => Span { floor, ceiling },
            None => self.find_span(block),
        }
    }

    fn find_span(&mut self, block: &Block) -> Span {
        self.read_round_trips(block);
        let guess = self.view.groups[block.group as usize].guess_ms;
        let mut span = Span { floor: f32::INFINITY, ceiling: 0.0 };
        for (average, stamp) in self.averages.iter().zip(&self.stamps).take(block.len as usize) {
            let millis = self.estimate.millis((*average, *stamp), guess);
            span = Span { floor: span.floor.min(millis), ceiling: span.ceiling.max(millis) };
        }
        block.ceiling.store(span.ceiling.to_bits(), Relaxed);
        block.floor.store(self.estimate.pack(span.floor), Relaxed);
        span
    }

    /// Fills in the round trips of a block, of those below their soft limit. Returns the shortest.
    fn time(&mut self, block: &Block) -> f32 {
        let odd = self.look(block);
        self.read_round_trips(block);
        let lanes = block.lanes();
        let guess = self.view.groups[block.group as usize].guess_ms;
        let connections = self.connections[..lanes.len()].as_chunks::<LANES>().0;
        let averages = self.averages[..lanes.len()].as_chunks::<LANES>().0;
        let stamps = self.stamps[..lanes.len()].as_chunks::<LANES>().0;
        let limits = self.view.cells.comfort[lanes.clone()].as_chunks::<LANES>().0;
        let millis = self.millis[..lanes.len()].as_chunks_mut::<LANES>().0;
        let mut quickest = [f32::INFINITY; LANES];
        for ((((connections, averages), stamps), limits), millis) in
            connections.iter().zip(averages).zip(stamps).zip(limits).zip(millis)
        {
            for lane in 0..LANES {
                let estimate = self.estimate.millis((averages[lane], stamps[lane]), guess);
                let has_room = connections[lane].cast_signed() < limits[lane].cast_signed();
                let taken = if has_room { estimate } else { f32::INFINITY };
                quickest[lane] = if taken < quickest[lane] { taken } else { quickest[lane] };
                millis[lane] = taken;
            }
        }
        if odd {
            for lane in 0..block.len as usize {
                let estimate = self.estimate.millis((self.averages[lane], self.stamps[lane]), guess);
                self.millis[lane] = if self.fits(block, lane, Room::BelowSoftLimit) { estimate } else { f32::INFINITY };
            }
            return self.millis[..block.len as usize].iter().copied().fold(f32::INFINITY, f32::min);
        }
        quickest.into_iter().fold(f32::INFINITY, f32::min)
    }

    /// Of a block just weighed, only those that belong to the near set stay. Returns the lowest load among them.
    fn keep_near(&mut self, block: &Block, near: NearSet) -> f64 {
        self.read_round_trips(block);
        let guess = self.view.groups[block.group as usize].guess_ms;
        let before = block.near.load(Relaxed);
        let (mut marks, mut lowest) = (0, f64::INFINITY);
        for lane in 0..block.len as usize {
            let millis = self.estimate.millis((self.averages[lane], self.stamps[lane]), guess);
            if near.has(millis, before >> lane & 1 == 1) {
                marks |= 1 << lane;
                lowest = lowest.min(self.loads[lane]);
            } else {
                self.loads[lane] = f64::INFINITY;
            }
        }
        self.mark_near(block, marks);
        lowest
    }

    fn read_round_trips(&mut self, block: &Block) {
        let (slots, lanes, len) = (&self.view.cells.slots, block.lanes().len(), block.len as usize);
        let (averages, stamps) = (&mut self.averages[..lanes], &mut self.stamps[..lanes]);
        self.table.states.read_round_trips(&slots[block.backends()], averages, stamps);
        let last = (averages[len - 1], stamps[len - 1]);
        averages[len..].fill(last.0);
        stamps[len..].fill(last.1);
    }

    fn mark_near(&self, block: &Block, marks: u64) {
        if self.marks && block.near.load(Relaxed) != marks {
            block.near.store(marks, Relaxed);
        }
    }

    /// Reads the connections of a block. Returns whether there is more to look at: a backend that is not in service, or
    /// those this client has tried.
    fn look(&mut self, block: &Block) -> bool {
        let (cells, backends) = (&self.view.cells, block.backends());
        let (slots, in_service) = (&cells.slots[backends.clone()], &cells.in_service[backends]);
        let (connections, past) = self.connections[..block.lanes().len()].split_at_mut(slots.len());
        past.fill(NO_ROOM);
        self.table.states.read_connections(slots, in_service, connections) || !self.request.tried.is_empty()
    }

    /// The whole rule for one backend.
    #[cold]
    fn fits(&self, block: &Block, lane: usize, room: Room) -> bool {
        let cell = block.start as usize + lane;
        let slot = self.view.cells.slots[cell];
        let word = self.table.states.word(slot);
        self.connections[lane] < self.limits(room)[cell]
            && word.is_of(self.view.cells.in_service[cell])
            && (word.in_service()
                || self.request.forced
                || (!word.is_down() && self.table.states.may_try(slot, word, self.request.now)))
            && !self.request.tried.has(slot)
    }

    fn limits(&self, room: Room) -> &'a [u32] {
        match room {
            Room::BelowSoftLimit => &self.view.cells.comfort,
            Room::BelowHardLimit => &self.view.cells.hard,
        }
    }

    pub(super) fn answer(&self, pick: Pick) -> Choice {
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
            forced: self.request.forced && !word.in_service(),
        }
    }

    #[cold]
    pub(super) fn why_none(&self) -> NoRoute {
        let cells = &self.view.cells;
        let untried = || self.view.backends().filter(|&cell| !self.request.tried.has(cells.slots[cell]));
        let in_service = |cell: usize| {
            let word = self.table.states.word(cells.slots[cell]);
            // A slot that has another owner says nothing of its former one.
            word.is_of(cells.in_service[cell]) && (word.in_service() || self.request.forced)
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
