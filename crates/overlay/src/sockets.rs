//! Where sockets that reach into the overlay come from: one interface, wherever the overlay lives.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::acceptor::{self, Acceptor, ListenSettings};
use crate::enclave::Enclave;
use crate::netstack::{FLOWS_MOST, Netstack};
use crate::stream::Stream;

/// The version of IP a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The one that reaches this address.
    pub fn of(address: SocketAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn native(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::INET,
            Self::V6 => AddressFamily::INET6,
        }
    }
}

/// Makes sockets in the network namespace that holds the overlay, or connections of the stack that stands for it. A
/// socket stays in the namespace it was made in, whichever thread uses it.
#[derive(Debug, Clone)]
pub enum Sockets {
    /// The overlay is an interface of the host.
    Host,
    /// The overlay is apart.
    Enclave(Arc<Enclave>),
    /// The overlay ends in a TCP stack of this process.
    Netstack(Arc<Netstack>),
}

impl Sockets {
    /// Begins to connect. A socket of the kernel tells by being writable or by its error how that went; what comes with
    /// a line, as [`Line`](crate::Line) says.
    ///
    /// # Errors
    /// What can be said at once: descriptors or memory are short, there is no way there.
    pub fn dial(&self, address: SocketAddr) -> io::Result<Stream> {
        if let Self::Netstack(netstack) = self {
            return netstack.dial(address);
        }
        let fd = self.tcp(Family::of(address))?;
        match rustix::net::connect(&fd, &address) {
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(Stream { fd, line: None }),
            Err(error) => Err(error.into()),
        }
    }

    /// A TCP socket of the kernel that does not block.
    ///
    /// # Errors
    /// Descriptors or memory are short. A stack has none.
    pub fn tcp(&self, family: Family) -> io::Result<OwnedFd> {
        match self {
            Self::Host => Ok(new(family, SocketType::STREAM)?),
            Self::Enclave(enclave) => enclave.tcp(family),
            Self::Netstack(_) => Err(no_sockets()),
        }
    }

    /// A UDP socket that does not block.
    ///
    /// # Errors
    /// Descriptors or memory are short. A stack has none.
    pub fn udp(&self, family: Family) -> io::Result<OwnedFd> {
        Ok(self.within(move || new(family, SocketType::DGRAM))??)
    }

    /// Takes connections in at an address. Gives the address, with the port that was chosen if none was set.
    ///
    /// # Errors
    /// The address is taken or may not be bound, or no interface of the overlay has it; descriptors are short.
    pub fn listen(&self, settings: &ListenSettings) -> io::Result<(SocketAddr, Vec<Acceptor>)> {
        if let Self::Netstack(netstack) = self {
            let backlog = usize::try_from(settings.backlog).unwrap_or(0);
            let (address, intakes) = netstack.listen(settings.address, settings.shares, backlog)?;
            return Ok((address, intakes.into_iter().map(Acceptor::from).collect()));
        }
        // Ports below 1024 are the enclave's own thread's to give.
        let settings = settings.clone();
        self.within(move || acceptor::listen(&settings))?
    }

    /// Descriptors that connections take at most beside those of their streams.
    pub fn descriptors_beside(&self) -> usize {
        match self {
            Self::Host | Self::Enclave(_) => 0,
            Self::Netstack(_) => FLOWS_MOST,
        }
    }

    /// Does something in the namespace of the overlay and waits for it. The work itself must not wait for such work.
    ///
    /// # Errors
    /// The work panicked. With a stack there is no such namespace.
    pub fn within<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        match self {
            Self::Host => Ok(work()),
            Self::Enclave(enclave) => enclave.within(work),
            Self::Netstack(_) => Err(no_sockets()),
        }
    }
}

fn no_sockets() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "the overlay's mode \"netstack\" has no sockets of the kernel")
}

/// A socket in the namespace of the calling thread.
pub(crate) fn new(family: Family, kind: SocketType) -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(family.native(), kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
}
