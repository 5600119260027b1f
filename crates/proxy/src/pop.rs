//! One machine's data plane as a whole: what all cores share, and how it is steered from outside.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use edgeproxy_route::{GeoTable, Table};
use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::close::Close;
use crate::connection_log::ConnectionLog;
use crate::core::{self, Concerns, Mailbox, Order};
use crate::dial::Dialler;
use crate::drain::{Drain, LOOK_EVERY, Phase};
use crate::listener::{self, Listener};
use crate::metrics::Metrics;
use crate::record::{LiveConnection, Record, connection_number};
use crate::relay::PIPE_DESCRIPTORS;
use crate::settings::{ListenerSettings, ProxySettings};

/// Descriptors left for everything that is no client connection, besides pipes: listeners, checks, admin, logs.
const RESERVED_DESCRIPTORS: u64 = 256;

/// A running data plane.
pub struct Pop {
    /// What the operator set.
    pub settings: ProxySettings,
    /// The clock all moments are of.
    pub clock: Clock,
    table: SharedTable,
    pub(crate) geo: ArcSwap<GeoTable>,
    pub(crate) metrics: Metrics,
    pub(crate) log: ConnectionLog,
    pub(crate) dialler: Dialler,
    /// How far a drain has got.
    pub drain: Drain,
    pub(crate) listeners: Vec<Arc<Listener>>,
    /// What other threads want of each core.
    pub(crate) cores: Vec<Arc<Mailbox>>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    open: AtomicUsize,
    max_connections: usize,
    next_id: AtomicU64,
    /// A data-plane thread ended without being told to.
    pub(crate) core_failed: Notify,
    /// Some listener has a queue: connections that end then look for waiting clients.
    queues: bool,
    /// How often a role or a verdict has changed: what failed before may succeed then.
    evidence: AtomicU64,
}

/// What a data plane is given besides its settings.
pub struct Supplies {
    /// The routing table that serves first.
    pub table: Arc<Table>,
    /// Where clients are.
    pub geo: Arc<GeoTable>,
    /// The clock all moments are of.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Metrics,
    /// Where a line per connection goes.
    pub log: ConnectionLog,
    /// Where sockets to backends come from.
    pub dialler: Dialler,
    /// Services beside the routing table.
    pub published: Vec<Published>,
}

/// A service whose backends are its own, whatever the routing table says.
pub struct Published {
    /// Where clients come in.
    pub listener: ListenerSettings,
    /// Its backends.
    pub table: SharedTable,
}

/// A table that serves until another takes its place.
#[derive(Clone)]
pub struct SharedTable(Arc<ArcSwap<Table>>);

impl SharedTable {
    /// Begins with this one.
    pub fn new(table: Arc<Table>) -> Self {
        Self(Arc::new(ArcSwap::new(table)))
    }

    /// The one that serves now.
    pub fn load(&self) -> Arc<Table> {
        self.0.load_full()
    }

    /// Serves by this one from now on.
    pub fn store(&self, table: Arc<Table>) {
        self.0.store(table);
    }
}

/// Why the data plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}{}", hint(error))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a data-plane thread: {0}")]
    Thread(#[from] io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another process listens there: stop it, or choose another address)",
        io::ErrorKind::PermissionDenied => {
            " (ports below 1024 need CAP_NET_BIND_SERVICE, or a lower net.ipv4.ip_unprivileged_port_start)"
        }
        io::ErrorKind::AddrNotAvailable => " (no interface of this machine has that address)",
        _ => "",
    }
}

impl Pop {
    /// Binds every listener and starts the cores.
    ///
    /// # Errors
    /// An address that cannot be bound; nothing runs then.
    pub fn start(settings: ProxySettings, supplies: Supplies) -> Result<Arc<Self>, StartError> {
        let Supplies { table, geo, clock, metrics, log, dialler, published } = supplies;
        let table = SharedTable::new(table);
        let cores = settings.threads.max(1);
        let mut listeners = Vec::new();
        let mut acceptors: Vec<Vec<_>> = (0..cores).map(|_| Vec::new()).collect();
        let routed = settings.listeners.iter().map(|listener| (listener, &table, false));
        let all = routed.chain(published.iter().map(|published| (&published.listener, &published.table, true)));
        for (listener, table, is_published) in all {
            let (address, bound) = listener::bind(listener, cores, &dialler.sockets_at(listener.bind))
                .map_err(|error| StartError::Bind { address: listener.bind, error })?;
            let listener = Arc::new(Listener::new(listener.clone(), address, table.clone(), is_published, &metrics));
            for (core, acceptor) in acceptors.iter_mut().zip(bound) {
                core.push((Arc::clone(&listener), acceptor));
            }
            listeners.push(listener);
        }
        let pop = Arc::new(Self {
            max_connections: max_connections(settings.max_connections, cores, dialler.descriptors_beside()),
            queues: listeners.iter().any(|listener: &Arc<Listener>| listener.settings.queue > 0),
            settings,
            clock,
            table,
            geo: ArcSwap::new(geo),
            metrics,
            log,
            dialler,
            drain: Drain::default(),
            listeners,
            cores: (0..cores).map(|_| Mailbox::new().map(Arc::new)).collect::<io::Result<_>>()?,
            threads: Mutex::default(),
            open: AtomicUsize::new(0),
            next_id: AtomicU64::new(first_id()),
            core_failed: Notify::new(),
            evidence: AtomicU64::new(0),
        });
        for (number, acceptors) in acceptors.into_iter().enumerate() {
            let thread = core::start(Arc::clone(&pop), number, acceptors)?;
            pop.threads.lock().push(thread);
        }
        Ok(pop)
    }

    /// The addresses listened on, with the ports the kernel chose where none was set.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|listener| listener.address).collect()
    }

    /// The table that serves now.
    pub fn table(&self) -> Arc<Table> {
        self.table.load()
    }

    /// Serves by this table from now on.
    pub fn replace_table(&self, table: Arc<Table>) {
        self.table.store(table);
        self.evidence_changed();
        self.slot_came_free();
    }

    /// The geo table that serves now.
    pub fn geo(&self) -> Arc<GeoTable> {
        self.geo.load_full()
    }

    /// Looks clients up in this table from now on.
    pub fn replace_geo(&self, geo: Arc<GeoTable>) {
        self.geo.store(geo);
    }

    /// Connections open now, those still being established included.
    pub fn open_connections(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Up to `limit` live connections, oldest first, after the one a listing ended with. Waits for every core.
    pub fn connections(&self, after: Option<u64>, limit: usize) -> Vec<LiveConnection> {
        let after = after.unwrap_or(0);
        let mut connections: Vec<LiveConnection> =
            self.ask(|reply| Order::List { after, limit, reply }).into_iter().flatten().collect();
        connections.sort_unstable_by_key(LiveConnection::cursor);
        connections.truncate(limit);
        connections
    }

    /// Cuts the connection with this id. Returns whether there was one.
    pub fn cut_connection(&self, id: &str) -> bool {
        let number = connection_number(&self.settings.region, id);
        number.is_some_and(|number| self.end(Close::Cut, move |record| record.id == number) > 0)
    }

    /// Cuts all connections to backends that `matches`. Returns how many there were.
    pub fn cut_backends(&self, matches: impl Fn(&edgeproxy_route::Backend) -> bool + Send + Sync + 'static) -> usize {
        self.end(Close::Cut, move |record| matches(&record.backend))
    }

    /// Cuts all connections to published services whose clients' sockets are in these networks, those still being
    /// established included. Returns how many there were. Looks at no others.
    pub fn cut_sources(&self, from: &[IpNet]) -> usize {
        let from: Arc<[IpNet]> = from.into();
        self.ask(|reply| Order::EndSources { from: Arc::clone(&from), reply }).into_iter().sum()
    }

    /// Ends all connections that are `concerned`, for this reason. Returns how many there were. Waits for every core.
    pub(crate) fn end(&self, close: Close, concerns: impl Fn(&Record) -> bool + Send + Sync + 'static) -> usize {
        let concerns: Concerns = Arc::new(concerns);
        self.ask(|reply| Order::End { concerns: Arc::clone(&concerns), close, reply }).into_iter().sum()
    }

    /// Gives every core an order and waits for the replies.
    fn ask<T>(&self, order: impl Fn(Sender<T>) -> Order) -> Vec<T> {
        let (sender, replies) = channel();
        for core in &self.cores {
            core.post(order(sender.clone()));
        }
        drop(sender);
        replies.iter().collect()
    }

    fn advance_drain(&self, to: Phase) {
        self.drain.advance(to);
        for core in &self.cores {
            core.post(Order::Drain);
        }
    }

    /// Resolves when a data-plane thread has failed, which it has logged. Its share of the clients is not served any
    /// more: only a new process repairs that.
    pub async fn failed(&self) {
        self.core_failed.notified().await;
    }

    /// Stops taking clients and waits for those that are there; at the deadline cuts the rest. Returns how many were cut.
    pub async fn drain(&self, within: Duration) -> usize {
        self.advance_drain(Phase::Unready);
        tokio::time::sleep(self.settings.drain_delay).await;
        self.advance_drain(Phase::Draining);
        let deadline = tokio::time::Instant::now() + within;
        while self.open_connections() > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.end(Close::DrainDeadline, |_| true)
    }

    /// Ends the cores, with a reset of whoever is still connected, and waits for the last log lines to be written.
    pub fn stop(&self) {
        self.advance_drain(Phase::Over);
        for thread in self.threads.lock().drain(..) {
            // A core that panicked has said so itself.
            let _ = thread.join();
        }
        self.log.close();
    }

    pub(crate) fn evidence(&self) -> u64 {
        self.evidence.load(Acquire)
    }

    /// Another table, role or verdict: clients that wait for one look again.
    pub(crate) fn evidence_changed(&self) {
        self.evidence.fetch_add(1, AcqRel);
        for listener in &self.listeners {
            listener.held.wake_head();
        }
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Relaxed)
    }

    /// Takes one of the connections this machine may have, if one is left.
    pub(crate) fn open_connection(self: &Arc<Self>, listener: &Arc<Listener>) -> Option<OpenConnection> {
        if self.open.fetch_add(1, Relaxed) >= self.max_connections {
            self.open.fetch_sub(1, Relaxed);
            return None;
        }
        listener.open.inc();
        Some(OpenConnection { pop: Arc::clone(self), listener: Arc::clone(listener) })
    }

    /// Lets waiting clients look whether a backend has room for them.
    pub(crate) fn slot_came_free(&self) {
        if self.queues {
            for listener in &self.listeners {
                listener.queue.wake_head();
            }
        }
    }
}

/// One of the connections this machine takes; counted until dropped.
pub(crate) struct OpenConnection {
    pop: Arc<Pop>,
    listener: Arc<Listener>,
}

impl OpenConnection {
    pub(crate) fn listener(&self) -> &Arc<Listener> {
        &self.listener
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.listener.open.dec();
        self.pop.open.fetch_sub(1, Relaxed);
    }
}

/// The operator's number, or what the descriptor limit leaves: two descriptors a connection, and one more for those that
/// an overlay's stack carries, of which there are `beside` at most.
fn max_connections(set: usize, cores: usize, beside: usize) -> usize {
    if set > 0 {
        return set;
    }
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let reserved = RESERVED_DESCRIPTORS + PIPE_DESCRIPTORS * cores as u64;
    connections_within(descriptors.saturating_sub(reserved), beside as u64)
}

fn connections_within(descriptors: u64, beside: u64) -> usize {
    let carried = (descriptors / 3).min(beside);
    usize::try_from(descriptors.saturating_sub(carried) / 2).unwrap_or(usize::MAX).max(16)
}

/// Ids go on where no earlier run of this machine was: milliseconds since 1970, and room for a million a millisecond.
fn first_id() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0) << 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_room_for_the_descriptors_of_a_stack() {
        assert_eq!(connections_within(20_000, 0), 10_000);
        assert_eq!(connections_within(20_000, 4096), 7952);
        // Where few are allowed, the stack may carry all of them.
        assert_eq!(connections_within(900, 4096), 300);
        assert_eq!(connections_within(0, 4096), 16);
    }
}
