//! What a decision costs: the geo lookup and the choice among 10, 100 and 1,000 backends, with allocations counted.
//!
//! `cargo bench -p edgeproxy-route`. Goals: a lookup below 100 ns, a choice below 1 µs, no allocation in either.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use divan::{AllocProfiler, Bencher};
use edgeproxy_route::{
    ClientAddr, Exclusions, GeoTable, Moment, Place, Point, Policy, RawBackend, Regions, Request, StatePool, Table,
    TableBuilder, Wanted,
};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

const COUNTS: [usize; 3] = [10, 100, 1_000];

/// Regions of one large provider and the country of each.
const REGIONS: [(&str, &str); 32] = [
    ("ams", "NL"),
    ("arn", "SE"),
    ("atl", "US"),
    ("bog", "CO"),
    ("bom", "IN"),
    ("bos", "US"),
    ("cdg", "FR"),
    ("den", "US"),
    ("dfw", "US"),
    ("ewr", "US"),
    ("eze", "AR"),
    ("fra", "DE"),
    ("gdl", "MX"),
    ("gig", "BR"),
    ("gru", "BR"),
    ("hkg", "HK"),
    ("iad", "US"),
    ("jnb", "ZA"),
    ("lax", "US"),
    ("lhr", "GB"),
    ("mad", "ES"),
    ("mia", "US"),
    ("nrt", "JP"),
    ("ord", "US"),
    ("otp", "RO"),
    ("scl", "CL"),
    ("sea", "US"),
    ("sin", "SG"),
    ("sjc", "US"),
    ("syd", "AU"),
    ("waw", "PL"),
    ("yyz", "CA"),
];

fn main() {
    divan::main();
}

/// Backends spread over all regions, or all in one.
fn table(backends: usize, one_place: bool) -> Table {
    let rows = (0..backends).map(|n| {
        let (region, country) = if one_place { ("fra", "DE") } else { REGIONS[n % REGIONS.len()] };
        let raw = RawBackend {
            id: Some(format!("b{n}")),
            app: Some("web".into()),
            region: Some(region.into()),
            country: Some(country.into()),
            wg_ip: Some("10.50.1.1".into()),
            port: Some(80),
            healthy: Some(1),
            weight: Some(1 + i64::try_from(n % 3).expect("below 3")),
            soft_limit: Some(100),
            hard_limit: Some(150),
            ..RawBackend::default()
        };
        raw.check().expect("a good row")
    });
    let builder = TableBuilder {
        pop_region: "fra".into(),
        regions: Regions::default(),
        has_country: true,
        states: Arc::new(StatePool::default()),
    };
    builder.build(rows.collect()).expect("fewer backends than fit")
}

fn clients() -> [Place; 4] {
    let country = |code: &str| Place::in_country(code.parse().expect("a country"));
    let berlin = Point::from_degrees(52.5, 13.4).expect("on the globe");
    [country("US"), country("KE"), country("DE").at(berlin), Place::UNKNOWN]
}

/// Asks a table whose backends have connections.
fn decide(bencher: Bencher<'_, '_>, table: &Table, policy: Policy) {
    decide_after(bencher, table, policy, &Exclusions::default());
}

/// The same for a client that has tried some.
fn decide_after(bencher: Bencher<'_, '_>, table: &Table, policy: Policy, after: &Exclusions) {
    let tried = Exclusions::default();
    let clients = clients();
    // Connections come and go, so that loads differ as they do in service.
    let now = Moment::from_millis(1_000);
    let mut held = Vec::new();
    for n in 0..table.backends().len() * 20 {
        let place = clients[n % clients.len()];
        let request = Request {
            place,
            app: Some("web"),
            wanted: Wanted::Any,
            policy,
            tried: &tried,
            bound: None,
            forced: false,
            now,
            random: n as u64,
        };
        if let Ok(choice) = table.choose(&request) {
            held.extend(table.reserve(&choice, now));
        }
    }
    ask(bencher, table, policy, after);
}

fn ask(bencher: Bencher<'_, '_>, table: &Table, policy: Policy, tried: &Exclusions) {
    let (clients, now) = (clients(), Moment::from_millis(1_000));
    let mut random = 0_u64;
    bencher.bench_local(|| {
        random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let place = clients[usize::try_from(random >> 62).expect("two bits")];
        let request = Request {
            place,
            app: Some("web"),
            wanted: Wanted::Any,
            policy,
            tried,
            bound: None,
            forced: false,
            now,
            random,
        };
        black_box(table.choose(black_box(&request)))
    });
}

#[divan::bench(args = COUNTS)]
fn geo_policy(bencher: Bencher<'_, '_>, backends: usize) {
    decide(bencher, &table(backends, false), Policy::Geo);
}

#[divan::bench(args = COUNTS)]
fn geo_policy_all_in_one_place(bencher: Bencher<'_, '_>, backends: usize) {
    decide(bencher, &table(backends, true), Policy::Geo);
}

#[divan::bench(args = COUNTS)]
fn score_policy(bencher: Bencher<'_, '_>, backends: usize) {
    decide(bencher, &table(backends, false), Policy::Score);
}

#[divan::bench(args = COUNTS)]
fn score_policy_all_in_one_place(bencher: Bencher<'_, '_>, backends: usize) {
    decide(bencher, &table(backends, true), Policy::Score);
}

#[divan::bench(args = COUNTS)]
fn latency_policy_all_in_one_place(bencher: Bencher<'_, '_>, backends: usize) {
    decide(bencher, &table(backends, true), Policy::Latency);
}

/// All idle, and so all alike: everybody takes part in the draw.
#[divan::bench(args = COUNTS)]
fn idle_and_all_in_one_place(bencher: Bencher<'_, '_>, backends: usize) {
    ask(bencher, &table(backends, true), Policy::Geo, &Exclusions::default());
}

/// One out of service for days is the usual state of a large table.
#[divan::bench(args = COUNTS, consts = [true, false])]
fn geo_policy_one_down<const ONE_PLACE: bool>(bencher: Bencher<'_, '_>, backends: usize) {
    let table = table(backends, ONE_PLACE);
    table.states().set_down(table.key(backends / 2), true);
    decide(bencher, &table, Policy::Geo);
}

#[divan::bench(args = COUNTS)]
fn latency_policy_one_down_all_in_one_place(bencher: Bencher<'_, '_>, backends: usize) {
    let table = table(backends, true);
    table.states().set_down(table.key(backends / 2), true);
    decide(bencher, &table, Policy::Latency);
}

/// A client on its way to another backend, after a failed connect.
#[divan::bench(args = COUNTS, consts = [true, false])]
fn geo_policy_one_tried<const ONE_PLACE: bool>(bencher: Bencher<'_, '_>, backends: usize) {
    let table = table(backends, ONE_PLACE);
    let mut tried = Exclusions::default();
    assert!(tried.add(table.key(backends / 2).slot()), "the first");
    decide_after(bencher, &table, Policy::Geo, &tried);
}

#[divan::bench(args = COUNTS)]
fn latency_policy_one_tried_all_in_one_place(bencher: Bencher<'_, '_>, backends: usize) {
    let table = table(backends, true);
    let mut tried = Exclusions::default();
    assert!(tried.add(table.key(backends / 2).slot()), "the first");
    decide_after(bencher, &table, Policy::Latency, &tried);
}

#[divan::bench(args = COUNTS)]
fn latency_policy(bencher: Bencher<'_, '_>, backends: usize) {
    decide(bencher, &table(backends, false), Policy::Latency);
}

#[divan::bench(sample_size = 1000)]
fn geo_lookup_ipv4(bencher: Bencher<'_, '_>) {
    let geo = GeoTable::embedded();
    // Touches the whole table once: what is measured is a POP at work, not its first minute.
    let mut bits = 0_u32;
    for _ in 0..4_000_000 {
        bits = bits.wrapping_add(0x9E37_79B9);
        black_box(geo.lookup(IpAddr::V4(Ipv4Addr::from_bits(bits))));
    }
    bencher.bench_local(|| {
        bits = bits.wrapping_add(0x9E37_79B9);
        let client = ClientAddr::new((IpAddr::V4(Ipv4Addr::from_bits(bits)), 1).into());
        black_box(geo.lookup(black_box(client.ip())))
    });
}

#[divan::bench(sample_size = 1000)]
fn geo_lookup_ipv6(bencher: Bencher<'_, '_>) {
    let geo = GeoTable::embedded();
    let mut bits = 0_u128;
    bencher.bench_local(|| {
        bits = bits.wrapping_add(0x9E37_79B9_7F4A_7C15_u128 << 61);
        let global = (bits >> 3) | (1 << 125);
        black_box(geo.lookup(black_box(IpAddr::V6(Ipv6Addr::from_bits(global)))))
    });
}
