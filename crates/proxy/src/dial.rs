//! Opening the connection to a backend.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use edgeproxy_overlay::{Overlay, Sockets, Stream};
use edgeproxy_route::BackendAddr;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

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

/// Where sockets to backends come from: the overlay for addresses inside it, the host's network for all others.
#[derive(Default)]
pub struct Dialler {
    overlay: Option<Arc<Overlay>>,
}

impl Dialler {
    /// Dials through this overlay what lies inside it.
    pub fn new(overlay: Option<Arc<Overlay>>) -> Self {
        Self { overlay }
    }

    /// Where a socket that listens on this address belongs: in the overlay, if the address is our own there.
    pub(crate) fn sockets_at(&self, addr: SocketAddr) -> Sockets {
        let overlay = self.overlay.as_ref().filter(|overlay| overlay.is_own(addr.ip()));
        overlay.map_or(Sockets::Host, |overlay| overlay.sockets.clone())
    }

    /// Descriptors that connections through the overlay take at most beside those of their streams.
    pub(crate) fn descriptors_beside(&self) -> usize {
        self.overlay.as_ref().map_or(0, |overlay| overlay.sockets.descriptors_beside())
    }

    /// Begins to connect; [`Socket::settle`](crate::socket::Socket::settle) tells how it went once epoll has news.
    pub(crate) fn begin(&self, addr: BackendAddr) -> Result<Stream, DialError> {
        Ok(self.sockets(addr.0).dial(addr.0)?)
    }

    /// Connects, on a runtime.
    pub(crate) async fn connect(&self, addr: SocketAddr) -> Result<Box<dyn Connected>, DialError> {
        let Stream { fd, line } = self.sockets(addr).dial(addr)?;
        match line {
            None => {
                let stream = TcpStream::from_std(fd.into())?;
                stream.writable().await?;
                match stream.take_error()? {
                    Some(error) => return Err(error.into()),
                    None => stream.set_nodelay(true)?,
                }
                Ok(Box::new(stream))
            }
            Some(line) => {
                let mut stream = UnixStream::from_std(fd.into())?;
                line.settled(stream.read(&mut [0]).await?)?;
                Ok(Box::new(stream))
            }
        }
    }

    fn sockets(&self, addr: SocketAddr) -> &Sockets {
        let overlay = self.overlay.as_ref().filter(|overlay| overlay.contains(addr.ip()));
        overlay.map_or(&Sockets::Host, |overlay| &overlay.sockets)
    }
}

/// A connection on a runtime: TCP of the kernel, or what stands for it in the overlay.
pub(crate) trait Connected: AsyncRead + AsyncWrite + Send + Unpin {}

impl Connected for TcpStream {}
impl Connected for UnixStream {}
