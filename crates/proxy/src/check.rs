//! Active checks: one task per backend asks, the pure state machine of `route` judges, the verdict lands in the
//! backend's state. The operator's `healthy` column is never written.

mod probe;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeproxy_route::{Backend, Health, Moment, SlotKey, Table, Verdict};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::metrics::ByResult;
use crate::pop::Pop;
use crate::random::random;
use crate::settings::{CheckKind, CheckSettings};

pub use probe::parse_status;

/// The checks of every backend in the table. Lives on the control-plane runtime.
pub struct Checks {
    pop: Arc<Pop>,
    watched: Mutex<HashMap<String, Watch>>,
}

/// One backend's checks.
struct Watch {
    subject: Arc<Subject>,
    task: JoinHandle<()>,
}

struct Subject {
    backend: Arc<Backend>,
    key: SlotKey,
    last_heartbeat: Mutex<Moment>,
    /// A heartbeat has come.
    heard: Notify,
}

impl Checks {
    /// No checks yet; [`Self::follow`] starts them.
    pub fn new(pop: Arc<Pop>) -> Self {
        Self { pop, watched: Mutex::default() }
    }

    /// Checks exactly the backends of this table. Those that have not moved keep their verdict and pace.
    ///
    /// Must be called within a runtime.
    pub fn follow(&self, table: &Table) {
        let mut watched = self.watched.lock();
        let mut before = std::mem::take(&mut *watched);
        for (backend, key) in table.backends() {
            let kept = before.remove(&backend.id).filter(|watch| watch.covers(backend, key));
            let watch = kept.or_else(|| self.watch(backend, key));
            if let Some(watch) = watch {
                watched.insert(backend.id.clone(), watch);
            }
        }
        for gone in before.into_values() {
            gone.task.abort();
        }
    }

    /// A self-registered backend says that it is there. `false`: no such backend, or none that was expected to say so.
    pub fn heartbeat(&self, id: &str) -> bool {
        match self.watched.lock().get(id) {
            Some(watch) if watch.subject.backend.heartbeat_secs.is_some() => {
                *watch.subject.last_heartbeat.lock() = self.pop.clock.now();
                watch.subject.heard.notify_one();
                true
            }
            _ => false,
        }
    }

    fn watch(&self, backend: &Arc<Backend>, key: SlotKey) -> Option<Watch> {
        let check = self.settings_for(&backend.app);
        self.pop.table().states().set_down(key, false);
        if check.kind == CheckKind::None && backend.heartbeat_secs.is_none() {
            return None;
        }
        let subject = Arc::new(Subject {
            backend: Arc::clone(backend),
            key,
            // A restart of ours is no fault of theirs: each has a whole period to say that it is there.
            last_heartbeat: Mutex::new(self.pop.clock.now()),
            heard: Notify::new(),
        });
        let task = tokio::spawn(keep_checking(Arc::clone(&self.pop), Arc::clone(&subject), check));
        Some(Watch { subject, task })
    }

    fn settings_for(&self, app: &str) -> CheckSettings {
        let checks = &self.pop.settings.checks;
        checks
            .iter()
            .find(|check| check.app.as_deref() == Some(app))
            .or_else(|| checks.iter().find(|check| check.app.is_none()))
            .cloned()
            .unwrap_or(CheckSettings { kind: CheckKind::None, ..CheckSettings::default() })
    }
}

impl Watch {
    fn covers(&self, backend: &Backend, key: SlotKey) -> bool {
        let known = &self.subject.backend;
        let same = self.subject.key == key
            && known.addr == backend.addr
            && known.app == backend.app
            && known.heartbeat_secs == backend.heartbeat_secs;
        if !same {
            self.task.abort();
        }
        same
    }
}

async fn keep_checking(pop: Arc<Pop>, subject: Arc<Subject>, check: CheckSettings) {
    let states = Arc::clone(pop.table().states());
    let slot = subject.key.slot();
    let mut health = Health::new(&check.pace, pop.clock.now(), random());
    let asks = check.kind != CheckKind::None;
    let (mut silent, mut was_down) = (false, false);
    loop {
        let check_due = asks.then(|| health.poll_timeout().0);
        // Of one that has fallen silent only a heartbeat is news.
        let silence_due = if silent { None } else { subject.silence_due() };
        let due = check_due.into_iter().chain(silence_due).min();
        tokio::select! {
            () = sleep_until(&pop, due) => {}
            () = subject.heard.notified() => {}
        }
        let mut turned = None;
        if check_due.is_some_and(|due| due <= pop.clock.now()) {
            let started = Instant::now();
            let outcome = probe::probe(&check, subject.backend.addr, &pop.dialler).await;
            let now = pop.clock.now();
            let passed = match outcome {
                Ok(connect) => {
                    states.observe_round_trip(slot, millis(connect), now);
                    Some(true)
                }
                Err(error) => {
                    tracing::debug!(backend = subject.backend.id, %error, took = ?started.elapsed(), "check failed");
                    error.blames_backend().then_some(false)
                }
            };
            let result = match passed {
                Some(true) => "pass",
                Some(false) => "fail",
                None => "none",
            };
            pop.metrics.checks.get_or_create(&ByResult { result }).inc();
            match passed {
                Some(passed) => turned = health.handle_result(&check.pace, passed, now, random()),
                // A shortage of our own says nothing of the backend.
                None => health.handle_nothing(&check.pace, now, random()),
            }
        }
        silent = subject.silence_due().is_some_and(|due| due <= pop.clock.now());
        let down = silent || health.verdict() == Verdict::Down;
        if down != was_down {
            states.set_down(subject.key, down);
            was_down = down;
            if silent {
                tracing::warn!(backend = subject.backend.id, "no heartbeat in time");
            }
            pop.slot_came_free();
        }
        // Told once it holds.
        if let Some(verdict) = turned {
            tracing::warn!(backend = subject.backend.id, addr = %subject.backend.addr, ?verdict, "check verdict turned");
        }
    }
}

impl Subject {
    /// When it counts as down unless it is heard until then; `None`: it need not be heard.
    fn silence_due(&self) -> Option<Moment> {
        let period = Duration::from_secs(self.backend.heartbeat_secs?.into());
        Some(self.last_heartbeat.lock().after(period))
    }
}

async fn sleep_until(pop: &Pop, due: Option<Moment>) {
    match due {
        Some(due) => tokio::time::sleep(due.since(pop.clock.now())).await,
        None => std::future::pending().await,
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a round trip needs no more than 24 bits")]
fn millis(duration: Duration) -> f32 {
    duration.as_secs_f64() as f32 * 1000.0
}
