//! Moves bytes both ways between a client and a backend until both have finished, or something ends it.
//!
//! Each direction reads into a scratch buffer that all connections of a core share and writes at once; only what the
//! receiver does not take is kept, and the sender is not read again until it is gone. So an idle connection holds no
//! buffer, and a slow reader holds up its sender instead of filling our memory. A direction in bulk moves on to a pipe
//! and `splice`, which spares the copies (see [`pipe`]).
//!
//! A finished direction is passed on as a half-close; a broken one as a reset of the other side, so that neither takes
//! a part for the whole.

mod direction;
mod pipe;

use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::SockRef;

use crate::close::Close;
use crate::core::End;
use crate::settings::ListenerSettings;
use crate::socket::Socket;
use direction::{Broken, Direction, Flow, Side};
use pipe::Pipes;

/// Size of the buffer that all connections of a core read into.
const SCRATCH: usize = 64 * 1024;

/// What a core lends to the relay it is working on.
pub(crate) struct Workbench {
    scratch: Box<[u8]>,
    pipes: Pipes,
    /// What was moved since the metrics were last told.
    pub(crate) moved: Moved,
}

/// Bytes moved.
#[derive(Default)]
pub(crate) struct Moved {
    pub(crate) inbound: u64,
    pub(crate) outbound: u64,
    /// Of both, how many went through pipes.
    pub(crate) spliced: u64,
}

impl Workbench {
    pub(crate) fn new() -> Self {
        Self { scratch: vec![0; SCRATCH].into_boxed_slice(), pipes: Pipes::default(), moved: Moved::default() }
    }
}

/// Two connected sockets and how far each direction has got.
pub(crate) struct Relay {
    client: Socket,
    backend: Socket,
    inbound: Direction,
    outbound: Direction,
    /// The client has finished sending, and the backend was told.
    client_done: bool,
    /// The backend has finished sending, and the client was told.
    backend_done: bool,
    /// Who finished first.
    first_done: Option<Close>,
    /// One side takes no more; what it had said before is still passed on, and then the connection ends for this reason.
    ending: Option<Close>,
    /// Keepalive and user timeout are set.
    guarded: bool,
    /// When the last byte moved, or a side finished.
    last_moved: Instant,
}

/// How it goes on with a relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Nothing to do until a socket has news.
    Wait,
    /// There is more to do, after the others had their turn.
    GoOn,
    /// The connection is over.
    Close(Close),
    /// The client's first bytes are a PROXY header it is not trusted to send. None was passed on.
    UntrustedHeader,
}

impl Relay {
    /// With `unchecked`, the client's first bytes must not be a PROXY header.
    pub(crate) fn new(client: Socket, backend: Socket, unchecked: bool, now: Instant) -> Self {
        Self {
            client,
            backend,
            inbound: Direction::new(unchecked, false),
            // Accepted sockets have inherited it from the listening one.
            outbound: Direction::new(false, true),
            client_done: false,
            backend_done: false,
            first_done: None,
            ending: None,
            guarded: false,
            last_moved: now,
        }
    }

    pub(crate) fn socket(&mut self, end: End) -> &mut Socket {
        match end {
            End::Client => &mut self.client,
            End::Backend => &mut self.backend,
        }
    }

    /// Bytes from and to the client so far.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.inbound.moved(), self.outbound.moved())
    }

    /// Makes closing the sockets tell both sides that this was no regular end.
    pub(crate) fn reset_on_close(&self) {
        crate::socket::reset_on_close(&self.client);
        crate::socket::reset_on_close(&self.backend);
    }

    /// Moves what can be moved both ways.
    pub(crate) fn advance(&mut self, bench: &mut Workbench, now: Instant) -> Next {
        if let Some(close) = self.broken_after_finishing() {
            return Next::Close(close);
        }
        let mut next = Next::Wait;
        for from in [End::Client, End::Backend] {
            if !self.flows(from) {
                continue;
            }
            match self.advance_from(from, bench, now) {
                Ok(Flow::Blocked) => {}
                Ok(Flow::Busy) => next = Next::GoOn,
                Ok(Flow::Finished) => self.finished(from, now),
                Err(broken) => match self.broken(from, &broken) {
                    Some(close) => return Next::Close(close),
                    // What the broken side had said before is yet to be passed on.
                    None => next = Next::GoOn,
                },
            }
        }
        match (self.ending, self.first_done) {
            _ if self.inbound.is_untrusted_header() => Next::UntrustedHeader,
            (Some(close), _) if self.client_done || self.backend_done => Next::Close(close),
            (None, Some(first)) if self.client_done && self.backend_done => Next::Close(first),
            _ => next,
        }
    }

    /// Whether there is anything to be moved in this direction, now or later.
    fn flows(&self, from: End) -> bool {
        match from {
            End::Client => {
                !self.client_done && !matches!(self.ending, Some(Close::BackendReset | Close::BackendTimeout))
            }
            End::Backend => {
                !self.backend_done && !matches!(self.ending, Some(Close::ClientReset | Close::ClientTimeout))
            }
        }
    }

    fn advance_from(&mut self, from: End, bench: &mut Workbench, now: Instant) -> Result<Flow, Broken> {
        let (direction, source, destination, last) = match from {
            End::Client => (&mut self.inbound, &mut self.client, &mut self.backend, self.backend_done),
            End::Backend => (&mut self.outbound, &mut self.backend, &mut self.client, self.client_done),
        };
        let before = direction.moved();
        let flow = direction.advance(bench, source, destination, last);
        let moved = direction.moved() - before;
        if moved > 0 {
            self.last_moved = now;
        }
        match from {
            End::Client => bench.moved.inbound += moved,
            End::Backend => bench.moved.outbound += moved,
        }
        flow
    }

    fn finished(&mut self, who: End, now: Instant) {
        let close = match who {
            End::Client => {
                self.client_done = true;
                Close::Client
            }
            End::Backend => {
                self.backend_done = true;
                Close::Backend
            }
        };
        self.first_done.get_or_insert(close);
        self.last_moved = now;
    }

    /// A direction broke. Returns how the connection ends, unless the other direction goes on to its end: a backend that
    /// answers early and closes resets what is still being sent to it, and its answer waits to be read.
    fn broken(&mut self, from: End, broken: &Broken) -> Option<Close> {
        let culprit = match (from, broken.side) {
            (End::Client, Side::Source) | (End::Backend, Side::Destination) => End::Client,
            (End::Backend, Side::Source) | (End::Client, Side::Destination) => End::Backend,
        };
        let close = why(&broken.error, culprit);
        if broken.side == Side::Source || close == Close::Error || self.ending.is_some() {
            return Some(self.ending.unwrap_or(close));
        }
        self.ending = Some(close);
        None
    }

    /// A side that has finished sending is not read any more: a reset of it shows as an error without a read.
    fn broken_after_finishing(&mut self) -> Option<Close> {
        if self.client_done && self.client.take_error().is_some() {
            return Some(Close::ClientReset);
        }
        (self.backend_done && self.backend.take_error().is_some()).then_some(Close::BackendReset)
    }

    /// When the connection must end if nothing moves until then, and what that means.
    pub(crate) fn deadline(&self, settings: &ListenerSettings, started: Instant) -> Option<(Instant, Close)> {
        let half_closed = self.client_done || self.backend_done;
        let idle = settings.idle_timeout.map(|timeout| (self.last_moved + timeout, Close::IdleTimeout));
        let half = settings
            .half_close_timeout
            .filter(|_| half_closed)
            .map(|timeout| (self.last_moved + timeout, Close::HalfCloseTimeout));
        let lifetime = settings.max_lifetime.map(|lifetime| (started + lifetime, Close::MaxLifetime));
        [idle, half, lifetime].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// Sets what only matters to connections that last: it would cost a short one six system calls.
    pub(crate) fn guard(&mut self, settings: &ListenerSettings) {
        if self.guarded {
            return;
        }
        self.guarded = true;
        for socket in [&self.client, &self.backend] {
            let socket = SockRef::from(socket);
            // A socket that has just been reset refuses its options; its relay is about to see that.
            if let Some(idle) = settings.keepalive {
                let probes =
                    socket2::TcpKeepalive::new().with_time(idle).with_interval(Duration::from_secs(10)).with_retries(6);
                let _ = socket.set_tcp_keepalive(&probes);
            }
            if settings.user_timeout.is_some() {
                let _ = socket.set_tcp_user_timeout(settings.user_timeout);
            }
        }
    }
}

/// What an error of the client's or the backend's socket means.
fn why(error: &io::Error, culprit: End) -> Close {
    let client = culprit == End::Client;
    match Errno::from_io_error(error) {
        Some(Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::NETUNREACH) if client => Close::ClientTimeout,
        Some(Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::NETUNREACH) => Close::BackendTimeout,
        Some(Errno::CONNRESET | Errno::PIPE | Errno::CONNABORTED | Errno::NOTCONN) if client => Close::ClientReset,
        Some(Errno::CONNRESET | Errno::PIPE | Errno::CONNABORTED | Errno::NOTCONN) => Close::BackendReset,
        _ => Close::Error,
    }
}
