//! `/metrics`: what the data path counted, and what can be read of backends when it is asked for.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use edgeproxy_overlay::{Loss, Overlay};
use edgeproxy_proxy::{Pop, metric_names as names};
use edgeproxy_route::Role;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::MetricType;

use super::Api;
use super::health::reasons_against;
use super::problem::Problem;

/// Most backends that get a time series each. Above, sums by region: a scrape stays small, whatever the table.
const MOST_SHOWN_SINGLY: usize = 1_000;

const OPENMETRICS: &str = "application/openmetrics-text";

/// The text is the same for both kinds of reader: what OpenMetrics adds is a comment to older ones.
pub(super) async fn metrics(State(api): State<Arc<Api>>, headers: HeaderMap) -> Result<Response, Problem> {
    let mut body = String::new();
    api.running.metrics.ready(reasons_against(&api.running).is_empty());
    text::encode(&mut body, &api.running.registry).map_err(|error| Problem::internal(&error))?;
    let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let kind = if accepted.any(|accept| accept.contains(OPENMETRICS)) {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
}

/// Reads each backend's state when it is asked for.
pub(crate) struct BackendFigures {
    pop: Arc<Pop>,
}

/// Of one backend, or summed over several.
#[derive(Clone, Copy, Default)]
struct Figures {
    connections: i64,
    up: i64,
    ejected: i64,
}

type Gauge = (&'static str, &'static str, fn(&Figures) -> i64);

const GAUGES: [Gauge; 3] = [
    (names::BACKEND_CONNECTIONS, "Connections backends have open from this POP", |figures| figures.connections),
    (names::BACKEND_UP, "Backends that checks and heartbeats say are up", |figures| figures.up),
    (names::BACKEND_EJECTED, "Backends ejected after failed connects", |figures| figures.ejected),
];

impl BackendFigures {
    /// Of the backends in this data plane's table.
    pub(crate) fn new(pop: Arc<Pop>) -> Self {
        Self { pop }
    }

    /// Of the backends whose role is checked: databases, of which there are few.
    fn encode_roles(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let table = self.pop.table();
        let states = table.states();
        let roles = table.backends().map(|(backend, key)| (backend.id.as_str(), key.slot(), states.role(key.slot())));
        let known: Vec<_> = roles.filter(|(_, _, role)| *role != Role::Unknown).take(MOST_SHOWN_SINGLY).collect();
        let help = "1 for the role a backend has";
        let mut family = encoder.encode_descriptor(names::BACKEND_ROLE, help, None, MetricType::Gauge)?;
        for (id, _, role) in &known {
            family.encode_family(&[("backend", *id), ("role", role.word())])?.encode_gauge(&1_i64)?;
        }
        let help = "Bytes of the log that a replica lacks";
        let mut family = encoder.encode_descriptor(names::BACKEND_LAG_BYTES, help, None, MetricType::Gauge)?;
        for (id, slot, _) in &known {
            if let Some(bytes) = states.lag(*slot).bytes {
                let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
                family.encode_family(&[("backend", *id)])?.encode_gauge(&bytes)?;
            }
        }
        let help = "Age of what a replica applied last, in seconds; 0 once nothing is missing";
        let mut family = encoder.encode_descriptor(names::BACKEND_LAG_SECONDS, help, None, MetricType::Gauge)?;
        for (id, slot, _) in &known {
            if let Some(time) = states.lag(*slot).time {
                family.encode_family(&[("backend", *id)])?.encode_gauge(&time.as_secs_f64())?;
            }
        }
        Ok(())
    }

    /// The label's name, and for each of its values the figures.
    fn read(&self) -> (&'static str, Vec<(String, Figures)>) {
        let table = self.pop.table();
        let states = table.states();
        let singly = table.backends().len() <= MOST_SHOWN_SINGLY;
        let mut figures: BTreeMap<&str, Figures> = BTreeMap::new();
        for (backend, key) in table.backends() {
            let slot = key.slot();
            let label = if singly { &backend.id } else { &backend.region };
            let sum = figures.entry(label).or_default();
            sum.connections += i64::from(states.connections(slot));
            sum.up += i64::from(!states.is_down(slot));
            sum.ejected += i64::from(states.is_ejected(slot));
        }
        let figures = figures.into_iter().map(|(label, figures)| (label.to_owned(), figures)).collect();
        (if singly { "backend" } else { "region" }, figures)
    }
}

impl fmt::Debug for BackendFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BackendFigures")
    }
}

impl Collector for BackendFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (label, figures) = self.read();
        for (name, help, value) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (of, figures) in &figures {
                family.encode_family(&[(label, of.as_str())])?.encode_gauge(&value(figures))?;
            }
        }
        self.encode_roles(&mut encoder)
    }
}

/// Reads what the overlay counted when it is asked for.
pub(crate) struct OverlayFigures {
    overlay: Arc<Overlay>,
}

impl OverlayFigures {
    /// Of this overlay.
    pub(crate) fn new(overlay: Arc<Overlay>) -> Self {
        Self { overlay }
    }
}

impl fmt::Debug for OverlayFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OverlayFigures")
    }
}

impl Collector for OverlayFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let engine = &self.overlay.engine;
        if let Some(counters) = engine.counters() {
            let help = "Datagrams and packets of the overlay that were not passed on";
            let mut lost = encoder.encode_descriptor(names::OVERLAY_LOST, help, None, MetricType::Counter)?;
            for loss in Loss::ALL {
                let count = counters.get(loss);
                lost.encode_family(&[("reason", loss.word())])?
                    .encode_counter::<[(&str, &str); 0], _, u64>(&count, None)?;
            }
        }
        let help = "Peers that are registered";
        let mut peers = encoder.encode_descriptor(names::OVERLAY_PEERS, help, None, MetricType::Gauge)?;
        peers.encode_gauge(&i64::try_from(engine.peer_count()).unwrap_or(i64::MAX))
    }
}
