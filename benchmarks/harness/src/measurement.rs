//! One measurement: a fresh peer, its probe, its load, and the figures that come out of it.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use crate::case::{Closed, Idle, Load, Streams};
use crate::cpu::Clock;
use crate::failure::Failure;
use crate::load::{Patience, Tally, bulk, held, short};
use crate::memory::{self, UserMemory};
use crate::meter::Meter;
use crate::statistics::percentile;

/// A fresh peer must relay eight exchanges without an error within this time.
const PROBE: Duration = Duration::from_secs(5);
const PROBE_CONNECTIONS: usize = 8;
const PROBE_PAUSE: Duration = Duration::from_millis(100);

/// One measurement of one peer in one round.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) case: String,
    /// Counted from 1.
    pub(crate) round: u32,
    pub(crate) peer: String,
    /// Empty when the measurement could not be made.
    pub(crate) metrics: Metrics,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) clock: Option<Clock>,
}

pub(crate) type Metrics = BTreeMap<&'static str, f64>;

/// Probes the peer behind `meter` and puts it under `load`.
pub(crate) fn measure(load: &Load, meter: &mut Meter, sample: &mut Sample) -> Result<(), Failure> {
    probe(meter.target(), PROBE)?;
    match load {
        Load::Short(plan) => measure_short(plan, meter, sample),
        Load::Pingpong(plan) => measure_pingpong(plan, meter, sample),
        Load::Bulk(plan) => measure_bulk(plan, meter, sample),
        Load::Idle(plan) => measure_idle(plan, meter, sample),
    }
}

fn measure_short(plan: &Closed, meter: &mut Meter, sample: &mut Sample) -> Result<(), Failure> {
    let short =
        short::Plan { target: meter.target(), clients: plan.clients, bytes: plan.bytes, patience: plan.patience() };
    sample.count_errors(&short::run(&short, plan.warm_up)?.errors);
    meter.begin();
    let tally = short::run(&short, plan.operations)?;
    meter.end(sample, &tally);
    per_operation(sample, &tally);
    Ok(())
}

fn measure_pingpong(plan: &Closed, meter: &mut Meter, sample: &mut Sample) -> Result<(), Failure> {
    let held =
        held::Plan { target: meter.target(), connections: plan.clients, bytes: plan.bytes, patience: plan.patience() };
    let (mut connections, opened) = held::Held::open(&held)?;
    sample.count_errors(&opened.errors);
    sample.count_errors(&connections.exchange(plan.warm_up)?.errors);
    meter.begin();
    let tally = connections.exchange(plan.operations)?;
    meter.end(sample, &tally);
    per_operation(sample, &tally);
    Ok(())
}

fn measure_bulk(plan: &Streams, meter: &mut Meter, sample: &mut Sample) -> Result<(), Failure> {
    const MEGABYTE: u64 = 1_000_000;
    let bulk = bulk::Plan {
        target: meter.target(),
        direction: plan.direction,
        streams: plan.streams,
        patience: plan.patience(),
    };
    sample.count_errors(&bulk::run(&bulk, plan.warm_up_mb * MEGABYTE)?.errors);
    meter.begin();
    let tally = bulk::run(&bulk, plan.megabytes * MEGABYTE)?;
    meter.end(sample, &tally);
    let gigabytes = tally.bytes as f64 / 1e9;
    if gigabytes > 0.0 {
        sample.per("proxy_ns", "proxy_ms", gigabytes * 1e6);
        sample.per("machine_ns", "machine_ms", gigabytes * 1e6);
        sample.metrics.insert("gbit_per_second", gigabytes * 8.0 / tally.elapsed.as_secs_f64());
    }
    Ok(())
}

fn measure_idle(plan: &Idle, meter: &Meter, sample: &mut Sample) -> Result<(), Failure> {
    let held = held::Plan {
        target: meter.target(),
        connections: plan.connections,
        bytes: plan.bytes,
        patience: plan.patience(),
    };
    // The probe has touched the code that serves a connection; now what it allocated may settle.
    std::thread::sleep(Duration::from_millis(plan.settle_ms.min(1000)));
    let user_before = meter.proxy.map(UserMemory::read);
    let slab_before = memory::slab();
    let (connections, tally) = held::Held::open(&held)?;
    std::thread::sleep(Duration::from_millis(plan.settle_ms));
    let user_after = meter.proxy.map(UserMemory::read);
    let slab_after = memory::slab();
    sample.count_errors(&tally.errors);
    let idle = connections.idle();
    if idle < plan.connections {
        let lost = (plan.connections - idle) as u64;
        sample.errors.insert("connection not open and silent at the end".to_owned(), lost);
    }
    let each = |after: u64, before: u64| (after as f64 - before as f64) / idle.max(1) as f64;
    sample.metrics.insert("slab_bytes", each(slab_after, slab_before));
    sample.metrics.insert("operations", idle as f64);
    if let (Some(before), Some(after)) = (user_before, user_after) {
        sample.metrics.insert("user_bytes", each(after.own, before.own));
        sample.metrics.insert("pss_bytes", each(after.proportional, before.proportional));
        sample.metrics.insert("private_bytes", each(after.private, before.private));
        sample.metrics.insert("fresh_kb", before.proportional as f64 / 1024.0);
    }
    Ok(())
}

/// Times and rates of a load that counts operations.
pub(crate) fn per_operation(sample: &mut Sample, tally: &Tally) {
    let mut latencies = tally.latencies.clone();
    latencies.sort_unstable();
    for (metric, percent) in [("p50_us", 50), ("p99_us", 99)] {
        if let Some(nanos) = percentile(&latencies, percent) {
            sample.metrics.insert(metric, nanos as f64 / 1e3);
        }
    }
    if tally.operations > 0 {
        let operations = tally.operations as f64;
        sample.per("proxy_ns", "proxy_us", operations * 1e3);
        sample.per("machine_ns", "machine_us", operations * 1e3);
        sample.metrics.insert("per_second", operations / tally.elapsed.as_secs_f64());
    }
}

impl Sample {
    pub(crate) fn empty(case: &str, round: u32, peer: &str) -> Self {
        Self {
            case: case.to_owned(),
            round,
            peer: peer.to_owned(),
            metrics: Metrics::new(),
            errors: BTreeMap::new(),
            clock: None,
        }
    }

    /// Errors of the warm-up and of disturbed attempts count like any others.
    pub(crate) fn count_errors(&mut self, errors: &BTreeMap<String, u64>) {
        for (kind, count) in errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
    }

    /// Adds `name` as `total` divided by `by`, where there is a total.
    pub(crate) fn per(&mut self, total: &str, name: &'static str, by: f64) {
        if let Some(total) = self.metrics.get(total) {
            self.metrics.insert(name, total / by);
        }
    }
}

/// Makes sure that a fresh peer relays, before anything is measured, and waits for that at most this long.
pub(crate) fn probe(target: SocketAddrV4, longest: Duration) -> Result<(), Failure> {
    let plan = held::Plan {
        target,
        connections: PROBE_CONNECTIONS,
        bytes: 16,
        patience: Patience { operation: Duration::from_secs(1), whole: longest },
    };
    let began = Instant::now();
    loop {
        let (connections, tally) = held::Held::open(&plan)?;
        drop(connections);
        if tally.error_count() == 0 {
            return Ok(());
        }
        if began.elapsed() > longest {
            return Err(Failure::new(format!("does not relay: {:?}", tally.errors)));
        }
        std::thread::sleep(PROBE_PAUSE);
    }
}
