//! The decision: which backend this client should reach.

use std::str::FromStr;

mod decision;

use self::decision::Decision;
use crate::backend::Limits;
use crate::moment::Moment;
use crate::place::Place;
use crate::role::{Roles, Wanted};
use crate::state::{Slot, SlotKey};
use crate::table::Table;
use crate::view::Group;

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

    pub(crate) fn iter(&self) -> impl Iterator<Item = Slot> {
        // Filled from the front.
        self.slots.iter().map_while(|slot| *slot)
    }

    pub(crate) fn is_empty(&self) -> bool {
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
    /// Of those, which roles.
    pub wanted: Wanted,
    /// How to pick.
    pub policy: Policy,
    /// Backends already tried.
    pub tried: &'a Exclusions,
    /// Where this client went before, if affinity remembers. Taken whenever it has room and is in service.
    pub bound: Option<SlotKey>,
    /// Where checks or failed connects have taken out every backend, try one all the same (the setting
    /// `when_all_down = "try"`).
    pub forced: bool,
    /// The present.
    pub now: Moment,
    /// A random number: breaks ties, in proportion to the weights, so that machines with the same table do not all pick
    /// the same backend.
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
    /// Nobody is known to be the primary.
    NoPrimary,
    /// Several take writes, and none of them is the primary by evidence.
    Disputed,
    /// Nobody is known to be a replica that is fresh enough, and nobody takes its place.
    NoReplica,
}

impl NoRoute {
    /// The word for it in logs and metric labels.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoBackend => "no_backend",
            Self::AllDown => "all_down",
            Self::AllFull => "all_full",
            Self::AllTried => "all_tried",
            Self::NoPrimary => "no_primary",
            Self::Disputed => "primary_disputed",
            Self::NoReplica => "no_replica",
        }
    }

    /// Whether it is for want of a role that nobody has now.
    pub fn wants_role(self) -> bool {
        matches!(self, Self::NoPrimary | Self::Disputed | Self::NoReplica)
    }
}

impl Table {
    /// Picks the best backend for a client. Reads counters and allocates nothing; under [`Policy::Latency`] it marks who
    /// belongs to the near set.
    ///
    /// # Errors
    /// [`NoRoute`] says why there is none.
    pub fn choose(&self, request: &Request<'_>) -> Result<Choice, NoRoute> {
        // What is near to a client that has tried the nearest already says nothing to the others.
        self.decide(request, request.tried.is_empty())
    }

    /// [`choose`](Self::choose), which leaves its marks only if `marks`.
    pub(crate) fn decide(&self, request: &Request<'_>, marks: bool) -> Result<Choice, NoRoute> {
        let view = self.view_of(request.app).filter(|view| !view.groups.is_empty()).ok_or(NoRoute::NoBackend)?;
        let mut why = None;
        for roles in request.wanted.tiers() {
            if let Some(choice) = self.bound(request, *roles) {
                return Ok(choice);
            }
            let mut decision = Decision::new(self, view, request, *roles, marks);
            let decided = match decision.decide() {
                Err(NoRoute::AllDown) if request.forced => {
                    decision.force();
                    decision.decide()
                }
                decided => decided,
            };
            match (decided, why) {
                (Ok(choice), _) => return Ok(choice),
                // That somebody had the role and could not take the client says more than that nobody had it.
                (Err(no_route), Some(before)) if NoRoute::wants_role(before) && !no_route.wants_role() => {
                    why = Some(no_route);
                }
                (Err(no_route), None) => why = Some(no_route),
                (Err(_), Some(_)) => {}
            }
        }
        Err(why.unwrap_or(NoRoute::NoBackend))
    }

    /// The backend affinity remembers, if it may take this client. A full or absent one is passed over for this
    /// connection only: the binding stays for the client's return.
    fn bound(&self, request: &Request<'_>, roles: Roles) -> Option<Choice> {
        let index = self.find(request.bound?)?;
        let backend = self.backend(index);
        let slot = self.key(index).slot;
        let word = self.states.word(slot);
        let fits = backend.accepts_new()
            && request.app.is_none_or(|app| app == backend.app)
            && word.in_service()
            && word.generation() == self.key(index).generation
            && word.connections() < backend.limits.hard
            && (roles.is_all() || roles.has(self.states.role(slot)))
            && !request.tried.has(slot);
        fits.then(|| {
            let group = self.group(&backend.region, backend.country);
            let band = self.shown_band(request.policy, &group, &request.place);
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

    /// The band as logs and `explain` tell it.
    pub(crate) fn shown_band(&self, policy: Policy, group: &Group, client: &Place) -> u8 {
        match policy {
            Policy::Score => self.score_band(group, client),
            Policy::Geo | Policy::Latency => self.band(group, client),
        }
    }

    /// What decides among groups with backends below their soft limit: the band, then how remote they are.
    pub(crate) fn nearness(&self, group: &Group, client: &Place) -> Nearness {
        let band = self.band(group, client);
        Nearness::below_soft_limit(band, self.remoteness(group, band, client))
    }

    /// How remote a group is from the client; 0 where the client's place cannot tell.
    ///
    /// Knowing only the country says nothing about which backend within that country is nearer. Of a client whose place
    /// is unknown the best guess is that it is near this machine, which it has reached.
    fn remoteness(&self, group: &Group, band: u8, client: &Place) -> f32 {
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

/// How near some backends are to a client, and whether they have room below their soft limit, as one number: the lower
/// comes first. Within a band those below their soft limit come by their remoteness, then all others alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Nearness(u64);

impl Nearness {
    /// Where neither matters.
    pub(crate) const ANY: Self = Self(0);
    /// After every other.
    const FARTHEST: Self = Self(u64::MAX);

    fn below_soft_limit(band: u8, remoteness: f32) -> Self {
        // Numbers that are not negative are ordered as their bits are.
        Self(u64::from(band) << 33 | u64::from(remoteness.to_bits()))
    }

    /// That of backends of the same band which are past their soft limit.
    pub(crate) fn past_soft_limit(self) -> Self {
        Self(self.0 >> 33 << 33 | 1 << 32)
    }
}

/// 100 × band + (connections / soft limit) / weight, in this order of operations: the number as it is told. A scan
/// multiplies instead, so equal loads of backends with different limits may there be apart by the last bit.
pub(crate) fn score(band: u8, limits: Limits, connections: u32) -> f64 {
    100.0 * f64::from(band) + f64::from(connections) / f64::from(limits.soft) / f64::from(limits.weight.max(1))
}

#[cfg(test)]
mod tests;
