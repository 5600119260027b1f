//! Figures for Prometheus.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Service;
use crate::db::Record;

/// Runs that ended.
const RUNS: &str = "edge_bench_runs";
/// Operations that failed, by SQLSTATE or kind.
const ERRORS: &str = "edge_bench_errors";
/// Rows that were removed after runs.
const ROWS_REMOVED: &str = "edge_bench_rows_removed";
/// 1 while a run goes on, of whichever kind.
const RUNNING: &str = "edge_bench_running";
/// Rounds that the run has done.
const ROUNDS: &str = "edge_bench_rounds";
/// 1 if the database answered the last question.
const DATABASE_UP: &str = "edge_bench_database_up";

const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Kind {
    kind: String,
}

/// What is counted.
pub(super) struct Metrics {
    registry: Mutex<Registry>,
    runs: Counter,
    errors: Family<Kind, Counter>,
    removed: Counter,
    running: Gauge,
    rounds: Gauge,
    database_up: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let (runs, errors, removed) = (Counter::default(), Family::default(), Counter::default());
        let (running, rounds, database_up) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register(RUNS, "Runs that ended", runs.clone());
        registry.register(ERRORS, "Operations that failed, by SQLSTATE or kind", errors.clone());
        registry.register(ROWS_REMOVED, "Rows removed after runs", removed.clone());
        registry.register(RUNNING, "1 while a run goes on", running.clone());
        registry.register(ROUNDS, "Rounds that the run has done", rounds.clone());
        registry.register(DATABASE_UP, "1 if the database answered the last question", database_up.clone());
        Self { registry: Mutex::new(registry), runs, errors, removed, running, rounds, database_up }
    }
}

impl Metrics {
    pub(super) fn count(&self, record: &Record) {
        self.runs.inc();
        self.removed.inc_by(record.cleanup.deleted + record.cleanup.leftovers);
        for (kind, count) in &record.errors {
            self.errors.get_or_create(&Kind { kind: kind.clone() }).inc_by(u64::try_from(*count).unwrap_or(u64::MAX));
        }
    }
}

pub(super) async fn metrics(State(service): State<Arc<Service>>) -> Response {
    let metrics = &service.metrics;
    let rounds = service.turns.rounds();
    metrics.running.set(i64::from(rounds.is_some()));
    metrics.rounds.set(rounds.and_then(|rounds| i64::try_from(rounds).ok()).unwrap_or(0));
    metrics.database_up.set(i64::from(service.database.as_ref().is_some_and(|database| database.is_up())));
    let mut body = String::new();
    match text::encode(&mut body, &metrics.registry.lock()) {
        Ok(()) => ([(CONTENT_TYPE, CONTENT)], body).into_response(),
        Err(error) => {
            let mut body = String::new();
            // Writing to a string does not fail.
            let _ = write!(body, "{error}");
            (StatusCode::INTERNAL_SERVER_ERROR, body).into_response()
        }
    }
}
