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
use direction::{Broken, Direction, Side};

/// Two connected sockets and how far each direction has got.
pub(crate) struct Pair {
    pub(crate) client: TcpStream,
    pub(crate) backend: TcpStream,
    pub(crate) progress: Progress,
}

/// What survives of a relay while it is parked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// The client has finished sending, and the backend was told.
    pub(crate) client_done: bool,
    /// The backend has finished sending, and the client was told.
    pub(crate) backend_done: bool,
    /// Who finished first.
    first_done: Option<Close>,
    /// The client's first bytes have yet to be checked for a PROXY header it is not trusted to send.
    pub(crate) unchecked: bool,
    /// When the last byte moved, or a side finished.
    pub(crate) last_moved: Instant,
    /// Keepalive and user timeout are set.
    guarded: bool,
    /// Bytes in and out that the metrics have been told of.
    reported: (u64, u64),
}

impl Progress {
    /// Nothing moved yet.
    pub(crate) fn beginning(unchecked: bool) -> Self {
        Self {
            client_done: false,
            backend_done: false,
            first_done: None,
            unchecked,
            last_moved: Instant::now(),
            guarded: false,
            reported: (0, 0),
        }
    }

    fn finished(&mut self, who: Close) {
        self.first_done.get_or_insert(who);
        self.last_moved = Instant::now();
    }

    /// When the connection must end if nothing moves until then, and what that means.
    pub(crate) fn deadline(&self, record: &Record) -> Option<(Instant, Close)> {
        let settings = &record.listener.settings;
        let half_closed = self.client_done || self.backend_done;
        let idle = settings.idle_timeout.map(|timeout| (self.last_moved + timeout, Close::IdleTimeout));
        let half = settings
            .half_close_timeout
            .filter(|_| half_closed)
            .map(|timeout| (self.last_moved + timeout, Close::HalfCloseTimeout));
        let lifetime =
            settings.max_lifetime.map(|lifetime| (Instant::from_std(record.started) + lifetime, Close::MaxLifetime));
        [idle, half, lifetime].into_iter().flatten().min_by_key(|(at, _)| *at)
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
pub(crate) async fn relay(pair: &mut Pair, record: &Record, metrics: &Metrics, idle_after: Duration) -> Ended {
    let mut relay = Relay {
        inbound: Direction::new(pair.progress.client_done, pair.progress.unchecked),
        outbound: Direction::new(pair.progress.backend_done, false),
        pair,
        record,
        metrics,
        idle_after,
        begun: false,
        ending: None,
    };
    let mut tick = std::pin::pin!(tokio::time::sleep(idle_after));
    let ended = poll_fn(|cx| relay.poll(cx, tick.as_mut())).await;
    relay.report();
    ended
}

struct Relay<'a> {
    pair: &'a mut Pair,
    inbound: Direction,
    outbound: Direction,
    record: &'a Record,
    metrics: &'a Metrics,
    idle_after: Duration,
    begun: bool,
    /// One side takes no more; what it had said before is still passed on, and then the connection ends for this reason.
    ending: Option<Close>,
}

impl Relay<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, mut tick: Pin<&mut Sleep>) -> Poll<Ended> {
        if !self.begun {
            self.begun = true;
            self.record.relayed_by(cx.waker());
            if let Some(close) = self.broken_after_finishing() {
                return Poll::Ready(Ended::Closed(close));
            }
            tick.as_mut().reset(self.next_tick(Instant::now()));
        }
        if let Some(close) = self.record.ordered() {
            return Poll::Ready(Ended::Closed(close));
        }
        if let Poll::Ready(ended) = self.poll_directions(cx) {
            return Poll::Ready(ended);
        }
        while tick.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if let Some(ended) = self.tick(now) {
                return Poll::Ready(ended);
            }
            tick.as_mut().reset(self.next_tick(now));
        }
        Poll::Pending
    }

    fn poll_directions(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let (moved_in, inbound) = self.poll_inbound(cx);
        let (moved_out, outbound) = self.poll_outbound(cx);
        if moved_in + moved_out > 0 {
            self.pair.progress.last_moved = Instant::now();
        }
        if self.inbound.is_untrusted_header() {
            return Poll::Ready(Ended::UntrustedHeader);
        }
        for (polled, source_is_client) in [(inbound, true), (outbound, false)] {
            match polled {
                Poll::Ready(Err(broken)) if broken.side == Side::Source => {
                    let close = self.ending.unwrap_or_else(|| why(&broken.error, source_is_client));
                    return Poll::Ready(Ended::Closed(close));
                }
                // A backend that answers early and closes resets what is still being sent to it; its answer waits to be
                // read. So the other direction goes on to its end.
                Poll::Ready(Err(broken)) => {
                    let close = why(&broken.error, !source_is_client);
                    if close == Close::Error || self.ending.is_some() {
                        return Poll::Ready(Ended::Closed(self.ending.unwrap_or(close)));
                    }
                    self.ending = Some(close);
                    // Polled again without the broken direction.
                    cx.waker().wake_by_ref();
                }
                _ => {}
            }
        }
        let Progress { client_done, backend_done, first_done, .. } = self.pair.progress;
        match (self.ending, first_done) {
            (Some(close), _) if client_done || backend_done => Poll::Ready(Ended::Closed(close)),
            (None, Some(first)) if client_done && backend_done => Poll::Ready(Ended::Closed(first)),
            _ => Poll::Pending,
        }
    }

    fn poll_inbound(&mut self, cx: &mut Context<'_>) -> (u64, Poll<Result<(), Broken>>) {
        let Pair { client, backend, progress } = &mut *self.pair;
        let backend_takes = !matches!(self.ending, Some(Close::BackendReset | Close::BackendTimeout));
        if progress.client_done || !backend_takes {
            return (0, Poll::Pending);
        }
        let polled = self.inbound.poll(cx, client, backend, progress.backend_done);
        progress.unchecked = self.inbound.is_unchecked();
        let moved = self.inbound.take_moved();
        self.record.bytes_in.fetch_add(moved, Relaxed);
        if let Poll::Ready(Ok(())) = polled {
            progress.client_done = true;
            progress.finished(Close::Client);
        }
        (moved, polled)
    }

    fn poll_outbound(&mut self, cx: &mut Context<'_>) -> (u64, Poll<Result<(), Broken>>) {
        let Pair { client, backend, progress } = &mut *self.pair;
        let client_takes = !matches!(self.ending, Some(Close::ClientReset | Close::ClientTimeout));
        if progress.backend_done || !client_takes {
            return (0, Poll::Pending);
        }
        let polled = self.outbound.poll(cx, backend, client, progress.client_done);
        let moved = self.outbound.take_moved();
        self.record.bytes_out.fetch_add(moved, Relaxed);
        if let Poll::Ready(Ok(())) = polled {
            progress.backend_done = true;
            progress.finished(Close::Backend);
        }
        (moved, polled)
    }

    /// The clock was looked at: is the connection overdue, or has it idled?
    fn tick(&mut self, now: Instant) -> Option<Ended> {
        if let Some((at, close)) = self.pair.progress.deadline(self.record)
            && now >= at
        {
            return Some(Ended::Closed(close));
        }
        self.guard();
        self.report();
        if let Some(close) = self.broken_after_finishing() {
            return Some(Ended::Closed(close));
        }
        (self.may_park() && now >= self.pair.progress.last_moved + self.idle_after).then_some(Ended::Idle)
    }

    /// What a slow receiver has yet to take would have to be parked as well; it stays here instead.
    fn may_park(&self) -> bool {
        self.ending.is_none() && !self.inbound.holds_bytes() && !self.outbound.holds_bytes()
    }

    fn next_tick(&self, now: Instant) -> Instant {
        let idle = self.pair.progress.last_moved + self.idle_after;
        // A relay that may not park looks again later rather than at once.
        let tick = if idle > now { idle } else { now + self.idle_after };
        self.pair.progress.deadline(self.record).map_or(tick, |(at, _)| tick.min(at))
    }

    /// A side that has finished sending is not read any more, so a reset of it shows only here: at every tick, and when
    /// the parking lot saw an error.
    fn broken_after_finishing(&self) -> Option<Close> {
        let Pair { client, backend, progress } = &*self.pair;
        let broken = |stream: &TcpStream| stream.take_error().ok().flatten().is_some();
        if progress.client_done && broken(client) {
            return Some(Close::ClientReset);
        }
        (progress.backend_done && broken(backend)).then_some(Close::BackendReset)
    }

    /// Tells the metrics what was moved since they were last told: often enough for a graph, not once a segment.
    fn report(&mut self) {
        let (bytes_in, bytes_out) = self.record.bytes();
        let told = std::mem::replace(&mut self.pair.progress.reported, (bytes_in, bytes_out));
        self.metrics.bytes_in.inc_by(bytes_in - told.0);
        self.metrics.bytes_out.inc_by(bytes_out - told.1);
        self.metrics.spliced_bytes.inc_by(self.inbound.take_spliced() + self.outbound.take_spliced());
    }

    /// Sets what only matters to connections that last: it would cost a short one six system calls.
    fn guard(&mut self) {
        if self.pair.progress.guarded {
            return;
        }
        self.pair.progress.guarded = true;
        let settings = &self.record.listener.settings;
        for stream in [&self.pair.client, &self.pair.backend] {
            let socket = SockRef::from(stream);
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
fn why(error: &io::Error, client: bool) -> Close {
    match Errno::from_io_error(error) {
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
