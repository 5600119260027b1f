//! Why a client goes where it goes: every candidate with all that the decision looked at.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;

use crate::backend::Backend;
use crate::choose::{Nearness, Policy, Request, score};
use crate::latency::{Estimate, NearSet};
use crate::role::Role;
use crate::table::Table;

/// Whether a backend may take the client, and if not why. In the order in which candidates are told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// This is where the client goes.
    Chosen,
    /// It could take the client, but another is better.
    Eligible,
    /// Belongs to another app.
    OtherApp,
    /// Has not the role that is asked for, nor one that may take its place.
    OtherRole,
    /// Marked unhealthy by the operator.
    Unhealthy,
    /// Drained: weight 0, or the drain mark.
    Drained,
    /// Active checks or a missed heartbeat hold it down.
    Down,
    /// Failed connects have ejected it.
    Ejected,
    /// At its hard limit.
    Full,
}

/// One backend as the decision saw it.
#[derive(Clone, Debug, Serialize)]
pub struct Candidate {
    /// The backend.
    #[serde(flatten)]
    pub backend: Arc<Backend>,
    /// May it take the client?
    pub standing: Standing,
    /// 0 same country, 1 same part of the world, 2 this machine's region, 3 elsewhere.
    pub band: u8,
    /// The band in words.
    pub band_reason: &'static str,
    /// From the client (or from the middle of its country), where both places are known.
    pub distance_km: Option<f32>,
    /// What it is to its app, where that is checked.
    pub role: Role,
    /// Bytes of the log that it lacks, where that is known.
    pub lag_bytes: Option<u64>,
    /// Age of what it applied last, in ms; 0 once nothing is missing.
    pub lag_ms: Option<u64>,
    /// Connections in use.
    pub connections: u32,
    /// 100 × band + (connections / soft limit) / weight.
    pub score: f64,
    /// Measured round trip from this machine.
    pub round_trip_ms: Option<f32>,
    /// What the latency policy works with: the measured round trip; what the distance suggests where there is none, or
    /// where that is less and the measured one is old.
    pub expected_ms: f32,
}

/// What the decision goes by among candidates that could take the client, from the first field to the last.
#[derive(Clone, Copy)]
struct Rank {
    /// Backends of the role asked for come before those that take their place.
    role: u8,
    nearness: Nearness,
    /// Of the latency policy: 0 near, 1 below the soft limit, 2 the others.
    tier: u8,
    value: f64,
}

impl Table {
    /// All backends as candidates for this request: the chosen one first, then those that could take the client, in the
    /// order in which the decision would come to them, then the others by why they cannot.
    pub fn explain(&self, request: &Request<'_>) -> Vec<Candidate> {
        let chosen = self.decide(request, false).ok().map(|choice| choice.index);
        let candidates: Vec<Candidate> =
            (0..self.backends().len()).map(|index| self.candidate(index, request, chosen)).collect();
        let ranks = self.ranks(&candidates, request);
        let mut ranked: Vec<(Rank, Candidate)> = ranks.into_iter().zip(candidates).collect();
        // Stable: equals stay in the file's order.
        ranked.sort_by(|(x, a), (y, b)| {
            a.standing
                .cmp(&b.standing)
                .then(x.role.cmp(&y.role))
                .then(x.nearness.cmp(&y.nearness))
                .then(x.tier.cmp(&y.tier))
                .then(x.value.total_cmp(&y.value))
        });
        ranked.into_iter().map(|(_, candidate)| candidate).collect()
    }

    fn candidate(&self, index: usize, request: &Request<'_>, chosen: Option<usize>) -> Candidate {
        let (backend, slot) = (self.backend(index), self.key(index).slot());
        let group = self.group(&backend.region, backend.country);
        let band = self.band(&group, &request.place);
        let word = self.states().word(slot);
        let (role, lag) = (self.states().role(slot), self.states().lag(slot));
        let standing = match backend {
            _ if chosen == Some(index) => Standing::Chosen,
            b if request.app.is_some_and(|app| app != b.app) => Standing::OtherApp,
            b if !b.healthy => Standing::Unhealthy,
            b if !b.accepts_new() => Standing::Drained,
            _ if !request.wanted.may_have(role) => Standing::OtherRole,
            _ if word.is_down() => Standing::Down,
            _ if word.is_ejected() => Standing::Ejected,
            b if word.connections() >= b.limits.hard => Standing::Full,
            _ => Standing::Eligible,
        };
        let shown_band = self.shown_band(request.policy, &group, &request.place);
        Candidate {
            backend: Arc::clone(backend),
            standing,
            band,
            band_reason: band_reason(band),
            distance_km: request.place.point.zip(group.point).map(|(a, b)| a.distance_km(b)),
            role,
            lag_bytes: lag.bytes,
            lag_ms: lag.time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            connections: word.connections(),
            score: score(shown_band, backend.limits, word.connections()),
            round_trip_ms: self.states().round_trip_ms(slot),
            expected_ms: Estimate::at(request.now)
                .millis(self.states().round_trip(slot).average_and_stamp(), group.guess_ms),
        }
    }

    fn ranks(&self, candidates: &[Candidate], request: &Request<'_>) -> Vec<Rank> {
        let takes = |candidate: &&Candidate| matches!(candidate.standing, Standing::Chosen | Standing::Eligible);
        let below_soft = |candidate: &Candidate| candidate.connections < candidate.backend.limits.soft;
        let best = candidates.iter().filter(takes).filter(|candidate| below_soft(candidate));
        let near = NearSet::around(best.map(|candidate| candidate.expected_ms).fold(f32::INFINITY, f32::min));
        let marked = self.marked_near(request.app);
        let rank = |(index, candidate): (usize, &Candidate)| {
            let Candidate { backend, connections, expected_ms, .. } = candidate;
            let limits = backend.limits;
            let load = score(0, limits, *connections);
            let (mut nearness, mut tier) = (Nearness::ANY, 0);
            let value = match request.policy {
                Policy::Geo => {
                    nearness = self.nearness(&self.group(&backend.region, backend.country), &request.place);
                    if !below_soft(candidate) {
                        nearness = nearness.past_soft_limit();
                    }
                    load
                }
                Policy::Score => candidate.score,
                Policy::Latency if !below_soft(candidate) => {
                    tier = 2;
                    load
                }
                Policy::Latency if near.has(*expected_ms, marked[index]) => load,
                Policy::Latency => {
                    tier = 1;
                    f64::from(*expected_ms)
                }
            };
            Rank { role: request.wanted.tier(candidate.role).unwrap_or(u8::MAX), nearness, tier, value }
        };
        candidates.iter().enumerate().map(rank).collect()
    }

    /// Which backends the latency policy last found near, by their place in the table.
    fn marked_near(&self, app: Option<&str>) -> Vec<bool> {
        let mut marked = vec![false; self.backends().len()];
        let Some(view) = self.view_of(app) else { return marked };
        for block in &view.blocks {
            let near = block.near.load(Relaxed);
            for (lane, index) in view.cells.index[block.backends()].iter().enumerate() {
                marked[*index as usize] = near >> lane & 1 == 1;
            }
        }
        marked
    }
}

fn band_reason(band: u8) -> &'static str {
    match band {
        0 => "same country",
        1 => "same part of the world",
        2 => "region of this POP",
        _ => "elsewhere",
    }
}
