//! A lookup and a decision are on the path of every connection: neither may allocate.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use edgeproxy_route::{
    Affinity, ClientAddr, Exclusions, GeoTable, Moment, Policy, RawBackend, Regions, Request, StatePool, TableBuilder,
    Wanted,
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on unchanged to the system's allocator, which upholds the contract.
#[allow(unsafe_code, reason = "an allocator cannot be written otherwise")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn lookup_choice_reservation_and_affinity_allocate_nothing() {
    let backends = (0..100)
        .map(|n| {
            let raw = RawBackend {
                id: Some(format!("b{n}")),
                region: Some(["fra", "iad", "nrt", "gru"][n % 4].into()),
                country: Some(["DE", "US", "JP", "BR"][n % 4].into()),
                wg_ip: Some("10.50.1.1".into()),
                port: Some(80),
                healthy: Some(1),
                weight: Some(1),
                soft_limit: Some(10),
                hard_limit: Some(20),
                ..RawBackend::default()
            };
            raw.check().unwrap()
        })
        .collect();
    let states = Arc::new(StatePool::default());
    let builder = TableBuilder { pop_region: "fra".into(), regions: Regions::default(), has_country: true, states };
    let table = builder.build(backends).unwrap();
    let geo = GeoTable::embedded();
    let affinity = Affinity::new(std::time::Duration::from_secs(600), 1_000);
    let tried = Exclusions::default();
    let now = Moment::from_millis(1_000);
    let clients: Vec<IpAddr> =
        ["192.53.103.108", "133.11.0.1", "10.1.2.3", "2001:da8::1"].iter().map(|ip| ip.parse().unwrap()).collect();

    // A returning client: bound before, and bound again.
    let (known, backend) = (ClientAddr::new("192.0.2.1:1".parse().unwrap()).affinity_key(), table.key(0));
    affinity.bind(known, backend, now);
    let before = ALLOCATIONS.get();
    affinity.bind(known, backend, now);
    affinity.extend(known, now);
    assert_eq!(ALLOCATIONS.get() - before, 0);

    for policy in [Policy::Geo, Policy::Score, Policy::Latency] {
        for &ip in &clients {
            let client = ClientAddr::new((ip, 1).into());
            let before = ALLOCATIONS.get();
            let place = geo.lookup(client.ip());
            let bound = affinity.get(client.affinity_key(), now);
            let request = Request {
                place,
                app: Some("default"),
                wanted: Wanted::Any,
                policy,
                tried: &tried,
                bound,
                forced: false,
                now,
                random: 3,
            };
            let choice = table.choose(&request).unwrap();
            let reservation = table.reserve(&choice, now).unwrap();
            drop(reservation);
            assert_eq!(ALLOCATIONS.get() - before, 0, "{policy:?} for {ip}");
        }
    }
}

#[test]
fn a_lookup_in_a_file_allocates_nothing() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/mmdb/city");
    let geo = GeoTable::from_mmdb(std::fs::read(file).unwrap()).unwrap();
    let known: Vec<IpAddr> = (0..=255_u8)
        .map(|first| IpAddr::from([first, 1, 1, 1]))
        .filter(|ip| geo.lookup(*ip) != edgeproxy_route::Place::UNKNOWN)
        .collect();
    assert!(!known.is_empty());
    for ip in known {
        let before = ALLOCATIONS.get();
        let place = geo.lookup(ip);
        assert_eq!(ALLOCATIONS.get() - before, 0, "{ip}: {place:?}");
    }
}
