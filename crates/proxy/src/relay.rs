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
pub(crate) use pipe::PIPE_DESCRIPTORS;
use pipe::Pipes;

/// Size of the buffer that all connections of a core read into.
const SCRATCH: usize = 64 * 1024;

/// How long a side whose counterpart is gone may take nothing of what was left for it.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// How often it is looked whether it has received all.
const RECEIVED_EVERY: Duration = Duration::from_millis(25);

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
    /// One side is gone; what it had said before is still passed on, and then the connection ends for this reason.
    ending: Option<Box<Ending>>,
    /// Keepalive and user timeout are set.
    guarded: bool,
    /// When the client began with what may become a PROXY header.
    undecided_since: Option<Instant>,
    /// When the last byte moved, or a side finished.
    last_moved: Instant,
}

/// What happens once a side is gone.
struct Ending {
    who: End,
    /// The other is gone as well.
    both: bool,
    close: Close,
    /// When it was noticed, or the client last took something.
    since: Instant,
    /// Bytes the client had yet to receive at the last look.
    left: usize,
}

impl Ending {
    /// Whether the client has yet to receive what was sent to it.
    fn receives(&mut self, client: &Socket, now: Instant) -> bool {
        let left = client.unacknowledged();
        if left < self.left {
            self.left = left;
            self.since = now;
        }
        left > 0
    }
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
            undecided_since: None,
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
        self.client.reset_on_close();
        self.backend.reset_on_close();
    }

    /// Moves what can be moved both ways.
    pub(crate) fn advance(&mut self, bench: &mut Workbench, now: Instant) -> Next {
        for end in [End::Client, End::Backend] {
            // Whether or not anything is to be read from it or written to it: else a connection whose other side does
            // not read would outlive this one.
            if let Some(error) = self.socket(end).take_error() {
                self.lose(end, &error, now);
            }
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
                Err(broken) => {
                    let culprit = broken.culprit(from);
                    self.lose(culprit, &broken.error, now);
                    if broken.side == Side::Source {
                        self.finished(from, now);
                    }
                    // What the other had said before is yet to be passed on.
                    next = Next::GoOn;
                }
            }
        }
        match (&mut self.ending, self.first_done) {
            _ if self.inbound.is_untrusted_header() => Next::UntrustedHeader,
            // Nobody is left to take anything.
            (Some(ending), _) if ending.both => Next::Close(ending.close),
            (Some(ending), _) if ending.who == End::Client && self.client_done => Next::Close(ending.close),
            // The reset that follows would throw away what the client has not received of an early answer.
            (Some(ending), _) if ending.who == End::Backend && self.backend_done => {
                match ending.receives(&self.client, now) {
                    true => Next::Wait,
                    false => Next::Close(ending.close),
                }
            }
            (None, Some(first)) if self.client_done && self.backend_done => Next::Close(first),
            _ => next,
        }
    }

    /// Whether there is anything to be moved in this direction, now or later.
    fn flows(&self, from: End) -> bool {
        let done = match from {
            End::Client => self.client_done,
            End::Backend => self.backend_done,
        };
        !done && self.ending.as_ref().is_none_or(|ending| ending.who == from)
    }

    fn advance_from(&mut self, from: End, bench: &mut Workbench, now: Instant) -> Result<Flow, Broken> {
        // Of a side that is gone, the end is no regular one: the other is told by a reset.
        let broken = self.ending.is_some();
        let (direction, source, destination, last) = match from {
            End::Client => (&mut self.inbound, &mut self.client, &mut self.backend, self.backend_done),
            End::Backend => (&mut self.outbound, &mut self.backend, &mut self.client, self.client_done),
        };
        let before = direction.moved();
        let flow = direction.advance(bench, source, destination, last || broken);
        let moved = direction.moved() - before;
        match from {
            End::Client => bench.moved.inbound += moved,
            End::Backend => bench.moved.outbound += moved,
        }
        if moved > 0 {
            self.last_moved = now;
        }
        if self.inbound.is_undecided() {
            self.undecided_since.get_or_insert(now);
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

    /// A side is gone. The first to go decides how the connection ends.
    ///
    /// Not at once: a backend that answers early and closes resets what is still being sent to it, and its answer waits
    /// to be read.
    fn lose(&mut self, who: End, error: &io::Error, now: Instant) {
        match &mut self.ending {
            Some(ending) => ending.both |= ending.who != who,
            None => {
                let close = why(error, who);
                self.ending = Some(Box::new(Ending { who, both: false, close, since: now, left: usize::MAX }));
            }
        }
    }

    /// When the connection must end if nothing moves until then, and what that means.
    pub(crate) fn deadline(&self, settings: &ListenerSettings, started: Instant) -> Option<(Instant, Close)> {
        let lifetime = settings.max_lifetime.map(|lifetime| (started + lifetime, Close::MaxLifetime));
        if let Some(ending) = &self.ending {
            let last_words = (ending.since.max(self.last_moved) + LAST_WORDS, ending.close);
            return [Some(last_words), lifetime].into_iter().flatten().min_by_key(|(at, _)| *at);
        }
        let half_closed = self.client_done || self.backend_done;
        let idle = settings.idle_timeout.map(|timeout| (self.last_moved + timeout, Close::IdleTimeout));
        let half = settings
            .half_close_timeout
            .filter(|_| half_closed)
            .map(|timeout| (self.last_moved + timeout, Close::HalfCloseTimeout));
        [idle, half, lifetime].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// When to look again even if no socket has news.
    pub(crate) fn look_at(&self, settings: &ListenerSettings, started: Instant, now: Instant) -> Option<Instant> {
        let deadline = self.deadline(settings, started).map(|(at, _)| at);
        // Nothing tells when the last byte was received.
        let receives = self.ending.as_ref().is_some_and(|ending| ending.who == End::Backend) && self.backend_done;
        let received = receives.then(|| now + RECEIVED_EVERY);
        [deadline, received, self.undecided_until(settings)].into_iter().flatten().min()
    }

    /// Whether the client has begun like a PROXY header and then taken too long. To pass that on would let the rest
    /// follow later, and the backend would have a whole header from somebody not trusted.
    pub(crate) fn never_decides(&self, settings: &ListenerSettings, now: Instant) -> bool {
        self.undecided_until(settings).is_some_and(|until| now >= until)
    }

    fn undecided_until(&self, settings: &ListenerSettings) -> Option<Instant> {
        let since = self.undecided_since.filter(|_| self.inbound.is_undecided())?;
        Some(since + settings.proxy_header_timeout)
    }

    /// Sets what only matters to connections that last: it would cost a short one eight system calls.
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
