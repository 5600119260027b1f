//! Metrics, health and the API, on one address of its own.
//!
//! The API keeps no table of its own: it writes to routing.db, as the command line and other programs do, and the
//! running table follows the file. What it shows is the table that serves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Uri;
use axum::middleware;
use edgeproxy_route::{Regions, Table};
use edgeproxy_store::{EditError, RoutingEditor};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use crate::running::Running;

mod acceptor;
mod allowance;
mod backend_fields;
mod backends;
mod caller;
mod connections;
mod cut_timer;
mod drain;
mod endpoints;
mod explanation;
mod figures;
mod guard;
mod health;
mod idempotency;
mod input;
mod openapi;
mod overlay;
mod page;
mod peer_fields;
mod peer_figures;
mod peers;
mod problem;
mod registration;
mod secret;

pub(crate) use figures::{BackendFigures, OverlayFigures};
pub(crate) use peer_figures::{GatewayFigures, PeerMetrics};

use caller::Token;
use cut_timer::CutTimers;
use endpoints::Endpoints;
use idempotency::KnownAnswers;
use problem::Problem;

/// Longest request body: a batch of 1,000 peers, each with all it can have, under 1 KiB.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// How long an answer to a write waits for the running table to show it. It takes some 20 ms; a table that cannot be
/// loaded must not hold the answer for ever, as the write itself is done.
const FOLLOW_WITHIN: Duration = Duration::from_secs(1);

/// How often is looked for answers to forget.
const FORGET_EVERY: Duration = Duration::from_secs(10);

/// What all endpoints share.
struct Api {
    running: Arc<Running>,
    /// What opens the API of the peers.
    tokens: Vec<Arc<Token>>,
    /// Answers to requests that carried a key, in case they are sent again.
    answers: KnownAnswers,
    /// Drains whose deadline is to come.
    cut_timers: CutTimers,
    /// One write at a time: SQLite makes a second writer poll for its turn, this makes it wait in line.
    writing: Mutex<()>,
}

/// Serves until the process ends.
pub(crate) async fn serve(socket: TcpListener, running: Arc<Running>) {
    let api = Arc::new(Api {
        tokens: Token::all(&running.config),
        running,
        answers: KnownAnswers::default(),
        cut_timers: CutTimers::default(),
        writing: Mutex::default(),
    });
    tokio::spawn(forget_answers(Arc::clone(&api)));
    acceptor::serve(socket, router(api)).await;
}

/// Answers are forgotten in their time also where nobody asks for anything any more: some hold keys.
async fn forget_answers(api: Arc<Api>) {
    loop {
        tokio::time::sleep(FORGET_EVERY).await;
        api.answers.forget_old(Instant::now());
    }
}

fn router(api: Arc<Api>) -> Router {
    endpoints()
        .into_router()
        .fallback(|uri: Uri| async move { Problem::no_such_path(&uri) })
        .method_not_allowed_fallback(|| async { Problem::wrong_method() })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), guard::admit))
        .with_state(api)
}

/// Every endpoint there is; `openapi.json` describes the same ones, by a test.
fn endpoints() -> Endpoints {
    Endpoints::default()
        .get("/healthz", health::alive)
        .get("/health", health::alive)
        .get("/readyz", health::ready)
        .get("/metrics", figures::metrics)
        .get("/api/v1/openapi.json", openapi::document)
        .get("/api/v1/backends", backends::list)
        .post("/api/v1/backends", backends::create)
        .get("/api/v1/backends/{id}", backends::show)
        .patch("/api/v1/backends/{id}", backends::change)
        .delete("/api/v1/backends/{id}", backends::remove)
        .post("/api/v1/backends/{id}/heartbeat", registration::heartbeat)
        .post("/api/v1/register", registration::register)
        .post("/api/v1/heartbeat/{id}", registration::older_heartbeat)
        .get("/api/v1/connections", connections::list)
        .delete("/api/v1/connections/{id}", connections::cut)
        .get("/api/v1/explain", explanation::explain)
        .get("/api/v1/overlay", overlay::show)
        .get("/api/v1/peers", peers::list)
        .post("/api/v1/peers", peers::create)
        .post("/api/v1/peers:batch", peers::create_batch)
        .post("/api/v1/peers:collect", peers::collect)
        .get("/api/v1/peers/{id}", peers::show)
        .delete("/api/v1/peers/{id}", peers::remove)
        .post("/api/v1/peers/{id}/rotate", peers::rotate)
        .post("/api/v1/drain", drain::drain)
}

impl Api {
    /// Makes a change to routing.db, off the control plane's thread as it waits for the disk.
    async fn edit<T: Send + 'static>(
        &self,
        change: impl FnOnce(&RoutingEditor) -> Result<T, EditError> + Send + 'static,
    ) -> Result<T, Problem> {
        let _turn = self.writing.lock().await;
        let routing = &self.running.config.routing;
        let (path, regions) = (routing.db.clone(), Regions::with(routing.regions.iter().cloned()));
        let done = off_thread(move || change(&RoutingEditor::open(&path)?.with_regions(regions))).await?;
        Ok(done?)
    }

    /// Waits until the table that serves shows a change that was made to the file, so that whoever was told of the
    /// change finds it in effect.
    async fn follow(&self, shows: impl Fn(&Table) -> bool) {
        let mut changes = self.running.table_changes();
        let shown = async {
            while !shows(&self.running.pop.table()) {
                if changes.changed().await.is_err() {
                    break;
                }
            }
        };
        if tokio::time::timeout(FOLLOW_WITHIN, shown).await.is_err() {
            tracing::warn!("a change made through the API is in the file but not yet in the running table");
        }
    }
}

/// Does a request to its end. The handler of a client that hangs up is dropped where it stands; a write has more than
/// one step, and must not be left between two.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(work).await.map_err(|error| Problem::internal(&error))?
}

/// Runs what blocks or takes long on a thread of its own; checks and heartbeats go on meanwhile.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Problem::internal(&error))
}
