//! Opening the connection to a backend.

use std::io;
use std::time::Duration;

use edgeproxy_route::BackendAddr;
use rustix::io::Errno;
use tokio::net::{TcpSocket, TcpStream};

/// Why a connect failed, and whose fault it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// No answer within the time allowed.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
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
        !matches!(self, Self::PortsExhausted | Self::DescriptorsExhausted)
    }

    /// The word in metric labels and logs.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout(_) => "timeout",
            Self::Unreachable(_) => "unreachable",
            Self::PortsExhausted => "ports_exhausted",
            Self::DescriptorsExhausted => "descriptors_exhausted",
            Self::Other(_) => "other",
        }
    }

    fn from_io(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::CONNREFUSED) => Self::Refused,
            // The kernel's own patience ended before ours.
            Some(Errno::TIMEDOUT) => Self::Timeout(Duration::ZERO),
            Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ACCESS | Errno::PERM) => Self::Unreachable(error),
            Some(Errno::ADDRNOTAVAIL) => Self::PortsExhausted,
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => Self::DescriptorsExhausted,
            _ => Self::Other(error),
        }
    }
}

/// Connects within `within`. Small writes leave at once (TCP_NODELAY).
pub(crate) async fn dial(addr: BackendAddr, within: Duration) -> Result<TcpStream, DialError> {
    let connect = async {
        let socket = if addr.0.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_nodelay(true)?;
        socket.connect(addr.0).await
    };
    match tokio::time::timeout(within, connect).await {
        Ok(connected) => connected.map_err(DialError::from_io),
        Err(_) => Err(DialError::Timeout(within)),
    }
}
