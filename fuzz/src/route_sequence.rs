//! Sequences of operations on the routing state, beside a model of it that is too simple to be wrong.
//!
//! After every step: connections of each backend are those the model holds; no slot carries connections of two
//! backends; nothing goes to a backend that is drained, tried, full, down or in its pause; a choice is made exactly
//! when there is something to choose; a hard limit holds for a backend by its name, whatever reloads there were; a
//! binding never leads to another backend than the client's own.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use edgeproxy_route::{
    Affinity, AffinityKey, Backend, BackendAddr, Choice, ClientAddr, Country, Exclusions, Moment, NoRoute,
    OutlierPolicy, Place, Policy, RawBackend, Regions, Request, Reservation, Slot, SlotKey, StatePool, Table,
    TableBuilder, Wanted,
};

const IDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const APPS: [&str; 2] = ["web", "db"];
const REGIONS: [&str; 6] = ["fra", "gru", "iad", "nrt", "eu", "nowhere"];
const COUNTRIES: [&str; 4] = ["DE", "BR", "US", "JP"];
const TTL: Duration = Duration::from_secs(10);
/// More steps say nothing new and make failures long to read.
const MOST_STEPS: usize = 200;
/// Backends that come and go at once: more than the pool keeps the state of.
const PASSING: usize = 70;
const MOST_CHURNS: u32 = 2;
/// Older tables that somebody still looks at.
const FORMER: usize = 4;

#[derive(Arbitrary, Debug)]
struct Row {
    id: u8,
    app: bool,
    region: u8,
    country: u8,
    hard: u8,
    soft: u8,
    weight: u8,
    marks: u8,
}

/// As many as there are ids, so that most reloads keep some and drop some.
#[derive(Debug)]
struct Rows(Vec<Row>);

impl<'a> Arbitrary<'a> for Rows {
    fn arbitrary(data: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let count = data.int_in_range(0..=IDS.len())?;
        (0..count).map(|_| Row::arbitrary(data)).collect::<arbitrary::Result<_>>().map(Self)
    }
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// Another table: ids come, go and change.
    Reload(Rows),
    Visit(Visit),
    /// The connect of a reservation succeeded.
    Connected(u8),
    /// It failed; the client goes elsewhere if the flag says so.
    Failed(u8, Option<Visit>),
    /// Its connection has ended.
    Released(u8),
    /// So many backends come and go that slots find new owners.
    Churn,
    /// What checks say.
    SetDown(u8, bool),
    Pass(u16),
}

/// A client comes in.
#[derive(Arbitrary, Debug, Clone, Copy)]
struct Visit {
    client: u8,
    country: u8,
    app: u8,
    policy: u8,
    forced: bool,
    random: u16,
    /// It was looking when the table was replaced, perhaps several times.
    late: Option<u8>,
}

/// What is known of one backend in the time it owned its slot.
#[derive(Default)]
struct Known {
    addr: Option<BackendAddr>,
    /// How often it has moved to another address.
    moves: u32,
    down: bool,
    ejected: bool,
    until: u64,
    failures: u32,
    ejections: u32,
}

struct Held {
    reservation: Reservation,
    id: String,
    key: SlotKey,
    client: u8,
    trial: bool,
    connected: bool,
    /// The backend's moves when the table was made that it was taken by.
    moves: u32,
    tried: Exclusions,
}

struct World {
    states: Arc<StatePool>,
    table: Table,
    /// How often each backend had moved when the table was made.
    moves: Vec<u32>,
    /// Those before, the latest first, which decisions under way still hold.
    former: VecDeque<(Table, Vec<u32>)>,
    affinity: Affinity,
    now: u64,
    held: Vec<Held>,
    /// Every key there ever was, by its slot: whose it was and what is known.
    known: HashMap<Slot, Vec<(SlotKey, String, Known)>>,
    churns: u32,
    bindings: BTreeMap<u8, (String, u64)>,
}

/// Whatever bytes, taken as a sequence of operations: see the head of this module.
pub fn route_sequence(data: &[u8]) {
    let mut data = Unstructured::new(data);
    let mut world = World::new();
    for _ in 0..MOST_STEPS {
        if data.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(&mut data) else { break };
        world.take(step);
        world.check();
    }
    world.held.clear();
    world.check();
}

fn policy() -> OutlierPolicy {
    OutlierPolicy {
        consecutive_failures: 2,
        failure_ratio: 2.0,
        base_pause: Duration::from_secs(1),
        max_pause: Duration::from_secs(4),
        ..OutlierPolicy::default()
    }
}

fn client(number: u8) -> AffinityKey {
    ClientAddr::new(SocketAddr::new(Ipv4Addr::new(198, 51, 100, number).into(), 1)).affinity_key()
}

fn of<T: Copy>(list: &[T], number: u8) -> T {
    list[usize::from(number) % list.len()]
}

fn build(states: &Arc<StatePool>, backends: Vec<Backend>) -> Table {
    let builder = TableBuilder {
        pop_region: "fra".to_owned(),
        regions: Regions::default(),
        has_country: true,
        states: Arc::clone(states),
    };
    builder.build(backends).expect("few backends")
}

fn backend(row: &Row) -> Backend {
    let raw = RawBackend {
        id: Some(of(&IDS, row.id).to_owned()),
        app: Some(APPS[usize::from(row.app)].to_owned()),
        region: Some(of(&REGIONS, row.region).to_owned()),
        country: Some(of(&["", "DE", "BR", "US", "JP"], row.country).to_owned()),
        wg_ip: Some("10.0.0.1".to_owned()),
        port: Some(i64::from(row.id) + 1),
        healthy: Some(i64::from(row.marks & 0b111 != 0)),
        weight: Some(i64::from(row.weight % 4)),
        soft_limit: Some(i64::from(row.soft % 4) + 1),
        hard_limit: Some(i64::from(row.hard % 4) + 1),
        drained: Some(i64::from(row.marks >> 5 == 1)),
        heartbeat_secs: None,
    };
    raw.check().expect("a good row")
}

impl World {
    fn new() -> Self {
        let states = Arc::new(StatePool::default());
        let table = build(&states, Vec::new());
        Self {
            states,
            table,
            moves: Vec::new(),
            former: VecDeque::new(),
            affinity: Affinity::new(TTL, 1_000_000),
            now: 0,
            held: Vec::new(),
            known: HashMap::new(),
            churns: 0,
            bindings: BTreeMap::new(),
        }
    }

    fn now(&self) -> Moment {
        Moment::from_millis(self.now)
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Reload(Rows(rows)) => self.reload(&rows),
            Step::Churn => self.churn(),
            Step::Visit(visit) => self.visit(visit, Exclusions::default()),
            Step::Connected(number) => self.connected(number),
            Step::Failed(number, elsewhere) => self.failed(number, elsewhere),
            Step::Released(number) => {
                if !self.held.is_empty() {
                    self.held.swap_remove(usize::from(number) % self.held.len());
                }
            }
            Step::SetDown(number, down) => {
                if self.table.backends().len() > 0 {
                    let key = self.table.key(usize::from(number) % self.table.backends().len());
                    self.states.set_down(key, down);
                    self.known_mut(key).down = down;
                }
            }
            Step::Pass(millis) => self.now += u64::from(millis),
        }
    }

    fn entry(&self, key: SlotKey) -> Option<&(SlotKey, String, Known)> {
        self.known.get(&key.slot())?.iter().find(|(known, ..)| *known == key)
    }

    fn known(&self, key: SlotKey) -> &Known {
        &self.entry(key).expect("every key of a table is known").2
    }

    fn known_mut(&mut self, key: SlotKey) -> &mut Known {
        let keys = self.known.get_mut(&key.slot()).expect("every key of a table is known");
        &mut keys.iter_mut().find(|(known, ..)| *known == key).expect("every key of a table is known").2
    }

    fn owner(&self, key: SlotKey) -> &str {
        &self.entry(key).expect("every key of a table is known").1
    }

    fn count(&self, key: SlotKey) -> usize {
        self.held.iter().filter(|held| held.key == key).count()
    }

    fn reload(&mut self, rows: &[Row]) {
        let mut backends: Vec<Backend> = Vec::new();
        for row in rows.iter().map(backend) {
            // As the file's primary key has it.
            if backends.iter().all(|other| other.id != row.id) {
                backends.push(row);
            }
        }
        self.serve(backends);
    }

    fn churn(&mut self) {
        if self.churns == MOST_CHURNS {
            return;
        }
        self.churns += 1;
        let stay: Vec<Backend> = self.table.backends().map(|(backend, _)| Backend::clone(backend)).collect();
        let passing = (0..PASSING).map(|number| {
            let row = Row { id: 0, app: false, region: 0, country: 0, hard: 0, soft: 0, weight: 1, marks: 1 };
            Backend { id: format!("passing {} {number}", self.churns), ..backend(&row) }
        });
        self.serve(stay.iter().cloned().chain(passing).collect());
        self.serve(stay);
    }

    fn serve(&mut self, backends: Vec<Backend>) {
        let table = build(&self.states, backends);
        for (backend, key) in table.backends() {
            match self.entry(key) {
                Some((_, owner, _)) => assert_eq!(*owner, backend.id, "a key stands for one backend for ever"),
                None => {
                    let known = (key, backend.id.clone(), Known::default());
                    self.known.entry(key.slot()).or_default().push(known);
                }
            }
            let known = self.known_mut(key);
            if known.addr.replace(backend.addr).is_some_and(|former| former != backend.addr) {
                // Nothing that was learnt at the former address counts; checks are told apart.
                *known = Known { addr: known.addr, moves: known.moves + 1, down: known.down, ..Known::default() };
            }
            let stranger = self.held.iter().find(|held| held.key.slot() == key.slot() && held.id != backend.id);
            assert!(stranger.is_none(), "a slot was given away with connections open");
        }
        let moves = table.backends().map(|(_, key)| self.known(key).moves).collect();
        let former = (std::mem::replace(&mut self.table, table), std::mem::replace(&mut self.moves, moves));
        self.former.push_front(former);
        self.former.truncate(FORMER);
    }

    fn visit(&mut self, visit: Visit, tried: Exclusions) {
        let former = visit.late.map(|late| usize::from(late) % FORMER).and_then(|late| self.former.get(late));
        let serving = (&self.table, &self.moves, false);
        let (mut table, mut moves, mut late) = former.map_or(serving, |(table, moves)| (table, moves, true));
        let remembered = self.remembered(visit.client);
        if let Some(bound) = remembered
            && let Some(index) = table.find(bound)
        {
            assert_eq!(table.backend(index).id, self.owner(bound), "a binding leads to another backend");
        }
        let place = COUNTRIES.get(usize::from(visit.country) % 5);
        let request = Request {
            place: place.map_or(Place::UNKNOWN, |code| Place::in_country(code.parse::<Country>().expect("a country"))),
            app: [None, Some(APPS[0]), Some(APPS[1])][usize::from(visit.app) % 3],
            wanted: Wanted::Any,
            policy: of(&[Policy::Geo, Policy::Score, Policy::Latency], visit.policy),
            tried: &tried,
            bound: remembered,
            forced: visit.forced,
            now: self.now(),
            random: u64::from(visit.random).wrapping_mul(0x9E37_79B9_7F4A_7C15),
        };
        let mut reserved = None;
        loop {
            let chosen = table.choose(&request);
            if !late {
                self.check_choice(&request, chosen);
            }
            let Ok(choice) = chosen else { break };
            if let Some(reservation) = table.reserve(&choice, self.now()) {
                let (key, backend) = (table.key(choice.index), Arc::clone(table.backend(choice.index)));
                reserved = Some((reservation, choice, key, backend, moves[choice.index]));
                break;
            }
            // The slot has another owner since that table: who asks again must ask the one that serves now.
            assert!(late, "nobody else could have taken it");
            (table, moves, late) = serving;
        }
        let Some((reservation, choice, key, chosen, moves)) = reserved else { return };
        let stranger = self.held.iter().find(|held| held.key.slot() == key.slot() && held.key != key);
        assert!(stranger.is_none(), "a slot carries connections of two backends");
        if let Some((current, _)) = self.table.backends().find(|(_, current)| current.slot() == key.slot()) {
            assert_eq!(current.id, chosen.id, "a connection to one backend is counted as another's");
        }
        let of_this = self.held.iter().filter(|held| held.id == chosen.id).count();
        assert!(of_this < chosen.limits.hard as usize, "{:?} has {of_this} of {}", chosen.id, chosen.limits.hard);
        let known = self.known(key);
        let trial = known.ejected && !known.down && !choice.forced;
        let (id, client) = (chosen.id.clone(), visit.client);
        self.held.push(Held { reservation, id, key, client, trial, connected: false, moves, tried });
    }

    fn check_choice(&self, request: &Request<'_>, chosen: Result<Choice, NoRoute>) {
        let app = |backend: &Backend| request.app.is_none_or(|app| app == backend.app);
        let open: Vec<(usize, SlotKey)> = (self.table.backends().enumerate())
            .filter(|(_, (backend, _))| backend.accepts_new() && app(backend))
            .map(|(index, (_, key))| (index, key))
            .collect();
        let tried = |key: SlotKey| format!("{:?}", request.tried).contains(&format!("Some({:?})", key.slot()));
        let untried: Vec<_> = open.iter().filter(|(_, key)| !tried(*key)).collect();
        let serves = |key: SlotKey| {
            let known = self.known(key);
            let in_service = !known.down && !known.ejected;
            let on_trial = self.held.iter().any(|held| held.key == key && held.trial);
            (in_service, !known.down && !on_trial && self.now >= known.until)
        };
        let room = |index: usize, key: SlotKey| self.count(key) < self.table.backend(index).limits.hard as usize;
        let is_first_try = format!("{:?}", request.tried).contains("[None");
        // Only where there is no other, and never again for a client that has tried one.
        let forced = request.forced
            && is_first_try
            && !open.iter().any(|(index, key)| serves(*key).0 || serves(*key).1 && room(*index, *key));
        let serves = |key: SlotKey| (forced || serves(key).0, serves(key).1);
        let eligible: Vec<usize> = (untried.iter())
            .filter(|(index, key)| room(*index, *key) && (serves(*key).0 || serves(*key).1))
            .map(|(index, _)| *index)
            .collect();
        match chosen {
            Ok(choice) => {
                assert!(eligible.contains(&choice.index), "{choice:?} is none of {eligible:?}");
                assert!(choice.band <= 3 && choice.score.is_finite() && choice.score >= 0.0, "{choice:?}");
                if choice.affine {
                    assert_eq!(request.bound, Some(self.table.key(choice.index)));
                }
            }
            Err(reason) => {
                assert!(eligible.is_empty(), "{reason:?}, and yet {eligible:?} could serve");
                let expected = if open.is_empty() {
                    NoRoute::NoBackend
                } else if untried.is_empty() {
                    NoRoute::AllTried
                } else if untried.iter().any(|(_, key)| serves(*key).0) {
                    NoRoute::AllFull
                } else if is_first_try {
                    NoRoute::AllDown
                } else {
                    NoRoute::AllTried
                };
                assert_eq!(reason, expected);
            }
        }
    }

    fn remembered(&self, number: u8) -> Option<SlotKey> {
        let found = self.affinity.get(client(number), self.now());
        let expected = self.bindings.get(&number).filter(|(_, expires)| self.now < *expires);
        assert_eq!(found.map(|key| self.owner(key)), expected.map(|(id, _)| id.as_str()), "client {number}");
        found
    }

    /// As the proxy does once a client is connected.
    fn remember(&mut self, number: u8, here: SlotKey) {
        let expires = self.now + u64::try_from(TTL.as_millis()).expect("short");
        let id = match self.remembered(number) {
            Some(bound) if bound != here && self.table.find(bound).is_some() => {
                self.affinity.extend(client(number), self.now());
                self.owner(bound)
            }
            _ => {
                self.affinity.bind(client(number), here, self.now());
                self.owner(here)
            }
        };
        let id = id.to_owned();
        self.bindings.insert(number, (id, expires));
    }

    fn connected(&mut self, number: u8) {
        let now = self.now();
        let waiting: Vec<usize> = (0..self.held.len()).filter(|&at| !self.held[at].connected).collect();
        if waiting.is_empty() {
            return;
        }
        let held = &mut self.held[of(&waiting, number)];
        let returned = held.reservation.connected(1.0, &policy(), now);
        let (key, client, trial, moves) = (held.key, held.client, held.trial, held.moves);
        held.connected = true;
        held.trial = false;
        let known = self.known_mut(key);
        let counts = moves == known.moves;
        assert_eq!(returned, trial && counts);
        if counts {
            known.failures = 0;
        }
        if returned {
            (known.ejected, known.ejections) = (false, 0);
        }
        self.remember(client, key);
    }

    fn failed(&mut self, number: u8, elsewhere: Option<Visit>) {
        let waiting: Vec<usize> = (0..self.held.len()).filter(|&at| !self.held[at].connected).collect();
        if waiting.is_empty() {
            return;
        }
        let Held { reservation, key, trial, moves, mut tried, .. } = self.held.swap_remove(of(&waiting, number));
        let (now, policy) = (self.now, policy());
        let known = self.known_mut(key);
        let mut expected = None;
        // What began before an ejection, or went to a former address, says nothing new.
        let counts = moves == known.moves && (trial || !known.ejected);
        known.failures += u32::from(counts);
        if counts && (trial || known.failures >= policy.consecutive_failures) {
            let pause = (policy.base_pause * (1 << known.ejections.min(16))).min(policy.max_pause);
            known.failures = 0;
            known.ejections += 1;
            known.ejected = true;
            known.until = now + u64::try_from(pause.as_millis()).expect("short");
            expected = Some(pause);
        }
        assert_eq!(reservation.failed(&policy, Moment::from_millis(now)), expected);
        if let Some(visit) = elsewhere
            && tried.add(key.slot())
        {
            self.visit(visit, tried);
        }
    }

    fn check(&self) {
        for (backend, key) in self.table.backends() {
            let known = self.known(key);
            let (id, slot) = (&backend.id, key.slot());
            assert_eq!(self.states.connections(slot) as usize, self.count(key), "connections of {id}");
            assert_eq!(self.states.is_down(slot), known.down, "{id}");
            assert_eq!(self.states.is_ejected(slot), known.ejected, "{id}");
            assert_eq!(self.table.find(key).map(|index| &self.table.backend(index).id), Some(id));
        }
        assert!(self.affinity.remembered() <= 256);
    }
}
