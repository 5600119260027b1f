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

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::close::Close;
use crate::metrics::Metrics;
use crate::record::Record;
use crate::settings::ListenerSettings;
use direction::{Broken, Direction, Side};

/// How often a busy relay looks at its clock.
const LONGEST_TICK: Duration = Duration::from_secs(10);

/// Two connected sockets and how far each direction has got.
pub(crate) struct Pair {
    pub(crate) client: TcpStream,
    pub(crate) backend: TcpStream,
    pub(crate) progress: Progress,
}

/// What survives of a relay while it is parked.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Progress {
    /// The client has finished sending, and the backend was told.
    pub(crate) client_done: bool,
    /// The backend has finished sending, and the client was told.
    pub(crate) backend_done: bool,
    /// Who finished first.
    first_done: Option<Close>,
    /// The client's first bytes have yet to be checked for a PROXY header it is not trusted to send.
    pub(crate) unchecked: bool,
    /// Keepalive and user timeout are set.
    guarded: bool,
    /// Bytes in and out that the metrics have been told of.
    reported: (u64, u64),
}

impl Progress {
    /// Nothing moved yet.
    pub(crate) fn beginning(unchecked: bool) -> Self {
        Self { unchecked, ..Self::default() }
    }
}

/// Why a relay stopped.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The connection is over.
    Closed(Close),
    /// Nothing moved for a while; nothing is held.
    Idle,
    /// The client's first bytes are a PROXY header it is not trusted to send. None was passed on.
    UntrustedHeader,
}

/// Relays until the connection ends or idles for `idle_after`.
pub(crate) async fn relay(
    pair: &mut Pair,
    record: &Record,
    settings: &ListenerSettings,
    metrics: &Metrics,
    idle_after: Duration,
) -> Ended {
    let lifetime_end = settings.max_lifetime.map(|lifetime| Instant::from_std(record.started) + lifetime);
    let mut relay = Relay {
        inbound: Direction::new(pair.progress.client_done, pair.progress.unchecked),
        outbound: Direction::new(pair.progress.backend_done, false),
        pair,
        record,
        settings,
        metrics,
        idle_after,
        lifetime_end,
        moved_at_tick: None,
        known_to_record: false,
    };
    let mut tick = std::pin::pin!(tokio::time::sleep_until(relay.next_tick(Instant::now())));
    let ended = poll_fn(|cx| relay.poll(cx, tick.as_mut())).await;
    relay.report();
    ended
}

struct Relay<'a> {
    pair: &'a mut Pair,
    inbound: Direction,
    outbound: Direction,
    record: &'a Record,
    settings: &'a ListenerSettings,
    metrics: &'a Metrics,
    idle_after: Duration,
    lifetime_end: Option<Instant>,
    /// Bytes moved both ways when the clock was last looked at.
    moved_at_tick: Option<u64>,
    known_to_record: bool,
}

impl Relay<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, mut tick: Pin<&mut Sleep>) -> Poll<Ended> {
        if !self.known_to_record {
            self.record.relayed_by(cx.waker());
            self.known_to_record = true;
        }
        if let Some(close) = self.record.ordered() {
            return Poll::Ready(Ended::Closed(close));
        }
        match self.poll_directions(cx) {
            Poll::Ready(ended) => return Poll::Ready(ended),
            Poll::Pending => {}
        }
        while tick.as_mut().poll_tick(cx) {
            let now = Instant::now();
            if let Some(ended) = self.tick(now) {
                return Poll::Ready(ended);
            }
            tick.as_mut().reset(self.next_tick(now));
        }
        Poll::Pending
    }

    fn poll_directions(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let Pair { client, backend, progress } = &mut *self.pair;
        if !progress.client_done {
            let polled = self.inbound.poll(cx, client, backend);
            if self.inbound.is_untrusted_header() {
                return Poll::Ready(Ended::UntrustedHeader);
            }
            progress.unchecked = self.inbound.is_unchecked();
            self.record.bytes_in.fetch_add(self.inbound.take_moved(), Relaxed);
            match polled {
                Poll::Ready(Ok(())) => {
                    progress.client_done = true;
                    progress.first_done.get_or_insert(Close::Client);
                }
                Poll::Ready(Err(broken)) => return Poll::Ready(Ended::Closed(why(&broken, Side::Source))),
                Poll::Pending => {}
            }
        }
        if !progress.backend_done {
            let polled = self.outbound.poll(cx, backend, client);
            self.record.bytes_out.fetch_add(self.outbound.take_moved(), Relaxed);
            match polled {
                Poll::Ready(Ok(())) => {
                    progress.backend_done = true;
                    progress.first_done.get_or_insert(Close::Backend);
                }
                Poll::Ready(Err(broken)) => return Poll::Ready(Ended::Closed(why(&broken, Side::Destination))),
                Poll::Pending => {}
            }
        }
        match progress.first_done {
            Some(first) if progress.client_done && progress.backend_done => Poll::Ready(Ended::Closed(first)),
            _ => Poll::Pending,
        }
    }

    /// The clock was looked at: is the connection too old, or has it idled since the last look?
    fn tick(&mut self, now: Instant) -> Option<Ended> {
        if self.lifetime_end.is_some_and(|end| now >= end) {
            return Some(Ended::Closed(Close::MaxLifetime));
        }
        self.guard();
        let (bytes_in, bytes_out) = self.report();
        let moved = bytes_in + bytes_out;
        let idled = self.moved_at_tick.replace(moved) == Some(moved);
        // What a slow receiver has yet to take is not idleness; the user timeout watches over that.
        (idled && !self.inbound.holds_bytes() && !self.outbound.holds_bytes()).then_some(Ended::Idle)
    }

    /// Tells the metrics what was moved since they were last told: often enough for a graph, not once a segment.
    fn report(&mut self) -> (u64, u64) {
        let (bytes_in, bytes_out) = self.record.bytes();
        let told = std::mem::replace(&mut self.pair.progress.reported, (bytes_in, bytes_out));
        self.metrics.bytes_in.inc_by(bytes_in - told.0);
        self.metrics.bytes_out.inc_by(bytes_out - told.1);
        self.metrics.spliced_bytes.inc_by(self.inbound.take_spliced() + self.outbound.take_spliced());
        (bytes_in, bytes_out)
    }

    fn next_tick(&self, now: Instant) -> Instant {
        let tick = now + (self.idle_after / 2).min(LONGEST_TICK);
        self.lifetime_end.map_or(tick, |end| tick.min(end))
    }

    /// Sets what only matters to connections that last: it would cost a short one six system calls.
    fn guard(&mut self) {
        if self.pair.progress.guarded {
            return;
        }
        self.pair.progress.guarded = true;
        for stream in [&self.pair.client, &self.pair.backend] {
            let socket = SockRef::from(stream);
            // A socket that has just been reset refuses its options; its relay is about to see that.
            if let Some(idle) = self.settings.keepalive {
                let probes =
                    socket2::TcpKeepalive::new().with_time(idle).with_interval(Duration::from_secs(10)).with_retries(6);
                let _ = socket.set_tcp_keepalive(&probes);
            }
            let _ = socket.set_tcp_user_timeout(self.settings.user_timeout);
        }
    }
}

trait PollTick {
    /// Whether the deadline has passed.
    fn poll_tick(self, cx: &mut Context<'_>) -> bool;
}

impl PollTick for Pin<&mut Sleep> {
    fn poll_tick(self, cx: &mut Context<'_>) -> bool {
        self.poll(cx).is_ready()
    }
}

/// Which side broke, and how. `client_is` says which side of the direction the client was.
fn why(broken: &Broken, client_is: Side) -> Close {
    let client = broken.side == client_is;
    match Errno::from_io_error(&broken.error) {
        Some(Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::NETUNREACH) if client => Close::ClientTimeout,
        Some(Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::NETUNREACH) => Close::BackendTimeout,
        Some(Errno::CONNRESET | Errno::PIPE | Errno::CONNABORTED | Errno::NOTCONN) if client => Close::ClientReset,
        Some(Errno::CONNRESET | Errno::PIPE | Errno::CONNABORTED | Errno::NOTCONN) => Close::BackendReset,
        _ => Close::Error,
    }
}

/// Makes closing this socket send a reset.
pub(crate) fn reset_on_close(socket: &impl std::os::fd::AsFd) {
    // Fails only on a socket that is already gone.
    let _: io::Result<()> = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
