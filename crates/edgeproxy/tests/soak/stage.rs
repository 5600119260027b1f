//! The POP, its backends, and what happens to them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use edgeproxy_route::RawBackend;
use edgeproxy_world::{Backend, Behaviour, Pop, Site, row};
use tokio::time::sleep;

use crate::accounts::LogIndex;
use crate::dice::Dice;
use crate::load::Failure;

/// Region of each backend; its id is the same.
pub(crate) const REGIONS: [&str; 6] = ["gru", "iad", "fra", "cdg", "nrt", "sin"];
/// Backends that serve at any time, whatever happens to the others.
const ALWAYS_SERVING: usize = 2;
/// A backend that was mended counts as serving after this long, if the POP agrees.
const SETTLES_IN: Duration = Duration::from_secs(1);
/// What that backend takes.
pub(crate) const TIGHT_LIMIT: i64 = 3;

const TOML: &str = r#"
[proxy]
threads = 2
[routing]
poll = "500ms"
[log]
refusals_per_second = 1000000
[[listener]]
bind = "127.0.0.1:0"
app = "web"
affinity_ttl = "2s"
connect_attempts = 8
[[listener]]
bind = "127.0.0.1:0"
app = "web"
policy = "score"
affinity_ttl = "0s"
connect_attempts = 8
[[listener]]
bind = "127.0.0.1:0"
app = "web"
policy = "latency"
affinity_ttl = "0s"
connect_attempts = 8
[[listener]]
bind = "127.0.0.1:0"
app = "web"
affinity_ttl = "1s"
connect_attempts = 8
trust_proxy = ["127.0.0.0/8"]
[[listener]]
bind = "127.0.0.1:0"
app = "tight"
affinity_ttl = "0s"
queue = 1000
queue_timeout = "1m"
[[check]]
interval = "200ms"
timeout = "2s"
rise = 1
fall = 2
[[check]]
app = "tight"
kind = "none"
[outlier]
base_pause = "200ms"
max_pause = "1s"
"#;
/// Which of the listeners wants PROXY headers, and which has the queue.
pub(crate) const BEHIND_PROXY: usize = 3;
pub(crate) const TIGHT: usize = 4;

/// The POP, its backends, and what happens to them.
pub(crate) struct Stage {
    pub(crate) pop: Arc<Pop>,
    pub(crate) site: Site,
    pub(crate) backends: Vec<Disturbed>,
    pub(crate) dice: Dice,
    pub(crate) ticks: u64,
    pub(crate) deaths: Vec<Death>,
    pub(crate) edits: BTreeMap<&'static str, u32>,
}

/// A backend that is not left in peace.
pub(crate) struct Disturbed {
    pub(crate) backend: Backend,
    /// When it comes back to life.
    dead_until: Option<Instant>,
    /// When its row is mended.
    barred_until: Option<Instant>,
    mended: Instant,
}

/// Connections to this backend may break within this time.
pub(crate) struct Death {
    id: String,
    from: SystemTime,
    to: SystemTime,
}

impl Stage {
    pub(crate) async fn new(seed: u64) -> (Self, Backend) {
        let site = Site::new(Path::new(env!("CARGO_BIN_EXE_edgeproxy"))).unwrap();
        let mut backends = Vec::new();
        for region in REGIONS {
            let backend = Backend::start(region, Behaviour::Greet).unwrap();
            site.add_backend(region, &backend).unwrap();
            backends.push(Disturbed { backend, dead_until: None, barred_until: None, mended: Instant::now() });
        }
        let tight = Backend::start("tight", Behaviour::Greet).unwrap();
        let limits = RawBackend {
            app: Some("tight".to_owned()),
            soft_limit: Some(1),
            hard_limit: Some(TIGHT_LIMIT),
            ..row("tight", "fra", tight.address())
        };
        site.add(limits).unwrap();
        let pop = Arc::new(site.plan(TOML).descriptors(8192).start().await.unwrap());
        let dice = Dice::new(seed, 0);
        (Self { pop, site, backends, dice, ticks: 0, deaths: Vec::new(), edits: BTreeMap::new() }, tight)
    }

    /// A tenth of a second in which something may happen: something to the table once a second, a death now and then.
    pub(crate) async fn disturb(&mut self) {
        sleep(Duration::from_millis(100)).await;
        self.ticks += 1;
        self.mend(Instant::now());
        if self.ticks.is_multiple_of(10) {
            self.edit().await;
        }
        if self.dice.below(12) == 0
            && let Some(at) = self.may_disturb().await
        {
            let lasts = self.dice.millis(200, 4000);
            self.kill(at, lasts).await;
        }
    }

    /// One that may be disturbed: enough others serve, as we and the POP see it.
    async fn may_disturb(&mut self) -> Option<usize> {
        let (_, metrics) = self.pop.get("/metrics").await.unwrap();
        let is = |name: &str, id: &str, value: &str| {
            metrics.lines().any(|line| line == format!("{name}{{backend=\"{id}\"}} {value}"))
        };
        let serving: Vec<usize> = (0..self.backends.len())
            .filter(|&at| {
                let Disturbed { backend, dead_until, barred_until, mended } = &self.backends[at];
                dead_until.is_none()
                    && barred_until.is_none()
                    && mended.elapsed() > SETTLES_IN
                    && is("edge_backend_up", backend.id(), "1")
                    && is("edge_backend_ejected", backend.id(), "0")
            })
            .collect();
        (serving.len() > ALWAYS_SERVING).then(|| self.dice.pick(&serving))
    }

    async fn kill(&mut self, at: usize, lasts: Duration) {
        let disturbed = &mut self.backends[at];
        let from = SystemTime::now();
        disturbed.backend.stop().await;
        let id = disturbed.backend.id().to_owned();
        self.deaths.push(Death { id, from, to: SystemTime::now() });
        disturbed.dead_until = Some(Instant::now() + lasts);
    }

    /// As an operator and their programs would.
    async fn edit(&mut self) {
        let any = self.backends[usize::try_from(self.dice.below(6)).unwrap()].backend.id().to_owned();
        let (soft, hard) = (self.dice.between(1, 60), self.dice.between(200, 1000));
        let weight = self.dice.between(1, 5);
        let (what, sql) = match self.dice.below(8) {
            0 | 1 => ("limits", format!("UPDATE backends SET soft_limit={soft}, hard_limit={hard} WHERE id='{any}'")),
            2 => ("weight", format!("UPDATE backends SET weight={weight} WHERE id='{any}'")),
            3 => (
                "invalid row",
                format!(
                    "INSERT OR REPLACE INTO backends(id, app, region, wg_ip, port, healthy, weight, soft_limit, hard_limit) \
                     VALUES ('bad', 'web', 'fra', 'nowhere', {soft}, 1, 1, 1, 1)"
                ),
            ),
            4 => ("invalid row removed", "DELETE FROM backends WHERE id='bad'".to_owned()),
            _ => return self.bar().await,
        };
        self.sql(what, &sql);
    }

    /// Takes a backend out by its row, for a while: those connected to it must not notice.
    async fn bar(&mut self) {
        let Some(at) = self.may_disturb().await else { return };
        let id = self.backends[at].backend.id().to_owned();
        let (what, sql) = match self.dice.below(5) {
            0 => ("unhealthy", format!("UPDATE backends SET healthy=0 WHERE id='{id}'")),
            1 => ("weight 0", format!("UPDATE backends SET weight=0 WHERE id='{id}'")),
            2 => ("made invalid", format!("UPDATE backends SET port=99999 WHERE id='{id}'")),
            3 => ("marked deleted", format!("UPDATE backends SET deleted=1 WHERE id='{id}'")),
            _ => ("removed", format!("DELETE FROM backends WHERE id='{id}'")),
        };
        self.sql(what, &sql);
        let lasts = self.dice.millis(500, 4000);
        self.backends[at].barred_until = Some(Instant::now() + lasts);
    }

    fn sql(&mut self, what: &'static str, sql: &str) {
        self.site.sql(sql).unwrap();
        *self.edits.entry(what).or_default() += 1;
    }

    /// Brings back whose time has come.
    fn mend(&mut self, now: Instant) {
        for at in 0..self.backends.len() {
            let disturbed = &mut self.backends[at];
            if disturbed.dead_until.is_some_and(|until| until <= now) {
                disturbed.backend.resume().unwrap();
                (disturbed.dead_until, disturbed.mended) = (None, Instant::now());
            }
            if disturbed.barred_until.is_some_and(|until| until <= now) {
                let (id, port) = (disturbed.backend.id().to_owned(), disturbed.backend.address().port());
                let sql = format!(
                    "INSERT OR REPLACE INTO backends(id, app, region, wg_ip, port, healthy, weight, soft_limit, \
                     hard_limit, deleted) VALUES ('{id}', 'web', '{id}', '127.0.0.1', {port}, 1, 1, 20, 500, 0)"
                );
                self.sql("mended", &sql);
                let disturbed = &mut self.backends[at];
                (disturbed.barred_until, disturbed.mended) = (None, Instant::now());
            }
        }
    }

    pub(crate) async fn mend_all(&mut self) {
        let end_of_time = Instant::now() + Duration::from_secs(3600);
        self.mend(end_of_time);
        self.pop.until_count("edge_backend_up", &[], 7).await.unwrap();
    }

    /// How many failures are excused by the death of the client's backend, and those that are not.
    pub(crate) fn judge(&self, failures: &[Failure], log: &LogIndex) -> (usize, Vec<String>) {
        let mut excused = 0;
        let mut unexcused = Vec::new();
        for failure in failures {
            let line = log.find(failure);
            let backend = failure.backend.as_deref().or_else(|| line?["backend"].as_str());
            let dies = |death: &Death| {
                Some(death.id.as_str()) == backend && failure.from <= death.to && failure.to >= death.from
            };
            if self.deaths.iter().any(dies) {
                excused += 1;
            } else {
                unexcused.push(format!("{}; its log line: {line:?}", failure.told()));
            }
        }
        (excused, unexcused)
    }

    pub(crate) fn told(&self) -> String {
        format!("{} deaths of backends, changes of the table: {:?}", self.deaths.len(), self.edits)
    }
}
