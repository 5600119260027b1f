//! One client, from its accept to its log line.
//!
//! ```text
//! accept -> PROXY header -> client address -> place -> affinity or choose -> reserve -> dial -> relay -> log line
//!                                                ^                                       |
//!                                                +------- elsewhere, if that failed <----+
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeproxy_route::{Choice, ClientAddr, Exclusions, NoRoute, Place, Request, Reservation, Table};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::close::{Close, Refusal};
use crate::connection_log::Refused;
use crate::core::Core;
use crate::dial::{DialError, dial};
use crate::listener::Listener;
use crate::metrics::ByError;
use crate::pop::{OpenConnection, Pop};
use crate::proxy_header;
use crate::random::random;
use crate::record::{Facts, Record};
use crate::relay::{Ended, Pair, Progress, relay, reset_on_close};
use crate::settings::WhenAllDown;

/// How often the head of the queue looks for room by itself.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A client that was accepted and not yet served.
pub(crate) struct Arrival {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) at: Instant,
    pub(crate) listener: Arc<Listener>,
    /// Its place among the connections this machine takes.
    pub(crate) open: OpenConnection,
}

/// A client and its backend, connected: what the relay carries around, and the parking lot keeps.
pub(crate) struct Established {
    pub(crate) record: Arc<Record>,
    _slot: TakenSlot,
    _open: OpenConnection,
}

/// Serves one client to its end.
pub(crate) async fn serve(core: Arc<Core>, arrival: Arrival) {
    // Boxed, so that a relay that runs for hours does not carry the room that a few milliseconds of dialling needed.
    let established = Box::pin(establish(&core.pop, arrival)).await;
    if let Some((pair, connection)) = established {
        core.live.add(&connection.record);
        serve_established(core, pair, connection).await;
    }
}

/// Relays until the connection ends, or idles: then it waits in the parking lot, from where it is served on.
pub(crate) async fn serve_established(core: Arc<Core>, mut pair: Pair, connection: Established) {
    let pop = &core.pop;
    let ended = relay(&mut pair, &connection.record, &pop.metrics, pop.settings.park_after).await;
    connection.record.relayed_by_nobody();
    match ended {
        Ended::Closed(close) => finish(&core, pair, connection, close),
        Ended::Idle => core.park(pair, connection),
        Ended::UntrustedHeader => turn_away_late(&core, pair, &connection),
    }
}

/// Closes both sides and writes the connection's line.
pub(crate) fn finish(core: &Core, pair: Pair, connection: Established, close: Close) {
    if !close.is_clean() {
        reset_on_close(&pair.client);
        reset_on_close(&pair.backend);
    }
    drop(pair);
    let record = &connection.record;
    core.live.remove(record);
    core.pop.metrics.connection_closed(close);
    core.pop.log.closed(record, close);
}

/// The first bytes, which came only after the backend was connected, were a header of somebody not trusted.
fn turn_away_late(core: &Core, pair: Pair, connection: &Established) {
    reset_on_close(&pair.client);
    reset_on_close(&pair.backend);
    let record = &connection.record;
    core.live.remove(record);
    record.listener.count_refusal(Refusal::HeaderUntrusted);
    core.pop.log.refused(&Refused {
        listener: &record.listener.name,
        client: record.client,
        via: None,
        country: record.country,
        reason: Refusal::HeaderUntrusted,
        attempts: record.attempts,
        queued: Duration::from_micros(record.queue_us.into()),
        arrived: record.started,
    });
}

/// Everything before the first byte is relayed. `None`: the client was refused, which has been logged.
async fn establish(pop: &Arc<Pop>, arrival: Arrival) -> Option<(Pair, Established)> {
    let listener = Arc::clone(&arrival.listener);
    let mut errand = Errand::new(pop, &listener, &arrival);
    match errand.run(&arrival).await {
        Ok(reached) => Some(errand.established(arrival, reached)),
        Err(refusal) => {
            reset_on_close(&arrival.stream);
            listener.count_refusal(refusal);
            pop.log.refused(&Refused {
                listener: &listener.name,
                client: errand.client,
                via: errand.via,
                country: errand.place.country,
                reason: refusal,
                attempts: errand.attempts,
                queued: errand.queued,
                arrived: arrival.at,
            });
            None
        }
    }
}

/// Finding a backend for one client: what was learnt of it so far.
struct Errand<'a> {
    pop: &'a Arc<Pop>,
    listener: &'a Arc<Listener>,
    client: ClientAddr,
    via: Option<SocketAddr>,
    place: Place,
    unchecked: bool,
    tried: Exclusions,
    attempts: u8,
    queued: Duration,
}

/// A backend that answered.
struct Reached {
    stream: TcpStream,
    table: Arc<Table>,
    choice: Choice,
    slot: TakenSlot,
    took: Duration,
}

impl<'a> Errand<'a> {
    fn new(pop: &'a Arc<Pop>, listener: &'a Arc<Listener>, arrival: &Arrival) -> Self {
        Self {
            pop,
            listener,
            client: ClientAddr::new(arrival.peer),
            via: None,
            place: Place::UNKNOWN,
            unchecked: false,
            tried: Exclusions::default(),
            attempts: 0,
            queued: Duration::ZERO,
        }
    }

    async fn run(&mut self, arrival: &Arrival) -> Result<Reached, Refusal> {
        self.receive_header(arrival).await?;
        self.place = self.pop.geo.load().lookup(self.client.ip());
        let reached = self.reach(&arrival.stream).await?;
        self.remember(&reached);
        Ok(reached)
    }

    /// Learns the real client from a trusted peer; from anybody else, first bytes will be checked when they come.
    async fn receive_header(&mut self, arrival: &Arrival) -> Result<(), Refusal> {
        let settings = &self.listener.settings;
        if settings.trust_proxy.is_empty() {
            return Ok(());
        }
        if !proxy_header::is_trusted(arrival.peer.ip(), &settings.trust_proxy) {
            self.unchecked = true;
            return Ok(());
        }
        if let Some(client) = proxy_header::receive(&arrival.stream, settings.proxy_header_timeout).await? {
            self.client = ClientAddr::new(client);
            self.via = Some(arrival.peer);
        }
        Ok(())
    }

    /// Chooses, reserves and dials, elsewhere after each failure, until one answers or time or choice runs out.
    async fn reach(&mut self, client: &TcpStream) -> Result<Reached, Refusal> {
        let settings = &self.listener.settings;
        let mut dialling = Duration::ZERO;
        loop {
            let (table, choice, slot) = self.admit(client).await?;
            let backend = table.backend(choice.index);
            let left = settings.connect_deadline.saturating_sub(dialling);
            let started = Instant::now();
            self.attempts += 1;
            let dialled = dial(backend.addr, settings.connect_timeout.min(left)).await;
            let took = started.elapsed();
            match dialled {
                Ok(stream) => return Ok(Reached { stream, table, choice, slot, took }),
                Err(error) => {
                    dialling += took;
                    self.failed(&error, &backend.id, slot);
                    let room = self.tried.add(table.key(choice.index).slot());
                    let may_retry = room
                        && usize::from(self.attempts) < settings.connect_attempts
                        && dialling < settings.connect_deadline;
                    match error {
                        DialError::DescriptorsExhausted => return Err(Refusal::DescriptorsExhausted),
                        _ if !may_retry => return Err(Refusal::NoRoute(NoRoute::AllTried)),
                        _ => self.pop.metrics.retries.inc(),
                    };
                }
            }
        }
    }

    fn failed(&self, error: &DialError, backend: &str, slot: TakenSlot) {
        self.pop.metrics.connect_failures.get_or_create(&ByError { error: error.word() }).inc();
        tracing::debug!(backend, %error, client = %self.client, "connect failed");
        if error.blames_backend()
            && let Some(pause) = slot.failed()
        {
            self.pop.metrics.ejections.inc();
            tracing::warn!(backend, %error, pause_s = pause.as_secs(), "backend ejected after failed connects");
        }
    }

    /// A slot on the best backend: at once, or after waiting for one where the listener has a queue.
    async fn admit(&mut self, client: &TcpStream) -> Result<(Arc<Table>, Choice, TakenSlot), Refusal> {
        let queue = &self.listener.queue;
        if !queue.is_busy() {
            match self.try_admit() {
                Err(Refusal::NoRoute(NoRoute::AllFull)) if self.listener.settings.queue > 0 => {}
                settled => return settled,
            }
        }
        let place = queue.join().ok_or(Refusal::QueueFull)?;
        let joined = Instant::now();
        let waited = tokio::time::timeout(self.listener.settings.queue_timeout, async {
            // Room may have come free between the look above and joining, when nobody was there to be woken.
            loop {
                if place.is_head() {
                    match self.try_admit() {
                        Err(Refusal::NoRoute(NoRoute::AllFull)) => {}
                        settled => return settled,
                    }
                }
                tokio::select! {
                    () = place.turn() => {}
                    // The end of an ejection's pause wakes nobody.
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                    () = self.pop.drain.began() => return Err(Refusal::Draining),
                    () = gone(client) => return Err(Refusal::ClientGone),
                }
            }
        });
        let settled = waited.await;
        self.queued += joined.elapsed();
        let admitted = settled.unwrap_or(Err(Refusal::QueueTimeout));
        if admitted.is_ok() {
            self.pop.metrics.queue_wait.observe(self.queued.as_secs_f64() * 1000.0);
        }
        admitted
    }

    fn try_admit(&self) -> Result<(Arc<Table>, Choice, TakenSlot), Refusal> {
        let settings = &self.listener.settings;
        let now = self.pop.clock.now();
        let mut request = Request {
            place: self.place,
            app: settings.app.as_deref(),
            policy: settings.policy,
            tried: &self.tried,
            bound: self.listener.affinity.get(self.client.affinity_key(), now),
            forced: false,
            now,
            random: random(),
        };
        loop {
            // Loaded anew each time: of a table that was replaced meanwhile, backends may be gone.
            let table = self.pop.table.load_full();
            let choice = match table.choose(&request) {
                Err(NoRoute::AllDown) if settings.when_all_down == WhenAllDown::Try && !request.forced => {
                    request.forced = true;
                    continue;
                }
                chosen => chosen.map_err(Refusal::NoRoute)?,
            };
            if let Some(reservation) = table.reserve(&choice, now) {
                let slot = TakenSlot { reservation: Some(reservation), pop: Arc::clone(self.pop) };
                return Ok((table, choice, slot));
            }
            // Another core took the last slot since the choice: choose again among those that are left.
            request.random = random();
        }
    }

    fn remember(&self, reached: &Reached) {
        let (affinity, client) = (&self.listener.affinity, self.client.affinity_key());
        let now = self.pop.clock.now();
        let here = reached.table.key(reached.choice.index);
        match affinity.get(client, now) {
            // Served elsewhere while its own backend was full or out of service: it may still return there.
            Some(bound) if bound != here && reached.table.find(bound).is_some() => affinity.extend(client, now),
            _ => affinity.bind(client, here, now),
        }
    }

    fn established(self, arrival: Arrival, mut reached: Reached) -> (Pair, Established) {
        let backend = Arc::clone(reached.table.backend(reached.choice.index));
        let connect_ms = reached.took.as_secs_f64() * 1000.0;
        reached.slot.connected(connect_ms);
        self.pop.metrics.backend_connected(&backend.region, connect_ms);
        let record = Record::new(Facts {
            id: self.pop.next_id(),
            listener: arrival.listener,
            client: self.client,
            via: self.via,
            backend,
            started: arrival.at,
            score: reached.choice.score,
            queue_us: micros(self.queued),
            connect_us: micros(reached.took),
            country: self.place.country,
            band: reached.choice.band,
            attempts: self.attempts,
            affine: reached.choice.affine,
        });
        let progress = Progress::beginning(self.unchecked);
        let pair = Pair { client: arrival.stream, backend: reached.stream, progress };
        (pair, Established { record: Arc::new(record), _slot: reached.slot, _open: arrival.open })
    }
}

/// Resolves when the client has reset the connection, or has finished without a word: nobody waits for an answer then.
/// One that has sent its request and finished is still there.
async fn gone(client: &TcpStream) {
    let Ok(ready) = client.ready(Interest::READABLE | Interest::ERROR).await else { return };
    if ready.is_error() {
        return;
    }
    let spoke = client.peek(&mut [0]).await.is_ok_and(|bytes| bytes > 0);
    if spoke {
        // Either it is reset, or this never resolves.
        let _ = client.ready(Interest::ERROR).await;
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// A reserved slot of a backend; giving it back lets a waiting client in.
struct TakenSlot {
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
