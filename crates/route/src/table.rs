//! The routing table: an immutable snapshot of the backends, laid out for the decision.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use crate::backend::Backend;
use crate::choose::Choice;
use crate::moment::Moment;
use crate::place::{Area, Country, Point};
use crate::regions::region_facts;
use crate::state::{Reservation, Slot, SlotKey, StatePool};

/// A region the operator declared, beside the built-in ones.
#[derive(Clone, PartialEq, Debug)]
pub struct CustomRegion {
    /// Code, as the table's `region` column has it.
    pub code: String,
    /// Where it is.
    pub point: Point,
    /// The country it lies in.
    pub country: Country,
}

/// A named place, as far as it is known.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Region {
    /// City, or the name of a coarse region.
    pub city: Option<&'static str>,
    /// The part of the world.
    pub area: Option<Area>,
    /// Position.
    pub point: Option<Point>,
    /// The country it lies in; `None` for coarse regions such as `eu`, which serve no country first.
    pub country: Option<Country>,
}

/// Built-in and declared regions.
#[derive(Clone, Debug, Default)]
pub struct Regions {
    declared: BTreeMap<String, Region>,
}

impl Regions {
    /// The built-in regions and these, which win where codes are equal.
    pub fn with(declared: impl IntoIterator<Item = CustomRegion>) -> Self {
        let declared = declared
            .into_iter()
            .map(|region| {
                let area = crate::place::Place::in_country(region.country).area;
                (region.code, Region { city: None, area, point: Some(region.point), country: Some(region.country) })
            })
            .collect();
        Self { declared }
    }

    /// Those of these codes whose place is not known, sorted and each once.
    pub fn unknown<'a>(&self, codes: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        let mut codes: Vec<&str> = codes.into_iter().filter(|code| self.get(code).point.is_none()).collect();
        codes.sort_unstable();
        codes.dedup();
        codes
    }

    /// What is known of a region code; all `None` for an unknown one.
    pub fn get(&self, code: &str) -> Region {
        if let Some(region) = self.declared.get(code) {
            return *region;
        }
        let Some(facts) = region_facts(code) else {
            return Region::default();
        };
        Region {
            city: Some(facts.city),
            area: Some(facts.area),
            point: Some(Point::on_globe(facts.lat, facts.lon)),
            country: Area::from_code(code).is_none().then(|| Country::from_code(facts.country)),
        }
    }
}

/// What a table is made from, besides its rows.
pub struct TableBuilder {
    /// Region of this machine.
    pub pop_region: String,
    /// Regions and their places.
    pub regions: Regions,
    /// Whether the file has a `country` column. Without one the score knows three bands, as the older tool did.
    pub has_country: bool,
    /// Where the state of backends lives; the same for all snapshots.
    pub states: Arc<StatePool>,
}

impl TableBuilder {
    /// Lays out the snapshot.
    ///
    /// # Errors
    /// More backends than [`StatePool::CAPACITY`], those that have just left with connections still open included.
    pub fn build(self, backends: Vec<Backend>) -> Result<Table, String> {
        let keys = (backends.len() <= StatePool::CAPACITY)
            .then(|| self.states.assign(backends.iter().map(|backend| backend.id.as_str())))
            .flatten()
            .ok_or_else(|| format!("{} backends; at most {} are supported", backends.len(), StatePool::CAPACITY))?;
        let by_slot = keys.iter().enumerate().map(|(index, key)| (key.slot, index)).collect();
        let pop = self.regions.get(&self.pop_region);
        let mut table = Table {
            backends: backends.into_iter().map(Arc::new).collect(),
            keys,
            by_slot,
            has_country: self.has_country,
            pop_region: self.pop_region,
            pop,
            regions: self.regions,
            states: self.states,
            everything: View::default(),
            apps: HashMap::new(),
        };
        table.everything = table.view(|_| true);
        let apps: std::collections::BTreeSet<&str> = table.backends.iter().map(|b| b.app.as_str()).collect();
        table.apps = apps.into_iter().map(|app| (app.to_owned(), table.view(|b| b.app == app))).collect();
        Ok(table)
    }
}

/// An immutable snapshot of the backends. Replaced as a whole; decisions under way keep the one they began with.
pub struct Table {
    backends: Vec<Arc<Backend>>,
    keys: Vec<SlotKey>,
    by_slot: HashMap<Slot, usize>,
    pub(crate) has_country: bool,
    pub(crate) pop_region: String,
    pub(crate) pop: Region,
    pub(crate) regions: Regions,
    pub(crate) states: Arc<StatePool>,
    everything: View,
    apps: HashMap<String, View>,
}

/// The backends of one app that the operator lets new clients reach, grouped by where they are: all that the geo rules
/// look at is the same for a whole group, so a decision weighs groups first and looks into few of them.
#[derive(Default)]
pub(crate) struct View {
    pub(crate) groups: Vec<Group>,
    pub(crate) cells: Vec<Cell>,
}

pub(crate) struct Group {
    pub(crate) country: Option<Country>,
    pub(crate) area: Option<Area>,
    pub(crate) point: Option<Point>,
    /// Lies in this machine's own region.
    pub(crate) of_pop: bool,
    pub(crate) cells: Range<usize>,
}

/// What the inner loop of a decision reads of one backend.
pub(crate) struct Cell {
    pub(crate) slot: Slot,
    /// The slot is this backend's only while it has this generation.
    pub(crate) generation: u32,
    pub(crate) soft: u32,
    pub(crate) hard: u32,
    /// 1 / (soft × weight): load becomes one multiplication.
    pub(crate) per_connection: f64,
    pub(crate) index: u32,
}

impl Table {
    /// All backends, in the file's order; drained and unhealthy ones included.
    pub fn backends(&self) -> impl ExactSizeIterator<Item = (&Arc<Backend>, SlotKey)> {
        self.backends.iter().zip(self.keys.iter().copied())
    }

    /// The backend kept at `index`, as a [`Choice`] names it.
    pub fn backend(&self, index: usize) -> &Arc<Backend> {
        &self.backends[index]
    }

    /// The backend's slot and generation.
    pub fn key(&self, index: usize) -> SlotKey {
        self.keys[index]
    }

    /// The backend with this slot key, if it is still in the table.
    pub fn find(&self, key: SlotKey) -> Option<usize> {
        self.by_slot.get(&key.slot).copied().filter(|&index| self.keys[index] == key)
    }

    /// Regions named by backends of which nothing is known: they come last wherever distance decides.
    pub fn unknown_regions(&self) -> Vec<&str> {
        self.regions.unknown(self.backends.iter().map(|backend| backend.region.as_str()))
    }

    /// The state all snapshots share.
    pub fn states(&self) -> &Arc<StatePool> {
        &self.states
    }

    /// Takes one connection of the chosen backend, unless others took the last one meanwhile.
    pub fn reserve(&self, choice: &Choice, now: Moment) -> Option<Reservation> {
        let backend = self.backend(choice.index);
        self.states.reserve(self.keys[choice.index], backend.limits.hard, now, choice.forced)
    }

    pub(crate) fn view_of(&self, app: Option<&str>) -> Option<&View> {
        match app {
            None => Some(&self.everything),
            Some(app) => self.apps.get(app),
        }
    }

    fn view(&self, belongs: impl Fn(&Backend) -> bool) -> View {
        let mut places: BTreeMap<(&str, Option<Country>), Vec<usize>> = BTreeMap::new();
        for (index, backend) in self.backends.iter().enumerate() {
            if belongs(backend) && backend.accepts_new() {
                places.entry((&backend.region, backend.country)).or_default().push(index);
            }
        }
        let mut view = View::default();
        for ((region, country), mut members) in places {
            // Neighbours in the state pool are read together.
            members.sort_unstable_by_key(|&index| self.keys[index].slot.index());
            let start = view.cells.len();
            view.cells.extend(members.into_iter().map(|index| self.cell(index)));
            view.groups.push(self.group(region, country, start..view.cells.len()));
        }
        view
    }

    pub(crate) fn group(&self, code: &str, country: Option<Country>, cells: Range<usize>) -> Group {
        let region = self.regions.get(code);
        Group {
            country: if self.has_country { country } else { region.country },
            area: region.area,
            point: region.point,
            of_pop: self.is_pop_region(code, region),
            cells,
        }
    }

    /// The same code; or, where one of the two is a coarse region such as `eu`, the same part of the world.
    fn is_pop_region(&self, code: &str, region: Region) -> bool {
        let coarse = Area::from_code(code).is_some() || Area::from_code(&self.pop_region).is_some();
        code == self.pop_region || (coarse && region.area.is_some() && region.area == self.pop.area)
    }

    fn cell(&self, index: usize) -> Cell {
        let limits = self.backends[index].limits;
        Cell {
            slot: self.keys[index].slot,
            generation: self.keys[index].generation,
            soft: limits.soft,
            hard: limits.hard,
            per_connection: 1.0 / (f64::from(limits.soft) * f64::from(limits.weight)),
            index: u32::try_from(index).expect("bounded by StatePool::CAPACITY"),
        }
    }
}
