//! The figures of all rounds as tables.

use std::time::Duration;

use serde::Serialize;

use super::Plan;
use super::load::{Crowd, Steps, Times};
use super::wireguard_go;
use crate::statistics::{median, percentile};
use crate::table::{Table, figure};

/// One size in one round.
pub(super) struct Round {
    pub(super) size: usize,
    pub(super) steps: Steps,
    pub(super) crowd: Crowd,
    pub(super) handshakes: Times,
    /// The same by wireguard-go.
    pub(super) by_other: Option<Times>,
    pub(super) ready: Duration,
    pub(super) resident: u64,
    pub(super) other: Option<wireguard_go::Steps>,
    /// Peers that the other one had.
    pub(super) of_other: usize,
}

/// Medians of all rounds, size by size. Times in microseconds.
#[derive(Serialize)]
pub(crate) struct Report {
    rounds: u32,
    clients: usize,
    sizes: Vec<Size>,
}

#[derive(Serialize)]
struct Size {
    peers: usize,
    create_p50: Option<f64>,
    create_p99: Option<f64>,
    delete_p50: Option<f64>,
    delete_p99: Option<f64>,
    show_p50: Option<f64>,
    show_p99: Option<f64>,
    first_page_p50: Option<f64>,
    first_page_p99: Option<f64>,
    creates_per_s: Option<f64>,
    crowd_create_p99: Option<f64>,
    deletes_per_s: Option<f64>,
    first_handshake_p50: Option<f64>,
    first_handshake_p99: Option<f64>,
    wireguard_go_first_handshake_p50: Option<f64>,
    wireguard_go_first_handshake_p99: Option<f64>,
    ready_ms: Option<f64>,
    resident_mb: Option<f64>,
    wireguard_go_peers: usize,
    wireguard_go_set_p50: Option<f64>,
    wireguard_go_syncconf_ms: Option<f64>,
}

impl Report {
    pub(super) fn of(plan: &Plan, rounds: &[Round]) -> Self {
        let sizes = plan.sizes.iter().map(|size| Size::of(*size, rounds)).collect();
        Self { rounds: plan.rounds, clients: plan.crowd.0, sizes }
    }

    pub(crate) fn to_markdown(&self, date: &str, machine: &str) -> String {
        let mut text = format!(
            "# Peers, {date}\n\n{machine}. Medians of {} rounds; each has a gateway that grows from size to size, over HTTP \
             on loopback, and on disk with each answer. Times in microseconds where nothing else is said.\n\n",
            self.rounds
        );
        let heading = |names: &[&str]| Table::new(names.iter().map(|name| (*name).to_owned()).collect());
        let mut table = heading(&[
            "registered",
            "create p50",
            "p99",
            "delete p50",
            "p99",
            "show p50",
            "p99",
            "first page p50",
            "p99",
        ]);
        for size in &self.sizes {
            let figures = [
                size.create_p50,
                size.create_p99,
                size.delete_p50,
                size.delete_p99,
                size.show_p50,
                size.show_p99,
                size.first_page_p50,
                size.first_page_p99,
            ];
            table.add(row(size.peers, &figures));
        }
        text.push_str(&table.to_markdown());
        text.push_str(&format!(
            "\n{} clients at once; a first handshake by boringtun, and by wireguard-go; after a restart.\n\n",
            self.clients
        ));
        let mut table = heading(&[
            "registered",
            "creates/s",
            "create p99",
            "deletes/s",
            "handshake p50",
            "p99",
            "by wireguard-go p50",
            "p99",
            "ready, ms",
            "resident, MB",
        ]);
        for size in &self.sizes {
            let figures = [
                size.creates_per_s,
                size.crowd_create_p99,
                size.deletes_per_s,
                size.first_handshake_p50,
                size.first_handshake_p99,
                size.wireguard_go_first_handshake_p50,
                size.wireguard_go_first_handshake_p99,
                size.ready_ms,
                size.resident_mb,
            ];
            table.add(row(size.peers, &figures));
        }
        text.push_str(&table.to_markdown());
        text.push_str("\nThe same machine, wireguard-go: one peer by `wg set`, not on disk; one by `wg syncconf`.\n\n");
        let mut table = heading(&["peers", "wg set p50", "wg syncconf, ms"]);
        for size in self.sizes.iter().filter(|size| size.wireguard_go_set_p50.is_some()) {
            table.add(row(size.wireguard_go_peers, &[size.wireguard_go_set_p50, size.wireguard_go_syncconf_ms]));
        }
        text.push_str(&table.to_markdown());
        text
    }
}

fn row(size: usize, figures: &[Option<f64>]) -> Vec<String> {
    let whole = |value: usize| figure(u32::try_from(value).ok().map(f64::from), 0);
    std::iter::once(whole(size)).chain(figures.iter().map(|value| figure(*value, 0))).collect()
}

impl Size {
    fn of(peers: usize, rounds: &[Round]) -> Self {
        let rounds: Vec<&Round> = rounds.iter().filter(|round| round.size == peers).collect();
        let middle = |value: &dyn Fn(&Round) -> Option<f64>| {
            median(&rounds.iter().filter_map(|round| value(round)).collect::<Vec<_>>())
        };
        let micros = |times: &Times, percent| percentile(times, percent).map(|nanos| nanos as f64 / 1000.0);
        Self {
            peers,
            create_p50: middle(&|round| micros(&round.steps.create, 50)),
            create_p99: middle(&|round| micros(&round.steps.create, 99)),
            delete_p50: middle(&|round| micros(&round.steps.delete, 50)),
            delete_p99: middle(&|round| micros(&round.steps.delete, 99)),
            show_p50: middle(&|round| micros(&round.steps.show, 50)),
            show_p99: middle(&|round| micros(&round.steps.show, 99)),
            first_page_p50: middle(&|round| micros(&round.steps.list, 50)),
            first_page_p99: middle(&|round| micros(&round.steps.list, 99)),
            creates_per_s: middle(&|round| Some(round.crowd.creates_per_s)),
            crowd_create_p99: middle(&|round| micros(&round.crowd.create, 99)),
            deletes_per_s: middle(&|round| Some(round.crowd.deletes_per_s)),
            first_handshake_p50: middle(&|round| micros(&round.handshakes, 50)),
            first_handshake_p99: middle(&|round| micros(&round.handshakes, 99)),
            wireguard_go_first_handshake_p50: middle(&|round| micros(round.by_other.as_ref()?, 50)),
            wireguard_go_first_handshake_p99: middle(&|round| micros(round.by_other.as_ref()?, 99)),
            ready_ms: middle(&|round| Some(round.ready.as_secs_f64() * 1000.0)),
            resident_mb: middle(&|round| Some(round.resident as f64 / 1e6)),
            wireguard_go_peers: rounds.first().map_or(0, |round| round.of_other),
            wireguard_go_set_p50: middle(&|round| micros(&round.other.as_ref()?.set, 50)),
            wireguard_go_syncconf_ms: middle(&|round| Some(round.other.as_ref()?.syncconf.as_secs_f64() * 1000.0)),
        }
    }
}
