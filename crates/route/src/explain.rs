//! Why a client goes where it goes: every candidate with all that the decision looked at.

use std::sync::Arc;

use serde::Serialize;

use crate::backend::Backend;
use crate::choose::{Policy, Request, score};
use crate::latency;
use crate::table::Table;

/// Whether a backend may take the client, and if not why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// This is where the client goes.
    Chosen,
    /// It could take the client, but another is better.
    Eligible,
    /// Belongs to another app.
    OtherApp,
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
    /// Connections in use.
    pub connections: u32,
    /// 100 × band + (connections / soft limit) / weight.
    pub score: f64,
    /// Measured round trip from this machine.
    pub round_trip_ms: Option<f32>,
    /// What the latency policy works with: the measured round trip, or what the distance suggests.
    pub expected_ms: f32,
}

impl Table {
    /// All backends as candidates for this request, the chosen one first, then by standing and rank.
    pub fn explain(&self, request: &Request<'_>) -> Vec<Candidate> {
        let chosen = self.choose(request).ok().map(|choice| choice.index);
        let mut candidates: Vec<(usize, Candidate)> = self
            .backends()
            .enumerate()
            .map(|(index, (backend, key))| {
                let group = self.group(&backend.region, backend.country, 0..0);
                let band = self.band(&group, &request.place);
                let score_band = match request.policy {
                    Policy::Score => self.score_band(&group, &request.place),
                    Policy::Geo | Policy::Latency => band,
                };
                let word = self.states().word(key.slot);
                let standing = match backend {
                    _ if chosen == Some(index) => Standing::Chosen,
                    b if request.app.is_some_and(|app| app != b.app) => Standing::OtherApp,
                    b if !b.healthy => Standing::Unhealthy,
                    b if !b.accepts_new() => Standing::Drained,
                    _ if word.is_down() => Standing::Down,
                    _ if word.is_ejected() => Standing::Ejected,
                    b if word.connections() >= b.limits.hard => Standing::Full,
                    _ => Standing::Eligible,
                };
                let distance_km = request.place.point.zip(group.point).map(|(a, b)| a.distance_km(b));
                let round_trip_ms = self.states().round_trip_ms(key.slot);
                let from_pop_km = self.pop.point.zip(group.point).map_or(10_000.0, |(a, b)| a.distance_km(b));
                let candidate = Candidate {
                    backend: Arc::clone(backend),
                    standing,
                    band,
                    band_reason: band_reason(band),
                    distance_km,
                    connections: word.connections(),
                    score: score(score_band, backend.limits, word.connections()),
                    round_trip_ms,
                    expected_ms: round_trip_ms.unwrap_or_else(|| latency::expected_ms(from_pop_km)),
                };
                (index, candidate)
            })
            .collect();
        candidates.sort_by(|(a_index, a), (b_index, b)| {
            let rank = |c: &Candidate| (c.standing as u8 > Standing::Eligible as u8, c.standing != Standing::Chosen);
            let value = |c: &Candidate| match request.policy {
                Policy::Geo => (f64::from(c.band), f64::from(c.distance_km.unwrap_or(f32::INFINITY)), c.score),
                Policy::Score => (c.score, 0.0, 0.0),
                Policy::Latency => (f64::from(c.expected_ms), c.score, 0.0),
            };
            let (x, y) = (value(a), value(b));
            rank(a)
                .cmp(&rank(b))
                .then(x.0.total_cmp(&y.0))
                .then(x.1.total_cmp(&y.1))
                .then(x.2.total_cmp(&y.2))
                .then(a_index.cmp(b_index))
        });
        candidates.into_iter().map(|(_, candidate)| candidate).collect()
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
