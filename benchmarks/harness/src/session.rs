//! A session: every case, round by round, the peers of a round one after the other in a rotating order.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::case::{Case, Closed, Idle, Load, Streams};
use crate::cpu::{Clock, MachineCpu, TreeCpu};
use crate::failure::{Context, Failure};
use crate::load::{Patience, Tally, bulk, held, short};
use crate::memory::{self, UserMemory};
use crate::peer::{Peer, Running, is_listening};
use crate::progress::Progress;
use crate::site::{self, Site};
use crate::statistics::percentile;

/// Rest between two measurements, and between the end of a load and the reading: late work is charged to who did it.
const REST: Duration = Duration::from_millis(200);
/// A fresh peer must relay eight exchanges without an error within this time.
const PROBE: Duration = Duration::from_secs(5);
const PROBE_CONNECTIONS: usize = 8;

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

pub(crate) struct Session<'a> {
    pub(crate) site: &'a Site,
    pub(crate) peers: &'a [Peer],
    pub(crate) rounds: u32,
    pub(crate) quick: bool,
}

impl Session<'_> {
    /// Runs all cases. A peer that fails a measurement is reported in its sample; the session goes on.
    pub(crate) fn run(&self, cases: &[Case]) -> Result<Vec<Sample>, Failure> {
        let backend = Backend::start()?;
        // The first round warms up the machine and is not counted.
        let first = u32::from(self.quick);
        let steps = cases.len() * self.peers.len() * (self.rounds + 1 - first) as usize;
        let mut progress = Progress::new(steps);
        let mut samples = Vec::new();
        for case in cases {
            for round in first..=self.rounds {
                for peer in self.order(round) {
                    progress.step(&format!("{} round {round}/{}: {}", case.name, self.rounds, peer.label));
                    let sample = self.measure(case, round, peer, &backend);
                    if round > 0 {
                        samples.push(sample);
                    }
                }
            }
        }
        progress.finish();
        Ok(samples)
    }

    /// Each round begins with another peer, so that no one always runs in the wake of the same neighbour.
    fn order(&self, round: u32) -> impl Iterator<Item = &Peer> {
        let shift = round as usize % self.peers.len().max(1);
        self.peers[shift..].iter().chain(&self.peers[..shift])
    }

    fn measure(&self, case: &Case, round: u32, peer: &Peer, backend: &Backend) -> Sample {
        let load = if self.quick { &case.quick } else { &case.load };
        let dir = self.site.scratch.join(format!("{}-{round}-{}", case.name, peer.name));
        let mut sample = Sample {
            case: case.name.clone(),
            round,
            peer: peer.name.clone(),
            metrics: Metrics::new(),
            errors: BTreeMap::new(),
            clock: None,
        };
        std::thread::sleep(REST);
        let measured = peer.start(self.site, dir).and_then(|running| {
            probe(running.target)?;
            let mut meter = Meter::new(&running, backend, self.site.cores);
            match load {
                Load::Short(plan) => measure_short(plan, &mut meter, &mut sample),
                Load::Pingpong(plan) => measure_pingpong(plan, &mut meter, &mut sample),
                Load::Bulk(plan) => measure_bulk(plan, &mut meter, &mut sample),
                Load::Idle(plan) => measure_idle(plan, &meter, &mut sample),
            }
        });
        if let Err(failure) = measured {
            *sample.errors.entry(failure.to_string()).or_default() += 1;
        }
        sample
    }
}

fn measure_short(plan: &Closed, meter: &mut Meter, sample: &mut Sample) -> Result<(), Failure> {
    let short =
        short::Plan { target: meter.target(), clients: plan.clients, bytes: plan.bytes, patience: plan.patience() };
    short::run(&short, plan.warm_up)?;
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
    connections.exchange(plan.warm_up)?;
    meter.begin();
    let mut tally = connections.exchange(plan.operations)?;
    tally.errors.extend(opened.errors);
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
    bulk::run(&bulk, plan.warm_up_mb * MEGABYTE)?;
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
    sample.errors = tally.errors;
    let idle = connections.idle();
    if idle < plan.connections {
        let lost = (plan.connections - idle) as u64;
        sample.errors.insert("connection not open and silent at the end".to_owned(), lost);
    }
    let each = |after: u64, before: u64| (after as f64 - before as f64) / idle.max(1) as f64;
    sample.metrics.insert("slab_bytes", each(slab_after, slab_before));
    sample.metrics.insert("operations", idle as f64);
    if let (Some(before), Some(after)) = (user_before, user_after) {
        sample.metrics.insert("user_bytes", each(after.proportional, before.proportional));
        sample.metrics.insert("private_bytes", each(after.private, before.private));
        sample.metrics.insert("anonymous_bytes", each(after.anonymous, before.anonymous));
        sample.metrics.insert("fresh_kb", before.proportional as f64 / 1024.0);
    }
    Ok(())
}

/// Times and rates of a load that counts operations.
fn per_operation(sample: &mut Sample, tally: &Tally) {
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
    /// Adds `name` as `total` divided by `by`, where there is a total.
    fn per(&mut self, total: &str, name: &'static str, by: f64) {
        if let Some(total) = self.metrics.get(total) {
            self.metrics.insert(name, total / by);
        }
    }
}

/// Makes sure that a fresh peer relays, before anything is measured.
fn probe(target: SocketAddrV4) -> Result<(), Failure> {
    let plan = held::Plan {
        target,
        connections: PROBE_CONNECTIONS,
        bytes: 16,
        patience: Patience { operation: Duration::from_secs(1), whole: PROBE },
    };
    let began = Instant::now();
    loop {
        let (connections, tally) = held::Held::open(&plan)?;
        drop(connections);
        if tally.error_count() == 0 {
            return Ok(());
        }
        if began.elapsed() > PROBE {
            return Err(Failure::new(format!("does not relay: {:?}", tally.errors)));
        }
        std::thread::sleep(REST);
    }
}

/// The backend in a process of its own.
pub(crate) struct Backend {
    child: Child,
}

impl Backend {
    fn start() -> Result<Self, Failure> {
        let myself = std::env::current_exe().context("cannot find the harness binary")?;
        let address = site::BACKEND.to_string();
        let child = Command::new(myself)
            .args(["backend", "--listen", &address])
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start the backend")?;
        let backend = Self { child };
        let began = Instant::now();
        while !is_listening(site::BACKEND) {
            if began.elapsed() > PROBE {
                return Err(Failure::new("the backend does not listen"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(backend)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the CPU of everyone before and after a load.
struct Meter<'a> {
    running: &'a Running,
    proxy: Option<u32>,
    backend: u32,
    cores: usize,
    before: Option<Reading>,
}

struct Reading {
    at: Instant,
    machine: MachineCpu,
    proxy: Option<TreeCpu>,
    backend: TreeCpu,
    load: TreeCpu,
}

impl<'a> Meter<'a> {
    fn new(running: &'a Running, backend: &Backend, cores: usize) -> Self {
        let proxy = running.pid();
        Self { running, proxy, backend: backend.child.id(), cores, before: None }
    }

    fn target(&self) -> SocketAddrV4 {
        self.running.target
    }

    fn begin(&mut self) {
        self.before = Some(self.read());
    }

    fn read(&self) -> Reading {
        Reading {
            at: Instant::now(),
            machine: MachineCpu::read(),
            proxy: self.proxy.map(TreeCpu::read),
            backend: TreeCpu::read(self.backend),
            load: TreeCpu::read(std::process::id()),
        }
    }

    /// Totals of the load into the sample.
    fn end(&mut self, sample: &mut Sample, tally: &Tally) {
        std::thread::sleep(REST);
        let after = self.read();
        let Some(before) = self.before.take() else {
            return;
        };
        sample.errors.clone_from(&tally.errors);
        let metrics = &mut sample.metrics;
        let mut known = 0;
        if let (Some(earlier), Some(later)) = (&before.proxy, &after.proxy) {
            let used = later.since(earlier);
            known += used.nanos;
            sample.clock = Some(used.clock);
            metrics.insert("proxy_ns", used.nanos as f64);
            metrics.insert("proxy_user_percent", used.user_percent);
        }
        let backend = after.backend.since(&before.backend).nanos;
        // The load's own tree holds the proxy and the backend, which are its children.
        let load = after.load.since(&before.load).nanos.saturating_sub(known + backend);
        known += backend + load;
        let machine = after.machine.busy_since(&before.machine).as_nanos() as f64;
        let window = after.at.duration_since(before.at).as_nanos() as f64 * self.cores as f64;
        metrics.insert("backend_ns", backend as f64);
        metrics.insert("load_ns", load as f64);
        metrics.insert("machine_ns", machine);
        metrics.insert("other_percent", 100.0 * (machine - known as f64) / window);
        let stolen = after.machine.stolen_since(&before.machine).as_nanos() as f64;
        metrics.insert("stolen_percent", 100.0 * stolen / window);
        metrics.insert("elapsed_s", tally.elapsed.as_secs_f64());
        metrics.insert("operations", tally.operations as f64);
    }
}
