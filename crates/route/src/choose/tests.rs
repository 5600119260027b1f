use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::backend::{Backend, RawBackend};
use crate::outlier::OutlierPolicy;
use crate::place::{Country, Point};
use crate::state::{Reservation, SlotKey, StatePool};
use crate::table::{Regions, TableBuilder, TableError};

mod roles;

const NOW: Moment = Moment::from_millis(1_000);

/// SplitMix64, as callers draw their random numbers.
fn next_random(state: u64) -> u64 {
    let state = state.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// `(id, region, country, weight, soft, hard)`
type Row = (&'static str, &'static str, &'static str, i64, i64, i64);

const TEN: [Row; 10] = [
    ("gru", "gru", "BR", 1, 10, 20),
    ("iad", "iad", "US", 1, 10, 20),
    ("ord", "ord", "US", 1, 10, 20),
    ("lax", "lax", "US", 1, 10, 20),
    ("lhr", "lhr", "GB", 1, 10, 20),
    ("fra", "fra", "DE", 1, 10, 20),
    ("cdg", "cdg", "FR", 1, 10, 20),
    ("nrt", "nrt", "JP", 1, 10, 20),
    ("sin", "sin", "SG", 1, 10, 20),
    ("syd", "syd", "AU", 1, 10, 20),
];

struct World {
    table: Table,
    states: Arc<StatePool>,
    held: Vec<Reservation>,
}

impl World {
    fn new(rows: &[Row], pop: &str) -> Self {
        Self::with(rows, pop, true, |_| {})
    }

    fn with(rows: &[Row], pop: &str, has_country: bool, edit: impl Fn(&mut RawBackend)) -> Self {
        let backends = rows
            .iter()
            .enumerate()
            .map(|(n, &(id, region, country, weight, soft, hard))| {
                let mut raw = RawBackend {
                    id: Some(id.into()),
                    app: Some("web".into()),
                    region: Some(region.into()),
                    country: (!country.is_empty()).then(|| country.into()),
                    wg_ip: Some("127.0.0.1".into()),
                    port: Some(1000 + i64::try_from(n).unwrap()),
                    healthy: Some(1),
                    weight: Some(weight),
                    soft_limit: Some(soft),
                    hard_limit: Some(hard),
                    ..RawBackend::default()
                };
                edit(&mut raw);
                raw.check().unwrap()
            })
            .collect();
        let states = Arc::new(StatePool::default());
        let builder = TableBuilder {
            pop_region: pop.into(),
            regions: Regions::default(),
            has_country,
            states: Arc::clone(&states),
        };
        Self { table: builder.build(backends).unwrap(), states, held: Vec::new() }
    }

    /// Another table takes the place of this one, which is given back.
    fn replace(&mut self, backends: Vec<Backend>) -> Table {
        let states = Arc::clone(&self.states);
        let builder = TableBuilder { pop_region: "fra".into(), regions: Regions::default(), has_country: true, states };
        std::mem::replace(&mut self.table, builder.build(backends).unwrap())
    }

    fn backend(&self, id: &str) -> Backend {
        Backend::clone(self.table.backends().find(|(backend, _)| backend.id == id).unwrap().0)
    }

    /// How often each is chosen.
    fn shares(&self, request: &Request<'_>, choices: u64) -> BTreeMap<String, u32> {
        let mut shares = BTreeMap::new();
        for random in 0..choices {
            let id = self.ask(&Request { random: next_random(random), ..*request }).unwrap();
            *shares.entry(id.to_owned()).or_insert(0) += 1;
        }
        shares
    }

    fn key(&self, id: &str) -> SlotKey {
        self.table.backends().find(|(backend, _)| backend.id == id).unwrap().1
    }

    fn fill(&mut self, id: &str, connections: u32) {
        for _ in 0..connections {
            self.held.push(self.table.reserve(&self.forced(id), NOW).unwrap());
        }
    }

    /// A choice of this one, whatever is the matter with it.
    fn forced(&self, id: &str) -> Choice {
        let index = self.table.find(self.key(id)).unwrap();
        Choice { index, band: 0, score: 0.0, affine: false, forced: true }
    }

    fn choose(&self, place: Place, policy: Policy, random: u64) -> Result<&str, NoRoute> {
        self.ask(&Request { place, policy, random, ..request(&Exclusions::default()) })
    }

    fn ask(&self, request: &Request<'_>) -> Result<&str, NoRoute> {
        self.table.choose(request).map(|choice| self.table.backend(choice.index).id.as_str())
    }
}

fn request(tried: &Exclusions) -> Request<'_> {
    Request {
        place: Place::UNKNOWN,
        app: Some("web"),
        wanted: Wanted::Any,
        policy: Policy::Geo,
        tried,
        bound: None,
        forced: false,
        now: NOW,
        random: 7,
    }
}

fn country(code: &str) -> Place {
    Place::in_country(code.parse::<Country>().unwrap())
}

fn geo(world: &World, place: Place) -> &str {
    world.choose(place, Policy::Geo, 7).unwrap()
}

#[test]
fn country_then_part_of_the_world_then_pop_region_then_the_rest() {
    let world = World::new(&TEN, "fra");
    assert_eq!(geo(&world, country("JP")), "nrt", "same country");
    assert_eq!(geo(&world, country("PT")), "cdg", "nearest of Europe");
    assert_eq!(geo(&world, country("NZ")), "syd", "nearest of Asia and the Pacific");
    assert_eq!(geo(&world, country("AR")), "gru");
    assert_eq!(geo(&world, country("KE")), "fra", "nothing in Africa: the POP's own region");

    let world = World::new(&TEN, "jnb");
    assert_eq!(geo(&world, country("MA")), "cdg", "nothing in Africa, nothing at the POP: the nearest");
    assert_eq!(geo(&world, country("AE")), "fra");
    assert_eq!(geo(&world, Place::UNKNOWN), "gru", "the nearest to the POP itself");
}

#[test]
fn coarse_regions_of_older_tables_mean_a_part_of_the_world() {
    let rows = [
        ("s", "sa", "", 1, 10, 20),
        ("n", "us", "", 1, 10, 20),
        ("e", "eu", "", 1, 10, 20),
        ("a", "ap", "", 1, 10, 20),
    ];
    let world = World::new(&rows, "sa");
    for (client, expected) in [("CL", "s"), ("MX", "n"), ("PL", "e"), ("IN", "a")] {
        assert_eq!(geo(&world, country(client)), expected, "{client}");
    }
    assert_eq!(geo(&world, country("KE")), "s", "no region of its own: that of the POP, never a silent North America");
}

#[test]
fn within_a_known_country_only_load_decides_unless_the_city_is_known() {
    let mut world = World::new(&TEN, "fra");
    let mut seen = BTreeMap::new();
    for random in 0..3_000 {
        *seen.entry(world.choose(country("US"), Policy::Geo, next_random(random)).unwrap().to_owned()).or_insert(0) +=
            1;
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(seen.values().all(|&n| (800..1200).contains(&n)), "ties are even: {seen:?}");

    world.fill("ord", 3);
    world.fill("lax", 2);
    world.fill("iad", 1);
    assert_eq!(geo(&world, country("US")), "iad", "the least loaded");

    let seattle = country("US").at(Point::from_degrees(47.6, -122.3).unwrap());
    assert_eq!(geo(&world, seattle), "lax", "the nearest, whatever its load below the soft limit");
}

#[test]
fn the_nearer_wins_until_its_soft_limit_then_the_next_then_the_least_loaded() {
    let mut world = World::new(&TEN, "nrt");
    let berlin = country("PL").at(Point::from_degrees(52.5, 13.4).unwrap());
    assert_eq!(geo(&world, berlin), "fra");
    world.fill("fra", 9);
    assert_eq!(geo(&world, berlin), "fra");
    world.fill("fra", 1);
    assert_eq!(geo(&world, berlin), "cdg", "fra is at its soft limit");
    world.fill("cdg", 10);
    assert_eq!(geo(&world, berlin), "lhr");
    world.fill("lhr", 12);
    world.fill("cdg", 1);
    assert_eq!(geo(&world, berlin), "fra", "all past their soft limit: the least loaded of Europe");
    world.fill("fra", 10);
    world.fill("cdg", 9);
    world.fill("lhr", 8);
    assert_eq!(geo(&world, berlin), "nrt", "Europe is full: spill to the POP's region");
}

#[test]
fn weights_share_the_load_of_one_place() {
    let rows = [("small", "fra", "DE", 1, 100, 1000), ("big", "fra", "DE", 3, 100, 1000)];
    let mut world = World::new(&rows, "fra");
    for random in 0..400 {
        let id = world.choose(country("DE"), Policy::Geo, next_random(random)).unwrap().to_owned();
        world.fill(&id, 1);
    }
    assert_eq!(world.states.connections(world.key("small").slot), 100);
    assert_eq!(world.states.connections(world.key("big").slot), 300);
}

#[test]
fn idle_backends_share_clients_by_weight() {
    let tried = Exclusions::default();
    let rows = [("canary", "fra", "DE", 1, 100, 1000), ("stable", "fra", "DE", 9, 100, 1000)];
    // The same in two regions of one country, where the client's place does not tell which is nearer.
    let apart = [("canary", "iad", "US", 1, 100, 1000), ("stable", "ord", "US", 9, 100, 1000)];
    for (rows, place) in [(rows, country("DE")), (apart, country("US"))] {
        let world = World::new(&rows, "fra");
        for policy in [Policy::Geo, Policy::Score] {
            let shares = world.shares(&Request { place, policy, ..request(&tried) }, 10_000);
            assert!((800..1_200).contains(&shares["canary"]), "{policy:?}: {shares:?}");
        }
    }
}

#[test]
fn a_scan_of_many_finds_the_least_loaded_whatever_their_limits() {
    // Blocks of equals, of strangers, and a slot that is not beside the others.
    let ids: Vec<&'static str> = (0..200).map(|n| &*format!("b{n:03}").leak()).collect();
    for alike in [true, false] {
        let rows: Vec<Row> = (ids.iter().zip(0..))
            .map(|(id, n)| (*id, "fra", "DE", if alike { 2 } else { 1 + n % 7 }, if alike { 50 } else { 20 + n }, 300))
            .collect();
        let mut world = World::new(&rows, "fra");
        let tried = Exclusions::default();
        for step in 0..600 {
            let policy = [Policy::Geo, Policy::Score, Policy::Latency][step % 3];
            if step == 300 {
                // Every other one leaves: those that stay are no longer in a row.
                let stay = ids.iter().step_by(2).map(|id| world.backend(id)).collect();
                world.replace(stay);
            }
            let random = next_random(step as u64);
            let choice = world.table.choose(&Request { policy, random, ..request(&tried) }).unwrap();
            let load = |index: usize, slot| {
                let limits = world.table.backend(index).limits;
                f64::from(world.states.connections(slot)) / (f64::from(limits.soft) * f64::from(limits.weight))
            };
            let lowest = world.table.backends().enumerate().map(|(n, (_, key))| load(n, key.slot)).fold(9.0, f64::min);
            let chosen = load(choice.index, world.table.key(choice.index).slot);
            assert!((chosen - lowest).abs() < 1e-12, "{policy:?}: {chosen} is not {lowest}");
            world.held.push(world.table.reserve(&choice, NOW).unwrap());
        }
    }
}

#[test]
fn a_backend_of_a_replaced_table_is_never_offered_again() {
    let mut world = World::new(&TEN, "fra");
    let stay: Vec<Backend> = TEN[..9].iter().map(|row| world.backend(row.0)).collect();
    let syd = world.backend("syd");
    let old = world.replace(stay.clone());
    // Enough come and go that the slot of the one that left finds another owner.
    let passing = |name: &str| (0..70).map(|n| Backend { id: format!("{name}{n}"), ..syd.clone() }).collect::<Vec<_>>();
    world.replace([stay.clone(), passing("a")].concat());
    world.replace(stay.clone());
    world.replace([stay, passing("b")].concat());
    let former = old.backends().find(|(backend, _)| backend.id == "syd").unwrap().1;
    assert!(world.table.backends().any(|(_, key)| key.slot == former.slot && key != former), "it has another owner");

    let tried = Exclusions::default();
    for policy in [Policy::Geo, Policy::Score, Policy::Latency] {
        for bound in [None, Some(former)] {
            let request = Request { place: country("AU"), policy, bound, ..request(&tried) };
            for random in 0..50 {
                let choice = old.choose(&Request { random: next_random(random), ..request }).unwrap();
                assert_ne!(old.backend(choice.index).id, "syd", "{policy:?}");
            }
        }
    }
    assert_eq!(world.table.find(former), None);
    // What the new owner does says nothing of the former one.
    for (_, key) in old.backends().filter(|(backend, _)| backend.id != "syd") {
        world.states.set_down(key, true);
    }
    assert_eq!(old.choose(&request(&tried)).unwrap_err(), NoRoute::AllDown);
}

#[test]
fn connects_by_a_replaced_table_say_nothing_of_a_backend_that_has_moved() {
    let mut world = World::new(&TEN, "fra");
    let policy = OutlierPolicy { consecutive_failures: 2, ..OutlierPolicy::default() };
    let mut moved: Vec<Backend> = TEN.iter().map(|row| world.backend(row.0)).collect();
    moved[5].addr = crate::BackendAddr("10.0.0.2:80".parse().unwrap());
    assert_eq!(moved[5].id, "fra");
    // Until the new table serves, cores decide and dial by the old one.
    let (choice, old) = (world.forced("fra"), world.replace(moved));
    for _ in 0..5 {
        assert_eq!(old.reserve(&choice, NOW).unwrap().failed(&policy, NOW), None);
    }
    old.reserve(&choice, NOW).unwrap().connected(300.0, &policy, NOW);
    let slot = world.key("fra").slot;
    assert_eq!((world.states.is_ejected(slot), world.states.round_trip_ms(slot)), (false, None));
    let by_new = || world.table.reserve(&choice, NOW).unwrap().failed(&policy, NOW);
    assert_eq!([by_new(), by_new()], [None, Some(policy.base_pause)]);
}

#[test]
fn the_latency_policy_gives_a_backend_another_try_when_its_peak_is_long_past() {
    let world = World::new(&TEN, "fra");
    let tried = Exclusions::default();
    let at = |secs| Request { policy: Policy::Latency, now: NOW.after(Duration::from_secs(secs)), ..request(&tried) };
    world.states.observe_round_trip(world.key("fra").slot, 1_010.0, NOW);
    assert_ne!(world.ask(&at(1)), Ok("fra"));
    assert_eq!(world.ask(&at(40)), Ok("fra"), "nobody else would ever have found out");
}

#[test]
fn one_out_of_service_or_tried_in_a_block_takes_nothing_from_the_others() {
    let ids: Vec<&'static str> = (0..150).map(|n| &*format!("b{n:03}").leak()).collect();
    for alike in [true, false] {
        let rows: Vec<Row> = (ids.iter().zip(0..))
            .map(|(id, n)| (*id, "fra", "DE", if alike { 2 } else { 1 + n % 7 }, if alike { 5 } else { 3 + n % 4 }, 7))
            .collect();
        let mut world = World::new(&rows, "fra");
        let policy = OutlierPolicy { consecutive_failures: 1, ..OutlierPolicy::default() };
        // A run of slots at first, then every third is another table's.
        for step in 0..1_200 {
            if step == 600 {
                world.held.clear();
                let stay =
                    (ids.iter().enumerate()).filter(|(n, _)| n % 3 != 1).map(|(_, id)| world.backend(id)).collect();
                world.replace(stay);
                world.states.set_down(world.key("b003"), true);
                world.states.set_down(world.key("b077"), true);
                let failing = world.table.reserve(&world.forced("b101"), NOW).unwrap();
                failing.failed(&policy, NOW).unwrap();
            }
            let mut tried = Exclusions::default();
            if step % 2 == 0 {
                for id in
                    ["b000", "b063", "b149"].into_iter().filter(|id| world.table.backends().any(|(b, _)| b.id == *id))
                {
                    assert!(tried.add(world.key(id).slot));
                }
            }
            let policy = Policy::ALL[step % 3];
            let random = next_random(step as u64);
            let asked = Request { policy, random, place: country("DE"), ..request(&tried) };
            let may_take = |index: usize, slot: Slot| {
                let word = world.states.word(slot);
                word.in_service() && !tried.has(slot) && word.connections() < world.table.backend(index).limits.hard
            };
            let load = |index: usize, slot| {
                let limits = world.table.backend(index).limits;
                let connections = world.states.connections(slot);
                // The latency policy, too, has one place only: below the soft limit, then the others.
                let tier = if policy != Policy::Score && connections >= limits.soft { 100.0 } else { 0.0 };
                tier + f64::from(connections) / (f64::from(limits.soft) * f64::from(limits.weight))
            };
            let lowest = (world.table.backends().enumerate())
                .filter(|(n, (_, key))| may_take(*n, key.slot))
                .map(|(n, (_, key))| load(n, key.slot))
                .fold(f64::INFINITY, f64::min);
            let Ok(choice) = world.table.choose(&asked) else {
                assert_eq!(lowest, f64::INFINITY);
                continue;
            };
            let slot = world.table.key(choice.index).slot;
            assert!(may_take(choice.index, slot), "{policy:?}");
            let chosen = load(choice.index, slot);
            assert!((chosen - lowest).abs() < 1e-9, "{policy:?}, step {step}: {chosen} is not {lowest}");
            world.held.push(world.table.reserve(&choice, NOW).unwrap());
        }
    }
}

#[test]
fn a_backend_found_to_be_near_brings_its_neighbours_along_at_once() {
    let rows = [("a", "nowhere", "", 1, 10, 20), ("b", "nowhere", "", 1, 10, 20), ("c", "nowhere", "", 1, 10, 20)];
    let world = World::new(&rows, "fra");
    let tried = Exclusions::default();
    let request = Request { policy: Policy::Latency, ..request(&tried) };
    world.ask(&request).unwrap();
    for (id, millis) in [("b", 0.5), ("c", 0.6)] {
        world.states.observe_round_trip(world.key(id).slot, millis, NOW);
    }
    // In the same stamp as the look that found nothing measured.
    assert_eq!(world.shares(&request, 100).keys().collect::<Vec<_>>(), ["b", "c"]);
}

#[test]
fn the_latency_policy_refuses_nobody_while_somebody_has_room() {
    let mut world = World::new(&TEN, "fra");
    let tried = Exclusions::default();
    let request = Request { policy: Policy::Latency, ..request(&tried) };
    let mut order = Vec::new();
    for _ in 0..200 {
        let id = world.ask(&request).unwrap().to_owned();
        world.fill(&id, 1);
        order.push(id);
    }
    assert!(order[..10].iter().all(|id| id == "fra"), "{order:?}");
    assert!(order[..100].iter().collect::<std::collections::BTreeSet<_>>().len() == 10, "first up to the soft limits");
    assert_eq!(world.ask(&request), Err(NoRoute::AllFull));
}

#[test]
fn nearness_is_that_of_the_listener_and_looking_leaves_no_marks() {
    let rows = [("quick", "fra", "DE", 1, 10, 20), ("slow", "cdg", "FR", 1, 10, 20), ("third", "lhr", "GB", 1, 10, 20)];
    let world = World::with(&rows, "fra", true, |raw| {
        raw.app = Some(if raw.id.as_deref() == Some("quick") { "cache" } else { "web" }.into());
    });
    let observe = |id, millis, now| world.states.observe_round_trip(world.key(id).slot, millis, now);
    let later = |secs| NOW.after(Duration::from_secs(secs));
    let tried = Exclusions::default();
    let web = Request { policy: Policy::Latency, ..request(&tried) };
    for (id, millis) in [("quick", 5.0), ("slow", 20.0), ("third", 20.0)] {
        observe(id, millis, NOW);
    }
    assert_eq!(world.shares(&web, 100).len(), 2);
    // The third stays near to the second's clients, while those of all apps are not near to the quick one's.
    observe("third", 26.0, later(1));
    for secs in 1..5 {
        let now = later(secs);
        assert_eq!(world.ask(&Request { app: None, now, ..web }), Ok("quick"));
        world.table.explain(&Request { app: None, now, ..web });
        assert_eq!(world.shares(&Request { now, ..web }, 100).len(), 2, "hysteresis, whatever others ask");
    }
    // One that joins must be nearer than one that stays.
    let fresh = World::new(&rows, "fra");
    for (id, millis) in [("quick", 99.0), ("slow", 20.0), ("third", 26.0)] {
        fresh.states.observe_round_trip(fresh.key(id).slot, millis, NOW);
    }
    fresh.table.explain(&web);
    assert_eq!(fresh.shares(&web, 100).keys().collect::<Vec<_>>(), ["slow"]);
}

#[test]
fn the_score_is_the_formula() {
    let mut world = World::new(&TEN, "fra");
    world.fill("lax", 4);
    world.fill("iad", 4);
    world.fill("ord", 3);
    let tried = Exclusions::default();
    let request = Request { place: country("US"), policy: Policy::Score, ..request(&tried) };
    let choice = world.table.choose(&request).unwrap();
    assert_eq!(world.table.backend(choice.index).id, "ord");
    assert_eq!(choice.score, 100.0 * 0.0 + (3.0 / 10.0) / 1.0);
    for (place, band) in [(country("DE"), 0), (country("ES"), 1), (country("KE"), 2), (Place::UNKNOWN, 2)] {
        let choice = world.table.choose(&Request { place, ..request }).unwrap();
        assert_eq!((choice.band, choice.score), (band, 100.0 * f64::from(band)), "{place:?}");
    }
}

#[test]
fn a_hundredfold_load_outweighs_a_band_of_the_score() {
    let rows = [("near", "fra", "DE", 1, 1, 1000), ("far", "nrt", "JP", 1, 1, 1000)];
    let mut world = World::new(&rows, "sin");
    world.fill("near", 299);
    assert_eq!(world.choose(country("DE"), Policy::Score, 1), Ok("near"), "299 against 300");
    world.fill("near", 2);
    assert_eq!(world.choose(country("DE"), Policy::Score, 1), Ok("far"), "301 against 300");
}

#[test]
fn without_a_country_column_the_score_knows_three_bands() {
    let world = World::with(&TEN, "gru", false, |raw| raw.country = None);
    let tried = Exclusions::default();
    let request = Request { policy: Policy::Score, ..request(&tried) };
    for (place, id, score) in [(country("FR"), None, 0.0), (country("KE"), Some("gru"), 100.0)] {
        let choice = world.table.choose(&Request { place, ..request }).unwrap();
        assert_eq!(choice.score, score);
        if let Some(id) = id {
            assert_eq!(world.table.backend(choice.index).id, id);
        }
    }
    // Region of the POP gone as well: the third band.
    let elsewhere = World::with(&TEN[4..], "gru", false, |raw| raw.country = None);
    let choice = elsewhere.table.choose(&Request { place: country("KE"), ..request }).unwrap();
    assert_eq!(choice.score, 200.0);
}

#[test]
fn the_latency_policy_takes_the_quickest_and_does_not_flap() {
    let world = World::new(&TEN, "fra");
    assert_eq!(world.choose(Place::UNKNOWN, Policy::Latency, 1), Ok("fra"), "unmeasured: the nearest to the POP");
    for (id, millis) in [("fra", 30.0), ("cdg", 10.0), ("lhr", 20.0)] {
        world.states.observe_round_trip(world.key(id).slot, millis, NOW);
    }
    // Looked at once in a stamp: a moment later.
    let tried = Exclusions::default();
    let later = Request { policy: Policy::Latency, now: NOW.after(Duration::from_millis(100)), ..request(&tried) };
    assert_eq!(world.ask(&later), Ok("cdg"));
    // lhr gets a little quicker than cdg: both are near, load decides; cdg has not left.
    world.states.observe_round_trip(world.key("lhr").slot, 9.0, NOW);
    let mut now = NOW;
    for _ in 0..60 {
        now = now.after(Duration::from_secs(1));
        for (id, millis) in [("lhr", 9.0), ("cdg", 10.0), ("fra", 30.0)] {
            world.states.observe_round_trip(world.key(id).slot, millis, now);
        }
    }
    let seen = world.shares(&Request { policy: Policy::Latency, now, ..request(&tried) }, 200);
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["cdg", "lhr"], "{seen:?}");
}

#[test]
fn limits_drain_health_and_ejection_keep_clients_out() {
    let mut world = World::new(&TEN, "fra");
    let jp = country("JP");
    world.fill("nrt", 20);
    assert_ne!(geo(&world, jp), "nrt", "full");
    world.held.clear();
    world.states.set_down(world.key("nrt"), true);
    assert_ne!(geo(&world, jp), "nrt", "down");
    world.states.set_down(world.key("nrt"), false);
    assert_eq!(geo(&world, jp), "nrt");
    let policy = OutlierPolicy { consecutive_failures: 1, ..OutlierPolicy::default() };
    let failed = world.table.reserve(&world.forced("nrt"), NOW).unwrap();
    let pause = failed.failed(&policy, NOW).unwrap();
    assert_ne!(geo(&world, jp), "nrt", "ejected");
    let tried = Exclusions::default();
    assert_eq!(world.ask(&Request { place: jp, now: NOW.after(pause), ..request(&tried) }), Ok("nrt"), "half open");

    for mark in ["weight", "drained", "healthy"] {
        let drained = World::with(&TEN, "fra", true, |raw| {
            if raw.id.as_deref() == Some("nrt") {
                match mark {
                    "weight" => raw.weight = Some(0),
                    "drained" => raw.drained = Some(1),
                    _ => raw.healthy = Some(0),
                }
            }
        });
        assert_ne!(geo(&drained, jp), "nrt", "{mark}");
    }
}

#[test]
fn no_route_says_why() {
    let mut world = World::new(&TEN[..2], "fra");
    let mut tried = Exclusions::default();
    assert_eq!(world.ask(&Request { app: Some("mail"), ..request(&tried) }), Err(NoRoute::NoBackend));
    for id in ["gru", "iad"] {
        world.states.set_down(world.key(id), true);
    }
    assert_eq!(world.ask(&request(&tried)), Err(NoRoute::AllDown));
    assert!(world.ask(&Request { forced: true, ..request(&tried) }).is_ok(), "when_all_down = try");
    world.states.set_down(world.key("gru"), false);
    world.fill("gru", 20);
    assert_eq!(world.ask(&request(&tried)), Err(NoRoute::AllFull));
    world.held.clear();
    assert!(tried.add(world.key("gru").slot));
    assert_eq!(world.ask(&request(&tried)), Err(NoRoute::AllTried));
}

#[test]
fn those_out_of_service_are_tried_only_when_all_are_and_explain_says_the_same() {
    let world = World::new(&TEN, "fra");
    let tried = Exclusions::default();
    let chosen = |forced, policy| {
        let request = Request { place: country("DE"), policy, forced, ..request(&tried) };
        let told = world.table.explain(&request).into_iter().find(|told| told.standing == crate::Standing::Chosen);
        let chosen = world.ask(&request);
        assert_eq!(told.map(|told| told.backend.id.clone()).as_deref(), chosen.ok(), "{policy:?}");
        chosen.map(str::to_owned)
    };
    world.states.set_down(world.key("fra"), true);
    for policy in Policy::ALL {
        assert_ne!(chosen(true, policy), Ok("fra".into()), "{policy:?}: others are in service");
        assert_eq!(chosen(true, policy), chosen(false, policy));
    }
    assert_eq!(chosen(true, Policy::Geo), Ok("cdg".into()));
    TEN.iter().for_each(|row| world.states.set_down(world.key(row.0), true));
    for policy in Policy::ALL {
        assert_eq!(chosen(false, policy), Err(NoRoute::AllDown));
        assert_eq!(chosen(true, policy), Ok("fra".into()), "{policy:?}");
    }
}

#[test]
fn affinity_overrides_nearness_but_never_health_drain_or_the_hard_limit() {
    let mut world = World::new(&TEN, "fra");
    let tried = Exclusions::default();
    let bound = Some(world.key("syd"));
    let request = Request { place: country("DE"), bound, ..request(&tried) };
    assert_eq!(world.ask(&request), Ok("syd"));
    world.fill("syd", 15);
    assert_eq!(world.ask(&request), Ok("syd"), "the soft limit does not break a binding");
    world.fill("syd", 5);
    assert_eq!(world.ask(&request), Ok("fra"), "the hard limit does");
    world.held.clear();
    world.states.set_down(world.key("syd"), true);
    assert_eq!(world.ask(&request), Ok("fra"));
    world.states.set_down(world.key("syd"), false);
    assert_eq!(world.ask(&request), Ok("syd"), "and the client returns");
    assert_eq!(world.ask(&Request { app: Some("mail"), ..request }), Err(NoRoute::NoBackend));
}

#[test]
fn explain_tells_the_order_of_the_decision() {
    let order = |world: &World, request: &Request<'_>| -> Vec<String> {
        world.table.explain(request).iter().map(|c| c.backend.id.clone()).collect()
    };
    let tried = Exclusions::default();
    // Of an unknown client the POP's place counts.
    let mut world = World::new(&TEN, "fra");
    assert_eq!(order(&world, &request(&tried))[..3], ["fra", "cdg", "lhr"]);
    // Within a country known only as such, load decides.
    world.fill("iad", 2);
    world.fill("lax", 1);
    let us = Request { place: country("US"), ..request(&tried) };
    assert_eq!(order(&world, &us)[..3], ["ord", "lax", "iad"]);
    // Past its soft limit a near one comes after those that would be taken.
    let pt = Request { place: country("PT"), ..request(&tried) };
    assert_eq!(order(&world, &pt)[..3], ["cdg", "lhr", "fra"]);
    world.fill("cdg", 12);
    assert_eq!(order(&world, &pt)[..3], ["lhr", "fra", "cdg"]);
    // Every choice is what explain has next, once those before are taken out.
    for policy in [Policy::Geo, Policy::Score] {
        let asked = Request { policy, place: country("PT"), ..request(&tried) };
        let mut out = Vec::new();
        let told = world.table.explain(&asked);
        for _ in 0..told.len() {
            let chosen = world.ask(&asked).unwrap().to_owned();
            // Equals are told in the file's order and drawn by lot.
            let rank = |id: &str| {
                let told = told.iter().find(|candidate| candidate.backend.id == id).unwrap();
                match policy {
                    Policy::Geo => (u64::from(told.band), told.distance_km.map(f32::to_bits)),
                    Policy::Score | Policy::Latency => (told.score.to_bits(), None),
                }
            };
            assert_eq!(rank(&chosen), rank(&told[out.len()].backend.id), "{policy:?}, number {}", out.len());
            world.states.set_down(world.key(&chosen), true);
            out.push(chosen);
        }
        assert_eq!(out.len(), 10);
        out.iter().for_each(|id| world.states.set_down(world.key(id), false));
    }
}

#[test]
fn a_returning_client_is_told_the_same_score_as_a_new_one() {
    let world = World::with(&TEN, "gru", false, |raw| raw.country = None);
    let tried = Exclusions::default();
    let fresh = Request { place: country("PT"), policy: Policy::Score, ..request(&tried) };
    let choice = world.table.choose(&fresh).unwrap();
    let again = world.table.choose(&Request { bound: Some(world.table.key(choice.index)), ..fresh }).unwrap();
    assert!(again.affine);
    assert_eq!((again.band, again.score), (choice.band, choice.score));
}

#[test]
fn a_table_has_no_twins() {
    let mut world = World::new(&TEN, "fra");
    let states = Arc::clone(&world.states);
    let twins = vec![world.backend("fra"), world.backend("fra")];
    let builder = TableBuilder { pop_region: "fra".into(), regions: Regions::default(), has_country: true, states };
    assert_eq!(builder.build(twins).err(), Some(TableError::Twins { id: "fra".into() }));
    let before = world.key("fra");
    world.replace(TEN.iter().map(|row| world.backend(row.0)).collect());
    assert_eq!(world.key("fra"), before);
}

#[test]
fn explain_lists_everyone_with_the_reason() {
    let mut world = World::with(&TEN, "fra", true, |raw| {
        if raw.id.as_deref() == Some("lax") {
            raw.weight = Some(0);
        }
    });
    world.fill("iad", 20);
    let tried = Exclusions::default();
    let candidates = world.table.explain(&Request { place: country("US"), ..request(&tried) });
    let standing: Vec<(&str, crate::Standing)> =
        candidates.iter().map(|c| (c.backend.id.as_str(), c.standing)).collect();
    assert_eq!(standing[0], ("ord", crate::Standing::Chosen));
    assert!(standing.contains(&("iad", crate::Standing::Full)));
    assert!(standing.contains(&("lax", crate::Standing::Drained)));
    assert_eq!(candidates.len(), 10);
    assert_eq!(candidates[0].band_reason, "same country");
}
