//! Non-blocking TCP sockets as the load generator and the backend use them.

use std::net::SocketAddrV4;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, accept_with, bind, connect, listen, recv,
    send, shutdown, socket_with, sockopt,
};

const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);
/// Larger than any burst of clients here; the kernel cuts it to `somaxconn`.
const BACKLOG: i32 = 8192;

/// What a read or write on a non-blocking socket came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Moved {
    Bytes(usize),
    /// End of the stream; only reads answer it.
    End,
    /// Nothing now: wait for the next event.
    Blocked,
}

/// Starts a connection; it is made once the socket is writable.
pub(crate) fn start_connection(to: SocketAddrV4) -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, FLAGS, None)?;
    match connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

/// A listener whose connections inherit `TCP_NODELAY`.
pub(crate) fn listener(at: SocketAddrV4) -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, FLAGS, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    bind(&socket, &at)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

pub(crate) fn no_delay(socket: impl AsFd) -> Result<(), Errno> {
    sockopt::set_tcp_nodelay(socket, true)
}

/// The next waiting connection, if there is one.
pub(crate) fn accept(listener: impl AsFd) -> Result<Option<OwnedFd>, Errno> {
    match accept_with(listener, FLAGS) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn read(socket: impl AsFd, into: &mut [u8]) -> Result<Moved, Errno> {
    match recv(socket, into, RecvFlags::empty()) {
        Ok((0, _)) => Ok(Moved::End),
        Ok((bytes, _)) => Ok(Moved::Bytes(bytes)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(Moved::Blocked),
        Err(error) => Err(error),
    }
}

pub(crate) fn write(socket: impl AsFd, from: &[u8]) -> Result<Moved, Errno> {
    match send(socket, from, SendFlags::NOSIGNAL) {
        Ok(bytes) => Ok(Moved::Bytes(bytes)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(Moved::Blocked),
        Err(error) => Err(error),
    }
}

/// Sends our FIN; what the other side still sends can be read.
pub(crate) fn finish(socket: impl AsFd) -> Result<(), Errno> {
    shutdown(socket, Shutdown::Write)
}

/// Whether the connection is still open and silent, without consuming anything.
pub(crate) fn is_idle(socket: impl AsFd) -> bool {
    let mut byte = [0];
    recv(socket, &mut byte, RecvFlags::PEEK) == Err(Errno::AGAIN)
}
