//! A non-blocking TCP socket, or a stream of the overlay that stands for one, and what epoll last said of it.
//!
//! The kernel tells of a change once (edge-triggered), so what it told is kept here until a call finds it used up. A
//! read that brings less than there was room for has used it up as well: it spares the call that would only say so.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::Poll;
use std::time::Duration;

use edgeproxy_overlay::{Line, Stream};
use rustix::event::epoll::EventFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags};
use socket2::SockRef;

/// Bytes of a transfer in bulk that may wait in the kernel beyond the window of the receiver.
const UNSENT: u32 = 1024 * 1024;
/// asm-generic/ioctls.h
const TIOCOUTQ: rustix::ioctl::Opcode = 0x5411;

pub(crate) struct Socket {
    fd: OwnedFd,
    /// Of a stream of the overlay's own stack: what its descriptor cannot say.
    line: Option<Line>,
    readable: bool,
    writable: bool,
    /// The other end has finished sending: after the last byte a read says so.
    finished: bool,
    /// An error is pending.
    broken: bool,
    /// Urgent data has come once: reads stop short at its mark, and then there may be more.
    urgent: bool,
    /// …and is kept in its place.
    inline: bool,
    /// No more than [`UNSENT`] waits to be sent.
    limited: bool,
}

impl Socket {
    /// What epoll has to watch for.
    pub(crate) const NEWS: EventFlags =
        EventFlags::IN.union(EventFlags::PRI).union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

    /// A socket of which nothing is known yet.
    pub(crate) fn of(Stream { fd, line }: Stream) -> Self {
        Self {
            fd,
            line,
            readable: false,
            writable: false,
            finished: false,
            broken: false,
            urgent: false,
            inline: false,
            limited: false,
        }
    }

    /// Takes news from epoll.
    pub(crate) fn note(&mut self, news: EventFlags) {
        let broken = news.contains(EventFlags::ERR) || self.line_error().is_some();
        let finished = news.intersects(EventFlags::RDHUP | EventFlags::HUP);
        self.broken |= broken;
        self.finished |= finished || broken;
        self.readable |= news.contains(EventFlags::IN) || finished || broken;
        self.writable |= news.contains(EventFlags::OUT) || broken;
        if news.contains(EventFlags::PRI) && !self.urgent {
            self.urgent = true;
            self.keep_urgent_in_place();
        }
    }

    /// Urgent data stays a part of the stream, like any other: left out of it, telnet's commands would come apart.
    /// (Accepted sockets have that from the listening one.)
    pub(crate) fn keep_urgent_in_place(&mut self) {
        if !self.inline {
            self.inline = true;
            let _: io::Result<()> = SockRef::from(&self.fd).set_out_of_band_inline(true);
        }
    }

    /// Whether urgent data has come, which only a read gets past.
    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Reads; ready with 0 when the other end has finished.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let room = buffer.len();
        let read = self.read_with(|fd| rustix::net::recv(fd, &mut *buffer, RecvFlags::empty()).map(|(count, _)| count));
        if let Poll::Ready(Ok(count)) = read {
            self.readable = count == room || self.finished || self.urgent;
        }
        match read {
            Poll::Ready(Ok(0)) if room > 0 => Poll::Ready(self.line_error().map_or(Ok(0), Err)),
            read => read,
        }
    }

    /// Whether a dialled connection stands.
    pub(crate) fn settle(&mut self) -> Poll<io::Result<()>> {
        if let Some(error) = self.take_error() {
            return Poll::Ready(Err(error));
        }
        match self.line.clone() {
            Some(line) => self.read(&mut [0]).map(|read| line.settled(read?)),
            None if self.writable => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    }

    /// Looks at the first bytes and leaves them where they are.
    pub(crate) fn peek(&mut self, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.read_with(|fd| rustix::net::recv(fd, &mut *buffer, RecvFlags::PEEK).map(|(count, _)| count))
    }

    /// Waits until there may be more than was seen by [`Self::peek`].
    pub(crate) fn seen(&mut self) {
        self.readable = false;
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write_with(|fd| rustix::net::send(fd, bytes, SendFlags::NOSIGNAL))
    }

    /// A read by another call.
    pub(crate) fn read_with<T>(
        &mut self,
        mut call: impl FnMut(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Poll<io::Result<T>> {
        if !self.readable {
            return Poll::Pending;
        }
        match retry_on_intr(|| call(self.fd.as_fd())) {
            Err(Errno::AGAIN) => {
                self.readable = false;
                Poll::Pending
            }
            done => Poll::Ready(done.map_err(io::Error::from)),
        }
    }

    /// A write by another call.
    pub(crate) fn write_with<T>(
        &mut self,
        mut call: impl FnMut(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Poll<io::Result<T>> {
        if !self.writable {
            return Poll::Pending;
        }
        match retry_on_intr(|| call(self.fd.as_fd())) {
            Err(Errno::AGAIN) => {
                self.writable = false;
                Poll::Pending
            }
            done => Poll::Ready(done.map_err(io::Error::from)),
        }
    }

    /// Tells the other end that nothing more comes.
    ///
    /// # Errors
    /// Of another kind than that the connection has ended; whoever reads from it sees how.
    pub(crate) fn finish(&self) -> io::Result<()> {
        match SockRef::from(&self.fd).shutdown(Shutdown::Write) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes no more than what is worth having at hand for sending: a receiver that does not read would have the kernel
    /// hold some megabytes else, and one that does gets no faster by them.
    pub(crate) fn limit_unsent(&mut self) {
        if !self.limited {
            self.limited = true;
            let _: io::Result<()> = SockRef::from(&self.fd).set_tcp_notsent_lowat(UNSENT);
        }
    }

    /// Bytes that the other end has yet to acknowledge.
    pub(crate) fn unacknowledged(&self) -> usize {
        // SAFETY: TIOCOUTQ, which for a socket is SIOCOUTQ, writes one int and nothing else (tcp(7)).
        #[allow(unsafe_code, reason = "a system call without a wrapper")]
        let count =
            unsafe { rustix::ioctl::ioctl(&self.fd, rustix::ioctl::Getter::<TIOCOUTQ, std::ffi::c_int>::new()) };
        let held = count.ok().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        held + self.line.as_ref().map_or(0, Line::unacknowledged)
    }

    /// Small writes leave at once from now on (TCP_NODELAY).
    pub(crate) fn send_promptly(&self) {
        // Fails only on a socket that has been reset, which its relay is about to see.
        let _: io::Result<()> = SockRef::from(&self.fd).set_tcp_nodelay(true);
    }

    /// The pending error, if epoll told of one.
    pub(crate) fn take_error(&mut self) -> Option<io::Error> {
        if !self.broken {
            return None;
        }
        self.broken = false;
        let error = SockRef::from(&self.fd).take_error().ok().flatten();
        // The end of a pair says no more than that it was closed.
        self.line_error().or(error)
    }

    fn line_error(&self) -> Option<io::Error> {
        self.line.as_ref().and_then(Line::error)
    }

    /// Makes closing it send a reset.
    pub(crate) fn reset_on_close(&self) {
        match &self.line {
            Some(line) => line.reset_on_close(),
            None => reset_on_close(&self.fd),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes closing a socket of the kernel send a reset.
fn reset_on_close(socket: &impl AsFd) {
    // Fails only on a socket that is already gone.
    let _: io::Result<()> = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
