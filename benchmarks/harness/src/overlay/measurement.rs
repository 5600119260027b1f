//! One measurement: fresh namespaces, fresh ends, a load, and the figures that come out of it.

use std::net::SocketAddrV4;
use std::path::Path as FilePath;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::iperf::{self, Transfer};
use super::path::{Path, Role, Workshop};
use crate::case::Closed;
use crate::cpu::{Clock, MachineCpu, TreeCpu, waited_for};
use crate::failure::Failure;
use crate::load::held;
use crate::measurement::{Sample, per_operation, probe};
use crate::memory;
use crate::meter::{LATE, share_of_machine};
use crate::session::Backend;

const GIB: f64 = 1_073_741_824.0;
const ECHO_PORT: u16 = 8000;
/// A lost first handshake is repeated after five seconds, on each of the two tunnels of a hub.
const PROBE: Duration = Duration::from_secs(15);

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum Load {
    /// iperf3 through a tunnel between two ends.
    Stream(Streams),
    /// iperf3 between two spokes of a hub.
    Forward(Streams),
    /// Small exchanges, one after the other.
    Exchange(Closed),
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Streams {
    streams: u32,
    /// Uncounted, over the same tunnel; 0 for none.
    warm_up_s: u32,
    seconds: u32,
    timeout_s: u64,
}

/// Builds the path anew in `dir`, makes sure that it carries, and puts `load` on it.
pub(super) fn measure(
    load: &Load,
    workshop: &Workshop,
    name: &str,
    dir: &FilePath,
    sample: &mut Sample,
) -> Result<(), Failure> {
    let path = match load {
        Load::Stream(_) | Load::Exchange(_) => workshop.pair(name, dir)?,
        Load::Forward(_) => workshop.through_hub(name, dir)?,
    };
    let echo = SocketAddrV4::new(path.target, ECHO_PORT);
    let _backend = path.far.within(|| Backend::start(echo))?;
    path.near.within(|| probe(echo, PROBE))?;
    let cores = workshop.site.cores;
    match load {
        Load::Stream(plan) | Load::Forward(plan) => path.near.within(|| stream(plan, &path, cores, sample)),
        Load::Exchange(plan) => path.near.within(|| exchange(plan, echo, &path, cores, sample)),
    }
}

fn stream(plan: &Streams, path: &Path, cores: usize, sample: &mut Sample) -> Result<(), Failure> {
    // A server each: between two tests it closes its listener for a moment, and a client that comes then is reset.
    let server = || path.far.within(|| iperf::Server::start(path.target));
    if plan.warm_up_s > 0 {
        let _server = server()?;
        iperf::send(path.target, plan.streams, plan.warm_up_s, plan.timeout_s)?;
    }
    let _server = server()?;
    let before = Reading::take(path);
    let Transfer { bytes, bits_per_second, retransmits } =
        iperf::send(path.target, plan.streams, plan.seconds, plan.timeout_s)?;
    resident(path, sample);
    before.until_now(path, cores, sample);
    let gib = bytes / GIB;
    for (total, each) in
        [("sender_ns", "sender_s"), ("receiver_ns", "receiver_s"), ("hub_ns", "hub_s"), ("machine_ns", "machine_s")]
    {
        sample.per(total, each, gib * 1e9);
    }
    sample.metrics.insert("operations", gib);
    sample.metrics.insert("gbit_per_second", bits_per_second / 1e9);
    sample.metrics.insert("retransmits", retransmits);
    Ok(())
}

fn exchange(
    plan: &Closed,
    target: SocketAddrV4,
    path: &Path,
    cores: usize,
    sample: &mut Sample,
) -> Result<(), Failure> {
    let held = held::Plan { target, connections: plan.clients, bytes: plan.bytes, patience: plan.patience() };
    let (mut connections, opened) = held::Held::open(&held)?;
    sample.count_errors(&opened.errors);
    sample.count_errors(&connections.exchange(plan.warm_up)?.errors);
    let before = Reading::take(path);
    let tally = connections.exchange(plan.operations)?;
    before.until_now(path, cores, sample);
    sample.count_errors(&tally.errors);
    sample.metrics.insert("operations", tally.operations as f64);
    per_operation(sample, &tally);
    for (total, each) in [("sender_ns", "sender_us"), ("receiver_ns", "receiver_us")] {
        sample.per(total, each, tally.operations as f64 * 1e3);
    }
    Ok(())
}

impl Role {
    fn cpu_metric(self) -> &'static str {
        match self {
            Self::Sender => "sender_ns",
            Self::Receiver => "receiver_ns",
            Self::Hub => "hub_ns",
        }
    }

    fn memory_metric(self) -> &'static str {
        match self {
            Self::Sender => "sender_mb",
            Self::Receiver => "receiver_mb",
            Self::Hub => "hub_mb",
        }
    }
}

/// CPU of every end, of the benchmark and of the machine at one moment.
struct Reading {
    at: Instant,
    machine: MachineCpu,
    own: TreeCpu,
    waited_for: Duration,
    ends: Vec<TreeCpu>,
}

impl Reading {
    fn take(path: &Path) -> Self {
        Self {
            at: Instant::now(),
            machine: MachineCpu::read(),
            own: TreeCpu::read(std::process::id()),
            waited_for: waited_for(),
            ends: path.ends.iter().map(|(_, end)| TreeCpu::read(end.pid())).collect(),
        }
    }

    /// What was used since, into the sample.
    fn until_now(&self, path: &Path, cores: usize, sample: &mut Sample) {
        std::thread::sleep(LATE);
        let now = Self::take(path);
        for (((role, _), before), after) in path.ends.iter().zip(&self.ends).zip(&now.ends) {
            let used = after.since(before);
            sample.metrics.insert(role.cpu_metric(), used.nanos as f64);
            sample.clock = if sample.clock == Some(Clock::Ticks) { sample.clock } else { Some(used.clock) };
        }
        // The ends, the echo and the iperf3 server are children that live; the iperf3 client has been waited for.
        let ended = u64::try_from(now.waited_for.saturating_sub(self.waited_for).as_nanos()).unwrap_or(0);
        let known = now.own.since(&self.own).nanos + ended;
        let window = now.at.duration_since(self.at) * u32::try_from(cores).unwrap_or(1);
        share_of_machine(&mut sample.metrics, &self.machine, &now.machine, window, known);
    }
}

/// Read while the memory of the load is still held.
fn resident(path: &Path, sample: &mut Sample) {
    for (role, end) in &path.ends {
        sample.metrics.insert(role.memory_metric(), memory::resident(end.pid()) as f64 / 1e6);
    }
}
