//! What is counted of the peers that a gateway hands out. A peer of its own has no series: its figures are in the API.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use edgeproxy_gateway::{Figures, Gateway};
use edgeproxy_proxy::metric_names as names;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Most pools that get a time series each. Above, one for all of them.
const MOST_SHOWN_SINGLY: usize = 100;

/// A create is one flush to disk: some 50 us to some ms. In seconds.
const CREATE_BUCKETS: [f64; 14] =
    [50e-6, 100e-6, 200e-6, 350e-6, 500e-6, 750e-6, 1e-3, 2e-3, 5e-3, 10e-3, 30e-3, 100e-3, 300e-3, 1.0];

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

/// What requests about peers came to.
#[derive(Clone, Debug)]
pub(crate) struct PeerMetrics {
    create_seconds: Histogram,
    refusals: Family<ByReason, Counter>,
    created: Counter,
    removed: Counter,
    rotated: Counter,
}

impl Default for PeerMetrics {
    fn default() -> Self {
        Self {
            create_seconds: Histogram::new(CREATE_BUCKETS),
            refusals: Family::default(),
            created: Counter::default(),
            removed: Counter::default(),
            rotated: Counter::default(),
        }
    }
}

impl PeerMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "Time from a request for a peer to its answer, in seconds";
        registry.register(names::GATEWAY_CREATE_SECONDS, help, self.create_seconds.clone());
        registry.register(names::GATEWAY_REFUSALS, "Requests about peers that were not done", self.refusals.clone());
    }

    /// A request about peers has this answer after so long.
    pub(super) fn answered(&self, is_create: bool, status: StatusCode, took: Duration) {
        if status.is_client_error() || status.is_server_error() {
            return self.refused(status.as_u16());
        }
        if is_create {
            self.create_seconds.observe(took.as_secs_f64());
        }
    }

    /// A request, or one peer of a batch, was refused with this status.
    pub(super) fn refused(&self, status: u16) {
        self.refusals.get_or_create(&ByReason { reason: reason(status) }).inc();
    }

    pub(super) fn created(&self) {
        self.created.inc();
    }

    pub(super) fn removed(&self) {
        self.removed.inc();
    }

    pub(super) fn rotated(&self) {
        self.rotated.inc();
    }
}

/// One of a few words, whatever is asked.
fn reason(status: u16) -> &'static str {
    match status {
        401 => "token",
        403 => "scope",
        404 => "unknown",
        409 => "conflict",
        422 => "rule",
        429 => "rate",
        507 => "no_room",
        500..=599 => "fault",
        _ => "malformed",
    }
}

/// Reads how full a gateway is when it is asked for.
pub(crate) struct GatewayFigures {
    gateway: Arc<Gateway>,
    metrics: PeerMetrics,
}

impl GatewayFigures {
    /// Of this gateway, whose requests are counted there.
    pub(crate) fn new(gateway: Arc<Gateway>, metrics: &PeerMetrics) -> Self {
        Self { gateway, metrics: metrics.clone() }
    }
}

impl fmt::Debug for GatewayFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GatewayFigures")
    }
}

impl Collector for GatewayFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let figures = self.gateway.figures();
        let gauges = [
            (names::GATEWAY_PEERS, "Peers that are registered, awake or not", figures.peers),
            (names::GATEWAY_PEERS_AWAKE, "Registered peers with a session", figures.awake),
            (names::GATEWAY_ADDRESSES_RESTING, "Addresses that rest after their peer ended", figures.resting),
        ];
        for (name, help, value) in gauges {
            let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge.encode_gauge(&as_gauge(value))?;
        }
        let pools = pools(&figures);
        let help = "Addresses of a pool that are somebody's, the network's own, or rest";
        for (name, help, of) in [
            (names::GATEWAY_ADDRESSES, "Addresses of a pool", (|(_, size, _)| *size) as fn(&(String, _, _)) -> usize),
            (names::GATEWAY_ADDRESSES_TAKEN, help, |(_, _, taken)| *taken),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for pool in &pools {
                family.encode_family(&[("pool", pool.0.as_str())])?.encode_gauge(&as_gauge(of(pool)))?;
            }
        }
        let help = "Peers that were created, changed or ended";
        let mut changes = encoder.encode_descriptor(names::GATEWAY_CHANGES, help, None, MetricType::Counter)?;
        for (change, count) in [
            ("created", self.metrics.created.get()),
            ("removed", self.metrics.removed.get()),
            ("rotated", self.metrics.rotated.get()),
            ("expired", figures.expired),
            ("idle", figures.idled),
        ] {
            changes.encode_family(&[("change", change)])?.encode_counter::<[(&str, &str); 0], _, u64>(&count, None)?;
        }
        Ok(())
    }
}

/// Name, size and how many are taken.
fn pools(figures: &Figures) -> Vec<(String, usize, usize)> {
    let each = figures.pools.iter();
    if figures.pools.len() <= MOST_SHOWN_SINGLY {
        return each.map(|pool| (pool.network.to_string(), pool.size, pool.taken)).collect();
    }
    let sums = each.fold((0, 0), |(size, taken), pool| (size + pool.size, taken + pool.taken));
    vec![("all".to_owned(), sums.0, sums.1)]
}

fn as_gauge(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
