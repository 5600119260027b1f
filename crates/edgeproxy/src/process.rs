//! This process as the system sees it: its descriptor limit, its version, and the figures Prometheus expects of every
//! process.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use edgeproxy_proxy::metric_names as names;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Raises the soft descriptor limit to the hard one, which needs no privilege. Returns the limit in force.
///
/// The soft limit of 1,024 protects programs that use `select`; this is none.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
    .unwrap_or(u64::MAX)
}

/// Keeps keys in this process: none of it is written to a core dump, and no other process of the same user can look into
/// its memory (root still can). Whoever enters a user namespace does so before, as /proc/self is root's from now on.
pub(crate) fn keep_memory_private() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "a core dump of this process would hold its keys");
    }
}

/// Reads the figures when they are asked for.
#[derive(Debug)]
pub(crate) struct ProcessFigures {
    started: f64,
}

impl ProcessFigures {
    /// A collector for a process that starts now.
    pub(crate) fn new() -> Self {
        Self { started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()) }
    }
}

impl Collector for ProcessFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let mut family =
            encoder.encode_descriptor(names::BUILD_INFO, "Version of this POP", None, MetricType::Gauge)?;
        family.encode_family(&version)?.encode_gauge(&1_i64)?;
        let mut gauge = |name: &str, help: &str, value: f64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        gauge(names::PROCESS_START_TIME_SECONDS, "Start of the process, Unix time", self.started)?;
        gauge(names::PROCESS_OPEN_FDS, "Open descriptors", open_descriptors())?;
        gauge(names::PROCESS_MAX_FDS, "Descriptors the process may open", max_descriptors())?;
        gauge(names::PROCESS_RESIDENT_MEMORY_BYTES, "Resident memory", resident_bytes())?;
        let cpu = ConstCounter::new(cpu_seconds());
        cpu.encode(encoder.encode_descriptor(
            names::PROCESS_CPU_SECONDS,
            "User and system CPU time",
            None,
            cpu.metric_type(),
        )?)
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of this size are exact in an f64")]
fn open_descriptors() -> f64 {
    fs::read_dir("/proc/self/fd").map_or(0.0, |entries| entries.count().saturating_sub(1) as f64)
}

#[allow(clippy::cast_precision_loss, reason = "limits of this size are exact in an f64")]
fn max_descriptors() -> f64 {
    getrlimit(Resource::Nofile).current.map_or(f64::INFINITY, |limit| limit as f64)
}

#[allow(clippy::cast_precision_loss, reason = "memory of this size is exact in an f64")]
fn resident_bytes() -> f64 {
    let pages = fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split_whitespace().nth(1)?.parse::<u64>().ok())
        .unwrap_or(0);
    (pages * rustix::param::page_size() as u64) as f64
}

#[allow(clippy::cast_precision_loss, reason = "ticks of a process's life are exact in an f64")]
fn cpu_seconds() -> f64 {
    // Fields 14 and 15 of stat(5), counted after the command name, which may hold spaces.
    let ticks = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    });
    ticks.unwrap_or(0) as f64 / rustix::param::clock_ticks_per_second() as f64
}
