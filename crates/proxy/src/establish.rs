//! Finding a backend for a client: everything before the first byte is relayed.
//!
//! ```text
//! PROXY header -> client address -> place -> affinity or choose -> reserve -> dial -> relay
//!                                               ^      |                       |
//!                                               |   queue                      |
//!                                               +------- elsewhere, if it failed
//! ```
//!
//! A listener for a role holds its clients while nobody has that role, and tells those whom it turns away why
//! (`farewell.rs`).

mod held;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use edgeproxy_route::{
    Choice, ClientAddr, Exclusions, NoRoute, Place, Request, Reservation, Role, SlotKey, Table, Wanted,
};

use crate::close::Refusal;
use crate::connection_log::Refused;
use crate::core::{Desk, Source, Subject, Token};
use crate::dial::DialError;
use crate::drain::Phase;
use crate::farewell::Farewell;
use crate::listener::Listener;
use crate::metrics::ByError;
use crate::pop::{OpenConnection, Pop};
use crate::proxy_header;
use crate::queue::Place as QueuePlace;
use crate::random::random;
use crate::record::Record;
use crate::settings::WhenAllDown;
use crate::socket::Socket;

/// How often the head of the queue looks for room by itself: the end of an ejection's pause wakes nobody.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Connects for one client, however long it is held: at a few in a second, as long as anybody waits.
const MOST_ATTEMPTS: u8 = 250;

/// A client on its way to a backend: what was learnt of it so far.
pub(crate) struct Errand {
    socket: Socket,
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
    /// Those of them that were made before it was last held.
    attempts_before: u8,
    queued: Duration,
    /// Since when it has had to be held.
    held_since: Option<Instant>,
    dialling: Duration,
    progress: Progress,
}

enum Progress {
    /// Waits for the header of a trusted peer.
    Header { until: Instant },
    /// Looks for a backend.
    Choosing,
    /// Waits in the queue for one to have room.
    Queued { place: QueuePlace, since: Instant },
    /// Waits for somebody to have the role it needs.
    Held { place: QueuePlace, since: Instant, evidence: u64, why: Refusal },
    /// Waits for the backend to answer.
    Dialling(Box<Dialling>),
    /// Is told why it is turned away.
    Farewell(Box<Farewell>),
}

/// A backend that was asked for a connection.
pub(crate) struct Dialling {
    socket: Socket,
    table: Arc<Table>,
    choice: Choice,
    slot: TakenSlot,
    since: Instant,
    until: Instant,
}

impl Dialling {
    /// Cut short by what the client may wait in all, the backend is not to blame.
    fn timed_out(&self, listener: &Listener) -> DialError {
        let (allowed, settings) = (self.until - self.since, &listener.settings);
        let fair = settings.connect_timeout.min(settings.connect_deadline);
        if allowed < fair { DialError::OutOfTime } else { DialError::Timeout(allowed) }
    }
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
            via: None,
            place: Place::UNKNOWN,
            unchecked: !trusted && !settings.trust_proxy.is_empty(),
            tried: Exclusions::default(),
            attempts: 0,
            attempts_before: 0,
            queued: Duration::ZERO,
            held_since: None,
            dialling: Duration::ZERO,
            progress: match trusted {
                true => Progress::Header { until: desk.now + settings.proxy_header_timeout },
                false => Progress::Choosing,
            },
            open,
        }
    }

    /// The socket with news, if it is still of use.
    pub(crate) fn socket(&mut self, source: Source) -> Option<&mut Socket> {
        match (source, &mut self.progress) {
            (Source::Client, _) => Some(&mut self.socket),
            (source, Progress::Dialling(dialling)) if source == Source::of_attempt(self.attempts) => {
                Some(&mut dialling.socket)
            }
            (Source::Backend { .. }, _) => None,
        }
    }

    /// Goes as far as it gets. Ready with the backend that answered.
    ///
    /// # Errors
    /// Why the client is turned away.
    pub(crate) fn advance(&mut self, desk: &Desk) -> Result<Poll<Box<Dialling>>, Refusal> {
        loop {
            let refusal = match self.go_on(desk) {
                Err(refusal) if !matches!(self.progress, Progress::Farewell(_)) => refusal,
                settled => return settled,
            };
            self.progress = self.instead(refusal, desk)?;
        }
    }

    fn go_on(&mut self, desk: &Desk) -> Result<Poll<Box<Dialling>>, Refusal> {
        loop {
            let next = match &mut self.progress {
                Progress::Header { until } => {
                    let until = *until;
                    match self.receive_header()? {
                        Poll::Ready(()) => Progress::Choosing,
                        Poll::Pending if desk.now >= until => return Err(Refusal::HeaderTimeout),
                        Poll::Pending => return Ok(Poll::Pending),
                    }
                }
                Progress::Choosing => self.choose(desk)?,
                Progress::Queued { .. } => match self.wait(desk)? {
                    Some(next) => next,
                    None => return Ok(Poll::Pending),
                },
                Progress::Held { .. } => match self.wait_held(desk)? {
                    Some(next) => next,
                    None => return Ok(Poll::Pending),
                },
                Progress::Farewell(farewell) => match farewell.advance(&mut self.socket, desk.now) {
                    Poll::Ready(()) => return Err(farewell.refusal),
                    Poll::Pending => return Ok(Poll::Pending),
                },
                Progress::Dialling(dialling) => {
                    let failed = match dialling.socket.settle() {
                        Poll::Ready(Ok(())) => None,
                        Poll::Ready(Err(error)) => Some(error.into()),
                        Poll::Pending if desk.now >= dialling.until => Some(dialling.timed_out(self.open.listener())),
                        Poll::Pending => return Ok(Poll::Pending),
                    };
                    let Progress::Dialling(dialling) = std::mem::replace(&mut self.progress, Progress::Choosing) else {
                        continue;
                    };
                    match failed {
                        // Its role may have changed while it was dialled; from here on whoever changes it sees to that.
                        None if !self.has_role(&dialling) => {
                            let room = self.tried.add(dialling.table.key(dialling.choice.index).slot());
                            if !room || self.attempts >= MOST_ATTEMPTS {
                                return Err(Refusal::NoRoute(NoRoute::AllTried));
                            }
                            Progress::Choosing
                        }
                        None => return Ok(Poll::Ready(dialling)),
                        Some(error) => {
                            let Dialling { table, choice, slot, since, .. } = *dialling;
                            self.go_elsewhere(&error, &table, &choice, slot, since.elapsed(), desk)?
                        }
                    }
                }
            };
            self.progress = next;
        }
    }

    /// When to look again even if no socket has news.
    pub(crate) fn look_at(&self, now: Instant) -> Instant {
        match &self.progress {
            Progress::Header { until } => *until,
            Progress::Queued { place, since } => {
                let until = *since + self.patience();
                if place.is_head() { until.min(now + LOOK_AGAIN) } else { until }
            }
            Progress::Held { place, since, .. } => {
                let until = self.held_since.unwrap_or(*since) + self.listener().settings.hold;
                if place.is_head() { until.min(now + LOOK_AGAIN) } else { until }
            }
            Progress::Dialling(dialling) => dialling.until,
            Progress::Farewell(farewell) => farewell.until,
            Progress::Choosing => now,
        }
    }

    pub(crate) fn listener(&self) -> &Arc<Listener> {
        self.open.listener()
    }

    /// Where the client's socket is, whomever it speaks for.
    pub(crate) fn from(&self) -> IpAddr {
        self.via.map_or(self.client.ip(), |via| via.ip())
    }

    /// Learns from a trusted peer whom it speaks for.
    fn receive_header(&mut self) -> Result<Poll<()>, Refusal> {
        let Poll::Ready(client) = proxy_header::receive(&mut self.socket) else { return Ok(Poll::Pending) };
        if let Some(client) = client? {
            self.via = Some(self.client.socket_addr());
            self.client = ClientAddr::new(client);
        }
        Ok(Poll::Ready(()))
    }

    /// Looks for a backend, or joins the queue where the listener has one.
    fn choose(&mut self, desk: &Desk) -> Result<Progress, Refusal> {
        if self.attempts == 0 {
            self.place = desk.pop.geo.load().lookup(self.client.ip());
        }
        let queue = &self.listener().queue;
        // Whoever was admitted once and found its backend dead has had its turn.
        if self.attempts > 0 || !queue.is_busy() {
            match self.try_admit(desk) {
                Err(Refusal::NoRoute(NoRoute::AllFull)) if self.listener().settings.queue > 0 => {}
                admitted => return self.dial(admitted?, desk),
            }
        }
        let place = queue.join(&desk.mailbox, self.token).ok_or(Refusal::QueueFull)?;
        Ok(Progress::Queued { place, since: desk.now })
    }

    /// Looks whether the wait is over, one way or the other. (Room may have come free between the look before joining
    /// and joining, when nobody was there to be woken: so it looks at once.)
    fn wait(&mut self, desk: &Desk) -> Result<Option<Progress>, Refusal> {
        let Progress::Queued { place, since } = &self.progress else { return Ok(None) };
        let (head, waited) = (place.is_head(), desk.now - *since);
        let (over, gone) = (waited >= self.patience(), self.is_gone());
        let settled = match () {
            () if desk.pop.drain.phase() >= Phase::Unready => Err(Refusal::Draining),
            () if gone => Err(Refusal::ClientGone),
            () if head => self.try_admit(desk),
            () => Err(Refusal::NoRoute(NoRoute::AllFull)),
        };
        let settled = match settled {
            Err(Refusal::NoRoute(NoRoute::AllFull)) if over => Err(Refusal::QueueTimeout),
            Err(Refusal::NoRoute(NoRoute::AllFull)) => return Ok(None),
            settled => settled,
        };
        self.queued += waited;
        let admitted = settled?;
        desk.pop.metrics.queue_wait.observe(self.queued.as_secs_f64() * 1000.0);
        self.dial(admitted, desk).map(Some)
    }

    /// How long it may still wait in the queue.
    fn patience(&self) -> Duration {
        self.listener().settings.queue_timeout.saturating_sub(self.queued)
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
            wanted: listener.settings.wanted,
            policy: listener.settings.policy,
            tried: &self.tried,
            bound: listener.affinity.get(self.client.affinity_key(), now),
            forced: listener.settings.when_all_down == WhenAllDown::Try,
            now,
            random: random(),
        };
        loop {
            // Loaded anew each time: of a table that was replaced meanwhile, backends may be gone.
            let table = listener.table.load();
            let choice = table.choose(&request).map_err(Refusal::NoRoute)?;
            if let Some(reservation) = table.reserve(&choice, now) {
                let slot = TakenSlot { reservation: Some(reservation), pop: Arc::clone(&desk.pop) };
                return Ok((table, choice, slot));
            }
            // Another core took the last slot since the choice: choose again among those that are left.
            request.random = random();
        }
    }

    fn dial(
        &mut self,
        (table, choice, slot): (Arc<Table>, Choice, TakenSlot),
        desk: &Desk,
    ) -> Result<Progress, Refusal> {
        let settings = &self.listener().settings;
        let since = Instant::now();
        let left = settings.connect_deadline.saturating_sub(self.dialling);
        let until = since + settings.connect_timeout.min(left);
        self.attempts += 1;
        let dialled = desk.pop.dialler.begin(table.backend(choice.index).addr).and_then(|stream| {
            let source = Source::of_attempt(self.attempts);
            desk.watch(&stream, Subject::Connection(self.token, source))?;
            Ok(stream)
        });
        match dialled {
            Ok(stream) => {
                let socket = Socket::of(stream);
                Ok(Progress::Dialling(Box::new(Dialling { socket, table, choice, slot, since, until })))
            }
            Err(error) => self.go_elsewhere(&error, &table, &choice, slot, since.elapsed(), desk),
        }
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
    ) -> Result<Progress, Refusal> {
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
        if self.socket.is_broken() {
            return Err(Refusal::ClientGone);
        }
        self.dialling += took;
        let room = self.tried.add(table.key(choice.index).slot());
        let settings = &self.listener().settings;
        let tries = usize::from(self.attempts - self.attempts_before);
        let may_retry = room
            && self.attempts < MOST_ATTEMPTS
            && tries < settings.connect_attempts
            && self.dialling < settings.connect_deadline;
        if !may_retry {
            return Err(Refusal::NoRoute(NoRoute::AllTried));
        }
        desk.pop.metrics.retries.inc();
        Ok(Progress::Choosing)
    }

    fn remember(&self, reached: &Dialling, desk: &Desk) {
        // There is one primary: nothing to remember.
        if self.listener().settings.wanted == Wanted::Primary {
            return;
        }
        let (affinity, client) = (&self.listener().affinity, self.client.affinity_key());
        let now = desk.pop.clock.at(desk.now);
        let here = reached.table.key(reached.choice.index);
        match affinity.get(client, now) {
            // Served elsewhere while its own backend was full or out of service: it may still return there.
            Some(bound) if bound != here && self.may_return(&reached.table, bound) => affinity.extend(client, now),
            _ => affinity.bind(client, here, now),
        }
    }

    /// Whether the backend a client is bound to is still one of this listener's. (One that is drained may come back, and
    /// its clients with it.)
    fn may_return(&self, table: &Table, bound: SlotKey) -> bool {
        let settings = &self.listener().settings;
        // To the primary it was sent for want of a replica: there is one by now.
        let is_replica = |slot| !matches!(table.states().role(slot), Role::Primary | Role::Disputed | Role::Former);
        let has_role = settings.wanted == Wanted::Any || is_replica(bound.slot());
        let bound = table.find(bound).map(|index| table.backend(index));
        has_role && bound.is_some_and(|backend| settings.app.as_ref().is_none_or(|app| *app == backend.app))
    }

    /// The two sockets and what is known of them.
    #[allow(clippy::cast_possible_truncation, reason = "a score is shown, not compared, from here on")]
    pub(crate) fn established(self, reached: Dialling, desk: &Desk) -> Established {
        let took = reached.since.elapsed();
        let connect_ms = took.as_secs_f64() * 1000.0;
        self.remember(&reached, desk);
        let Dialling { socket, table, choice, mut slot, since, .. } = reached;
        let backend = Arc::clone(table.backend(choice.index));
        slot.connected(connect_ms);
        let role = table.states().role(table.key(choice.index).slot());
        if matches!(self.listener().settings.wanted, Wanted::Replica(_)) && role == Role::Primary {
            self.listener().count_replica_on_primary();
        }
        desk.pop.metrics.backend_connected(&backend.region, connect_ms);
        let record = Record {
            id: desk.pop.next_id(),
            listener: Arc::clone(self.open.listener()),
            client: self.client,
            via: self.via.map(Box::new),
            backend,
            started: self.arrived,
            score: choice.score as f32,
            queue_us: micros(
                self.queued + self.held_since.map_or(Duration::ZERO, |held| since.saturating_duration_since(held)),
            ),
            connect_us: micros(took),
            country: self.place.country,
            band: choice.band,
            attempts: self.attempts,
            affine: choice.affine,
        };
        let unchecked = self.unchecked;
        Established { client: self.socket, backend: socket, unchecked, record, slot, open: self.open }
    }

    /// Turns the client away.
    pub(crate) fn refuse(self, refusal: Refusal, desk: &mut Desk) {
        // A reset could overtake what it was told.
        if !matches!(self.progress, Progress::Farewell(_)) {
            self.socket.reset_on_close();
        }
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
