//! Which database of an app is its primary, and which replicas are fresh. What one server says of itself proves
//! nothing: all databases of an app are judged beside each other, by the pure rules of the `postgres` crate, and what
//! comes of it lands in each backend's state. Sessions that are no longer where they belong are closed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeproxy_postgres::{Judge, Limits, Observed, Standing, Why};
use edgeproxy_route::{Backend, BackendAddr, Lag, Role, SlotKey, Wanted};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::close::Close;
use crate::metrics::ByApp;
use crate::pop::Pop;
use crate::settings::PostgresCheck;

/// Without news it is judged this often all the same: what was seen grows old.
const JUDGE_EVERY: Duration = Duration::from_millis(500);
/// A database that is watched.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) backend: Arc<Backend>,
    pub(super) key: SlotKey,
    pub(super) observed: watch::Receiver<Observed>,
}

/// One app's databases.
pub(super) struct Judged {
    /// Rung when one of them was heard.
    pub(super) news: Arc<Notify>,
    /// What was found before, whoever has come and gone since.
    judge: Arc<Mutex<Judge<String>>>,
    /// Whoever has not said anything by then, counted from the first of them, is out.
    patience: Duration,
    hear_all_until: Instant,
    members: Vec<Member>,
    task: Option<JoinHandle<()>>,
}

impl Judged {
    /// `timeout` is what one answer may take.
    pub(super) fn new(check: &PostgresCheck, timeout: Duration) -> Self {
        let judge = Judge::new(Limits {
            lag_bytes: check.max_lag_bytes.unwrap_or(u64::MAX),
            lag_time: check.max_lag.unwrap_or(Duration::MAX),
        });
        Self {
            news: Arc::default(),
            judge: Arc::new(Mutex::new(judge)),
            patience: timeout * 2,
            hear_all_until: Instant::now(),
            members: Vec::new(),
            task: None,
        }
    }

    /// Judges these from now on.
    pub(super) fn follow(&mut self, pop: &Arc<Pop>, app: &str, members: Vec<Member>) {
        // One that has moved is the same backend, and watched anew.
        let same =
            |(one, other): (&Member, &Member)| one.key == other.key && one.observed.same_channel(&other.observed);
        if self.task.is_some() && members.len() == self.members.len() && members.iter().zip(&self.members).all(same) {
            return;
        }
        // Whoever answers first could be a primary of long ago, or a primary beside replicas that are about to answer.
        if self.members.is_empty() {
            self.hear_all_until = Instant::now() + self.patience;
        }
        let hear_all = self.hear_all_until.saturating_duration_since(Instant::now());
        self.members.clone_from(&members);
        self.stop();
        let court = Court {
            pop: Arc::clone(pop),
            app: app.to_owned(),
            members,
            judge: Arc::clone(&self.judge),
            told_disputed: false,
            is_new: true,
        };
        self.task = Some(tokio::spawn(court.keep_judging(Arc::clone(&self.news), hear_all)));
    }

    fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Drop for Judged {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Judges the databases of one app, again and again.
struct Court {
    pop: Arc<Pop>,
    app: String,
    members: Vec<Member>,
    judge: Arc<Mutex<Judge<String>>>,
    told_disputed: bool,
    /// It has not judged yet.
    is_new: bool,
}

impl Court {
    async fn keep_judging(mut self, news: Arc<Notify>, hear_all: Duration) {
        if !hear_all.is_zero() {
            let all = async {
                while self.members.iter().any(|member| !member.observed.has_changed().unwrap_or(true)) {
                    news.notified().await;
                }
            };
            // In time or not, it begins then.
            let _ = tokio::time::timeout(hear_all, all).await;
        }
        loop {
            self.judge().await;
            // In time or not, there is something to judge.
            let _ = tokio::time::timeout(JUDGE_EVERY, news.notified()).await;
        }
    }

    async fn judge(&mut self) {
        let found = self.find();
        let states = Arc::clone(self.pop.table().states());
        let (mut changed, is_new) = (false, std::mem::take(&mut self.is_new));
        for (member, (role, lag)) in self.members.iter().zip(&found) {
            let was = states.role(member.key.slot());
            states.set_role(member.key, *role, *lag);
            if was != *role {
                changed = true;
                let (backend, app) = (&member.backend.id, &self.app);
                tracing::warn!(backend, app, was = was.word(), role = role.word(), "role changed");
                if was == Role::Primary || *role == Role::Primary {
                    self.pop.metrics.role_changes.get_or_create(&ByApp { app: app.clone() }).inc();
                }
            }
        }
        self.tell_dispute(found.iter().any(|(role, _)| *role == Role::Disputed));
        if changed {
            self.tell_former(&found);
            self.pop.evidence_changed();
        }
        // Somebody may have been taken away, or have moved, and left sessions behind.
        if changed || is_new {
            self.close_sessions(&found).await;
        }
    }

    /// The role and the lag of each, in their order.
    fn find(&self) -> Vec<(Role, Lag)> {
        let observed = |member: &Member| (member.backend.id.clone(), Observed::clone(&member.observed.borrow()));
        let observed: Vec<(String, Observed)> = self.members.iter().map(observed).collect();
        let verdict = self.judge.lock().judge(&observed, Instant::now());
        verdict.standings.into_iter().map(role_and_lag).collect()
    }

    /// A server that is former for no reason is so because of one that was promoted by mistake: that one has to go.
    fn tell_former(&self, found: &[(Role, Lag)]) {
        if found.iter().any(|(role, _)| *role == Role::Former) {
            let mut seen_on_it = self.judge.lock().witnesses();
            seen_on_it.sort_unstable();
            let seen_on_it = seen_on_it.join(", ");
            tracing::warn!(
                app = self.app,
                seen_on_it,
                "a younger timeline is believed in while these are in the table"
            );
        }
    }

    fn tell_dispute(&mut self, disputed: bool) {
        self.pop.metrics.disputed.get_or_create(&ByApp { app: self.app.clone() }).set(disputed.into());
        if disputed && !self.told_disputed {
            tracing::error!(
                app = self.app,
                "several databases claim to be the primary, on one timeline: none of them is served to clients of the \
                 primary until all but one are stopped"
            );
        }
        self.told_disputed = disputed;
    }

    /// Closes sessions of listeners for the primary to whoever is known not to be it, and sessions on stale replicas
    /// where the listener says so. Whoever cannot be reached, or was taken away, may still be the primary, as long as no
    /// other is.
    async fn close_sessions(&self, found: &[(Role, Lag)]) {
        let in_role = |is: &dyn Fn(Role) -> bool| {
            let members = self.members.iter().zip(found).filter(|(_, (role, _))| is(*role));
            Servers(members.map(|(member, _)| (member.backend.id.clone(), member.backend.addr)).collect())
        };
        let primary = in_role(&|role| role == Role::Primary);
        let deposed = in_role(&|role| !matches!(role, Role::Primary | Role::Unknown));
        let stale = in_role(&|role| matches!(role, Role::Behind | Role::Severed | Role::Disputed | Role::Former));

        let of_app = |app: &Option<String>, of: &str| app.as_ref().is_none_or(|app| app == of);
        let mut listeners = self.pop.listeners.iter().map(|listener| &listener.settings);
        let any_for_primary =
            listeners.clone().any(|settings| of_app(&settings.app, &self.app) && settings.wanted == Wanted::Primary);
        let any_closes_stale = listeners.any(|settings| of_app(&settings.app, &self.app) && settings.close_stale);
        let close_former = any_for_primary && !(primary.0.is_empty() && deposed.0.is_empty());
        let close_stale = any_closes_stale && !stale.0.is_empty();
        if !close_former && !close_stale {
            return;
        }

        let (pop, app) = (Arc::clone(&self.pop), self.app.clone());
        // It waits for every core.
        let closing = tokio::task::spawn_blocking(move || {
            let (mut former_ended, mut stale_ended) = (0, 0);
            if close_former {
                let app = app.clone();
                former_ended = pop.end(Close::RoleChange, move |record| {
                    let backend = &record.backend;
                    let elsewhere = if primary.0.is_empty() { deposed.have(backend) } else { !primary.have(backend) };
                    record.listener.settings.wanted == Wanted::Primary && backend.app == app && elsewhere
                });
            }
            if close_stale {
                let app = app.clone();
                stale_ended = pop.end(Close::StaleReplica, move |record| {
                    record.listener.settings.close_stale && record.backend.app == app && stale.have(&record.backend)
                });
            }
            if former_ended + stale_ended > 0 {
                tracing::warn!(app, former = former_ended, stale = stale_ended, "sessions closed as roles changed");
            }
        });
        // It fails only as the process ends.
        let _ = closing.await;
    }
}

/// Some of the databases, and where they are: one that has moved is another.
struct Servers(HashMap<String, BackendAddr>);

impl Servers {
    fn have(&self, backend: &Backend) -> bool {
        self.0.get(&backend.id) == Some(&backend.addr)
    }
}

fn role_and_lag(standing: Standing) -> (Role, Lag) {
    let known = |lag: edgeproxy_postgres::Lag| Lag { bytes: Some(lag.bytes), time: Some(lag.time) };
    match standing {
        Standing::Primary => (Role::Primary, Lag::default()),
        Standing::Claimant => (Role::Disputed, Lag::default()),
        Standing::FormerPrimary => (Role::Former, Lag::default()),
        Standing::Fresh(lag) => (Role::Replica, known(lag)),
        Standing::Stale(Why::Severed | Why::Timeline, lag) => (Role::Severed, lag.map(known).unwrap_or_default()),
        Standing::Stale(Why::Behind | Why::Unknown, lag) => (Role::Behind, lag.map(known).unwrap_or_default()),
        Standing::Down => (Role::Unknown, Lag::default()),
    }
}
