//! One connection: a TCP socket of the stack on one side, a pair of Unix sockets on the other.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use edgeproxy_tunnel::Moment;
use rustix::event::epoll::EventFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{SendFlags, Shutdown, shutdown};
use smoltcp::iface::{Context, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::Instant;

use super::clock::{our_time, stack_time};
use super::memory::Grant;
use super::ports::Seat;
use super::sent::Sent;
use super::{GREETING, Place};
use crate::stream::{Line, Stream};

/// How long a SYN goes unanswered before it counts as lost for good: as Linux has it (tcp_syn_retries 6).
const DIAL_PATIENCE: Duration = Duration::from_secs(127);
/// How long one who knocked has to take up the answer, which is sent again five times meanwhile. So long it holds a place
/// in the backlog.
const KNOCK_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may go without a word from the other side before it counts as broken. One that is alive
/// answers the probes.
const PATIENCE: Duration = Duration::from_secs(300);
/// Without anything to send, the other side is asked this often whether it is still there.
const PROBE_EVERY: Duration = Duration::from_secs(75);
/// How long a connection that its user has closed waits for the other side to finish: as Linux does (tcp_fin_timeout).
const ORPHAN_WITHIN: Duration = Duration::from_secs(60);

/// A flow's addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Tuple {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

pub(super) struct Flow {
    pub(super) tuple: Tuple,
    /// The stack looks at all sockets of a set for each packet: so each has a set of its own.
    pub(super) sockets: SocketSet<'static>,
    socket: SocketHandle,
    pub(super) sent: Sent,
    pair: OwnedFd,
    line: Line,
    stage: Stage,
    began: Instant,
    readable: bool,
    writable: bool,
    /// The user has finished, and the stack knows.
    finished: bool,
    /// The other side has finished, and the user was told.
    told: bool,
    /// Since when the user is gone.
    gone: Option<Moment>,
    /// Nobody takes what comes.
    deaf: bool,
    /// The last acknowledgement was sent: nothing more is said.
    quiet: bool,
    /// What broke it.
    cause: Option<Errno>,
    /// The user knows.
    told_cause: bool,
    pub(super) grant: Grant,
    /// It stands in the list of those that wait for room.
    pub(super) waits: bool,
    /// When the wheel visits it first.
    pub(super) visit: Option<Moment>,
    _place: Place,
}

/// What a flow begins with.
pub(super) struct Start {
    pub(super) tuple: Tuple,
    pub(super) grant: Grant,
    pub(super) place: Place,
    pub(super) now: Instant,
}

enum Stage {
    Dialling,
    Accepting(Seat, Stream),
    Open,
}

impl Flow {
    /// Begins to connect.
    pub(super) fn dial(start: Start, pair: OwnedFd, line: Line, context: &mut Context) -> Result<Self, Errno> {
        let mut socket = new_socket(start.grant, DIAL_PATIENCE);
        socket.connect(context, start.tuple.remote, start.tuple.local).map_err(|_| Errno::INVAL)?;
        Ok(Self::new(start, socket, pair, line, Stage::Dialling))
    }

    /// Waits for the first packet of one that somebody else dials.
    pub(super) fn accept(start: Start, seat: Seat, (fd, pair): (OwnedFd, OwnedFd)) -> Result<Self, Errno> {
        let mut socket = new_socket(start.grant, KNOCK_PATIENCE);
        socket.listen(start.tuple.local).map_err(|_| Errno::INVAL)?;
        let line = Line::default();
        let stage = Stage::Accepting(seat, Stream { fd, line: Some(line.clone()) });
        Ok(Self::new(start, socket, pair, line, stage))
    }

    fn new(start: Start, socket: Socket<'static>, pair: OwnedFd, line: Line, stage: Stage) -> Self {
        let Start { tuple, grant, place, now } = start;
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        Self {
            tuple,
            socket: sockets.add(socket),
            sockets,
            sent: Sent::default(),
            pair,
            line,
            stage,
            began: now,
            readable: false,
            writable: true,
            finished: false,
            told: false,
            gone: None,
            deaf: false,
            quiet: false,
            cause: None,
            told_cause: false,
            grant,
            waits: false,
            visit: None,
            _place: place,
        }
    }

    pub(super) fn state(&self) -> State {
        self.sockets.get::<Socket<'_>>(self.socket).state()
    }

    /// Takes news of the pair from epoll.
    pub(super) fn note(&mut self, news: EventFlags, now: Moment) {
        let end = news.intersects(EventFlags::HUP | EventFlags::ERR);
        self.readable |= end || news.intersects(EventFlags::IN | EventFlags::RDHUP);
        self.writable |= end || news.contains(EventFlags::OUT);
        if end {
            self.gone.get_or_insert(now);
        }
        // Closed with bytes unread: the kernel's TCP resets then.
        if news.contains(EventFlags::ERR) {
            self.abort();
        }
    }

    /// A segment was taken in. Returns how long the handshake took, if it was the one that ends it.
    pub(super) fn note_segment(&mut self, resets: bool, now: Instant) -> Option<Duration> {
        let state = self.state();
        if state == State::Closed && resets && self.cause.is_none() {
            let dialling = matches!(self.stage, Stage::Dialling);
            self.cause = Some(if dialling { Errno::CONNREFUSED } else { Errno::CONNRESET });
        }
        let stands = !matches!(state, State::Closed | State::Listen | State::SynSent | State::SynReceived);
        if !stands {
            return None;
        }
        match std::mem::replace(&mut self.stage, Stage::Open) {
            Stage::Open => return None,
            Stage::Dialling => {
                // An empty pair has room for a byte; one that was closed is noted as such.
                let _ = rustix::net::send(&self.pair, &GREETING, SendFlags::NOSIGNAL);
            }
            Stage::Accepting(seat, stream) => {
                if !seat.hand(stream, self.tuple.remote) {
                    self.abort();
                }
            }
        }
        self.socket_mut().set_timeout(Some(stack_time(PATIENCE)));
        self.socket_mut().set_keep_alive(Some(stack_time(PROBE_EVERY)));
        Some(our_time(now - self.began))
    }

    /// The stack has given up on it.
    pub(super) fn give_up(&mut self) {
        self.cause.get_or_insert(Errno::TIMEDOUT);
    }

    /// A router says that there is no way. Of a connection that stands it may be wrong, or over soon (RFC 1122 4.2.3.9).
    pub(super) fn refuse(&mut self, why: Errno) {
        if matches!(self.stage, Stage::Dialling) {
            self.cause = Some(why);
            self.abort();
        }
    }

    /// Moves what can be moved between the pair and the stack.
    pub(super) fn pump(&mut self, now: Moment) {
        if self.gone.is_some_and(|since| self.line.is_reset() || self.is_abandoned(since, now)) {
            self.abort();
        }
        self.take();
        self.give();
        let stands = matches!(self.stage, Stage::Open) && self.cause.is_none();
        if stands && !self.told && !self.sockets.get::<Socket<'_>>(self.socket).may_recv() {
            self.told = true;
            // Fails only when the user is gone.
            let _ = shutdown(&self.pair, Shutdown::Write);
        }
    }

    /// Whether the other side has had all, and long enough to finish as well. While it takes what was left for it, the
    /// time begins anew.
    fn is_abandoned(&mut self, since: Moment, now: Moment) -> bool {
        let due = now.since(since) >= ORPHAN_WITHIN;
        let sent = self.finished && self.socket_mut().send_queue() == 0;
        if due && !sent {
            self.gone = Some(now);
        }
        due && sent
    }

    /// From the user to the stack, without a copy between.
    fn take(&mut self) {
        let Self { sockets, socket, pair, line, .. } = self;
        let socket = sockets.get_mut::<Socket<'_>>(*socket);
        while self.readable && !self.finished && socket.can_send() {
            // Whoever finds the pair empty must not find that nothing is under way.
            line.note_unacknowledged(socket.send_queue().max(1));
            let read = socket.send(|room| split(retry_on_intr(|| rustix::io::read(&*pair, &mut *room))));
            match read {
                Ok(Ok(1..)) => {}
                Ok(Ok(0)) => {
                    self.finished = true;
                    socket.close();
                }
                Ok(Err(Errno::AGAIN)) => self.readable = false,
                Ok(Err(_)) => return self.abort(),
                Err(_) => return,
            }
        }
    }

    /// From the stack to the user.
    fn give(&mut self) {
        let Self { sockets, socket, pair, .. } = self;
        let socket = sockets.get_mut::<Socket<'_>>(*socket);
        while self.writable && !self.deaf && socket.can_recv() {
            let given =
                socket.recv(|bytes| split(retry_on_intr(|| rustix::net::send(&*pair, &*bytes, SendFlags::NOSIGNAL))));
            match given {
                Ok(Ok(_)) => {}
                Ok(Err(Errno::AGAIN)) => self.writable = false,
                // Who sends to somebody who is gone is told so.
                Ok(Err(_)) => return self.abort(),
                Err(_) => return,
            }
        }
    }

    /// The other side is sent a reset.
    fn abort(&mut self) {
        self.deaf = true;
        self.socket_mut().abort();
    }

    /// After the stack has sent what it had to send. The stack would throw away in the end what the user has not taken
    /// yet, so it is not asked again.
    pub(super) fn settle(&mut self) {
        self.quiet = self.state() == State::TimeWait;
        self.line.note_unacknowledged(self.sockets.get::<Socket<'_>>(self.socket).send_queue());
    }

    /// The user is told what broke it before it has taken all that came, as a socket of the kernel tells: somebody who
    /// does not read has to hear of it as well.
    pub(super) fn tell_cause(&mut self) {
        if let Some(cause) = self.cause
            && !std::mem::replace(&mut self.told_cause, true)
        {
            self.line.fail(cause);
            // It is woken by what it has yet to read; it may send no more, but the bytes there are stay.
            let _ = shutdown(&self.pair, Shutdown::Read);
        }
    }

    /// It neither sends nor takes in anything more.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether it has ended, and the user has been given all that came. What comes of it still is answered by a reset:
    /// the other side has all it was sent.
    pub(super) fn is_over(&self) -> bool {
        let delivered = self.deaf || !self.sockets.get::<Socket<'_>>(self.socket).can_recv();
        match self.state() {
            State::Closed | State::TimeWait | State::Listen => delivered,
            // Nobody waits for the answer.
            State::SynSent => self.gone.is_some(),
            _ => false,
        }
    }

    /// When it must have ended.
    pub(super) fn orphan_until(&self) -> Option<Moment> {
        self.gone.map(|since| since.after(ORPHAN_WITHIN))
    }

    /// The user is told how it ended.
    pub(super) fn end(self) {
        self.line.note_unacknowledged(0);
        if let Some(cause) = self.cause {
            self.line.fail(cause);
        }
    }

    /// The stack ends before it does.
    pub(super) fn cut(mut self) {
        self.cause.get_or_insert(Errno::NETDOWN);
        self.end();
    }

    fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.socket)
    }
}

impl AsFd for Flow {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pair.as_fd()
    }
}

fn new_socket(grant: Grant, patience: Duration) -> Socket<'static> {
    // Zeroed by the kernel when first touched: what is not used costs nothing.
    let buffer = || SocketBuffer::new(vec![0; grant.bytes()]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_congestion_control(CongestionControl::Cubic);
    // The other side's window grows with each acknowledgement.
    socket.set_ack_delay(None);
    socket.set_nagle_enabled(false);
    socket.set_timeout(Some(stack_time(patience)));
    socket
}

/// How many bytes were moved, and how that went.
fn split(moved: Result<usize, Errno>) -> (usize, Result<usize, Errno>) {
    (moved.unwrap_or(0), moved)
}
