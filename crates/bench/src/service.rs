//! The service of one region: measures its database when it is asked to, over HTTP.
//!
//! ```text
//! GET /                    a trivial query: {"status":"ok"}
//! GET /api/rds/benchmark   measures, see the module `db`; one run at a time
//! GET /api/rds/health      whether the database answers
//! GET /api/info            who this is
//! GET /metrics, /healthz   figures; whether the process is alive
//! ```

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use edgeproxy_postgres::{Reach, RegionPool};
use parking_lot::Mutex;
use serde::Serialize;

use crate::Turns;
use crate::db::{Plan, RunId};

mod answer;
mod benchmark;
mod connections;
mod database;
mod health;
mod metrics;
mod settings;

pub use answer::{Answer, Percentiles, Phases};
pub use connections::{Connections, serve};
pub use settings::{Near, Settings};

use database::Database;
use metrics::Metrics;

/// How long a run that goes on keeps the process, once it is told to stop.
const SETTLE_WITHIN: Duration = Duration::from_secs(4);

/// The service of one region.
pub struct Service {
    settings: Settings,
    /// What is measured; `None`: DB_HOST is not set.
    database: Option<Arc<Database>>,
    /// What `/` asks, by DATABASE_URL; without, it asks the one that is measured.
    near: Option<RegionPool>,
    reach: Arc<dyn Reach>,
    turns: Turns,
    /// Runs whose rows may be left.
    owed: Mutex<Vec<RunId>>,
    metrics: Metrics,
}

/// A run that goes on.
#[derive(Debug)]
struct Running {
    run: RunId,
    plan: Plan,
    /// Rounds done.
    done: AtomicUsize,
}

/// What an error is answered by, as published.
#[derive(Serialize)]
struct Refusal {
    error: &'static str,
    region: String,
    db_host: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl Service {
    /// Begins to look for the database; where there is none yet, this goes on in the background. A run takes one of `turns`.
    pub fn start(settings: Settings, reach: Arc<dyn Reach>, turns: Turns) -> Arc<Self> {
        let database = settings.database.clone().map(|server| Arc::new(Database::new(server, Arc::clone(&reach))));
        let near = settings.near.clone().map(|near| RegionPool::new(near.region, &reach));
        match &database {
            Some(database) => {
                tokio::spawn(Arc::clone(database).find());
            }
            None => tracing::info!("DB_HOST is not set: database benchmark disabled"),
        }
        let (owed, metrics) = (Mutex::default(), Metrics::default());
        Arc::new(Self { settings, database, near, reach, turns, owed, metrics })
    }

    /// The endpoints.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/", get(health::trivial_query))
            .route("/api/rds/benchmark", get(benchmark::benchmark))
            .route("/api/rds/health", get(health::health))
            .route("/api/info", get(health::info))
            .route("/metrics", get(metrics::metrics))
            .route("/healthz", get(health::alive))
            .with_state(Arc::clone(self))
    }

    /// Ends the run that goes on, begins no other, and waits until its rows are removed: for as long as platforms wait
    /// before they kill.
    pub async fn settle(&self) {
        if !self.turns.settle(SETTLE_WITHIN).await {
            tracing::warn!("a run is cut off: its rows are removed once they are a day old");
        }
    }

    fn refusal(&self, error: &'static str, message: Option<String>) -> Refusal {
        Refusal { error, region: self.settings.region.clone(), db_host: self.settings.db_host(), message }
    }
}
