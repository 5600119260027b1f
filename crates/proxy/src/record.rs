//! What is known of one connection, from its backend's answer to its log line, and the list of those that are live.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
use std::task::Waker;
use std::time::Instant;

use edgeproxy_route::{Backend, ClientAddr, Country};
use parking_lot::Mutex;
use serde::Serialize;
use slab::Slab;

use crate::close::Close;
use crate::listener::Listener;

/// One established connection. Written by its core, read by anybody who lists connections.
pub(crate) struct Record {
    pub(crate) id: u64,
    pub(crate) listener: Arc<Listener>,
    pub(crate) client: ClientAddr,
    /// The socket's peer, where a PROXY header gave another client.
    pub(crate) via: Option<Box<std::net::SocketAddr>>,
    pub(crate) backend: Arc<Backend>,
    pub(crate) started: Instant,
    pub(crate) score: f32,
    pub(crate) queue_us: u32,
    pub(crate) connect_us: u32,
    pub(crate) country: Option<Country>,
    pub(crate) band: u8,
    pub(crate) attempts: u8,
    pub(crate) affine: bool,
    /// How somebody else wants it to end, as a [`Close`]; 0: nobody does.
    ordered: AtomicU8,
    /// Where it stands in the list of live connections.
    pub(crate) entry: AtomicU32,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    /// The task that relays it; none while it is parked.
    relaying: Mutex<Option<Waker>>,
}

/// The facts that are settled when a connection is established.
pub(crate) struct Facts {
    pub(crate) id: u64,
    pub(crate) listener: Arc<Listener>,
    pub(crate) client: ClientAddr,
    pub(crate) via: Option<std::net::SocketAddr>,
    pub(crate) backend: Arc<Backend>,
    pub(crate) started: Instant,
    pub(crate) score: f64,
    pub(crate) queue_us: u32,
    pub(crate) connect_us: u32,
    pub(crate) country: Option<Country>,
    pub(crate) band: u8,
    pub(crate) attempts: u8,
    pub(crate) affine: bool,
}

impl Record {
    #[allow(clippy::cast_possible_truncation, reason = "a score is shown, not compared, from here on")]
    pub(crate) fn new(facts: Facts) -> Self {
        Self {
            id: facts.id,
            listener: facts.listener,
            client: facts.client,
            via: facts.via.map(Box::new),
            backend: facts.backend,
            started: facts.started,
            score: facts.score as f32,
            queue_us: facts.queue_us,
            connect_us: facts.connect_us,
            country: facts.country,
            band: facts.band,
            attempts: facts.attempts,
            affine: facts.affine,
            ordered: AtomicU8::new(0),
            entry: AtomicU32::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            relaying: Mutex::new(None),
        }
    }

    /// Orders the connection to end for this reason. The first order counts.
    pub(crate) fn order(&self, close: Close) {
        let _ = self.ordered.compare_exchange(0, close as u8, Relaxed, Relaxed);
        if let Some(task) = self.relaying.lock().take() {
            task.wake();
        }
    }

    pub(crate) fn ordered(&self) -> Option<Close> {
        match self.ordered.load(Relaxed) {
            0 => None,
            value => Close::from_repr(value),
        }
    }

    /// This task relays the connection from now on.
    pub(crate) fn relayed_by(&self, task: &Waker) {
        *self.relaying.lock() = Some(task.clone());
    }

    /// No task relays it. (A kept waker would keep the whole task in memory.)
    pub(crate) fn relayed_by_nobody(&self) {
        *self.relaying.lock() = None;
    }

    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.bytes_in.load(Relaxed), self.bytes_out.load(Relaxed))
    }
}

/// The live connections of one core.
#[derive(Default)]
pub(crate) struct Live {
    records: Mutex<Slab<Arc<Record>>>,
}

impl Live {
    pub(crate) fn add(&self, record: &Arc<Record>) {
        let entry = self.records.lock().insert(Arc::clone(record));
        record.entry.store(u32::try_from(entry).expect("descriptors bound the list far below this"), Relaxed);
    }

    pub(crate) fn remove(&self, record: &Record) {
        self.records.lock().remove(record.entry.load(Relaxed) as usize);
    }

    pub(crate) fn for_each(&self, mut visit: impl FnMut(&Arc<Record>)) {
        for (_, record) in self.records.lock().iter() {
            visit(record);
        }
    }
}

/// One live connection, as the admin API shows it.
#[derive(Clone, Debug, Serialize)]
pub struct LiveConnection {
    /// `<pop>-<hex>`, as in the log.
    pub id: String,
    /// Where it came in.
    pub listener: String,
    /// Real client.
    pub client: String,
    /// Country of the client.
    pub country: Option<Country>,
    /// Backend's id.
    pub backend: String,
    /// Backend's region.
    pub region: String,
    /// Bytes from the client so far.
    pub bytes_in: u64,
    /// Bytes to the client so far.
    pub bytes_out: u64,
    /// Age in ms.
    pub age_ms: u64,
    /// Sort key of the list: the numeric part of the id.
    #[serde(skip)]
    pub(crate) number: u64,
}

impl LiveConnection {
    /// Where a listing that ended with this connection goes on.
    pub fn cursor(&self) -> u64 {
        self.number
    }

    pub(crate) fn of(record: &Record, pop: &str) -> Self {
        let (bytes_in, bytes_out) = record.bytes();
        Self {
            id: connection_id(pop, record.id),
            listener: record.listener.name.clone(),
            client: record.client.to_string(),
            country: record.country,
            backend: record.backend.id.clone(),
            region: record.backend.region.clone(),
            bytes_in,
            bytes_out,
            age_ms: u64::try_from(record.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            number: record.id,
        }
    }
}

pub(crate) fn connection_id(pop: &str, number: u64) -> String {
    format!("{pop}-{number:x}")
}
