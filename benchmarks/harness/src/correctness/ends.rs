//! Both ends of one relayed connection, as blocking sockets with a time limit on every call.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use crate::failure::{Context, Failure};
use crate::site;

/// Longest wait of one read or write.
pub(crate) const CALL: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(5);
/// A connection that does not say at once which it is was not made by us: a health check.
const TAG: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(1);

/// A peer under test, with this process as its client and as its backend.
pub(crate) struct Bench {
    target: SocketAddr,
    listener: RefCell<Option<TcpListener>>,
    next_tag: Cell<u64>,
    /// Smaller amounts of data.
    pub(crate) quick: bool,
}

pub(crate) struct Ends {
    pub(crate) client: TcpStream,
    pub(crate) backend: TcpStream,
}

impl Bench {
    pub(crate) fn new(target: SocketAddrV4, listener: TcpListener, quick: bool) -> Self {
        let listener = RefCell::new(Some(listener));
        Self { target: target.into(), listener, next_tag: Cell::new(1), quick }
    }

    /// A client connection through the peer that has not said anything yet.
    pub(crate) fn client(&self) -> Result<TcpStream, Failure> {
        let client = TcpStream::connect_timeout(&self.target, CONNECT).context("connect")?;
        limit(&client, CALL)?;
        Ok(client)
    }

    /// A connection that is known to be relayed: the client's tag has arrived and the answer has come back.
    pub(crate) fn connect(&self) -> Result<Ends, Failure> {
        let mut client = self.client()?;
        let tag = self.next_tag.replace(self.next_tag.get() + 1).to_le_bytes();
        client.write_all(&tag).context("send to the peer")?;
        let began = Instant::now();
        while began.elapsed() < CALL {
            let mut backend = self.accept(CALL)?;
            let mut received = [0; 8];
            limit(&backend, TAG)?;
            if backend.read_exact(&mut received).is_err() || received != tag {
                continue;
            }
            limit(&backend, CALL)?;
            backend.write_all(b"!").context("answer through the peer")?;
            client.read_exact(&mut received[..1]).context("first answer through the peer")?;
            return Ok(Ends { client, backend });
        }
        Err(Failure::new("the connection did not reach the backend"))
    }

    /// The next connection that the peer makes to the backend.
    pub(crate) fn accept(&self, patience: Duration) -> Result<TcpStream, Failure> {
        let listener = self.listener.borrow();
        let listener = listener.as_ref().context("the backend is down")?;
        listener.set_nonblocking(true).context("listener")?;
        let began = Instant::now();
        loop {
            match listener.accept() {
                Ok((backend, _)) => {
                    backend.set_nonblocking(false).context("accepted socket")?;
                    limit(&backend, CALL)?;
                    return Ok(backend);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("accept"),
            }
            if began.elapsed() > patience {
                return Err(Failure::new("nothing reached the backend"));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Stops listening as the backend.
    pub(crate) fn take_backend_down(&self) {
        self.listener.replace(None);
    }

    pub(crate) fn bring_backend_back(&self) -> Result<(), Failure> {
        let listener = TcpListener::bind(site::BACKEND).context("cannot listen as the backend")?;
        self.listener.replace(Some(listener));
        Ok(())
    }
}

/// Closes with a reset instead of a FIN.
pub(crate) fn reset(socket: TcpStream) -> Result<(), Failure> {
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).context("linger")
}

/// How a stream ended for its reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    Clean,
    Reset,
    /// Nothing came within the time limit of the socket.
    Silence,
}

/// Reads to the end, counting the bytes.
pub(crate) fn read_to_ending(socket: &mut TcpStream) -> (u64, Ending) {
    let mut buffer = vec![0; 64 * 1024];
    let mut count = 0;
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return (count, Ending::Clean),
            Ok(bytes) => count += bytes as u64,
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock | ErrorKind::TimedOut => return (count, Ending::Silence),
                _ => return (count, Ending::Reset),
            },
        }
    }
}

pub(crate) fn limit(socket: &TcpStream, call: Duration) -> Result<(), Failure> {
    socket.set_read_timeout(Some(call)).context("socket time limit")?;
    socket.set_write_timeout(Some(call)).context("socket time limit")
}
