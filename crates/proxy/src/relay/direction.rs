//! One direction of a relay: from a source to a destination.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::pipe::{Pipe, SPLICE_AT, SPLICE_WHILE};
use crate::proxy_header::{self, Start};

/// Size of the buffer that all connections of a core read into.
const SCRATCH: usize = 64 * 1024;
/// Rounds before a busy connection lets the others of its core go first: 1 MiB of copies, or 16 pipes full.
const ROUNDS: u32 = 16;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// One end of a direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Source,
    Destination,
}

/// An error, and the side it came from.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) side: Side,
    pub(super) error: io::Error,
}

/// Bytes taken from the source that the destination has not taken yet.
enum Held {
    Nothing,
    Bytes { bytes: Vec<u8>, sent: usize },
    InPipe(Pipe),
}

/// How far one direction has got.
pub(super) struct Direction {
    held: Held,
    moved: u64,
    /// Of those, how many went through a pipe.
    spliced: u64,
    /// The source has finished.
    finished: bool,
    /// Moves through a pipe.
    bulk: bool,
    header: HeaderCheck,
}

/// Whether the first bytes are a PROXY header from somebody not trusted to send one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HeaderCheck {
    Open,
    Passed,
    Failed,
}

impl Direction {
    pub(super) fn new(finished: bool, unchecked: bool) -> Self {
        let header = if unchecked { HeaderCheck::Open } else { HeaderCheck::Passed };
        Self { held: Held::Nothing, moved: 0, spliced: 0, finished, bulk: false, header }
    }

    /// Bytes the destination has taken since the last call.
    pub(super) fn take_moved(&mut self) -> u64 {
        std::mem::take(&mut self.moved)
    }

    /// Bytes that went through a pipe since the last call.
    pub(super) fn take_spliced(&mut self) -> u64 {
        std::mem::take(&mut self.spliced)
    }

    pub(super) fn holds_bytes(&self) -> bool {
        !matches!(self.held, Held::Nothing)
    }

    pub(super) fn is_unchecked(&self) -> bool {
        self.header == HeaderCheck::Open
    }

    pub(super) fn is_untrusted_header(&self) -> bool {
        self.header == HeaderCheck::Failed
    }

    /// Moves what can be moved. Ready when the source has finished and the destination was told.
    ///
    /// With `last`, the other direction has ended already: both sockets are about to be closed, which tells the
    /// destination by itself.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        destination: &mut TcpStream,
        last: bool,
    ) -> Poll<Result<(), Broken>> {
        for _ in 0..ROUNDS {
            if !self.is_unchecked() {
                ready!(self.poll_flush(cx, destination)).map_err(|error| Broken { side: Side::Destination, error })?;
            }
            if self.finished {
                return Poll::Ready(if last { Ok(()) } else { half_close(destination) });
            }
            ready!(if self.bulk { self.poll_fill_pipe(cx, source) } else { self.poll_copy(cx, source, destination) })?;
            if self.is_untrusted_header() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Hands the destination what is held for it.
    fn poll_flush(&mut self, cx: &mut Context<'_>, destination: &mut TcpStream) -> Poll<io::Result<()>> {
        match &mut self.held {
            Held::Nothing => return Poll::Ready(Ok(())),
            Held::Bytes { bytes, sent } => {
                while *sent < bytes.len() {
                    let count = ready!(Pin::new(&mut *destination).poll_write(cx, &bytes[*sent..]))?;
                    *sent += count;
                    self.moved += count as u64;
                }
            }
            Held::InPipe(pipe) => {
                while !pipe.is_empty() {
                    let count = ready!(pipe.poll_drain(cx, destination))?;
                    self.moved += count;
                    self.spliced += count;
                }
            }
        }
        if let Held::InPipe(pipe) = std::mem::replace(&mut self.held, Held::Nothing) {
            pipe.give_back();
        }
        Poll::Ready(Ok(()))
    }

    /// One read into the scratch buffer, one write out of it.
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        destination: &mut TcpStream,
    ) -> Poll<Result<(), Broken>> {
        BUFFER.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(source).poll_read(cx, &mut buffer))
                .map_err(|error| Broken { side: Side::Source, error })?;
            let bytes = buffer.filled();
            if bytes.is_empty() {
                self.finished = true;
                self.settle_header();
                return Poll::Ready(Ok(()));
            }
            if self.is_unchecked() {
                self.check_header(bytes);
                return Poll::Ready(Ok(()));
            }
            self.bulk = bytes.len() >= SPLICE_AT;
            let mut sent = 0;
            while sent < bytes.len() {
                match Pin::new(&mut *destination).poll_write(cx, &bytes[sent..]) {
                    Poll::Ready(Ok(count)) => {
                        sent += count;
                        self.moved += count as u64;
                    }
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(Broken { side: Side::Destination, error }));
                    }
                    Poll::Pending => {
                        self.held = Held::Bytes { bytes: bytes[sent..].to_vec(), sent: 0 };
                        return Poll::Pending;
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Moves what the source has into a pipe, or goes back to copying when it is too little to be worth two calls.
    fn poll_fill_pipe(&mut self, cx: &mut Context<'_>, source: &mut TcpStream) -> Poll<Result<(), Broken>> {
        let Some(mut pipe) = Pipe::take() else {
            self.bulk = false;
            return Poll::Ready(Ok(()));
        };
        match pipe.poll_fill(cx, source) {
            Poll::Pending => {
                pipe.give_back();
                Poll::Pending
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(Broken { side: Side::Source, error })),
            Poll::Ready(Ok(0)) => {
                pipe.give_back();
                self.finished = true;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(count)) => {
                self.bulk = count >= SPLICE_WHILE;
                self.held = Held::InPipe(pipe);
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Adds to the bytes held back until they are seen not to be a PROXY header.
    fn check_header(&mut self, bytes: &[u8]) {
        let mut first = match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Bytes { bytes, .. } => bytes,
            Held::Nothing | Held::InPipe(_) => Vec::new(),
        };
        first.extend_from_slice(bytes);
        self.header = match proxy_header::parse(&first) {
            Start::Other => HeaderCheck::Passed,
            Start::Incomplete => HeaderCheck::Open,
            Start::Header(..) | Start::Malformed => HeaderCheck::Failed,
        };
        self.held = Held::Bytes { bytes: first, sent: 0 };
    }

    /// The source finished within what could have become a header: it is none.
    fn settle_header(&mut self) {
        if self.is_unchecked() {
            self.header = HeaderCheck::Passed;
        }
    }
}

fn half_close(destination: &TcpStream) -> Result<(), Broken> {
    match SockRef::from(destination).shutdown(Shutdown::Write) {
        // Not connected any more: the other direction is about to see the reset that caused it.
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(Broken { side: Side::Destination, error }),
        _ => Ok(()),
    }
}
