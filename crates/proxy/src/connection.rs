//! One client, from its accept to its log line: first an errand to find a backend, then a relay.

use std::net::{IpAddr, SocketAddr};
use std::task::Poll;
use std::time::{Duration, Instant};

use edgeproxy_overlay::Stream;
use rustix::event::epoll::EventFlags;

use crate::close::{Close, Refusal};
use crate::connection_log::Refused;
use crate::core::{Desk, End, Source, Token};
use crate::establish::{Dialling, Errand, Established, TakenSlot};
use crate::pop::OpenConnection;
use crate::record::{LiveConnection, Record};
use crate::relay::{Next, Relay};
use crate::socket::Socket;

/// A connection of this age is likely to last: then it gets what short ones are spared.
const LASTING: Duration = Duration::from_secs(2);

/// One client and, once found, its backend.
pub(crate) struct Connection {
    token: Token,
    /// The timer that is set for it.
    timer: Option<Instant>,
    /// It stands in the list of those that have more to do.
    pub(crate) busy: bool,
    stage: Stage,
}

#[allow(clippy::large_enum_variant, reason = "relays are the many, and last")]
enum Stage {
    /// Boxed, so that a relay that runs for hours does not carry the room that a few milliseconds needed.
    Errand(Box<Errand>),
    Relay(Relayed),
    /// Between the two.
    Changing,
}

/// A client and its backend, connected.
struct Relayed {
    relay: Relay,
    record: Record,
    _slot: TakenSlot,
    _open: OpenConnection,
}

/// How it goes on with a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Nothing to do until a socket has news or a timer is due.
    Wait,
    /// There is more to do, after the others had their turn.
    GoOn,
    /// It is over.
    Close(Close),
    /// The client is turned away.
    Refuse(Refusal),
}

impl Connection {
    pub(crate) fn new(token: Token, client: Stream, peer: SocketAddr, open: OpenConnection, desk: &Desk) -> Self {
        let errand = Errand::new(Socket::of(client), token, peer, open, desk);
        Self { token, timer: None, busy: false, stage: Stage::Errand(Box::new(errand)) }
    }

    pub(crate) fn token(&self) -> Token {
        self.token
    }

    /// What is known of it once a backend was reached.
    pub(crate) fn record(&self) -> Option<&Record> {
        match &self.stage {
            Stage::Relay(relayed) => Some(&relayed.record),
            Stage::Errand(_) | Stage::Changing => None,
        }
    }

    /// Where its client's socket is, if it came to a published service. Stays the same from its arrival to its end.
    pub(crate) fn published_to(&self) -> Option<IpAddr> {
        let (listener, from) = match &self.stage {
            Stage::Errand(errand) => (errand.listener(), errand.from()),
            Stage::Relay(Relayed { record, .. }) => (&record.listener, record.from()),
            Stage::Changing => return None,
        };
        listener.is_published.then_some(from)
    }

    /// As the admin API shows it.
    pub(crate) fn show(&self, pop: &str) -> Option<LiveConnection> {
        match &self.stage {
            Stage::Relay(relayed) => Some(LiveConnection::of(&relayed.record, relayed.relay.bytes(), pop)),
            Stage::Errand(_) | Stage::Changing => None,
        }
    }

    /// A socket has news.
    pub(crate) fn note(&mut self, source: Source, news: EventFlags) {
        let socket = match (&mut self.stage, source) {
            (Stage::Errand(errand), source) => errand.socket(source),
            (Stage::Relay(relayed), Source::Client) => Some(relayed.relay.socket(End::Client)),
            (Stage::Relay(Relayed { relay, record, .. }), source) => {
                (source == Source::of_attempt(record.attempts)).then(|| relay.socket(End::Backend))
            }
            (Stage::Changing, _) => None,
        };
        if let Some(socket) = socket {
            socket.note(news);
        }
    }

    /// A timer is due.
    pub(crate) fn look(&mut self, desk: &mut Desk) -> Step {
        // One that was set before an earlier one was wanted is nothing any more.
        if self.timer.is_none_or(|timer| desk.now < timer) {
            return Step::Wait;
        }
        self.timer = None;
        if let Stage::Relay(Relayed { relay, record, .. }) = &mut self.stage {
            let settings = &record.listener.settings;
            if let Some((at, close)) = relay.deadline(settings, record.started)
                && desk.now >= at
            {
                return Step::Close(close);
            }
            if relay.never_decides(settings, desk.now) {
                return Step::Refuse(Refusal::HeaderUntrusted);
            }
            relay.guard(settings);
        }
        self.advance(desk)
    }

    /// Does what can be done now.
    pub(crate) fn advance(&mut self, desk: &mut Desk) -> Step {
        if let Stage::Errand(errand) = &mut self.stage {
            match errand.advance(desk) {
                Err(refusal) => return Step::Refuse(refusal),
                Ok(Poll::Pending) => {
                    let at = errand.look_at(desk.now);
                    self.look_at(at, desk);
                    return Step::Wait;
                }
                Ok(Poll::Ready(reached)) => self.begin_relay(*reached, desk),
            }
        }
        let Stage::Relay(Relayed { relay, record, .. }) = &mut self.stage else { return Step::Close(Close::Error) };
        let next = relay.advance(&mut desk.bench, desk.now);
        if let Some(at) = relay.look_at(&record.listener.settings, record.started, desk.now) {
            self.look_at(at, desk);
        }
        match next {
            Next::Wait => Step::Wait,
            Next::GoOn => Step::GoOn,
            Next::Close(close) => Step::Close(close),
            Next::UntrustedHeader => Step::Refuse(Refusal::HeaderUntrusted),
        }
    }

    fn begin_relay(&mut self, reached: Dialling, desk: &mut Desk) {
        let Stage::Errand(errand) = std::mem::replace(&mut self.stage, Stage::Changing) else { return };
        let Established { client, backend, unchecked, record, slot, open } = errand.established(reached, desk);
        let relay = Relay::new(client, backend, unchecked, desk.now);
        self.stage = Stage::Relay(Relayed { relay, record, _slot: slot, _open: open });
        self.look_at(desk.now + LASTING, desk);
    }

    /// Makes sure that it is looked at by then.
    fn look_at(&mut self, at: Instant, desk: &mut Desk) {
        if self.timer.is_none_or(|timer| at < timer) {
            self.timer = Some(at);
            desk.timers.set(at, self.token);
        }
    }

    /// Closes both sides and writes the connection's line.
    pub(crate) fn close(self, close: Close, desk: &mut Desk) {
        let Stage::Relay(Relayed { relay, record, .. }) = self.stage else { return };
        if !close.is_clean() {
            relay.reset_on_close();
        }
        let bytes = relay.bytes();
        drop(relay);
        desk.pop.metrics.connection_closed(close);
        desk.pop.log.closed(&mut desk.lines, &record, bytes, close);
    }

    /// Turns the client away.
    pub(crate) fn refuse(self, refusal: Refusal, desk: &mut Desk) {
        match self.stage {
            Stage::Errand(errand) => errand.refuse(refusal, desk),
            Stage::Relay(Relayed { relay, record, .. }) => {
                relay.reset_on_close();
                record.listener.count_refusal(refusal);
                desk.pop.log.refused(&mut desk.lines, &Refused::late(&record, refusal));
            }
            Stage::Changing => {}
        }
    }
}
