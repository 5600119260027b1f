//! `/api/rds/benchmark`: one run at a time, uploads counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::Answer;
use super::database::Database;
use super::{Refusal, Running, Service};
use crate::db::{Plan, Record, RunId, Subject, measure};
use crate::sample::milliseconds;
use crate::turn::{Activity, NoTurn, Turn};

/// Runs whose rows are remembered to be left, at most; older ones are removed for their age.
const OWED_MOST: usize = 100;
/// Tells the region of whoever answered.
pub(super) const REGION_HEADER: HeaderName = HeaderName::from_static("x-fly-region");

/// What goes on, for somebody who has to wait.
#[derive(Serialize)]
struct Busy {
    #[serde(flatten)]
    refusal: Refusal,
    running: Value,
}

pub(super) async fn benchmark(
    State(service): State<Arc<Service>>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    let mut response = service.benchmark(&parameters).await;
    response.headers_mut().insert(REGION_HEADER, service.region_header());
    response
}

impl Service {
    pub(super) fn region_header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.settings.region).unwrap_or(HeaderValue::from_static("unknown"))
    }

    async fn benchmark(self: &Arc<Self>, parameters: &[(String, String)]) -> Response {
        let plan = match Plan::read(parameters) {
            Ok(plan) => plan,
            Err(error) => {
                let refusal = self.refusal("Bad parameter", Some(error.to_string()));
                return (StatusCode::BAD_REQUEST, Json(refusal)).into_response();
            }
        };
        if plan.near && self.settings.near.is_none() {
            let refusal = self.refusal("Bad parameter", Some("reads=near needs DATABASE_URL to be set".to_owned()));
            return (StatusCode::BAD_REQUEST, Json(refusal)).into_response();
        }
        let strict = plan.strict || self.settings.strict;
        let status = |strictly: StatusCode| if strict { strictly } else { StatusCode::OK };
        let Some(database) = self.database.clone() else {
            let refusal = self.refusal("Database not configured", None);
            return (status(StatusCode::SERVICE_UNAVAILABLE), Json(refusal)).into_response();
        };
        let running = Arc::new(Running { run: RunId::new(&self.settings.region), plan, done: AtomicUsize::new(0) });
        let turn = match self.turns.begin(Arc::clone(&running) as Arc<dyn Activity>) {
            Ok(turn) => turn,
            Err(NoTurn::Running(running)) => {
                let busy = Busy { refusal: self.refusal("A run is going on", None), running };
                return (StatusCode::CONFLICT, Json(busy)).into_response();
            }
            Err(NoTurn::Stopping) => {
                return (StatusCode::SERVICE_UNAVAILABLE, Json(self.refusal("Stopping", None))).into_response();
            }
        };
        // On its own: somebody who hangs up leaves no rows behind, and no second run beside the first.
        let run = tokio::spawn(Arc::clone(self).run(database, running, turn));
        match run.await {
            Ok(Ok(answer)) if answer.read_latencies.count() > 0 && answer.insert_latencies.count() > 0 => {
                Json(answer).into_response()
            }
            Ok(Ok(answer)) => (status(StatusCode::BAD_GATEWAY), Json(answer)).into_response(),
            Ok(Err(message)) => {
                let refusal = self.refusal("Database not configured", Some(message));
                (status(StatusCode::SERVICE_UNAVAILABLE), Json(refusal)).into_response()
            }
            Err(error) => {
                let refusal = self.refusal("Run ended", Some(error.to_string()));
                (StatusCode::INTERNAL_SERVER_ERROR, Json(refusal)).into_response()
            }
        }
    }

    /// Measures; the error tells that no connection was to be had at all.
    async fn run(
        self: Arc<Self>,
        database: Arc<Database>,
        running: Arc<Running>,
        turn: Turn,
    ) -> Result<Answer, String> {
        let Running { run, plan, done } = &*running;
        let owed = std::mem::take(&mut *self.owed.lock());
        let near = self.settings.near.as_ref().map(|near| &near.server).filter(|_| plan.near);
        let stop = turn.stop();
        let subject = Subject { server: &database.server, near, reach: &*self.reach, done, stop };
        let checkout = database.checkout().await;
        let record = measure(&subject, plan, run, &owed).await;
        self.remember(run, &record, owed);
        self.metrics.count(&record);
        if let (None, Some(reason)) = (&record.connect, &record.ended_early) {
            tracing::warn!(%run, reason, "benchmark without a database");
            return Err(reason.clone());
        }
        let mut answer = Answer::new(&self.settings.region, self.settings.db_host(), plan, run, record);
        answer.checkout_ms = checkout.map(milliseconds);
        answer.read_db = near.map(ToString::to_string);
        tracing::info!(%run, insert_avg_ms = answer.insert_avg_ms, read_avg_ms = answer.read_avg_ms, errors = ?answer.errors, "benchmark done");
        Ok(answer)
    }

    /// Keeps in mind which rows may be left: a statement that had no answer may still be carried out.
    fn remember(&self, run: &RunId, record: &Record, owed: Vec<RunId>) {
        let mut left = self.owed.lock();
        if record.cleanup.error.is_some() {
            left.extend(owed);
        }
        if record.connect.is_some() && (record.cleanup.error.is_some() || record.reconnects > 0) {
            left.push(run.clone());
        }
        let surplus = left.len().saturating_sub(OWED_MOST);
        left.drain(..surplus);
    }
}

impl Activity for Running {
    fn told(&self, since: SystemTime) -> Value {
        json!({
            "run": self.run,
            "since": humantime::format_rfc3339_seconds(since).to_string(),
            "mode": self.plan.mode,
            "iterations": self.plan.iterations,
            "done": self.rounds(),
        })
    }

    fn rounds(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }
}
