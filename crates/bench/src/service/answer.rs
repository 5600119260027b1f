//! What a run is answered by: the published fields, and beside them what they leave out.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::db::{Cleanup, Mode, Operation, Order, Plan, ReadKind, Record, RunId};
use crate::sample::{Sample, Summary, milliseconds};

/// Read as well from services that know the published fields alone.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Who answers.
    pub region: String,
    /// Host of the database, or "not configured".
    pub db_host: String,
    /// Reads, and inserts, that were asked for.
    #[serde(default)]
    pub iterations: usize,
    /// In ms, as all that ends in `_ms`; of what succeeded, 0 if nothing did.
    #[serde(default)]
    pub read_avg_ms: f64,
    #[serde(default)]
    #[allow(missing_docs)]
    pub read_min_ms: f64,
    #[serde(default)]
    #[allow(missing_docs)]
    pub read_max_ms: f64,
    #[serde(default)]
    #[allow(missing_docs)]
    pub insert_avg_ms: f64,
    #[serde(default)]
    #[allow(missing_docs)]
    pub insert_min_ms: f64,
    #[serde(default)]
    #[allow(missing_docs)]
    pub insert_max_ms: f64,
    /// In the order they were measured. Failures are not among them.
    #[serde(default)]
    pub read_latencies: Sample,
    /// As above.
    #[serde(default)]
    pub insert_latencies: Sample,
    /// When it ended: RFC 3339, UTC, seconds.
    #[serde(default)]
    pub timestamp: String,
    /// What kept everything from being measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,

    /// Which run.
    #[serde(default)]
    pub run: String,
    #[serde(default)]
    #[allow(missing_docs)]
    pub mode: Mode,
    #[serde(default)]
    #[allow(missing_docs)]
    pub read: ReadKind,
    #[serde(default)]
    #[allow(missing_docs)]
    pub order: Order,
    /// The cold connect as a whole, without the first query.
    #[serde(default)]
    pub connect_ms: Option<f64>,
    /// Getting a connection that is open already.
    #[serde(default)]
    pub checkout_ms: Option<f64>,
    /// Where reads went, if elsewhere than inserts.
    #[serde(default)]
    pub read_db: Option<String>,
    /// The first query on the cold connection; not among the latencies.
    #[serde(default)]
    pub first_ms: Option<f64>,
    /// Median of the probe, a bare Sync.
    #[serde(default)]
    pub round_trip_ms: Option<f64>,
    /// Each operation's median in medians of the probe.
    #[serde(default)]
    pub round_trips: BTreeMap<Operation, f64>,
    /// What the sample carries, else null.
    #[serde(default)]
    pub percentiles: BTreeMap<Operation, Percentiles>,
    /// The cold connect by its parts.
    #[serde(default)]
    pub phases: Option<Phases>,
    /// Every operation that was measured.
    #[serde(default)]
    pub operations: BTreeMap<Operation, Summary>,
    /// The latencies of those that the published fields do not have.
    #[serde(default)]
    pub latencies: BTreeMap<Operation, Sample>,
    /// Failures by SQLSTATE or kind.
    #[serde(default)]
    pub errors: BTreeMap<String, usize>,
    /// Those of them without an answer in time.
    #[serde(default)]
    pub timeouts: usize,
    /// How long failures took.
    #[serde(default)]
    pub failures: Option<Summary>,
    /// Connections that had to be made anew.
    #[serde(default)]
    pub reconnects: usize,
    /// Why it ended before all was measured.
    #[serde(default)]
    pub ended_early: Option<String>,
    /// What became of the rows.
    #[serde(default)]
    pub cleanup: Option<Cleanup>,
}

/// In ms.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Percentiles {
    /// From 2 samples on.
    pub p50: Option<f64>,
    /// From 20 on.
    pub p95: Option<f64>,
    /// From 100 on.
    pub p99: Option<f64>,
}

/// Parts of a cold connect.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Phases {
    /// The name.
    pub dns_ms: f64,
    /// The connection.
    pub tcp_ms: f64,
    /// Encryption.
    pub tls_ms: f64,
    /// Startup and authentication.
    pub login_ms: f64,
}

impl Answer {
    pub(super) fn new(region: &str, db_host: String, plan: &Plan, run: &RunId, record: Record) -> Self {
        let operations: BTreeMap<Operation, Summary> =
            record.samples.iter().map(|(operation, sample)| (*operation, sample.summary())).collect();
        let of = |operation| operations.get(&operation).copied().unwrap_or_default();
        let (read, insert, probe) = (of(Operation::Read), of(Operation::Insert), of(Operation::Probe).middle());
        let round_trips = operations.iter().filter_map(|(operation, summary)| {
            let ratio = summary.middle()? / probe.filter(|probe| *probe > 0.0)?;
            Some((*operation, (ratio * 1000.0).round() / 1000.0))
        });
        let percentiles = operations.iter().map(|(operation, summary)| {
            (*operation, Percentiles { p50: summary.p50, p95: summary.p95, p99: summary.p99 })
        });
        let nothing = read.count == 0 && insert.count == 0;
        let is_published = |operation: &Operation| matches!(operation, Operation::Read | Operation::Insert);
        Self {
            region: region.to_owned(),
            db_host,
            iterations: plan.iterations,
            read_avg_ms: read.mean,
            read_min_ms: read.min,
            read_max_ms: read.max,
            insert_avg_ms: insert.mean,
            insert_min_ms: insert.min,
            insert_max_ms: insert.max,
            read_latencies: record.sample(Operation::Read),
            insert_latencies: record.sample(Operation::Insert),
            timestamp: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            error: nothing.then(|| "Nothing succeeded".to_owned()),
            message: None,
            run: run.to_string(),
            mode: plan.mode,
            read: plan.read,
            order: plan.order,
            connect_ms: record.connect.map(|phases| milliseconds(phases.total())),
            checkout_ms: None,
            read_db: None,
            first_ms: record.first.map(milliseconds),
            round_trip_ms: probe,
            round_trips: round_trips.collect(),
            percentiles: percentiles.collect(),
            phases: record.connect.map(|phases| Phases {
                dns_ms: milliseconds(phases.dns),
                tcp_ms: milliseconds(phases.tcp),
                tls_ms: milliseconds(phases.tls),
                login_ms: milliseconds(phases.login),
            }),
            failures: (record.failures.count() > 0).then(|| record.failures.summary()),
            errors: record.errors,
            timeouts: record.timeouts,
            reconnects: record.reconnects,
            ended_early: record.ended_early,
            cleanup: Some(record.cleanup),
            latencies: record.samples.into_iter().filter(|(operation, _)| !is_published(operation)).collect(),
            operations,
        }
    }
}
