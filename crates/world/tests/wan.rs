//! The virtual WAN: what it delays, loses and counts, on real sockets.
//!
//! Times here have a lower bound that is exact and an upper one that only a hang exceeds: how precise it is on a quiet
//! machine, `precision` tells, which is not among the tests of every day.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and tells what it measured")]

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use edgeproxy_world::postgres::{Binaries, PASSWORD, ScratchPostgres, USER};
use edgeproxy_world::wan::{Link, REGION_ROUND_TRIPS, Wan};
use edgeproxy_world::{Backend, Behaviour, LONG, Pattern, eventually, within, write_pattern};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio_postgres::NoTls;

const MS: Duration = Duration::from_millis(1);

/// Sends back every datagram, until the runtime ends.
async fn udp_echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..length], from).await;
        }
    });
    address
}

async fn udp_client(path: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(path).await.unwrap();
    socket
}

async fn udp_round_trip(socket: &UdpSocket) -> io::Result<Duration> {
    within("an answer", LONG, async {
        let started = Instant::now();
        socket.send(b"ping").await?;
        socket.recv(&mut [0; 16]).await?;
        Ok(started.elapsed())
    })
    .await
}

#[tokio::test]
async fn datagrams_take_the_time_of_their_region() {
    let (wan, echo) = (Wan::start(1).unwrap(), udp_echo().await);
    for (region, round_trip) in REGION_ROUND_TRIPS {
        let path = wan.udp(echo, Link::half_of(round_trip / 10)).unwrap();
        let socket = udp_client(path.address()).await;
        for _ in 0..5 {
            let took = udp_round_trip(&socket).await.unwrap();
            assert!(took >= round_trip / 10, "{region}: {took:?}");
            assert!(took < round_trip / 10 + 500 * MS, "{region}: {took:?}");
        }
        let (out, back) = (path.outward().counts(), path.inward().counts());
        assert_eq!((out.carried, back.carried, out.lost), (5, 5, 0));
    }
}

#[tokio::test]
async fn each_sender_gets_its_own_answers() {
    let (wan, echo) = (Wan::start(1).unwrap(), udp_echo().await);
    let path = wan.udp(echo, Link::one_way(MS)).unwrap();
    let sockets = [udp_client(path.address()).await, udp_client(path.address()).await];
    for (number, socket) in (0..).zip(&sockets) {
        socket.send(&[number]).await.unwrap();
    }
    for (number, socket) in (0..).zip(&sockets) {
        let mut answer = [9];
        within("an answer", LONG, socket.recv(&mut answer)).await.unwrap();
        assert_eq!(answer, [number]);
    }
}

/// Which of so many datagrams arrive.
async fn arrivals(seed: u64, count: u32) -> Vec<u32> {
    let wan = Wan::start(seed).unwrap();
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let link = Link { loss: 0.2, ..Link::one_way(MS / 10) };
    let path = wan.udp(server.local_addr().unwrap(), link).unwrap();
    let socket = udp_client(path.address()).await;
    let mut arrived = Vec::new();
    let mut decided = 0;
    for number in 0..count {
        socket.send(&number.to_be_bytes()).await.unwrap();
        // One at a time: nothing is lost on the way to where chance decides.
        eventually("a decision", LONG, async || {
            let counts = path.outward().counts();
            decided = counts.lost + counts.carried;
            Ok((decided == u64::from(number) + 1).then_some(()))
        })
        .await
        .unwrap();
    }
    while arrived.len() as u64 != path.outward().counts().carried {
        let mut buffer = [0; 4];
        within("a datagram", LONG, server.recv(&mut buffer)).await.unwrap();
        arrived.push(u32::from_be_bytes(buffer));
    }
    arrived
}

#[tokio::test]
async fn a_seed_decides_which_datagrams_are_lost() {
    let first = arrivals(42, 100).await;
    assert!(first.is_sorted() && (60..95).contains(&first.len()), "{first:?}");
    assert_eq!(first, arrivals(42, 100).await);
    assert_ne!(first, arrivals(43, 100).await);
}

#[tokio::test]
async fn a_link_is_changed_while_it_is_used() {
    let (wan, echo) = (Wan::start(1).unwrap(), udp_echo().await);
    let path = wan.udp(echo, Link::half_of(40 * MS)).unwrap();
    let socket = udp_client(path.address()).await;
    assert!(udp_round_trip(&socket).await.unwrap() >= 40 * MS);
    path.set(Link::half_of(4 * MS));
    let mut least = LONG;
    for _ in 0..20 {
        least = least.min(udp_round_trip(&socket).await.unwrap());
    }
    assert!((4 * MS..40 * MS).contains(&least), "{least:?}");
    path.set(Link { up: false, ..Link::half_of(4 * MS) });
    socket.send(b"lost").await.unwrap();
    eventually("a loss", LONG, async || Ok((path.outward().counts().lost == 1).then_some(()))).await.unwrap();
    path.set(Link::half_of(4 * MS));
    udp_round_trip(&socket).await.unwrap();
}

async fn tcp_round_trip(stream: &mut TcpStream) -> Duration {
    let started = Instant::now();
    let answer = within("an answer", LONG, async {
        stream.write_all(b"p").await?;
        stream.read_u8().await
    });
    answer.await.unwrap();
    started.elapsed()
}

#[tokio::test]
async fn a_connection_costs_a_round_trip_and_each_flight_another() {
    let wan = Wan::start(1).unwrap();
    let backend = Backend::start("echo", Behaviour::Echo).unwrap();
    let path = wan.tcp(backend.address(), Link::half_of(30 * MS)).unwrap();
    let started = Instant::now();
    let mut stream = TcpStream::connect(path.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    tcp_round_trip(&mut stream).await;
    assert!(started.elapsed() >= 60 * MS, "{:?}", started.elapsed());
    assert_eq!(path.flights(), 1);
    for flights in 2..6 {
        assert!(tcp_round_trip(&mut stream).await >= 30 * MS);
        assert_eq!(path.flights(), flights);
    }
    // What is said without waiting in between is one.
    for _ in 0..3 {
        stream.write_all(b"p").await.unwrap();
        tokio::task::yield_now().await;
    }
    within("answers", LONG, stream.read_exact(&mut [0; 3])).await.unwrap();
    assert_eq!((path.flights(), path.accepted(), path.open()), (6, 1, 1));
    drop(stream);
    eventually("the end of a connection", LONG, async || Ok((path.open() == 0).then_some(()))).await.unwrap();
}

#[tokio::test]
async fn who_speaks_first_is_heard_after_two_round_trips() {
    let wan = Wan::start(1).unwrap();
    let backend = Backend::start("greeter", Behaviour::Greet).unwrap();
    let path = wan.tcp(backend.address(), Link::half_of(20 * MS)).unwrap();
    let started = Instant::now();
    let mut stream = TcpStream::connect(path.address()).await.unwrap();
    let mut greeting = [0; 8];
    within("a greeting", LONG, stream.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"greeter\n");
    assert!(started.elapsed() >= 40 * MS, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_stream_that_is_cut_goes_on_afterwards_and_loses_nothing() {
    const LENGTH: u64 = 6_000_000;
    let wan = Wan::start(1).unwrap();
    let backend = Backend::start("echo", Behaviour::Echo).unwrap();
    let link = Link::half_of(4 * MS);
    let path = wan.tcp(backend.address(), link).unwrap();
    let stream = TcpStream::connect(path.address()).await.unwrap();
    let (mut reads, mut writes) = stream.into_split();
    let writing = tokio::spawn(async move {
        write_pattern(&mut writes, 3, LENGTH).await?;
        writes.shutdown().await
    });
    let mut kept = vec![0; 100_000];
    within("the first of it", LONG, reads.read_exact(&mut kept)).await.unwrap();
    path.set(Link { up: false, ..link });
    // What was under way towards us may still be in the sockets; it ends.
    let mut piece = vec![0; 65_536];
    while let Ok(length) = tokio::time::timeout(200 * MS, reads.read(&mut piece)).await {
        kept.extend_from_slice(&piece[..length.unwrap()]);
        assert!((kept.len() as u64) < LENGTH);
    }
    path.set(link);
    within("the rest", LONG, reads.read_to_end(&mut kept)).await.unwrap();
    assert_eq!(Pattern::new(3).check(&kept), None);
    assert_eq!(kept.len() as u64, LENGTH);
    writing.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reset_and_a_refusal_reach_the_client() {
    let wan = Wan::start(1).unwrap();
    let mut backend = Backend::start("echo", Behaviour::Echo).unwrap();
    let path = wan.tcp(backend.address(), Link::half_of(2 * MS)).unwrap();
    let mut stream = TcpStream::connect(path.address()).await.unwrap();
    tcp_round_trip(&mut stream).await;
    path.reset();
    let ended = within("an end", LONG, stream.read_u8()).await.unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::ConnectionReset);
    backend.stop().await;
    let mut stream = TcpStream::connect(path.address()).await.unwrap();
    let ended = within("an end", LONG, stream.read_u8()).await.unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::ConnectionReset);
    // A path that is gone refuses.
    let address = path.address();
    drop(path);
    drop(wan);
    assert!(TcpStream::connect(address).await.is_err());
}

/// Processor time of the WAN's threads so far.
fn spent() -> Duration {
    let mut spent = Duration::ZERO;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        if read("comm").trim() == "wan" {
            spent += Duration::from_nanos(read("schedstat").split(' ').next().unwrap().parse().unwrap());
        }
    }
    spent
}

/// By itself: other tests' WANs would be counted too.
#[tokio::test]
#[ignore = "counts all WANs of the process; run by `make wan`"]
async fn what_carries_nothing_costs_nothing() {
    let (wan, echo) = (Wan::start(1).unwrap(), udp_echo().await);
    let mut paths = Vec::new();
    for (_, round_trip) in REGION_ROUND_TRIPS {
        let path = wan.udp(echo, Link::half_of(round_trip / 10)).unwrap();
        udp_round_trip(&udp_client(path.address()).await).await.unwrap();
        paths.push(path);
    }
    let before = spent();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = spent() - before;
    println!("ten idle paths: {idle:?} of processor time in a second");
    assert!(idle < MS, "{idle:?}");
}

/// Sync probes of a real PostgreSQL over each of the ten paths, all at the same time, at full values; and directly, which
/// tells what the machine itself takes.
#[tokio::test]
#[ignore = "precise only on a quiet machine; run by `make wan`"]
async fn precision() {
    const PROBES: usize = 15;
    Binaries::find().unwrap();
    let wan = Wan::start(1).unwrap();
    let primary = ScratchPostgres::start("hub").await.unwrap();
    let mut regions = tokio::task::JoinSet::new();
    let direct = [("direct", Duration::ZERO)];
    for (region, round_trip) in REGION_ROUND_TRIPS.into_iter().chain(direct) {
        let path = wan.tcp(primary.address(), Link::half_of(round_trip)).unwrap();
        let address = if round_trip.is_zero() { primary.address() } else { path.address() };
        regions.spawn(async move {
            let _path = path;
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut config = tokio_postgres::Config::new();
            config.user(USER).password(PASSWORD).dbname("contacts");
            let (client, connection) = config.connect_raw(stream, NoTls).await.unwrap();
            tokio::spawn(connection);
            let mut times = Vec::new();
            for _ in 0..PROBES {
                let started = Instant::now();
                client.check_connection().await.unwrap();
                times.push(started.elapsed());
                if round_trip.is_zero() {
                    tokio::time::sleep(50 * MS).await;
                }
            }
            times.sort();
            (round_trip, region, times[0], times[PROBES / 2], times[PROBES - 1])
        });
    }
    let mut rows = regions.join_all().await;
    rows.sort();
    println!("region  configured     least    median      most");
    let mut missed = Vec::new();
    for (round_trip, region, least, median, most) in rows {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!("{region:<8}{:>10.3}{:>10.3}{:>10.3}{:>10.3}", ms(round_trip), ms(least), ms(median), ms(most));
        let allowed = (round_trip * 3 / 100).max(MS / 2);
        if median < round_trip || median - round_trip > allowed {
            missed.push(region);
        }
    }
    assert!(missed.is_empty(), "further off than 3 % and 0.5 ms: {missed:?}");
}
