//! A database, and whether it is there. One that is not is looked for until it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use edgeproxy_postgres::{Error, PoolSettings, Reach, Server, ServerPool};
use tokio::time::{sleep, timeout};

/// As published: at most 10 connections, 5 of them kept open, none older than five minutes.
const POOL: PoolSettings =
    PoolSettings { most_open: 10, kept_idle: 5, lifetime: Duration::from_secs(5 * 60), wait: Duration::from_secs(5) };
/// For a question whether it is there, a connect included.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Pauses between two looks: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Asked for nothing else than an answer.
const TRIVIAL: &str = "SELECT 1";

/// See [the module](self).
pub(super) struct Database {
    pub(super) server: Server,
    pool: ServerPool,
    is_up: AtomicBool,
}

impl Database {
    pub(super) fn new(server: Server, reach: Arc<dyn Reach>) -> Self {
        let pool = ServerPool::new(server.clone(), reach, POOL);
        Self { server, pool, is_up: AtomicBool::new(false) }
    }

    /// What the last question found.
    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// Looks for it until it answers.
    pub(super) async fn find(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        let server = &self.server;
        let mut told = false;
        loop {
            match self.ask().await {
                Ok(()) => {
                    tracing::info!(%server, "database connected");
                    return;
                }
                Err(message) if !told => {
                    told = true;
                    tracing::error!(%server, message, "database does not answer; trying on");
                }
                Err(message) => tracing::debug!(%server, message, "database still does not answer"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// How long it takes to get a connection that is open already; `None`: there is none.
    pub(super) async fn checkout(&self) -> Option<Duration> {
        let begun = Instant::now();
        self.pool.get().await.ok().map(|_| begun.elapsed())
    }

    /// Asks it for nothing. On a connection that turns out to be broken this costs the pool all of them, and is done once
    /// more: it can do no harm twice.
    pub(super) async fn ask(&self) -> Result<(), String> {
        let asked = timeout(ANSWER_WITHIN, async {
            if self.pool.get().await.map_err(said)?.simple_query(TRIVIAL).await.is_ok() {
                return Ok(());
            }
            self.pool.retire_all();
            let again = self.pool.get().await.map_err(said)?;
            again.simple_query(TRIVIAL).await.map(drop).map_err(|error| error.to_string())
        });
        let answer = asked.await.unwrap_or_else(|_| Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs())));
        self.is_up.store(answer.is_ok(), Ordering::Relaxed);
        answer
    }
}

fn said(error: Error) -> String {
    error.to_string()
}
