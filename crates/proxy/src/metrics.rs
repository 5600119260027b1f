//! The data path's metrics: registered once, then only atomics are touched.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::close::Close;
use crate::metric_names as names;

/// Upper bounds in ms: from a connect on the same host to one that ran into its timeout.
const LATENCY_BUCKETS_MS: [f64; 16] =
    [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0];

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(crate) struct ByListener {
    pub(crate) listener: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(crate) struct ByApp {
    pub(crate) app: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(crate) struct ByRegion {
    pub(crate) region: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(crate) struct Refused {
    pub(crate) listener: String,
    pub(crate) reason: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(crate) struct ByReason {
    pub(crate) reason: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(crate) struct ByError {
    pub(crate) error: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(crate) struct ByResult {
    pub(crate) result: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ByDirection {
    direction: &'static str,
}

type LatencyFamily = Family<ByRegion, Histogram, fn() -> Histogram>;

/// Handles of all metrics the proxy moves itself. What can be read when it is asked for (backends, descriptors) is
/// collected by the endpoint instead.
#[derive(Clone)]
pub struct Metrics {
    pub(crate) connections: Family<ByListener, Counter>,
    pub(crate) current: Family<ByListener, Gauge>,
    backend_latency: LatencyFamily,
    /// The same, found by a region's name without building a label.
    latency_by_region: Arc<ArcSwap<HashMap<String, Histogram>>>,
    pub(crate) ejections: Counter,
    pub(crate) refused: Family<Refused, Counter>,
    closed: [Counter; Close::ALL.len()],
    pub(crate) connect_failures: Family<ByError, Counter>,
    pub(crate) retries: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) spliced_bytes: Counter,
    pub(crate) queue_waiting: Gauge,
    pub(crate) queue_wait: Histogram,
    pub(crate) held: Gauge,
    pub(crate) hold_time: Histogram,
    pub(crate) replica_on_primary: Family<ByListener, Counter>,
    pub(crate) role_changes: Family<ByApp, Counter>,
    pub(crate) disputed: Family<ByApp, Gauge>,
    pub(crate) accept_errors: Family<ByError, Counter>,
    pub(crate) checks: Family<ByResult, Counter>,
    pub(crate) log_dropped: Counter,
    table_reloads: Family<ByResult, Counter>,
    table_backends: Gauge,
    table_rejected_rows: Gauge,
    geo_reloads: Family<ByResult, Counter>,
    ready: Gauge,
}

impl Metrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry) -> Self {
        let latency: fn() -> Histogram = || Histogram::new(LATENCY_BUCKETS_MS);
        let bytes = Family::<ByDirection, Counter>::default();
        let closed = Family::<ByReason, Counter>::default();
        let metrics = Self {
            connections: Family::default(),
            current: Family::default(),
            backend_latency: LatencyFamily::new_with_constructor(latency),
            latency_by_region: Arc::default(),
            ejections: Counter::default(),
            refused: Family::default(),
            closed: Close::ALL.map(|close| closed.get_or_create_owned(&ByReason { reason: close.word() })),
            connect_failures: Family::default(),
            retries: Counter::default(),
            bytes_in: bytes.get_or_create_owned(&ByDirection { direction: "in" }),
            bytes_out: bytes.get_or_create_owned(&ByDirection { direction: "out" }),
            spliced_bytes: Counter::default(),
            queue_waiting: Gauge::default(),
            queue_wait: latency(),
            held: Gauge::default(),
            hold_time: latency(),
            replica_on_primary: Family::default(),
            role_changes: Family::default(),
            disputed: Family::default(),
            accept_errors: Family::default(),
            checks: Family::default(),
            log_dropped: Counter::default(),
            table_reloads: Family::default(),
            table_backends: Gauge::default(),
            table_rejected_rows: Gauge::default(),
            geo_reloads: Family::default(),
            ready: Gauge::default(),
        };
        let m = metrics.clone();
        registry.register(names::CONNECTIONS, "Clients accepted", m.connections);
        registry.register(names::CONNECTIONS_CURRENT, "Client connections open now", m.current);
        registry.register(names::BACKEND_LATENCY_MS, "Time to connect to a backend, in ms", m.backend_latency);
        registry.register(names::EJECTIONS, "Times a backend was ejected after failed connects", m.ejections);
        registry.register(names::REFUSED, "Clients turned away", m.refused);
        registry.register(names::CLOSED, "Connections that ended", closed);
        registry.register(names::CONNECT_FAILURES, "Connects to a backend that failed", m.connect_failures);
        registry.register(names::RETRIES, "Connects made again on another backend", m.retries);
        registry.register(names::BYTES, "Bytes relayed from (in) and to (out) clients", bytes);
        registry.register(names::SPLICED_BYTES, "Bytes relayed without passing user space", m.spliced_bytes);
        registry.register(names::QUEUE_WAITING, "Clients waiting for room", m.queue_waiting);
        registry.register(names::QUEUE_WAIT_MS, "How long admitted clients had waited, in ms", m.queue_wait);
        registry.register(names::HELD, "Clients waiting for a backend of the role they need", m.held);
        registry.register(names::HOLD_MS, "How long clients had waited for a backend of that role, in ms", m.hold_time);
        registry.register(
            names::REPLICA_ON_PRIMARY,
            "Clients of replicas that were served by the primary",
            m.replica_on_primary,
        );
        registry.register(names::ROLE_CHANGES, "Times an app had another primary, or none any more", m.role_changes);
        registry.register(names::DISPUTED, "1 while several backends of an app claim to be its primary", m.disputed);
        registry.register(names::ACCEPT_ERRORS, "Accepts that failed", m.accept_errors);
        registry.register(names::CHECKS, "Active checks made", m.checks);
        registry.register(names::CONNECTION_LOG_DROPPED, "Connection log lines lost", m.log_dropped);
        registry.register(names::TABLE_RELOADS, "Reloads of the routing table", m.table_reloads);
        registry.register(names::TABLE_BACKENDS, "Backends in the routing table", m.table_backends);
        registry.register(names::TABLE_REJECTED_ROWS, "Rows rejected in the last load", m.table_rejected_rows);
        registry.register(names::GEO_RELOADS, "Reloads of the geo table", m.geo_reloads);
        registry.register(names::READY, "1 while this POP is ready for clients", m.ready);
        metrics
    }

    /// A database answered the query that stands for a check, or did not.
    pub(crate) fn count_check(&self, passed: bool) {
        self.checks.get_or_create(&ByResult { result: if passed { "pass" } else { "fail" } }).inc();
    }

    pub(crate) fn connection_closed(&self, close: Close) {
        self.closed[close as usize - 1].inc();
    }

    pub(crate) fn backend_connected(&self, region: &str, millis: f64) {
        if let Some(histogram) = self.latency_by_region.load().get(region) {
            return histogram.observe(millis);
        }
        // The first connect to a region since it came into the table.
        let label = ByRegion { region: region.to_owned() };
        let histogram = self.backend_latency.get_or_create_owned(&label);
        histogram.observe(millis);
        self.latency_by_region.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.insert(region.to_owned(), histogram.clone());
            known
        });
    }

    /// A routing table was loaded and now serves.
    pub fn table_loaded(&self, backends: usize, rejected: usize) {
        self.table_reloads.get_or_create(&ByResult { result: "ok" }).inc();
        self.table_backends.set(i64::try_from(backends).unwrap_or(i64::MAX));
        self.table_rejected_rows.set(i64::try_from(rejected).unwrap_or(i64::MAX));
    }

    /// A routing table could not be loaded; the last good one serves on.
    pub fn table_failed(&self) {
        self.table_reloads.get_or_create(&ByResult { result: "error" }).inc();
    }

    /// Whether clients should be sent here, as the balancers in front are told.
    pub fn ready(&self, ready: bool) {
        self.ready.set(ready.into());
    }

    /// The geo table was replaced, or could not be.
    pub fn geo_reloaded(&self, ok: bool) {
        self.geo_reloads.get_or_create(&ByResult { result: if ok { "ok" } else { "error" } }).inc();
    }
}
