//! The backends a listener chooses from, laid out for the decision.
//!
//! A decision looks at very many backends and at very little of each, so each thing it looks at is an array of its own,
//! in pieces of at most 64 backends: a scan then reads memory in a row and compares several backends at a time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::place::{Area, Country, Point};
use crate::state::{Slot, StatePool, Word};
use crate::table::Table;

/// Backends in one block: as many as a word has bits for.
pub(crate) const BLOCK: usize = 64;
/// Backends with the same limits and weight that make a block of their own; fewer share one with others. A block costs
/// about what reading this many more backends does.
const FEWEST_ALIKE: usize = 32;
/// A scan goes by this many backends at a time; blocks are filled up to a multiple with cells that take nobody.
pub(crate) const LANES: usize = 8;

/// The backends of one app that the operator lets new clients reach, grouped by where they are: all that the geo rules
/// look at is the same for a whole group, so a decision weighs groups first and looks into few of them.
#[derive(Default)]
pub(crate) struct View {
    pub(crate) groups: Vec<Group>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) cells: Cells,
}

pub(crate) struct Group {
    pub(crate) country: Option<Country>,
    pub(crate) area: Option<Area>,
    pub(crate) point: Option<Point>,
    /// Lies in this machine's own region.
    pub(crate) of_pop: bool,
    /// What an unmeasured backend is taken to be away from this machine.
    pub(crate) guess_ms: f32,
    pub(crate) blocks: Range<usize>,
}

/// Some backends of one group.
pub(crate) struct Block {
    pub(crate) group: u32,
    /// Its first cell.
    pub(crate) start: u32,
    /// Cells that are backends.
    pub(crate) len: u32,
    /// All have the same limits and the same weight: connections are all that tells their loads apart.
    pub(crate) is_even: bool,
    /// Their state lies in a row.
    pub(crate) is_run: bool,
    /// The shortest round trip among them and when that was found, as the latency policy packs it.
    pub(crate) floor: AtomicU64,
    /// The longest, found at the same time and stored before, as the bits of milliseconds.
    pub(crate) ceiling: AtomicU32,
    /// Which of them are within the near set of the latency policy: nearness is relative to the other backends of a
    /// view, so each view keeps its own marks.
    pub(crate) near: AtomicU64,
}

impl Block {
    /// The cells that are backends.
    pub(crate) fn backends(&self) -> Range<usize> {
        let start = self.start as usize;
        start..start + self.len as usize
    }

    /// These, and those that fill up the last lanes.
    pub(crate) fn lanes(&self) -> Range<usize> {
        let start = self.start as usize;
        start..start + (self.len as usize).next_multiple_of(LANES)
    }
}

/// What the inner loop of a decision reads of each backend.
#[derive(Default)]
pub(crate) struct Cells {
    pub(crate) slots: Vec<Slot>,
    /// The upper half of the slot's word as long as the slot is this backend's and the backend in service.
    pub(crate) in_service_half: Vec<u32>,
    /// The soft limit, or the hard one where that is lower.
    pub(crate) soft: Vec<u32>,
    pub(crate) hard: Vec<u32>,
    /// 1 / (soft × weight): load becomes one multiplication.
    pub(crate) per_connection: Vec<f64>,
    pub(crate) weight: Vec<u32>,
    /// Place in the table.
    pub(crate) index: Vec<u32>,
}

impl View {
    pub(crate) fn of(table: &Table, members: impl IntoIterator<Item = usize>) -> Self {
        let mut places: BTreeMap<(&str, Option<Country>), Vec<usize>> = BTreeMap::new();
        for index in members {
            let backend = table.backend(index);
            if backend.accepts_new() {
                places.entry((&backend.region, backend.country)).or_default().push(index);
            }
        }
        let mut view = Self::default();
        for ((region, country), mut members) in places {
            let first = view.blocks.len();
            // Neighbours in the state pool are read together.
            members.sort_unstable_by_key(|&index| (table.backend(index).limits, table.key(index).slot.index()));
            let mut mixed = Vec::new();
            for alike in members.chunk_by(|&a, &b| table.backend(a).limits == table.backend(b).limits) {
                for members in alike.chunks(BLOCK) {
                    if members.len() < FEWEST_ALIKE {
                        mixed.extend_from_slice(members);
                    } else {
                        view.add_block(table, members, true);
                    }
                }
            }
            mixed.sort_unstable_by_key(|&index| table.key(index).slot.index());
            mixed.chunks(BLOCK).for_each(|members| view.add_block(table, members, false));
            view.groups.push(Group { blocks: first..view.blocks.len(), ..table.group(region, country) });
        }
        view
    }

    fn add_block(&mut self, table: &Table, members: &[usize], is_even: bool) {
        let small = |number: usize| u32::try_from(number).expect("bounded by StatePool::CAPACITY");
        let cells = &mut self.cells;
        let slots: Vec<Slot> = members.iter().map(|&index| table.key(index).slot).collect();
        self.blocks.push(Block {
            group: small(self.groups.len()),
            start: small(cells.slots.len()),
            len: small(members.len()),
            is_even,
            is_run: StatePool::is_run(&slots),
            floor: AtomicU64::new(0),
            ceiling: AtomicU32::new(0),
            near: AtomicU64::new(0),
        });
        for &index in members {
            let (key, limits) = (table.key(index), table.backend(index).limits);
            cells.slots.push(key.slot);
            cells.in_service_half.push(Word::in_service_half(key.generation));
            cells.soft.push(limits.soft.min(limits.hard));
            cells.hard.push(limits.hard);
            cells.per_connection.push(1.0 / (f64::from(limits.soft) * f64::from(limits.weight)));
            cells.weight.push(limits.weight);
            cells.index.push(small(index));
        }
        for _ in members.len()..members.len().next_multiple_of(LANES) {
            cells.fill_up();
        }
    }

    /// The cells that are backends.
    pub(crate) fn backends(&self) -> impl Iterator<Item = usize> {
        self.blocks.iter().flat_map(Block::backends)
    }
}

impl Cells {
    /// A cell like the last one, but with room for nobody.
    fn fill_up(&mut self) {
        let last = self.slots.len() - 1;
        self.slots.push(self.slots[last]);
        self.in_service_half.push(self.in_service_half[last]);
        self.per_connection.push(self.per_connection[last]);
        self.index.push(self.index[last]);
        for none in [&mut self.soft, &mut self.hard, &mut self.weight] {
            none.push(0);
        }
    }
}
