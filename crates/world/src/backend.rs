//! A real server on a port of its own, that behaves as it is told.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, JoinSet};

use crate::client::Client;
use crate::deadline::{LONG, within};

const BACKLOG: i32 = 4096;

/// What a backend does with a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Behaviour {
    /// Sends back what comes, until the client has finished.
    Echo,
    /// Says its id in a line of its own, then echoes.
    Greet,
    /// Sends these bytes before it has heard any, then echoes.
    Speak(Vec<u8>),
    /// Answers whatever comes by these bytes.
    Answer(Vec<u8>),
    /// Answers a request by this HTTP status and finishes.
    Http(u16),
    /// Takes the connection and never reads from it.
    Deaf,
    /// Resets once so many bytes have come.
    ResetAfter(u64),
    /// Gives the connection to [`Backend::next`].
    HandOver,
}

/// A server that takes connections.
///
/// It counts a connection as current from its accept until just before it closes it, so a proxy that has seen the
/// close may send the next client without a peak being counted.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Bound beside the listener and never listening itself: keeps the port while the backend is stopped.
    _claim: Socket,
    accepting: Option<JoinHandle<()>>,
    handed_over: tokio::sync::Mutex<UnboundedReceiver<TcpStream>>,
}

#[derive(Debug)]
struct Shared {
    id: String,
    behaviour: Mutex<Behaviour>,
    current: AtomicUsize,
    peak: AtomicUsize,
    total: AtomicUsize,
    hand_over: UnboundedSender<TcpStream>,
}

impl Backend {
    /// A backend with this id on loopback, on a port that the kernel chooses. Needs a runtime.
    ///
    /// # Errors
    /// No port is to be had.
    pub fn start(id: &str, behaviour: Behaviour) -> io::Result<Self> {
        Self::start_at(id, Ipv4Addr::LOCALHOST, behaviour)
    }

    /// The same on another address of this machine.
    ///
    /// # Errors
    /// As [`start`](Self::start); or the address is not one of this machine's.
    pub fn start_at(id: &str, address: Ipv4Addr, behaviour: Behaviour) -> io::Result<Self> {
        let claim = bind(SocketAddr::from((address, 0)))?;
        let address = claim.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let (hand_over, handed_over) = unbounded_channel();
        let shared = Arc::new(Shared {
            id: id.to_owned(),
            behaviour: Mutex::new(behaviour),
            current: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            total: AtomicUsize::new(0),
            hand_over,
        });
        let handed_over = tokio::sync::Mutex::new(handed_over);
        let mut backend = Self { address, shared, _claim: claim, accepting: None, handed_over };
        backend.resume()?;
        Ok(backend)
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Behaves otherwise towards those who connect from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock() = behaviour;
    }

    /// Dies as a process does: connections end, and its port refuses new ones.
    pub async fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // Always an error: it was aborted.
            let _ = accepting.await;
        }
    }

    /// Listens again, on the same port.
    ///
    /// # Errors
    /// The port cannot be listened on.
    pub fn resume(&mut self) -> io::Result<()> {
        let socket = bind(self.address)?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from_std(socket.into())?;
        self.accepting = Some(tokio::spawn(accept(listener, Arc::clone(&self.shared))));
        Ok(())
    }

    /// Whether it is not stopped.
    pub fn is_listening(&self) -> bool {
        self.accepting.is_some()
    }

    /// Connections open now.
    pub fn current(&self) -> usize {
        self.shared.current.load(SeqCst)
    }

    /// Most connections that were ever open at once.
    pub fn peak(&self) -> usize {
        self.shared.peak.load(SeqCst)
    }

    /// Connections ever accepted, those of health checks included.
    pub fn total(&self) -> usize {
        self.shared.total.load(SeqCst)
    }

    /// The next connection of a backend that hands them over.
    ///
    /// # Errors
    /// None comes in time.
    pub async fn next(&self) -> io::Result<Client> {
        within("a connection to the backend", LONG, async {
            let next = self.handed_over.lock().await.recv().await;
            Client::try_from(next.ok_or(io::ErrorKind::BrokenPipe)?)
        })
        .await
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

/// A socket on this address that others may be bound to as well: only one that listens gets connections.
fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        // An error here is of that connection: it was gone before it was accepted.
        let Ok((stream, _)) = listener.accept().await else { continue };
        shared.total.fetch_add(1, SeqCst);
        let behaviour = shared.behaviour.lock().clone();
        if behaviour == Behaviour::HandOver {
            let _ = stream.set_nodelay(true);
            // Nobody waits for it any more: then it closes.
            let _ = shared.hand_over.send(stream);
            continue;
        }
        let counted = Counted::new(&shared);
        connections.spawn(async move {
            let mut stream = stream;
            // What ends a connection is for the other side to judge.
            let _ = serve(&mut stream, &behaviour, &counted.0.id).await;
            drop(counted);
            drop(stream);
        });
        while connections.try_join_next().is_some() {}
    }
}

struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> Self {
        let current = shared.current.fetch_add(1, SeqCst) + 1;
        shared.peak.fetch_max(current, SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.current.fetch_sub(1, SeqCst);
    }
}

async fn serve(stream: &mut TcpStream, behaviour: &Behaviour, id: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match behaviour {
        Behaviour::Echo => echo(stream).await,
        Behaviour::Greet => {
            stream.write_all(format!("{id}\n").as_bytes()).await?;
            echo(stream).await
        }
        Behaviour::Speak(first) => {
            stream.write_all(first).await?;
            echo(stream).await
        }
        Behaviour::Answer(answer) => {
            let mut heard = [0; 4096];
            while stream.read(&mut heard).await? > 0 {
                stream.write_all(answer).await?;
            }
            Ok(())
        }
        Behaviour::Http(status) => {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut request).await? == 0 {
                    return Ok(());
                }
            }
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await
        }
        Behaviour::Deaf | Behaviour::HandOver => std::future::pending().await,
        Behaviour::ResetAfter(limit) => {
            let mut heard = vec![0; 64 * 1024];
            let mut left = *limit;
            while left > 0 {
                match stream.read(&mut heard).await? {
                    0 => break,
                    count => left = left.saturating_sub(count as u64),
                }
            }
            socket2::SockRef::from(&*stream).set_linger(Some(std::time::Duration::ZERO))
        }
    }
}

async fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        match stream.read(&mut bytes).await? {
            0 => return Ok(()),
            count => stream.write_all(&bytes[..count]).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_backend_counts_stops_and_comes_back_on_its_port() {
        let mut backend = Backend::start("b1", Behaviour::Greet).unwrap();
        let mut client = Client::connect(backend.address()).await.unwrap();
        assert_eq!(client.line().await.unwrap(), "b1");
        client.exchange(b"hello").await.unwrap();
        assert_eq!((backend.current(), backend.peak(), backend.total()), (1, 1, 1));
        backend.stop().await;
        client.ending().await.unwrap();
        assert_eq!(backend.current(), 0);
        let refused = Client::connect(backend.address()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        backend.resume().unwrap();
        backend.behave(Behaviour::Answer(b"heard\n".to_vec()));
        let mut client = Client::connect(backend.address()).await.unwrap();
        client.send(b"12345").await.unwrap();
        client.finish().await.unwrap();
        assert_eq!(client.ending().await.unwrap(), (b"heard\n".to_vec(), crate::Ending::Finished));
        assert_eq!((backend.peak(), backend.total()), (1, 2));
    }
}
