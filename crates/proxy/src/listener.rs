//! Where clients come in: one socket per core and listening address, and an accept that survives everything.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeproxy_overlay::Sockets;
use edgeproxy_route::Affinity;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::close::Refusal;
use crate::metrics::{ByError, ByListener, Metrics, Refused};
use crate::pop::SharedTable;
use crate::queue::Queue;

use crate::settings::ListenerSettings;
use crate::socket::reset_on_close;

/// Connections the kernel holds ready for us; it takes the smaller of this and net.core.somaxconn.
pub(crate) const BACKLOG: i32 = 65_535;
/// How long the accept loop pauses when neither descriptors nor memory are to be had.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(20);
/// Accepts that may fail one after the other before it pauses as well.
const FAILED_AT_ONCE: u32 = 32;

/// One listening address with what is remembered and counted for it, shared by all cores.
pub(crate) struct Listener {
    pub(crate) settings: ListenerSettings,
    /// Its address as text, with the port the kernel chose if none was set.
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) table: SharedTable,
    pub(crate) affinity: Affinity,
    pub(crate) queue: Arc<Queue>,
    pub(crate) accepted: Counter,
    pub(crate) open: Gauge,
    metrics: Metrics,
}

impl Listener {
    pub(crate) fn new(settings: ListenerSettings, address: SocketAddr, table: SharedTable, metrics: &Metrics) -> Self {
        let name = address.to_string();
        let label = ByListener { listener: name.clone() };
        Self {
            affinity: Affinity::new(settings.affinity_ttl, settings.affinity_capacity),
            queue: Arc::new(Queue::new(settings.queue, metrics.queue_waiting.clone())),
            accepted: metrics.connections.get_or_create_owned(&label),
            open: metrics.current.get_or_create_owned(&label),
            metrics: metrics.clone(),
            settings,
            name,
            address,
            table,
        }
    }

    pub(crate) fn count_refusal(&self, refusal: Refusal) {
        let label = Refused { listener: self.name.clone(), reason: refusal.word() };
        self.metrics.refused.get_or_create(&label).inc();
    }
}

/// Binds one socket per core to the address, in the network it belongs to. With port 0 all get the port the first was
/// given.
///
/// # Errors
/// The address is taken (also by another process that shares ports the same way), or may not be bound.
pub(crate) fn bind(
    settings: &ListenerSettings,
    cores: usize,
    sockets: &Sockets,
) -> io::Result<(SocketAddr, Vec<StdListener>)> {
    let settings = settings.clone();
    sockets.within(move || bind_here(&settings, cores))?
}

fn bind_here(settings: &ListenerSettings, cores: usize) -> io::Result<(SocketAddr, Vec<StdListener>)> {
    // Ports shared by SO_REUSEPORT can be joined by any process of the same user: without this look, a second copy
    // started by mistake would take half of the clients instead of failing.
    drop(take(settings, settings.bind, false)?);
    let mut address = settings.bind;
    let mut sockets = Vec::with_capacity(cores);
    for _ in 0..cores.max(1) {
        let socket = take(settings, address, true)?;
        socket.listen(BACKLOG)?;
        let socket = StdListener::from(socket);
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok((address, sockets))
}

/// A socket that has the address and does not listen yet.
fn take(settings: &ListenerSettings, address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Accepted sockets inherit all three, which spares each connection as many system calls.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(settings.user_timeout)?;
    socket.set_out_of_band_inline(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A core's own socket of a listener.
pub(crate) struct Door {
    pub(crate) listener: Arc<Listener>,
    /// `None` once no more clients are taken.
    socket: Option<OwnedFd>,
    reserve: Reserve,
    /// Nobody is accepted before, for want of descriptors or memory.
    closed_until: Option<Instant>,
    /// Nobody was accepted since it was last closed: that has been told.
    told: bool,
}

impl Door {
    pub(crate) fn new(listener: Arc<Listener>, socket: OwnedFd) -> Self {
        Self { listener, socket: Some(socket), reserve: Reserve::new(), closed_until: None, told: false }
    }

    pub(crate) fn socket(&self) -> Option<&OwnedFd> {
        self.socket.as_ref()
    }

    pub(crate) fn closed_until(&self) -> Option<Instant> {
        self.closed_until
    }

    /// The next client that waits, if any does.
    ///
    /// An error of one connection is no error of the listener; a shortage of descriptors turns the waiting client away
    /// with the reserve descriptor.
    ///
    /// # Errors
    /// Descriptors or memory are short: the door is closed for a while, so that the loop neither dies nor spins.
    pub(crate) fn accept(&mut self, now: Instant) -> Result<Option<(OwnedFd, SocketAddr)>, Errno> {
        let Some(socket) = &self.socket else { return Ok(None) };
        for attempt in 1.. {
            let error = match acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((client, Some(peer))) => match SocketAddr::try_from(peer) {
                    Ok(peer) => {
                        self.told = false;
                        return Ok(Some((client, peer)));
                    }
                    Err(error) => error,
                },
                Ok((_, None)) => Errno::NOTCONN,
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(error) => error,
            };
            let kind = AcceptError::of(error);
            self.listener.metrics.accept_errors.get_or_create(&ByError { error: kind.word() }).inc();
            if kind == AcceptError::Descriptors && self.reserve.turn_away(socket) {
                self.listener.accepted.inc();
                self.listener.count_refusal(Refusal::DescriptorsExhausted);
            }
            // What fails again and again is no error of one connection, whatever it is called.
            if kind != AcceptError::Connection || attempt >= FAILED_AT_ONCE {
                self.closed_until = Some(now + SHORTAGE_PAUSE);
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!(listener = self.listener.name, %error, "cannot accept; trying again and again");
                }
                return Err(error);
            }
        }
        Ok(None)
    }

    /// Ends the pause, if there was one and it is over.
    pub(crate) fn reopen(&mut self, now: Instant) -> bool {
        let over = self.closed_until.is_some_and(|until| now >= until);
        if over {
            self.closed_until = None;
            self.reserve.refill();
        }
        over
    }

    /// Takes no more clients.
    pub(crate) fn close(&mut self) {
        self.socket = None;
        self.closed_until = None;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AcceptError {
    Descriptors,
    Memory,
    /// The client was gone before we took it, or the network failed it.
    Connection,
}

impl AcceptError {
    fn of(error: Errno) -> Self {
        match error {
            Errno::MFILE | Errno::NFILE => Self::Descriptors,
            Errno::NOMEM | Errno::NOBUFS => Self::Memory,
            _ => Self::Connection,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::Memory => "memory",
            Self::Connection => "connection",
        }
    }
}

/// A descriptor kept for the moment when there is none: giving it up lets us accept a client just to turn it away,
/// instead of leaving it to wait for a connection that will not be served.
struct Reserve(Option<OwnedFd>);

impl Reserve {
    fn new() -> Self {
        let mut reserve = Self(None);
        reserve.refill();
        reserve
    }

    fn refill(&mut self) {
        if self.0.is_none() {
            self.0 = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).ok();
        }
    }

    /// Turns away one waiting client. Returns whether there was one.
    fn turn_away(&mut self, socket: &OwnedFd) -> bool {
        drop(self.0.take());
        let client = SockRef::from(socket).accept();
        let turned_away = client.is_ok();
        if let Ok((client, _)) = client {
            reset_on_close(&client);
        }
        self.refill();
        turned_away
    }
}
