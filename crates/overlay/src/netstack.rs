//! TCP inside the overlay without the kernel: a stack in a thread of its own, for hosts that allow neither an interface
//! nor a user namespace.
//!
//! ```text
//! worker  <- queue: pair of SEQPACKET sockets ->  stack: a TCP socket for each flow  <- pair of STREAM sockets ->  relay
//! ```
//! What it costs against the kernel's TCP: selective acknowledgements are sent and not read, so several losses in a
//! window take as many round trips; a retransmission timer never runs for less than 250 ms; buffers do not grow.
//! Right for requests and answers, not for bulk over far and lossy ways.

mod clock;
mod flow;
mod memory;
mod notice;
mod ports;
mod sent;
mod stack;
mod wire;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;

use ipnet::IpNet;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair, sockopt};

use crate::mailbox::Mailbox;
use crate::random::OsRandom;
use crate::stream::{Line, Stream};
use crate::tun::Queue;
use ports::{Answer, Ports};
use stack::Stack;

pub(crate) use ports::Intake;

/// Flows at once, those included that are being closed. Beyond, a dial fails with ENOBUFS and a SYN is not answered. Each
/// takes two descriptors and at least two buffers of 64 KiB, of which only what is used takes memory.
pub(crate) const FLOWS_MOST: usize = 4096;
/// Our own addresses, at most: the stack has room for no more.
const ADDRESSES_MOST: usize = 8;
/// Bytes of packets that may wait between the stack and a worker, if the system grants them (net.core.wmem_max bounds
/// it, by default to 208 KiB). What does not fit inward is lost, as on any network; outward the stack waits.
const QUEUE_BYTES: usize = 4 * 1024 * 1024;
/// What tells that a dialled connection stands.
const GREETING: [u8; 1] = [0];
/// Ports that are chosen by us: what Linux takes by default.
const EPHEMERAL: (u16, u16) = (32_768, 60_999);

/// The stack's thread, and the way to connections through it. It ends when dropped.
#[derive(Debug)]
pub struct Netstack {
    addresses: Vec<IpNet>,
    mailbox: Arc<Mailbox<Letter>>,
    ports: Arc<Ports>,
    flows: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

/// What others want of the stack.
enum Letter {
    Dial { local: IpAddr, remote: SocketAddr, pair: OwnedFd, line: Line, place: Place },
    End,
}

/// One of the flows there may be.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    /// `None`: all are taken.
    fn take(flows: &Arc<AtomicUsize>) -> Option<Self> {
        let one_more = |count| (count < FLOWS_MOST).then_some(count + 1);
        flows.fetch_update(Relaxed, Relaxed, one_more).ok()?;
        Some(Self(Arc::clone(flows)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Netstack {
    /// Starts a stack with these addresses of its own, and makes the queues for a device's workers. Packets are no longer
    /// than `mtu`.
    ///
    /// # Errors
    /// Too many addresses, or some that are no host's; threads or descriptors are short.
    pub fn start(addresses: &[IpNet], mtu: usize, queues: usize) -> io::Result<(Arc<Self>, Vec<Queue>)> {
        if addresses.len() > ADDRESSES_MOST {
            let error = format!("{} addresses are more than the {ADDRESSES_MOST} a netstack can have", addresses.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        if let Some(odd) = addresses.iter().find(|address| !is_of_host(address.addr())) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{odd} cannot be the address of a host")));
        }
        let (ours, theirs) = (0..queues.max(1)).map(|_| queue()).collect::<io::Result<(Vec<_>, Vec<_>)>>()?;
        let (mailbox, ports) = (Arc::new(Mailbox::new()?), Arc::new(Ports::default()));
        let flows = Arc::new(AtomicUsize::new(0));
        let shared = Shared { mailbox: Arc::clone(&mailbox), ports: Arc::clone(&ports), flows: Arc::clone(&flows) };
        let stack = Stack::new(addresses, mtu, ours, shared, OsRandom::new())?;
        let last = Last { mailbox: Arc::clone(&mailbox), ports: Arc::clone(&ports) };
        let thread = std::thread::Builder::new().name("netstack".into()).spawn(move || {
            let _last = last;
            if let Err(error) = stack.run() {
                tracing::error!(%error, "the stack of the overlay failed");
            }
        })?;
        let netstack = Self { addresses: addresses.to_vec(), mailbox, ports, flows, thread: Some(thread) };
        Ok((Arc::new(netstack), theirs))
    }

    /// Begins to connect. How it goes on is told as [`Line`] says.
    ///
    /// # Errors
    /// There are as many flows as there may be (ENOBUFS) or no descriptors; we have no address of that version of IP
    /// (ENETUNREACH); the address is our own, and nobody listens there (ECONNREFUSED) or takes in what waits (ETIMEDOUT),
    /// or no host's (EINVAL).
    pub fn dial(&self, remote: SocketAddr) -> io::Result<Stream> {
        if !is_of_host(remote.ip()) || remote.port() == 0 {
            return Err(Errno::INVAL.into());
        }
        if self.addresses.iter().any(|own| own.addr() == remote.ip()) {
            return self.dial_own(remote);
        }
        let local = self.source(remote.ip()).ok_or(Errno::NETUNREACH)?;
        let place = Place::take(&self.flows).ok_or(Errno::NOBUFS)?;
        let (fd, pair) = stream_pair()?;
        let line = Line::default();
        self.mailbox.post(Letter::Dial { local, remote, pair, line: line.clone(), place });
        Ok(Stream { fd, line: Some(line) })
    }

    /// From us to us there is no way through the stack, nor need there be one.
    fn dial_own(&self, remote: SocketAddr) -> io::Result<Stream> {
        let seat = match self.ports.knock(remote) {
            Answer::Come(seat) => seat,
            Answer::Full => return Err(Errno::TIMEDOUT.into()),
            Answer::Nobody => return Err(Errno::CONNREFUSED.into()),
        };
        let (fd, other) = stream_pair()?;
        let (line, others) = Line::pair();
        rustix::net::send(&other, &GREETING, SendFlags::NOSIGNAL)?;
        let from = SocketAddr::new(remote.ip(), self.ports.any_port());
        match seat.hand(Stream { fd: other, line: Some(others) }, from) {
            true => Ok(Stream { fd, line: Some(line) }),
            false => Err(Errno::CONNREFUSED.into()),
        }
    }

    /// Takes connections in from now on, by so many who share the address. Port 0 stands for a free one.
    ///
    /// # Errors
    /// The address is not ours (EADDRNOTAVAIL), or taken (EADDRINUSE); descriptors are short; the stack has ended.
    pub(crate) fn listen(
        &self,
        address: SocketAddr,
        shares: usize,
        backlog: usize,
    ) -> io::Result<(SocketAddr, Vec<Intake>)> {
        if !self.addresses.iter().any(|own| own.addr() == address.ip()) {
            return Err(Errno::ADDRNOTAVAIL.into());
        }
        Ok(self.ports.listen(address, shares, backlog)?)
    }

    /// Our own address a connection comes from: the one on the same network, or else the first.
    fn source(&self, remote: IpAddr) -> Option<IpAddr> {
        let alike = || self.addresses.iter().filter(|own| own.addr().is_ipv4() == remote.is_ipv4());
        alike().find(|own| own.contains(&remote)).or_else(|| alike().next()).map(IpNet::addr)
    }
}

impl Drop for Netstack {
    fn drop(&mut self) {
        self.mailbox.post(Letter::End);
        if let Some(thread) = self.thread.take() {
            // One that panicked has told of itself.
            let _ = thread.join();
        }
    }
}

/// What the stack's thread shares with others.
struct Shared {
    mailbox: Arc<Mailbox<Letter>>,
    ports: Arc<Ports>,
    flows: Arc<AtomicUsize>,
}

/// Whoever dials later is not kept waiting, nor who listens.
struct Last {
    mailbox: Arc<Mailbox<Letter>>,
    ports: Arc<Ports>,
}

impl Drop for Last {
    fn drop(&mut self) {
        self.mailbox.close();
        self.ports.end();
    }
}

/// The stack takes no other: it would stop at one of its own, and answers none.
fn is_of_host(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(ip.is_unspecified() || ip.is_multicast() || broadcast)
}

/// Both ends of a way for packets.
fn queue() -> io::Result<(OwnedFd, Queue)> {
    let (ours, theirs) = pair(SocketType::SEQPACKET)?;
    for end in [&ours, &theirs] {
        sockopt::set_socket_send_buffer_size(end.as_fd(), QUEUE_BYTES)?;
    }
    Ok((ours, Queue::from(theirs)))
}

/// Both ends of a way for bytes.
fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(SocketType::STREAM)
}

fn pair(kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, kind, flags, None)?)
}
