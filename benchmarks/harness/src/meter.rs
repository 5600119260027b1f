//! CPU of the proxy, the backend, the load and the machine around one load.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use crate::cpu::{MachineCpu, TreeCpu};
use crate::load::Tally;
use crate::measurement::{Metrics, Sample};
use crate::peer::Running;

/// Between the end of a load and the reading: late work is charged to who did it.
pub(crate) const LATE: Duration = Duration::from_millis(200);

/// Reads the CPU of everyone before and after a load.
pub(crate) struct Meter<'a> {
    running: &'a Running,
    pub(crate) proxy: Option<u32>,
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
    pub(crate) fn new(running: &'a Running, backend: u32, cores: usize) -> Self {
        let proxy = running.pid();
        Self { running, proxy, backend, cores, before: None }
    }

    pub(crate) fn target(&self) -> SocketAddrV4 {
        self.running.target
    }

    pub(crate) fn begin(&mut self) {
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
    pub(crate) fn end(&mut self, sample: &mut Sample, tally: &Tally) {
        std::thread::sleep(LATE);
        let after = self.read();
        let Some(before) = self.before.take() else {
            return;
        };
        sample.count_errors(&tally.errors);
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
        metrics.insert("backend_ns", backend as f64);
        metrics.insert("load_ns", load as f64);
        let window = after.at.duration_since(before.at) * u32::try_from(self.cores).unwrap_or(1);
        share_of_machine(metrics, &before.machine, &after.machine, window, known);
        metrics.insert("elapsed_s", tally.elapsed.as_secs_f64());
        metrics.insert("operations", tally.operations as f64);
    }
}

/// What all work took of the machine in a `window` of core time, and how much of it was not the run's own (`known`).
pub(crate) fn share_of_machine(
    metrics: &mut Metrics,
    before: &MachineCpu,
    after: &MachineCpu,
    window: Duration,
    known: u64,
) {
    let machine = after.busy_since(before).as_nanos() as f64;
    let window = window.as_nanos() as f64;
    metrics.insert("machine_ns", machine);
    metrics.insert("other_percent", 100.0 * (machine - known as f64) / window);
    metrics.insert("stolen_percent", 100.0 * after.stolen_since(before).as_nanos() as f64 / window);
}
