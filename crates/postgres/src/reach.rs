//! How bytes get to a server: by the host's network, or through whatever else the caller has.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fmt, io};

pub use futures_util::future::BoxFuture;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// A stream of bytes both ways.
pub trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// A way to a server.
pub trait Reach: Send + Sync {
    /// Opens a stream to `port` of `host`, a name or an address.
    ///
    /// # Errors
    ///
    /// There is no way there. Who calls sets the deadline.
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Dialled>>;
}

/// A stream, and how much of the time it took went to the name.
pub struct Dialled {
    /// To the server.
    pub bytes: Box<dyn Bytes>,
    /// From name to address; zero where the host was an address.
    pub lookup: Duration,
}

impl fmt::Debug for Dialled {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Dialled").field("lookup", &self.lookup).finish_non_exhaustive()
    }
}

/// By the host's network: TCP, or a Unix socket where the host is the directory it lies in, as libpq has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Direct;

/// Where a server's Unix socket is looked for when no host is given: Debian's place, and PostgreSQL's own.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// How long one address of several may take before the next one is tried. Three times the longest round trip on Earth
/// by cable, with room for one lost packet.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(2);

/// A connection that carries nothing for this long is probed, so that one whose other end is gone does not wait in a
/// pool to be found out by a query. Below the 60 s after which the commonest of middle boxes forget.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(20);
/// Probes are this far apart, and after [`KEEPALIVE_PROBES`] unanswered ones it is over.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
/// See [`KEEPALIVE_EVERY`].
const KEEPALIVE_PROBES: u32 = 3;

impl Reach for Direct {
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Dialled>> {
        Box::pin(async move {
            if let Some(path) = socket_path(host, port) {
                let bytes = Box::new(UnixStream::connect(path).await?);
                return Ok(Dialled { bytes, lookup: Duration::ZERO });
            }
            let began = Instant::now();
            let (addresses, lookup) = match host.parse::<IpAddr>() {
                Ok(ip) => (vec![SocketAddr::new(ip, port)], Duration::ZERO),
                Err(_) => (tokio::net::lookup_host((host, port)).await?.collect(), began.elapsed()),
            };
            let stream = first_that_answers(&addresses).await?;
            stream.set_nodelay(true)?;
            let keepalive = TcpKeepalive::new()
                .with_time(KEEPALIVE_AFTER)
                .with_interval(KEEPALIVE_EVERY)
                .with_retries(KEEPALIVE_PROBES);
            SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            Ok(Dialled { bytes: Box::new(stream), lookup })
        })
    }
}

/// Whether `host` is the directory of a Unix socket, where TLS has no part.
pub(crate) fn is_local(host: &str) -> bool {
    host.is_empty() || host.starts_with('/')
}

fn socket_path(host: &str, port: u16) -> Option<String> {
    let path = |directory: &str| format!("{directory}/.s.PGSQL.{port}");
    match host {
        "" => {
            let mut paths = SOCKET_DIRECTORIES.iter().map(|directory| path(directory));
            // If there is none, the error names the first.
            paths.find(|path| Path::new(path).exists()).or_else(|| Some(path(SOCKET_DIRECTORIES[0])))
        }
        directory if directory.starts_with('/') => Some(path(directory)),
        _ => None,
    }
}

async fn first_that_answers(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (nth, address) in addresses.iter().enumerate() {
        let connecting = TcpStream::connect(address);
        // The last one has all the time that the caller gives.
        let connected = if nth + 1 < addresses.len() {
            timeout(ADDRESS_PATIENCE, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        } else {
            connecting.await
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
