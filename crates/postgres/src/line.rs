//! The stream below a connection, which knows at any time what the session above it is in the middle of.
//!
//! A pool must not give a connection to the next one who asks while a statement of the last one is still running or its
//! transaction open. The server says so after each request (`ReadyForQuery` and its status), but the client library keeps
//! it to itself, and to ask would cost a round trip; so the framing is read here as it passes. A message is 1 byte of kind
//! and 4 of length; nothing is copied.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream as ChannelBound};
use tokio_rustls::client::TlsStream;

use crate::reach::Bytes;
use crate::tls;

/// A stream to a server, in clear or not.
pub(crate) struct Line {
    stream: Stream,
    state: Arc<LineState>,
    /// The first message of a client has no kind.
    sent: Framing,
    received: Framing,
    /// The last message sent is of a kind that more must follow.
    loose: bool,
}

enum Stream {
    Clear(Box<dyn Bytes>),
    Tls(Box<TlsStream<Box<dyn Bytes>>>),
}

/// What has passed.
#[derive(Debug, Default)]
pub(crate) struct LineState {
    /// Bytes that were handed over for sending.
    written: AtomicU64,
    /// Messages sent that the server answers with a `ReadyForQuery`, less those that came.
    unanswered: AtomicU64,
    /// Sent are the first parts of something that has not been completed by such a message.
    open: AtomicBool,
    /// The status in the last `ReadyForQuery`: `I` idle, `T` in a transaction, `E` in one that has failed. 0 before it.
    status: AtomicU8,
}

/// What a session is in the middle of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Middle {
    /// Nothing.
    Nothing,
    /// A transaction that was not ended.
    Transaction,
    /// A statement, whose answer has not come to its end.
    Statement,
}

impl LineState {
    /// What of all that was sent is unfinished.
    pub(crate) fn middle(&self) -> Middle {
        if self.open.load(Ordering::Acquire) || self.unanswered.load(Ordering::Acquire) != 0 {
            return Middle::Statement;
        }
        if self.status.load(Ordering::Acquire) == b'I' { Middle::Nothing } else { Middle::Transaction }
    }

    /// How many bytes were handed over for sending.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }
}

impl Line {
    /// In clear (`Err`) or by TLS (`Ok`), as [`tls::secure`] gives it.
    pub(crate) fn new(stream: Result<TlsStream<Box<dyn Bytes>>, Box<dyn Bytes>>) -> (Self, Arc<LineState>) {
        let stream = stream.map_or_else(Stream::Clear, |stream| Stream::Tls(Box::new(stream)));
        let state = Arc::<LineState>::default();
        let sent = Framing { at: At::Head { seen: 1, head: [0; 5] } };
        (Self { stream, state: Arc::clone(&state), sent, received: Framing::default(), loose: false }, state)
    }

    fn inner(&mut self) -> Pin<&mut dyn Bytes> {
        match &mut self.stream {
            Stream::Clear(stream) => Pin::new(stream),
            Stream::Tls(stream) => Pin::new(stream),
        }
    }

    fn note_sent(&mut self, bytes: &[u8]) {
        let (state, loose) = (&self.state, &mut self.loose);
        state.written.fetch_add(bytes.len() as u64, Ordering::AcqRel);
        self.sent.advance(bytes, |kind, _| {
            // Query, Sync, FunctionCall; the startup message is one as well.
            let answered = matches!(kind, b'Q' | b'S' | b'F' | 0);
            if answered {
                state.unanswered.fetch_add(1, Ordering::AcqRel);
            }
            // A password, and what belongs to it, is between the startup and its answer.
            *loose = !answered && kind != b'p';
        });
        state.open.store(*loose || !self.sent.is_between(), Ordering::Release);
    }

    fn note_received(&mut self, bytes: &[u8]) {
        let state = &self.state;
        self.received.advance(bytes, |kind, first| {
            if kind == b'Z' {
                state.status.store(first, Ordering::Release);
                let less = |unanswered: u64| unanswered.checked_sub(1);
                let _ = state.unanswered.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
            }
        });
    }
}

/// Where in a sequence of messages a stream is.
#[derive(Debug)]
struct Framing {
    at: At,
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// So much of a head has been seen.
    Head { seen: usize, head: [u8; 5] },
    /// This much of a message of this kind is to come, whose first byte has not been seen.
    Body { kind: u8, left: u32 },
    /// This much is to come, of no interest.
    Rest { left: u32 },
}

impl Default for Framing {
    fn default() -> Self {
        Self { at: At::Head { seen: 0, head: [0; 5] } }
    }
}

impl Framing {
    fn is_between(&self) -> bool {
        matches!(self.at, At::Head { seen: 0, .. })
    }

    /// Goes on by `bytes`, telling of each message its kind and the first byte of its body (0 if it has none).
    fn advance(&mut self, mut bytes: &[u8], mut tell: impl FnMut(u8, u8)) {
        while let Some((&byte, after)) = bytes.split_first() {
            match &mut self.at {
                At::Head { seen, head } => {
                    head[*seen] = byte;
                    *seen += 1;
                    bytes = after;
                    if *seen == head.len() {
                        let [kind, length @ ..] = *head;
                        // The length counts itself.
                        let left = u32::from_be_bytes(length).saturating_sub(4);
                        self.at = At::Body { kind, left };
                        if left == 0 {
                            tell(kind, 0);
                            *self = Self::default();
                        }
                    }
                }
                At::Body { kind, left } => {
                    let left = *left;
                    tell(*kind, byte);
                    self.at = At::Rest { left };
                    // The byte belongs to the rest, and is skipped with it.
                }
                At::Rest { left } => {
                    let skipped = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    bytes = &bytes[skipped..];
                    *left -= u32::try_from(skipped).unwrap_or(*left);
                    if *left == 0 {
                        *self = Self::default();
                    }
                }
            }
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let line = self.get_mut();
        let before = buffer.filled().len();
        let read = line.inner().poll_read(context, buffer);
        if matches!(read, Poll::Ready(Ok(()))) {
            line.note_received(&buffer.filled()[before..]);
        }
        read
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let line = self.get_mut();
        let written = line.inner().poll_write(context, bytes);
        match &written {
            Poll::Ready(Ok(length)) => line.note_sent(&bytes[..*length]),
            // There is something that wants to be sent.
            Poll::Pending => line.state.open.store(true, Ordering::Release),
            Poll::Ready(Err(_)) => {}
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().inner().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().inner().poll_shutdown(context)
    }
}

impl ChannelBound for Line {
    fn channel_binding(&self) -> ChannelBinding {
        let certificate = match &self.stream {
            Stream::Clear(_) => None,
            Stream::Tls(stream) => stream.get_ref().1.peer_certificates().and_then(<[_]>::first),
        };
        match certificate.and_then(|certificate| tls::server_end_point(certificate)) {
            Some(hash) => ChannelBinding::tls_server_end_point(hash),
            None => ChannelBinding::none(),
        }
    }
}

/// The library's handshake: there is none left to do, whichever kind of line it is.
pub(crate) struct Ready;

impl TlsConnect<Line> for Ready {
    type Stream = Line;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Line>>;

    fn connect(self, line: Line) -> Self::Future {
        std::future::ready(Ok(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> (Line, Arc<LineState>) {
        let (ours, _) = tokio::io::duplex(16);
        let (mut line, state) = Line::new(Err(Box::new(ours)));
        line.note_sent(&[0, 0, 0, 9, 0, 3, 0, 0, 0]);
        (line, state)
    }

    /// By every size of piece, since a stream cuts where it likes.
    fn in_pieces(mut act: impl FnMut(usize)) {
        for size in 1..40 {
            act(size);
        }
    }

    const READY: &[u8] = b"Z\0\0\0\x05I";
    const IN_TRANSACTION: &[u8] = b"Z\0\0\0\x05T";
    const QUERY: &[u8] = b"Q\0\0\0\x0dselect 1\0";
    const PARSE_BIND_EXECUTE: &[u8] = b"P\0\0\0\x08\0\0\0\0B\0\0\0\x04E\0\0\0\x05x";
    const SYNC: &[u8] = b"S\0\0\0\x04";

    #[test]
    fn a_session_is_idle_once_all_that_was_asked_is_answered() {
        in_pieces(|size| {
            let (mut line, state) = line();
            assert_eq!(state.middle(), Middle::Statement, "the login");
            line.note_sent(b"p\0\0\0\x08abc\0");
            let login = [b"R\0\0\0\x08\0\0\0\0S\0\0\0\x08a\0b\0".as_slice(), READY].concat();
            login.chunks(size).for_each(|piece| line.note_received(piece));
            assert_eq!(state.middle(), Middle::Nothing);

            let asked = [QUERY, PARSE_BIND_EXECUTE, SYNC].concat();
            for piece in asked.chunks(size) {
                line.note_sent(piece);
                assert_eq!(state.middle(), Middle::Statement);
            }
            line.note_received(READY);
            assert_eq!(state.middle(), Middle::Statement, "one answer of two");
            line.note_received(IN_TRANSACTION);
            assert_eq!(state.middle(), Middle::Transaction);
            line.note_sent(QUERY);
            line.note_received(READY);
            assert_eq!(state.middle(), Middle::Nothing);
        });
    }

    #[test]
    fn half_a_request_is_one() {
        let (mut line, state) = line();
        line.note_received(READY);
        let before = state.written();
        line.note_sent(&PARSE_BIND_EXECUTE[..3]);
        assert_eq!(state.middle(), Middle::Statement);
        line.note_sent(&PARSE_BIND_EXECUTE[3..]);
        assert_eq!(state.middle(), Middle::Statement, "nothing asks for an end of it yet");
        assert_eq!(state.written() - before, PARSE_BIND_EXECUTE.len() as u64);
    }

    #[test]
    fn rows_that_look_like_answers_are_rows() {
        in_pieces(|size| {
            let (mut line, state) = line();
            line.note_received(READY);
            line.note_sent(QUERY);
            let row = [b"D\0\0\0\x0a".as_slice(), READY].concat();
            row.chunks(size).for_each(|piece| line.note_received(piece));
            assert_eq!(state.middle(), Middle::Statement);
            line.note_received(READY);
            assert_eq!(state.middle(), Middle::Nothing);
        });
    }
}
