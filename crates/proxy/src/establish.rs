//! Finding a backend for a client: everything before the first byte is relayed.
//!
//! ```text
//! PROXY header -> client address -> place -> affinity or choose -> reserve -> dial -> relay
//!                                               ^      |                       |
//!                                               |   queue                      |
//!                                               +------- elsewhere, if it failed
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use edgeproxy_route::{Choice, ClientAddr, Exclusions, NoRoute, Place, Request, Reservation, Table};

use crate::close::Refusal;
use crate::connection_log::Refused;
use crate::core::{Desk, End, Subject, Token};
use crate::dial::{self, DialError};
use crate::listener::Listener;
use crate::metrics::ByError;
use crate::pop::{OpenConnection, Pop};
use crate::proxy_header;
use crate::queue::Place as QueuePlace;
use crate::random::random;
use crate::record::Record;
use crate::settings::WhenAllDown;
use crate::socket::Socket;

/// How often a waiting client looks for room by itself: the end of an ejection's pause wakes nobody.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A client on its way to a backend: what was learnt of it so far.
pub(crate) struct Errand {
    pub(crate) socket: Socket,
    token: Token,
    open: OpenConnection,
    arrived: Instant,
    client: ClientAddr,
    via: Option<SocketAddr>,
    place: Place,
    /// It is not trusted to send a PROXY header; its first bytes will be checked when they come.
    unchecked: bool,
    tried: Exclusions,
    attempts: u8,
    queued: Duration,
    dialling: Duration,
    phase: Phase,
}

enum Phase {
    /// Waits for the header of a trusted peer.
    Header { until: Instant },
    /// Looks for a backend.
    Choosing,
    /// Waits in the queue for one to have room.
    Queued { place: QueuePlace, since: Instant },
    /// Waits for the backend to answer.
    Dialling(Box<Dialling>),
    /// A backend answered.
    Reached(Box<Dialling>),
}

/// A backend that was asked for a connection.
struct Dialling {
    socket: Socket,
    table: Arc<Table>,
    choice: Choice,
    slot: TakenSlot,
    since: Instant,
    until: Instant,
}

/// What is left of an errand once a backend was reached.
pub(crate) struct Established {
    pub(crate) client: Socket,
    pub(crate) backend: Socket,
    pub(crate) unchecked: bool,
    pub(crate) record: Record,
    pub(crate) slot: TakenSlot,
    pub(crate) open: OpenConnection,
}

impl Errand {
    pub(crate) fn new(socket: Socket, token: Token, peer: SocketAddr, open: OpenConnection, desk: &Desk) -> Self {
        let settings = &open.listener().settings;
        let trusted = proxy_header::is_trusted(peer.ip(), &settings.trust_proxy);
        Self {
            socket,
            token,
            arrived: desk.now,
            client: ClientAddr::new(peer),
            via: trusted.then_some(peer),
            place: Place::UNKNOWN,
            unchecked: !trusted && !settings.trust_proxy.is_empty(),
            tried: Exclusions::default(),
            attempts: 0,
            queued: Duration::ZERO,
            dialling: Duration::ZERO,
            phase: match trusted {
                true => Phase::Header { until: desk.now + settings.proxy_header_timeout },
                false => Phase::Choosing,
            },
            open,
        }
    }

    /// The socket of this end, if there is one yet.
    pub(crate) fn socket(&mut self, end: End) -> Option<&mut Socket> {
        match (end, &mut self.phase) {
            (End::Client, _) => Some(&mut self.socket),
            (End::Backend, Phase::Dialling(dialling)) => Some(&mut dialling.socket),
            (End::Backend, _) => None,
        }
    }

    /// Goes as far as it gets. Ready when a backend was reached.
    ///
    /// # Errors
    /// Why the client is turned away.
    pub(crate) fn advance(&mut self, desk: &mut Desk) -> Result<Poll<()>, Refusal> {
        loop {
            let phase = match &mut self.phase {
                Phase::Header { until } => {
                    let until = *until;
                    match self.receive_header()? {
                        Poll::Ready(()) => Phase::Choosing,
                        Poll::Pending if desk.now >= until => return Err(Refusal::HeaderTimeout),
                        Poll::Pending => return Ok(Poll::Pending),
                    }
                }
                Phase::Choosing => self.choose(desk)?,
                Phase::Queued { .. } => match self.wait(desk)? {
                    Some(phase) => phase,
                    None => return Ok(Poll::Pending),
                },
                Phase::Dialling(dialling) => match dial::finish(&mut dialling.socket) {
                    Poll::Ready(Ok(())) => self.reached(desk),
                    Poll::Ready(Err(error)) => self.failed(&error, desk)?,
                    Poll::Pending if desk.now >= dialling.until => {
                        let error = DialError::Timeout(dialling.until - dialling.since);
                        self.failed(&error, desk)?
                    }
                    Poll::Pending => return Ok(Poll::Pending),
                },
                Phase::Reached(_) => return Ok(Poll::Ready(())),
            };
            self.phase = phase;
        }
    }

    /// When to look again even if no socket has news.
    pub(crate) fn look_at(&self, now: Instant) -> Instant {
        match &self.phase {
            Phase::Header { until } => *until,
            Phase::Queued { since, .. } => (*since + self.listener().settings.queue_timeout).min(now + LOOK_AGAIN),
            Phase::Dialling(dialling) => dialling.until,
            Phase::Choosing | Phase::Reached(_) => now,
        }
    }

    fn listener(&self) -> &Arc<Listener> {
        self.open.listener()
    }

    /// Learns from a trusted peer whom it speaks for.
    fn receive_header(&mut self) -> Result<Poll<()>, Refusal> {
        let Poll::Ready(client) = proxy_header::receive(&mut self.socket) else { return Ok(Poll::Pending) };
        match client? {
            Some(client) => self.client = ClientAddr::new(client),
            None => self.via = None,
        }
        Ok(Poll::Ready(()))
    }

    /// Looks for a backend, or joins the queue where the listener has one.
    fn choose(&mut self, desk: &Desk) -> Result<Phase, Refusal> {
        if self.attempts == 0 {
            self.place = desk.pop.geo.load().lookup(self.client.ip());
        }
        let queue = &self.listener().queue;
        if !queue.is_busy() {
            match self.try_admit(desk) {
                Err(Refusal::NoRoute(NoRoute::AllFull)) if self.listener().settings.queue > 0 => {}
                admitted => return self.dial(admitted?, desk),
            }
        }
        let place = queue.join(&desk.mailbox, self.token).ok_or(Refusal::QueueFull)?;
        Ok(Phase::Queued { place, since: desk.now })
    }

    /// Looks whether the wait is over, one way or the other. (Room may have come free between the look before joining
    /// and joining, when nobody was there to be woken: so it looks at once.)
    fn wait(&mut self, desk: &Desk) -> Result<Option<Phase>, Refusal> {
        let Phase::Queued { place, since } = &self.phase else { return Ok(None) };
        let (head, waited) = (place.is_head(), desk.now - *since);
        if desk.pop.drain.phase() >= crate::Phase::Unready {
            return Err(Refusal::Draining);
        }
        if self.is_gone() {
            return Err(Refusal::ClientGone);
        }
        if head {
            match self.try_admit(desk) {
                Err(Refusal::NoRoute(NoRoute::AllFull)) => {}
                settled => {
                    self.queued += waited;
                    let admitted = settled?;
                    desk.pop.metrics.queue_wait.observe(self.queued.as_secs_f64() * 1000.0);
                    return self.dial(admitted, desk).map(Some);
                }
            }
        }
        if waited >= self.listener().settings.queue_timeout {
            self.queued += waited;
            return Err(Refusal::QueueTimeout);
        }
        Ok(None)
    }

    /// Whether the client has reset the connection, or finished without a word: nobody waits for an answer then. One
    /// that has sent its request and finished is still there.
    fn is_gone(&mut self) -> bool {
        self.socket.is_broken()
            || self.socket.is_finished() && matches!(self.socket.peek(&mut [0]), Poll::Ready(Ok(0) | Err(_)))
    }

    /// A slot on the best backend.
    fn try_admit(&self, desk: &Desk) -> Result<(Arc<Table>, Choice, TakenSlot), Refusal> {
        let listener = self.listener();
        let now = desk.pop.clock.at(desk.now);
        let mut request = Request {
            place: self.place,
            app: listener.settings.app.as_deref(),
            policy: listener.settings.policy,
            tried: &self.tried,
            bound: listener.affinity.get(self.client.affinity_key(), now),
            forced: false,
            now,
            random: random(),
        };
        loop {
            // Loaded anew each time: of a table that was replaced meanwhile, backends may be gone.
            let table = desk.pop.table.load_full();
            let choice = match table.choose(&request) {
                Err(NoRoute::AllDown) if listener.settings.when_all_down == WhenAllDown::Try && !request.forced => {
                    request.forced = true;
                    continue;
                }
                chosen => chosen.map_err(Refusal::NoRoute)?,
            };
            if let Some(reservation) = table.reserve(&choice, now) {
                let slot = TakenSlot { reservation: Some(reservation), pop: Arc::clone(&desk.pop) };
                return Ok((table, choice, slot));
            }
            // Another core took the last slot since the choice: choose again among those that are left.
            request.random = random();
        }
    }

    fn dial(&mut self, (table, choice, slot): (Arc<Table>, Choice, TakenSlot), desk: &Desk) -> Result<Phase, Refusal> {
        let settings = &self.listener().settings;
        let since = Instant::now();
        let left = settings.connect_deadline.saturating_sub(self.dialling);
        let until = since + settings.connect_timeout.min(left);
        self.attempts += 1;
        let dialled = dial::begin(table.backend(choice.index).addr).and_then(|socket| {
            desk.watch(&socket, Subject::Connection(self.token, End::Backend)).map_err(DialError::from)?;
            Ok(socket)
        });
        match dialled {
            Ok(socket) => {
                let socket = Socket::new(socket);
                Ok(Phase::Dialling(Box::new(Dialling { socket, table, choice, slot, since, until })))
            }
            Err(error) => self.go_elsewhere(&error, &table, &choice, slot, since.elapsed(), desk),
        }
    }

    fn failed(&mut self, error: &DialError, desk: &Desk) -> Result<Phase, Refusal> {
        let Phase::Dialling(dialling) = std::mem::replace(&mut self.phase, Phase::Choosing) else {
            return Ok(Phase::Choosing);
        };
        let Dialling { table, choice, slot, since, .. } = *dialling;
        self.go_elsewhere(error, &table, &choice, slot, since.elapsed(), desk)
    }

    /// After a failed connect: never again the backend just tried, and not for ever.
    fn go_elsewhere(
        &mut self,
        error: &DialError,
        table: &Table,
        choice: &Choice,
        slot: TakenSlot,
        took: Duration,
        desk: &Desk,
    ) -> Result<Phase, Refusal> {
        let backend = &table.backend(choice.index).id;
        desk.pop.metrics.connect_failures.get_or_create(&ByError { error: error.word() }).inc();
        tracing::debug!(backend, %error, client = %self.client, "connect failed");
        if error.blames_backend()
            && let Some(pause) = slot.failed()
        {
            desk.pop.metrics.ejections.inc();
            tracing::warn!(backend, %error, pause_s = pause.as_secs(), "backend ejected after failed connects");
        }
        if matches!(error, DialError::DescriptorsExhausted) {
            return Err(Refusal::DescriptorsExhausted);
        }
        self.dialling += took;
        let room = self.tried.add(table.key(choice.index).slot());
        let settings = &self.listener().settings;
        let may_retry =
            room && usize::from(self.attempts) < settings.connect_attempts && self.dialling < settings.connect_deadline;
        if !may_retry {
            return Err(Refusal::NoRoute(NoRoute::AllTried));
        }
        desk.pop.metrics.retries.inc();
        Ok(Phase::Choosing)
    }

    fn reached(&mut self, desk: &Desk) -> Phase {
        let Phase::Dialling(mut dialling) = std::mem::replace(&mut self.phase, Phase::Choosing) else {
            return Phase::Choosing;
        };
        let connect_ms = dialling.since.elapsed().as_secs_f64() * 1000.0;
        dialling.slot.connected(connect_ms);
        let backend = dialling.table.backend(dialling.choice.index);
        desk.pop.metrics.backend_connected(&backend.region, connect_ms);
        self.remember(&dialling, desk);
        Phase::Reached(dialling)
    }

    fn remember(&self, reached: &Dialling, desk: &Desk) {
        let (affinity, client) = (&self.listener().affinity, self.client.affinity_key());
        let now = desk.pop.clock.at(desk.now);
        let here = reached.table.key(reached.choice.index);
        match affinity.get(client, now) {
            // Served elsewhere while its own backend was full or out of service: it may still return there.
            Some(bound) if bound != here && reached.table.find(bound).is_some() => affinity.extend(client, now),
            _ => affinity.bind(client, here, now),
        }
    }

    /// The two sockets and what is known of them; `None` before a backend was reached.
    #[allow(clippy::cast_possible_truncation, reason = "a score is shown, not compared, from here on")]
    pub(crate) fn established(self, desk: &Desk) -> Option<Established> {
        let Phase::Reached(reached) = self.phase else { return None };
        let Dialling { socket, table, choice, slot, since, .. } = *reached;
        let record = Record {
            id: desk.pop.next_id(),
            listener: Arc::clone(self.open.listener()),
            client: self.client,
            via: self.via.map(Box::new),
            backend: Arc::clone(table.backend(choice.index)),
            started: self.arrived,
            score: choice.score as f32,
            queue_us: micros(self.queued),
            connect_us: micros(desk.now.saturating_duration_since(since)),
            country: self.place.country,
            band: choice.band,
            attempts: self.attempts,
            affine: choice.affine,
        };
        let unchecked = self.unchecked;
        Some(Established { client: self.socket, backend: socket, unchecked, record, slot, open: self.open })
    }

    /// Turns the client away.
    pub(crate) fn refuse(self, refusal: Refusal, desk: &mut Desk) {
        crate::socket::reset_on_close(&self.socket);
        let listener = self.listener();
        listener.count_refusal(refusal);
        desk.pop.log.refused(
            &mut desk.lines,
            &Refused {
                listener: &listener.name,
                client: self.client,
                via: self.via,
                country: self.place.country,
                reason: refusal,
                attempts: self.attempts,
                queued: self.queued,
                arrived: self.arrived,
            },
        );
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// A reserved slot of a backend; giving it back lets a waiting client in.
pub(crate) struct TakenSlot {
    reservation: Option<Reservation>,
    pop: Arc<Pop>,
}

impl TakenSlot {
    fn connected(&mut self, millis: f64) {
        let (policy, now) = (&self.pop.settings.outlier, self.pop.clock.now());
        #[allow(clippy::cast_possible_truncation, reason = "a round trip needs no more than 24 bits")]
        if let Some(reservation) = &mut self.reservation
            && reservation.connected(millis as f32, policy, now)
        {
            tracing::info!("ejected backend returned");
        }
    }

    fn failed(mut self) -> Option<Duration> {
        let (policy, now) = (&self.pop.settings.outlier, self.pop.clock.now());
        self.reservation.take()?.failed(policy, now)
    }
}

impl Drop for TakenSlot {
    fn drop(&mut self) {
        drop(self.reservation.take());
        self.pop.slot_came_free();
    }
}
