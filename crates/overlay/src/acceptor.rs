//! Taking connections in, at an address of the host or of the overlay.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, Socket, Type};

use crate::netstack::Intake;
use crate::stream::Stream;

/// Where and how connections are taken in.
#[derive(Clone, Debug)]
pub struct ListenSettings {
    /// The address. With port 0 a free one is chosen.
    pub address: SocketAddr,
    /// How many take connections in there; each connection comes to one of them.
    pub shares: usize,
    /// Connections that wait for each of them to be accepted, at most; the system takes the smaller of this and
    /// net.core.somaxconn, a stack the smaller of this and its share of 1,024. A SYN beyond is not answered.
    pub backlog: i32,
    /// How long sent bytes may stay unacknowledged before a connection is given up (TCP_USER_TIMEOUT); `None`: as long
    /// as the system likes. A stack has its own time: five minutes.
    pub user_timeout: Option<Duration>,
    /// Only connections that come by this interface. A stack has but one.
    pub interface: Option<String>,
}

impl ListenSettings {
    /// One at this address.
    pub fn at(address: SocketAddr) -> Self {
        Self { address, shares: 1, backlog: 128, user_timeout: None, interface: None }
    }
}

/// Takes connections in. Its descriptor is readable while one waits; no more come once it is dropped, and those that
/// wait are reset.
#[derive(Debug)]
pub struct Acceptor(Source);

#[derive(Debug)]
enum Source {
    Kernel(OwnedFd),
    Stack(Intake),
}

impl Acceptor {
    /// The next connection and who it is from. It stands: there is no byte before its first.
    ///
    /// # Errors
    /// AGAIN: none waits. Others as accept(2) has them. A stack takes its descriptors before, so that none is short of
    /// them; NETDOWN says that it has ended.
    pub fn accept(&self) -> Result<(Stream, SocketAddr), Errno> {
        match &self.0 {
            Source::Kernel(socket) => {
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                let (fd, peer) = retry_on_intr(|| acceptfrom_with(socket, flags))?;
                Ok((Stream { fd, line: None }, SocketAddr::try_from(peer.ok_or(Errno::NOTCONN)?)?))
            }
            Source::Stack(intake) => intake.accept(),
        }
    }
}

impl AsFd for Acceptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Source::Kernel(socket) => socket.as_fd(),
            Source::Stack(intake) => intake.as_fd(),
        }
    }
}

impl From<Intake> for Acceptor {
    fn from(intake: Intake) -> Self {
        Self(Source::Stack(intake))
    }
}

/// Listens by sockets of the kernel in the namespace of the calling thread. With port 0 all get the port the first was
/// given.
///
/// # Errors
/// The address is taken (also by another process that shares ports the same way), or may not be bound.
pub(crate) fn listen(settings: &ListenSettings) -> io::Result<(SocketAddr, Vec<Acceptor>)> {
    // Ports shared by SO_REUSEPORT can be joined by any process of the same user: without this look, a second copy
    // started by mistake would take half of the clients instead of failing.
    drop(take(settings, settings.address, false)?);
    let mut address = settings.address;
    let mut acceptors = Vec::with_capacity(settings.shares);
    for _ in 0..settings.shares.max(1) {
        let socket = take(settings, address, true)?;
        socket.listen(settings.backlog)?;
        if let Some(bound) = socket.local_addr()?.as_socket() {
            address = bound;
        }
        acceptors.push(Acceptor(Source::Kernel(socket.into())));
    }
    Ok((address, acceptors))
}

/// A socket that has the address and does not listen yet.
fn take(settings: &ListenSettings, address: SocketAddr, shared: bool) -> io::Result<Socket> {
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
    if let Some(interface) = &settings.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}
