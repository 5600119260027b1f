//! The loads against the backend in this process, and against addresses that do not answer.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::time::{Duration, Instant};

use super::{Patience, bulk, held, short};
use crate::backend;
use crate::socket;

const PATIENCE: Patience = Patience { operation: Duration::from_secs(5), whole: Duration::from_secs(20) };
const HASTY: Patience = Patience { operation: Duration::from_millis(100), whole: Duration::from_secs(1) };

#[test]
fn short_connections_all_complete() {
    let plan = short::Plan { target: backend(), clients: 8, bytes: 100, patience: PATIENCE };
    let tally = short::run(&plan, 300).unwrap();
    assert_eq!((tally.operations, tally.error_count()), (300, 0), "{:?}", tally.errors);
    assert_eq!(tally.latencies.len(), 300);
}

#[test]
fn kept_connections_make_exactly_the_wanted_exchanges_and_then_rest() {
    let plan = held::Plan { target: backend(), connections: 100, bytes: 64, patience: PATIENCE };
    let (mut connections, opened) = held::Held::open(&plan).unwrap();
    assert_eq!((opened.operations, opened.error_count()), (100, 0), "{:?}", opened.errors);
    let tally = connections.exchange(1050).unwrap();
    assert_eq!((tally.operations, tally.error_count()), (1050, 0), "{:?}", tally.errors);
    assert_eq!(connections.idle(), 100);
}

#[test]
fn an_echo_larger_than_the_socket_buffers_comes_back_whole() {
    let plan = held::Plan { target: backend(), connections: 2, bytes: 60_000, patience: PATIENCE };
    let (_, opened) = held::Held::open(&plan).unwrap();
    assert_eq!((opened.operations, opened.error_count()), (2, 0), "{:?}", opened.errors);
}

#[test]
fn streams_arrive_whole_in_both_directions() {
    for direction in [bulk::Direction::Down, bulk::Direction::Up] {
        let plan = bulk::Plan { target: backend(), direction, streams: 3, patience: PATIENCE };
        let tally = bulk::run(&plan, 30_000_000).unwrap();
        assert_eq!((tally.bytes, tally.error_count()), (30_000_000, 0), "{direction:?}: {:?}", tally.errors);
    }
}

#[test]
fn a_refused_connection_is_a_counted_error() {
    // Bound and dropped: nobody listens there.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let target = v4(free);
    let short = short::Plan { target, clients: 4, bytes: 100, patience: HASTY };
    let tally = short::run(&short, 40).unwrap();
    assert_eq!((tally.operations, tally.error_count()), (0, 40));
    let held = held::Plan { target, connections: 5, bytes: 16, patience: HASTY };
    assert_eq!(held::Held::open(&held).unwrap().1.error_count(), 5);
    let bulk = bulk::Plan { target, direction: bulk::Direction::Down, streams: 2, patience: HASTY };
    assert_eq!(bulk::run(&bulk, 1000).unwrap().error_count(), 2);
}

#[test]
fn a_silent_backend_ends_every_load_in_bounded_time() {
    // The kernel completes the handshake; nobody accepts or answers.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let target = v4(silent.local_addr().unwrap());
    let began = Instant::now();
    let short = short::Plan { target, clients: 4, bytes: 100, patience: HASTY };
    assert_eq!(short::run(&short, 1000).unwrap().error_count(), 1000);
    let held = held::Plan { target, connections: 5, bytes: 16, patience: HASTY };
    let (mut connections, tally) = held::Held::open(&held).unwrap();
    assert_eq!(tally.error_count(), 5);
    assert_eq!(connections.exchange(7).unwrap().error_count(), 7);
    let bulk = bulk::Plan { target, direction: bulk::Direction::Down, streams: 2, patience: HASTY };
    assert_eq!(bulk::run(&bulk, 1000).unwrap().error_count(), 2);
    assert!(began.elapsed() < Duration::from_secs(10));
}

/// A backend in a thread that lasts as long as the tests.
fn backend() -> SocketAddrV4 {
    let listener = socket::listener(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = rustix::net::getsockname(&listener).unwrap();
    std::thread::spawn(move || backend::serve_on(listener));
    SocketAddrV4::try_from(address).unwrap()
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(_) => unreachable!("bound to an IPv4 address"),
    }
}
