//! Where clients come in: one socket per core and listening address, and an accept that survives everything.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeproxy_overlay::{Acceptor, ListenSettings, Sockets, Stream};
use edgeproxy_route::Affinity;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use rustix::io::Errno;

use crate::close::Refusal;
use crate::metrics::{ByError, ByListener, Metrics, Refused};
use crate::pop::SharedTable;
use crate::queue::Queue;
use crate::settings::ListenerSettings;
use crate::socket::Socket;

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
    /// It offers a service to peers, which may end.
    pub(crate) is_published: bool,
    pub(crate) affinity: Affinity,
    /// Clients that wait for room.
    pub(crate) queue: Arc<Queue>,
    /// Clients that wait for somebody to have the role they need.
    pub(crate) held: Arc<Queue>,
    pub(crate) accepted: Counter,
    pub(crate) open: Gauge,
    metrics: Metrics,
}

impl Listener {
    pub(crate) fn new(
        settings: ListenerSettings,
        address: SocketAddr,
        table: SharedTable,
        is_published: bool,
        metrics: &Metrics,
    ) -> Self {
        let name = address.to_string();
        let label = ByListener { listener: name.clone() };
        Self {
            affinity: Affinity::new(settings.affinity_ttl, settings.affinity_capacity),
            queue: Arc::new(Queue::new(settings.queue, metrics.queue_waiting.clone())),
            held: Arc::new(Queue::new(settings.hold_limit, metrics.held.clone())),
            accepted: metrics.connections.get_or_create_owned(&label),
            open: metrics.current.get_or_create_owned(&label),
            metrics: metrics.clone(),
            settings,
            name,
            address,
            table,
            is_published,
        }
    }

    /// A client of replicas was served by the primary.
    pub(crate) fn count_replica_on_primary(&self) {
        self.metrics.replica_on_primary.get_or_create(&ByListener { listener: self.name.clone() }).inc();
    }

    pub(crate) fn count_refusal(&self, refusal: Refusal) {
        let label = Refused { listener: self.name.clone(), reason: refusal.word() };
        self.metrics.refused.get_or_create(&label).inc();
    }
}

/// Binds one socket per core to the address, in the network it belongs to.
///
/// # Errors
/// The address is taken (also by another process that shares ports the same way), or may not be bound.
pub(crate) fn bind(
    settings: &ListenerSettings,
    cores: usize,
    sockets: &Sockets,
) -> io::Result<(SocketAddr, Vec<Acceptor>)> {
    sockets.listen(&ListenSettings {
        address: settings.bind,
        shares: cores,
        backlog: BACKLOG,
        user_timeout: settings.user_timeout,
        interface: settings.interface.clone(),
    })
}

/// A core's own socket of a listener.
pub(crate) struct Door {
    pub(crate) listener: Arc<Listener>,
    /// `None` once no more clients are taken.
    acceptor: Option<Acceptor>,
    reserve: Reserve,
    /// Nobody is accepted before, for want of descriptors or memory.
    closed_until: Option<Instant>,
    /// Nobody was accepted since it was last closed: that has been told.
    told: bool,
}

impl Door {
    pub(crate) fn new(listener: Arc<Listener>, acceptor: Acceptor) -> Self {
        Self { listener, acceptor: Some(acceptor), reserve: Reserve::new(), closed_until: None, told: false }
    }

    pub(crate) fn acceptor(&self) -> Option<&Acceptor> {
        self.acceptor.as_ref()
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
    pub(crate) fn accept(&mut self, now: Instant) -> Result<Option<(Stream, SocketAddr)>, Errno> {
        let Some(acceptor) = &self.acceptor else { return Ok(None) };
        for attempt in 1.. {
            let error = match acceptor.accept() {
                Ok(client) => {
                    self.told = false;
                    return Ok(Some(client));
                }
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => error,
            };
            let kind = AcceptError::of(error);
            self.listener.metrics.accept_errors.get_or_create(&ByError { error: kind.word() }).inc();
            if kind == AcceptError::Descriptors && self.reserve.turn_away(acceptor) {
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
        self.acceptor = None;
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
    fn turn_away(&mut self, acceptor: &Acceptor) -> bool {
        drop(self.0.take());
        let client = acceptor.accept();
        let turned_away = client.is_ok();
        if let Ok((client, _)) = client {
            Socket::of(client).reset_on_close();
        }
        self.refill();
        turned_away
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::net::TcpStream;
    use std::task::Poll;

    use edgeproxy_overlay::packet::Sum;
    use edgeproxy_overlay::{Enclave, HEADER, LARGEST, LinkSettings, Queue, Tun, configure};

    use super::*;

    const SYN_ACK: u8 = 0x12;
    const RST_ACK: u8 = 0x14;

    /// Asks 10.50.0.1 for a connection by an interface, as a neighbour there does. Returns the flags of the answer.
    fn ask_by(queue: &Queue, from: [u8; 4], port: u16) -> u8 {
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
        packet.extend(from);
        packet.extend([10, 50, 0, 1]);
        let sum = Sum::ZERO.bytes(&packet).checksum();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend([0x30, 0x39]);
        packet.extend(port.to_be_bytes());
        packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
        let sum = Sum::ZERO.bytes(&packet[12..20]).bytes(&[0, 6, 0, 20]).bytes(&packet[20..]).checksum();
        packet[36..38].copy_from_slice(&sum.to_be_bytes());
        let header = [0; HEADER];
        assert!(matches!(queue.write_vectored(&[IoSlice::new(&header), IoSlice::new(&packet)]), Poll::Ready(Ok(_))));
        let (until, mut buffer) = (Instant::now() + Duration::from_secs(5), vec![0; LARGEST]);
        while Instant::now() < until {
            if let Poll::Ready(Ok(_)) = queue.read(&mut buffer)
                && (buffer[HEADER] >> 4, buffer[HEADER + 9]) == (4, 6)
            {
                return buffer[HEADER + 33];
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("no answer")
    }

    /// A host takes packets for any address of its own, by whatever interface they come.
    #[test]
    fn what_is_offered_by_one_interface_is_offered_by_no_other() {
        let Ok(enclave) = Enclave::start() else {
            println!("skipped: needs CAP_SYS_ADMIN");
            return;
        };
        let sockets = Sockets::Enclave(enclave);
        let [overlay, other] = ["10.50.0.1/24", "10.60.0.1/24"].map(|address| {
            let link = LinkSettings { addresses: vec![address.parse().unwrap()], mtu: 1420, routes: vec![] };
            let opened = sockets.within(move || {
                let tun = Tun::open(None, 1).unwrap();
                configure(tun.name(), &link).unwrap();
                (tun.name().to_owned(), tun.into_queues())
            });
            opened.unwrap()
        });
        for (interface, port, to_others) in [(None, 5432, SYN_ACK), (Some(overlay.0), 5433, RST_ACK)] {
            let address = SocketAddr::from(([10, 50, 0, 1], port));
            let settings = ListenerSettings { interface, ..ListenerSettings::at(address) };
            let (_, _doors) = bind(&settings, 1, &sockets).unwrap();
            assert_eq!(ask_by(&overlay.1[0], [10, 50, 0, 7], port), SYN_ACK);
            assert_eq!(ask_by(&other.1[0], [10, 60, 0, 7], port), to_others);
            // This machine itself is no neighbour.
            let connected = sockets.within(move || TcpStream::connect_timeout(&address, Duration::from_secs(5)));
            connected.unwrap().unwrap();
        }
    }
}
