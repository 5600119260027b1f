//! Opening the connection to a backend.

use std::io;
use std::os::fd::OwnedFd;
use std::task::Poll;
use std::time::Duration;

use edgeproxy_route::BackendAddr;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::socket::Socket;

/// Why a connect failed, and whose fault it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// No answer within the time allowed.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// No answer for as long as the system itself is patient.
    #[error("no answer within the system's own patience")]
    GivenUp,
    /// The client's time for all its connects was over before this one's.
    #[error("the client's time was over")]
    OutOfTime,
    /// No way there, says the network.
    #[error("unreachable: {0}")]
    Unreachable(io::Error),
    /// This machine has no local port left for that address.
    #[error("no local port left for this address")]
    PortsExhausted,
    /// This process has no descriptor left.
    #[error("no descriptor left")]
    DescriptorsExhausted,
    /// Anything else.
    #[error(transparent)]
    Other(io::Error),
}

impl DialError {
    /// Whether the backend is to blame. Our own shortages must not eject it.
    pub(crate) fn blames_backend(&self) -> bool {
        !matches!(self, Self::OutOfTime | Self::PortsExhausted | Self::DescriptorsExhausted)
    }

    /// The word in metric labels and logs.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout(_) | Self::GivenUp => "timeout",
            Self::OutOfTime => "out_of_time",
            Self::Unreachable(_) => "unreachable",
            Self::PortsExhausted => "ports_exhausted",
            Self::DescriptorsExhausted => "descriptors_exhausted",
            Self::Other(_) => "other",
        }
    }
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(error) => Self::from(error),
            None => Self::Other(error),
        }
    }
}

impl From<Errno> for DialError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::CONNREFUSED => Self::Refused,
            Errno::TIMEDOUT => Self::GivenUp,
            Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ACCESS | Errno::PERM => Self::Unreachable(error.into()),
            Errno::ADDRNOTAVAIL => Self::PortsExhausted,
            Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::NOSPC => Self::DescriptorsExhausted,
            _ => Self::Other(error.into()),
        }
    }
}

/// Begins to connect; [`finish`] tells how it went once epoll has news.
pub(crate) fn begin(addr: BackendAddr) -> Result<OwnedFd, DialError> {
    let family = if addr.0.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).map_err(DialError::from)?;
    match rustix::net::connect(&socket, &addr.0) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket),
        Err(error) => Err(DialError::from(error)),
    }
}

/// Whether the connection stands, or why it failed.
pub(crate) fn finish(socket: &mut Socket) -> Poll<Result<(), DialError>> {
    match socket.take_error() {
        Some(error) => Poll::Ready(Err(error.into())),
        None if socket.is_writable() => Poll::Ready(Ok(())),
        None => Poll::Pending,
    }
}
