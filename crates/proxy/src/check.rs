//! Active checks: one task per backend asks, the pure state machine of `route` judges, the verdict lands in the
//! backend's state. The operator's `healthy` column is never written.

mod probe;
mod roles;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeproxy_postgres::{BoxFuture, Dialled, Monitor, MonitorSettings, Negotiation, Observed, Reach, Server, TlsMode};
use edgeproxy_route::{Backend, Health, Lag, Moment, Role, SlotKey, Table, Verdict};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::metrics::ByResult;
use crate::pop::Pop;
use crate::random::random;
use crate::settings::{CheckKind, CheckSettings, PostgresCheck};
use roles::{Judged, Member};

pub use probe::parse_status;

/// The checks of every backend in the table. Lives on the control-plane runtime.
pub struct Checks {
    pop: Arc<Pop>,
    watched: Mutex<HashMap<String, Watch>>,
    /// Apps whose databases are judged beside each other.
    judged: Mutex<HashMap<String, Judged>>,
}

/// One backend's checks.
struct Watch {
    subject: Arc<Subject>,
    task: JoinHandle<()>,
    /// The connection to a database.
    monitor: Option<Monitor>,
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
        Self { pop, watched: Mutex::default(), judged: Mutex::default() }
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
        self.judge(&watched);
    }

    /// Judges the databases of each app beside each other.
    fn judge(&self, watched: &HashMap<String, Watch>) {
        let mut members: HashMap<&str, Vec<Member>> = HashMap::new();
        for Watch { subject, monitor, .. } in watched.values() {
            let Some(monitor) = monitor else { continue };
            let member =
                Member { backend: Arc::clone(&subject.backend), key: subject.key, observed: monitor.observed() };
            members.entry(&subject.backend.app).or_default().push(member);
        }
        let mut judged = self.judged.lock();
        judged.retain(|app, _| members.contains_key(app.as_str()));
        for (app, mut members) in members {
            members.sort_unstable_by_key(|member| member.key.slot());
            if let Some(judged) = judged.get_mut(app) {
                judged.follow(&self.pop, app, members);
            }
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
        let states = Arc::clone(self.pop.table().states());
        states.set_down(key, false);
        states.set_role(key, Role::Unknown, Lag::default());
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
        let (monitor, heard) = match &check.kind {
            CheckKind::Postgres(postgres) => {
                let monitor = self.monitor(backend, &check, postgres);
                let mut judged = self.judged.lock();
                let judged = judged.entry(backend.app.clone()).or_insert_with(|| Judged::new(postgres, check.timeout));
                let heard = Heard { observed: monitor.observed(), news: Arc::clone(&judged.news) };
                (Some(monitor), Some(heard))
            }
            _ => (None, None),
        };
        let task = tokio::spawn(keep_checking(Arc::clone(&self.pop), Arc::clone(&subject), check, heard));
        Some(Watch { subject, task, monitor })
    }

    /// A connection to a database that is kept, and asked again and again.
    fn monitor(&self, backend: &Backend, check: &CheckSettings, postgres: &PostgresCheck) -> Monitor {
        let address = backend.addr.0;
        let port = check.port.unwrap_or(address.port());
        let mut server = Server::new(address.ip().to_string(), port)
            .user(&postgres.user)
            .database(&postgres.database)
            .region(&backend.region);
        if let Some(password) = &postgres.password {
            server = server.password(password.reveal());
        }
        if postgres.encrypted {
            server = server.tls(TlsMode::Require(Negotiation::Classic));
        }
        let settings = MonitorSettings { interval: check.pace.interval, deadline: check.timeout };
        Monitor::start(server, Arc::new(ByDialler(Arc::clone(&self.pop))), settings)
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

/// What a database says, and whom to tell.
struct Heard {
    observed: watch::Receiver<Observed>,
    news: Arc<Notify>,
}

impl Heard {
    /// The next answer of a database; nobody else says anything here.
    async fn next(heard: &mut Option<Self>) -> Option<Duration> {
        let Some(Self { observed, news }) = heard else { return std::future::pending().await };
        if observed.changed().await.is_err() {
            // Its monitor has ended, and this task is about to.
            return std::future::pending().await;
        }
        news.notify_one();
        observed.borrow_and_update().up().map(|observation| observation.round_trip)
    }
}

/// Databases are reached as clients' connections are: by the overlay, or by the host's network.
struct ByDialler(Arc<Pop>);

impl Reach for ByDialler {
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Dialled>> {
        Box::pin(async move {
            let ip = host.parse().map_err(|_| io::Error::other("a backend has an address, no name"))?;
            let stream = self.0.dialler.connect(SocketAddr::new(ip, port)).await.map_err(io::Error::other)?;
            Ok(Dialled { bytes: Box::new(stream), lookup: Duration::ZERO })
        })
    }
}

async fn keep_checking(pop: Arc<Pop>, subject: Arc<Subject>, check: CheckSettings, mut heard: Option<Heard>) {
    let states = Arc::clone(pop.table().states());
    let slot = subject.key.slot();
    let mut health = Health::new(&check.pace, pop.clock.now(), random());
    let asks = check.kind != CheckKind::None && heard.is_none();
    let (mut silent, mut was_down) = (false, false);
    loop {
        let check_due = asks.then(|| health.poll_timeout().0);
        // Of one that has fallen silent only a heartbeat is news.
        let silence_due = if silent { None } else { subject.silence_due() };
        let due = check_due.into_iter().chain(silence_due).min();
        let mut turned = None;
        tokio::select! {
            () = sleep_until(&pop, due) => {}
            () = subject.heard.notified() => {}
            answer = Heard::next(&mut heard) => {
                let now = pop.clock.now();
                if let Some(round_trip) = answer {
                    states.observe_round_trip(slot, millis(round_trip), now);
                }
                pop.metrics.count_check(answer.is_some());
                turned = health.handle_result(&check.pace, answer.is_some(), now, random());
            }
        }
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
            pop.evidence_changed();
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
