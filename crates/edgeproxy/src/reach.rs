//! The way to a server: through the overlay for addresses inside it, by the host's network for all others.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use edgeproxy_overlay::{Overlay, Sockets, Stream};
use edgeproxy_postgres::{BoxFuture, Bytes, Dialled, Direct, Reach};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UnixStream};

/// See [the module](self).
pub(crate) struct Ways {
    overlay: Option<Arc<Overlay>>,
}

impl Ways {
    pub(crate) fn new(overlay: Option<Arc<Overlay>>) -> Self {
        Self { overlay }
    }

    /// Names are the host's: the overlay has none.
    fn inside(&self, host: &str) -> Option<(&Sockets, IpAddr)> {
        let (overlay, ip) = (self.overlay.as_ref()?, host.parse().ok()?);
        overlay.contains(ip).then_some((&overlay.sockets, ip))
    }
}

impl Reach for Ways {
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Dialled>> {
        match self.inside(host) {
            Some((sockets, ip)) => Box::pin(async move {
                let bytes = dial_inside(sockets, SocketAddr::new(ip, port)).await?;
                Ok(Dialled { bytes, lookup: Duration::ZERO })
            }),
            None => Direct.dial(host, port),
        }
    }
}

async fn dial_inside(sockets: &Sockets, address: SocketAddr) -> io::Result<Box<dyn Bytes>> {
    let Stream { fd, line } = sockets.dial(address)?;
    match line {
        None => {
            let stream = TcpStream::from_std(fd.into())?;
            stream.writable().await?;
            match stream.take_error()? {
                Some(error) => return Err(error),
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

/// A connection that was taken in inside, on a runtime.
pub(crate) fn taken(stream: Stream) -> io::Result<Box<dyn Bytes>> {
    let Stream { fd, line } = stream;
    Ok(match line {
        None => Box::new(TcpStream::from_std(fd.into())?),
        Some(_) => Box::new(UnixStream::from_std(fd.into())?),
    })
}
