//! What all clients know and do, and what became of their visits.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use edgeproxy_route::GeoTable;
use edgeproxy_world::{Census, Pop, within};
use tokio::time::sleep;

use crate::dice::Dice;
use crate::stage::Stage;
use crate::variable;
use crate::visit::Visit;

pub(crate) const MIB: u64 = 1024 * 1024;

/// What all clients know.
pub(crate) struct Load {
    pub(crate) pop: Arc<Pop>,
    pub(crate) over: AtomicBool,
    pub(crate) census: Census,
    /// The largest transfer. A short run has none that outlast it.
    pub(crate) largest: u64,
}

/// What a client does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Kind {
    Short,
    Chat,
    Bulk,
    Idle,
    HalfClose,
    Abort,
    Trickle,
    Proxied,
    BadHeader,
    Queued,
    Impatient,
}

/// As often as it stands there.
const MIX: [Kind; 20] = {
    use Kind::{Abort, BadHeader, Bulk, Chat, HalfClose, Idle, Proxied, Short, Trickle};
    [
        Short, Short, Short, Short, Short, Short, Chat, Chat, Chat, Bulk, Idle, Idle, HalfClose, HalfClose, Abort,
        Abort, Trickle, Proxied, Proxied, BadHeader,
    ]
};

/// A client that did not get what it should have.
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// Who had greeted it.
    pub(crate) backend: Option<String>,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) from: SystemTime,
    pub(crate) to: SystemTime,
    pub(crate) error: io::Error,
}

/// What became of them.
#[derive(Default)]
pub(crate) struct Visits {
    pub(crate) done: BTreeMap<Kind, u64>,
    pub(crate) bytes: u64,
    pub(crate) failures: Vec<Failure>,
}

impl Failure {
    pub(crate) fn told(&self) -> String {
        let Self { kind, backend, address, from, to, error } = self;
        let millis = to.duration_since(*from).unwrap_or_default().as_millis();
        let from = humantime::format_rfc3339_millis(*from);
        format!("{kind:?} at {from} for {millis} ms, client {address:?}, greeted by {backend:?}: {error}")
    }
}

impl Visits {
    pub(crate) fn add(&mut self, other: Self) {
        for (kind, count) in other.done {
            *self.done.entry(kind).or_default() += count;
        }
        self.bytes += other.bytes;
        self.failures.extend(other.failures);
    }

    pub(crate) fn told(&self) -> String {
        let total: u64 = self.done.values().sum();
        format!("{total} visits ({:?}), {} MiB sent and had back", self.done, self.bytes / MIB)
    }

    pub(crate) fn count(&self, kind: Kind) -> i64 {
        i64::try_from(self.done.get(&kind).copied().unwrap_or(0)).unwrap()
    }

    async fn make(&mut self, load: &Load, kind: Kind, dice: &mut Dice) {
        let from = SystemTime::now();
        let mut visit = Visit { kind, client: None, address: None, backend: None, bytes: 0 };
        let made = within("the visit", Duration::from_secs(120), visit.make(load, dice)).await;
        *self.done.entry(kind).or_default() += 1;
        self.bytes += visit.bytes;
        if let Err(error) = made {
            let Visit { kind, backend, address, .. } = visit;
            self.failures.push(Failure { kind, backend, address, from, to: SystemTime::now(), error });
        }
    }
}

impl Load {
    pub(crate) fn new(stage: &Stage) -> Self {
        let census = Census::take(&GeoTable::embedded());
        let largest = if variable("EDGEPROXY_SOAK_SECS").unwrap_or(8) < 60 { 8 * MIB } else { 50 * MIB };
        Self { pop: Arc::clone(&stage.pop), over: AtomicBool::new(false), census, largest }
    }

    pub(crate) async fn visit_again_and_again(self: Arc<Self>, mut dice: Dice) -> Visits {
        let mut visits = Visits::default();
        while !self.over.load(Relaxed) {
            let kind = dice.pick(&MIX);
            visits.make(&self, kind, &mut dice).await;
            sleep(dice.millis(0, 20)).await;
        }
        visits
    }

    pub(crate) async fn queue_again_and_again(self: Arc<Self>, mut dice: Dice) -> Visits {
        let mut visits = Visits::default();
        while !self.over.load(Relaxed) {
            let kind = if dice.below(8) == 0 { Kind::Impatient } else { Kind::Queued };
            visits.make(&self, kind, &mut dice).await;
        }
        visits
    }
}
