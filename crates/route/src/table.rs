//! The routing table: an immutable snapshot of the backends, laid out for the decision.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::backend::Backend;
use crate::choose::Choice;
use crate::latency;
use crate::moment::Moment;
use crate::place::{Area, Country, Place, Point};
use crate::regions::{REGIONS, region_facts};
use crate::state::{Applicant, Claim, Reservation, SlotKey, StatePool};
use crate::view::{Group, View};

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
                let area = Place::in_country(region.country).area;
                (region.code, Region { city: None, area, point: Some(region.point), country: Some(region.country) })
            })
            .collect();
        Self { declared }
    }

    /// The codes of all of them, sorted and each once.
    pub fn codes(&self) -> Vec<&str> {
        let declared = self.declared.keys().map(String::as_str);
        let mut codes: Vec<&str> = REGIONS.iter().map(|facts| facts.code).chain(declared).collect();
        codes.sort_unstable();
        codes.dedup();
        codes
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

/// Why a table was not made. The one before serves on as it is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TableError {
    /// More than the process can hold.
    #[error("{count} backends; at most {} are supported", StatePool::CAPACITY)]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// There would be room if connections to backends of earlier tables had ended.
    #[error(
        "{count} backends beside {lingering} that have left the table and some of which still carry connections; \
         together at most {} are supported: replace fewer at a time, or cut the connections of those that left",
        StatePool::CAPACITY
    )]
    NoRoom {
        /// How many there are.
        count: usize,
        /// How many have left.
        lingering: usize,
    },
    /// Two backends with one name.
    #[error("two backends have the id {id:?}")]
    Twins {
        /// Their name.
        id: String,
    },
}

impl TableBuilder {
    /// Lays out the snapshot. From then on the state of backends is that of this table: it is meant to serve next.
    ///
    /// # Errors
    /// More backends than [`StatePool::CAPACITY`], those that have left with connections still open included, or two of
    /// one name.
    pub fn build(self, backends: Vec<Backend>) -> Result<Table, TableError> {
        let count = backends.len();
        if count > StatePool::CAPACITY {
            return Err(TableError::TooMany { count });
        }
        let mut ids = HashSet::with_capacity(count);
        if let Some(twin) = backends.iter().find(|backend| !ids.insert(backend.id.as_str())) {
            return Err(TableError::Twins { id: twin.id.clone() });
        }
        let claims = self.assign(&backends)?;
        let past_last = claims.iter().map(|claim| claim.key.slot().index() + 1).max().unwrap_or(0);
        let mut by_slot = vec![NOBODY; past_last];
        for (index, claim) in claims.iter().enumerate() {
            by_slot[claim.key.slot().index()] = u32::try_from(index).expect("bounded by StatePool::CAPACITY");
        }
        let mut table = Table {
            backends: backends.into_iter().map(Arc::new).collect(),
            claims,
            by_slot,
            has_country: self.has_country,
            pop: self.regions.get(&self.pop_region),
            pop_region: self.pop_region,
            regions: self.regions,
            states: self.states,
            everything: View::default(),
            apps: HashMap::new(),
        };
        let mut apps: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, backend) in table.backends.iter().enumerate() {
            apps.entry(&backend.app).or_default().push(index);
        }
        let apps = apps.into_iter().map(|(app, members)| (app.to_owned(), View::of(&table, members))).collect();
        let everything = View::of(&table, 0..count);
        (table.apps, table.everything) = (apps, everything);
        Ok(table)
    }

    /// Backends of one place come to have slots in a row, which a decision then reads in one go.
    fn assign(&self, backends: &[Backend]) -> Result<Vec<Claim>, TableError> {
        let mut order: Vec<usize> = (0..backends.len()).collect();
        order.sort_by_key(|&index| {
            let Backend { region, country, app, limits, .. } = &backends[index];
            (region, country, app, limits)
        });
        let applicant = |&index: &usize| Applicant { id: &backends[index].id, addr: backends[index].addr.0 };
        let applicants: Vec<Applicant<'_>> = order.iter().map(applicant).collect();
        let assigned = self
            .states
            .assign(&applicants)
            .map_err(|none| TableError::NoRoom { count: backends.len(), lingering: none.lingering })?;
        let mut claims: Vec<(usize, Claim)> = order.into_iter().zip(assigned).collect();
        claims.sort_unstable_by_key(|(index, _)| *index);
        Ok(claims.into_iter().map(|(_, claim)| claim).collect())
    }
}

/// No backend's place in the table: there are fewer than [`StatePool::CAPACITY`].
const NOBODY: u32 = u32::MAX;

/// An immutable snapshot of the backends. Replaced as a whole; decisions under way keep the one they began with.
pub struct Table {
    backends: Vec<Arc<Backend>>,
    claims: Vec<Claim>,
    /// Places in the table by the number of the slot.
    by_slot: Vec<u32>,
    pub(crate) has_country: bool,
    pub(crate) pop_region: String,
    pub(crate) pop: Region,
    pub(crate) regions: Regions,
    pub(crate) states: Arc<StatePool>,
    everything: View,
    apps: HashMap<String, View>,
}

impl Table {
    /// All backends, in the file's order; drained and unhealthy ones included.
    pub fn backends(&self) -> impl ExactSizeIterator<Item = (&Arc<Backend>, SlotKey)> {
        self.backends.iter().zip(self.claims.iter().map(|claim| claim.key))
    }

    /// The backend kept at `index`, as a [`Choice`] names it.
    pub fn backend(&self, index: usize) -> &Arc<Backend> {
        &self.backends[index]
    }

    /// The backend's slot and generation.
    pub fn key(&self, index: usize) -> SlotKey {
        self.claims[index].key
    }

    /// The backend with this slot key, if it is still in the table.
    pub fn find(&self, key: SlotKey) -> Option<usize> {
        let index = *self.by_slot.get(key.slot.index())? as usize;
        (self.claims.get(index)?.key == key).then_some(index)
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
        self.states.reserve(self.claims[choice.index], backend.limits.hard, now, choice.forced)
    }

    pub(crate) fn view_of(&self, app: Option<&str>) -> Option<&View> {
        match app {
            None => Some(&self.everything),
            Some(app) => self.apps.get(app),
        }
    }

    pub(crate) fn group(&self, code: &str, country: Option<Country>) -> Group {
        let region = self.regions.get(code);
        let from_pop_km = self.pop.point.zip(region.point).map(|(pop, point)| pop.distance_km(point));
        Group {
            country: if self.has_country { country } else { region.country },
            area: region.area,
            point: region.point,
            of_pop: self.is_pop_region(code, region),
            guess_ms: latency::expected_ms(from_pop_km),
            blocks: 0..0,
        }
    }

    /// The same code; or, where one of the two is a coarse region such as `eu`, the same part of the world.
    fn is_pop_region(&self, code: &str, region: Region) -> bool {
        let coarse = Area::from_code(code).is_some() || Area::from_code(&self.pop_region).is_some();
        code == self.pop_region || (coarse && region.area.is_some() && region.area == self.pop.area)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_built_in_and_the_declared_ones() {
        let declared = ["attic", "fra"].map(|code| CustomRegion {
            code: code.to_owned(),
            country: "DE".parse().unwrap(),
            point: Point::from_degrees(50.0, 8.0).unwrap(),
        });
        let (built_in, regions) = (Regions::default(), Regions::with(declared));
        assert_eq!(built_in.codes().len(), REGIONS.len());
        let more: Vec<&str> = regions.codes().into_iter().filter(|code| !built_in.codes().contains(code)).collect();
        assert_eq!((more, regions.codes().len()), (vec!["attic"], REGIONS.len() + 1));
        assert!(regions.codes().is_sorted());
    }
}
