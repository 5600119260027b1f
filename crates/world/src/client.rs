//! A client, from wherever it says it is.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::deadline::{LONG, within};

/// PROXY protocol header a client begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Header {
    /// The text form, for this client.
    V1(SocketAddr),
    /// The binary form, for this client.
    V2(SocketAddr),
}

/// How a stream came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The other side has finished sending (FIN).
    Finished,
    /// The connection was reset (RST).
    Reset,
}

/// A connection of a client. What it does must be done within [`LONG`].
#[derive(Debug)]
pub struct Client {
    /// The socket itself.
    pub stream: TcpStream,
    local: SocketAddr,
    /// It was reset before its connect was seen to be done: the system tells of that only once.
    reset_early: bool,
}

impl Header {
    /// The bytes on the wire. The destination is made up, in the same family.
    pub fn bytes(self) -> Vec<u8> {
        match self {
            Self::V1(client) => v1(client),
            Self::V2(client) => v2(client),
        }
    }
}

fn v1(client: SocketAddr) -> Vec<u8> {
    let (family, here) = match client.ip() {
        IpAddr::V4(_) => ("TCP4", "203.0.113.1"),
        IpAddr::V6(_) => ("TCP6", "2001:db8::1"),
    };
    format!("PROXY {family} {} {here} {} 8080\r\n", client.ip(), client.port()).into_bytes()
}

fn v2(client: SocketAddr) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    match client.ip() {
        IpAddr::V4(ip) => {
            bytes.extend([0x11, 0, 12]);
            bytes.extend(ip.octets());
            bytes.extend([203, 0, 113, 1]);
        }
        IpAddr::V6(ip) => {
            bytes.extend([0x21, 0, 36]);
            bytes.extend(ip.octets());
            bytes.extend(Ipv6Addr::LOCALHOST.octets());
        }
    }
    bytes.extend(client.port().to_be_bytes());
    bytes.extend(8080_u16.to_be_bytes());
    bytes
}

impl Client {
    /// Connects. One that is accepted and reset at once counts as connected: its [`ending`](Self::ending) tells.
    ///
    /// # Errors
    /// The connection is refused, or not made in time.
    pub async fn connect(addr: SocketAddr) -> io::Result<Self> {
        Self::connect_from(None, addr).await
    }

    /// Connects from a given local address.
    ///
    /// # Errors
    /// As [`connect`](Self::connect); or the address is not one of this machine's.
    pub async fn connect_from(local: Option<IpAddr>, addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(local) = local {
            socket.bind(&SocketAddr::new(local, 0).into())?;
        }
        match socket.connect(&addr.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            _ => {}
        }
        let local = socket.local_addr()?.as_socket().ok_or(ErrorKind::AddrNotAvailable)?;
        let stream = TcpStream::from_std(socket.into())?;
        within("connect", LONG, stream.writable()).await?;
        let mut reset_early = false;
        if stream.peer_addr().is_err() {
            match stream.take_error()? {
                Some(error) if error.kind() != ErrorKind::ConnectionReset => return Err(error),
                _ => reset_early = true,
            }
        }
        Ok(Self { stream, local, reset_early })
    }

    /// Its own address, also after its end.
    pub fn address(&self) -> SocketAddr {
        self.local
    }

    /// Connects and says by a PROXY header who it is.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_as(addr: SocketAddr, header: Header) -> io::Result<Self> {
        let mut client = Self::connect(addr).await?;
        client.send(&header.bytes()).await?;
        Ok(client)
    }

    /// Sends all of it.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.reset_early {
            return Err(ErrorKind::ConnectionReset.into());
        }
        within("send", LONG, self.stream.write_all(bytes)).await
    }

    /// Receives exactly so many bytes.
    ///
    /// # Errors
    /// Those of the connection; `UnexpectedEof` when it ends before.
    pub async fn receive(&mut self, count: usize) -> io::Result<Vec<u8>> {
        if self.reset_early {
            return Err(ErrorKind::ConnectionReset.into());
        }
        let mut bytes = vec![0; count];
        within("receive", LONG, self.stream.read_exact(&mut bytes)).await?;
        Ok(bytes)
    }

    /// Receives a line, without its end.
    ///
    /// # Errors
    /// Those of the connection; `UnexpectedEof` when it ends before; `InvalidData` when it is no UTF-8.
    pub async fn line(&mut self) -> io::Result<String> {
        if self.reset_early {
            return Err(ErrorKind::ConnectionReset.into());
        }
        let mut line = Vec::new();
        within("receive a line", LONG, async {
            loop {
                match self.stream.read_u8().await? {
                    b'\n' => return Ok(()),
                    byte => line.push(byte),
                }
            }
        })
        .await?;
        String::from_utf8(line).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
    }

    /// Sends and receives as many bytes as were sent: what an echo does.
    ///
    /// # Errors
    /// As [`send`](Self::send) and [`receive`](Self::receive); `InvalidData` when others come back.
    pub async fn exchange(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send(bytes).await?;
        let back = self.receive(bytes.len()).await?;
        if back == bytes {
            return Ok(());
        }
        let (sent, back) = (String::from_utf8_lossy(bytes), String::from_utf8_lossy(&back));
        Err(io::Error::new(ErrorKind::InvalidData, format!("sent {sent:?}, got back {back:?}")))
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// Receives to the end: what came, and which end it was.
    ///
    /// # Errors
    /// It does not end in time, or by another error than a reset.
    pub async fn ending(&mut self) -> io::Result<(Vec<u8>, Ending)> {
        if self.reset_early {
            return Ok((Vec::new(), Ending::Reset));
        }
        let mut received = Vec::new();
        let ended = within("the end of the connection", LONG, self.stream.read_to_end(&mut received)).await;
        match ended {
            Ok(_) => Ok((received, Ending::Finished)),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok((received, Ending::Reset)),
            Err(error) => Err(error),
        }
    }

    /// Leaves by a reset.
    ///
    /// # Errors
    /// The socket refuses the option.
    pub fn abort(self) -> io::Result<()> {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))
    }
}

impl TryFrom<TcpStream> for Client {
    type Error = io::Error;

    fn try_from(stream: TcpStream) -> io::Result<Self> {
        let local = stream.local_addr()?;
        Ok(Self { stream, local, reset_early: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_as_the_protocol_has_them() {
        let v4: SocketAddr = "198.51.100.7:5555".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::7]:5555".parse().unwrap();
        assert_eq!(Header::V1(v4).bytes(), b"PROXY TCP4 198.51.100.7 203.0.113.1 5555 8080\r\n");
        assert_eq!(Header::V1(v6).bytes(), b"PROXY TCP6 2001:db8::7 2001:db8::1 5555 8080\r\n");
        assert_eq!(Header::V2(v4).bytes().len(), 28);
        assert_eq!(Header::V2(v6).bytes().len(), 52);
        assert_eq!(Header::V2(v4).bytes()[12..20], [0x21, 0x11, 0, 12, 198, 51, 100, 7]);
    }
}
