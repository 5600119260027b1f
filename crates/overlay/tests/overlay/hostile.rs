//! Datagrams that no peer would send, over real sockets.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use edgeproxy_overlay::Loss;
use edgeproxy_tunnel::{Rejected, Transport as Header};
use quinn_udp::{Transmit, UdpSockRef, UdpSocketState};

use crate::client::Client;
use crate::support::{Host, LONG, WORKERS, eventually, packet};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 1);
/// The greatest payload of a UDP datagram over IPv4.
const GREATEST: usize = 65_507;

/// A packet there and one back: everything goes on as before.
fn still_works(host: &Host, client: &mut Client) {
    let (there, back) = (packet(CLIENT, host.ip, b"still there?"), packet(host.ip, CLIENT, b"still here"));
    // What came before may have left no room in the kernel's queue.
    let arrives = (0..50).any(|_| {
        client.send(&client.seal(&there, 0));
        host.receive_within(Duration::from_millis(200)) == Some(there.clone())
    });
    assert!(arrives);
    while host.receive_within(Duration::from_millis(5)).is_some() {}
    host.send(&back);
    let (_, came) = client.open_within(LONG).expect("a packet comes");
    assert!(came.starts_with(&back));
}

#[test]
fn no_length_of_a_datagram_stops_reception() {
    let host = Host::start(9, false);
    let mut client = Client::known(1, &host, &["10.50.0.1"]);
    client.connect();
    let session = client.seal(&[], 0)[4..8].to_vec();
    for kind in [0_u8, 1, 2, 3, 4, 5, 255] {
        for length in [0, 1, 3, 4, 8, 15, 16, 31, 32, 33, 63, 64, 65, 91, 92, 93, 147, 148, 149, 1_500, 9_000, GREATEST]
        {
            for index in [&session[..], &[1, 2, 3, 4]] {
                let mut datagram = vec![0xa5; length];
                let head = [&[kind, 0, 0, 0], index].concat();
                let count = length.min(head.len());
                datagram[..count].copy_from_slice(&head[..count]);
                client.send(&datagram);
            }
        }
        still_works(&host, &mut client);
    }
    // One that is authentic and as long as a datagram can be. It holds a packet, and zeros.
    let there = packet(CLIENT, host.ip, b"in a large envelope");
    client.send(&client.seal(&there, GREATEST - 32 - there.len()));
    assert_eq!(host.receive(), there);
    still_works(&host, &mut client);
}

/// The kernel joins what it is given as one, and the last of it has any length.
#[test]
fn no_bundle_with_an_odd_tail_stops_reception() {
    let host = Host::start(9, false);
    let mut client = Client::known(1, &host, &["10.50.0.1"]);
    client.connect();
    let state = UdpSocketState::new(UdpSockRef::from(&client.socket)).unwrap();
    client.socket.set_nonblocking(false).unwrap();
    let there = packet(CLIENT, host.ip, b"one of many");
    let mut sent = 0;
    for tail in [0, 1, 2, 3, 4, 15, 16, 17, 31, 32, 47, 79] {
        let one = client.seal(&there, 80 - 32 - there.len());
        assert_eq!(one.len(), 80);
        let mut bundle = one;
        // Another, one of no session, one that is no message, and the tail.
        bundle.extend(client.seal(&there, 80 - 32 - there.len()));
        bundle.extend([4, 0, 0, 0, 9, 9, 9, 9].into_iter().chain([0; 72]));
        bundle.extend([0xff; 80]);
        bundle.extend(client.seal(&there, 80 - 32 - there.len()));
        let last = client.seal(&there, 80 - 32 - there.len());
        bundle.extend(&last[..tail]);
        let transmit =
            Transmit { destination: client.to, ecn: None, contents: &bundle, segment_size: Some(80), src_ip: None };
        if state.max_gso_segments() == 1 {
            println!("skipped: this kernel takes no bundles");
            return;
        }
        state.try_send(UdpSockRef::from(&client.socket), &transmit).unwrap();
        sent += 3;
        for _ in 0..3 {
            assert_eq!(host.receive(), there, "with a tail of {tail}");
        }
    }
    assert_eq!(host.device.counters().get(Loss::NoSession), sent / 3);
    client.socket.set_nonblocking(false).unwrap();
    still_works(&host, &mut client);
}

#[test]
fn what_is_inside_has_to_be_a_packet_of_its_own_length() {
    let host = Host::start(9, false);
    let mut client = Client::known(1, &host, &["10.50.0.1", "fd50::1"]);
    client.connect();
    let good = packet(CLIENT, host.ip, b"good");
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = good.clone();
        change(&mut packet);
        packet
    };
    let malformed = [
        with(&|packet| packet[0] = 0x44),                            // a header shorter than any
        with(&|packet| packet[0] = 0x4f),                            // one longer than the packet
        with(&|packet| packet[2..4].copy_from_slice(&[0, 19])),      // a packet shorter than its header
        with(&|packet| packet[2..4].copy_from_slice(&[0xff, 0xff])), // one longer than what there is
        with(&|packet| packet[0] = 0x05),
        with(&|packet| packet[0] = 0x75),
        with(&|packet| packet.truncate(19)),
        vec![0x60; 39],
        vec![0x60; 40],
        vec![0],
    ];
    for packet in &malformed {
        client.send(&client.seal(packet, 0));
    }
    let count = || host.device.counters().get(Loss::MalformedPacket);
    eventually("the counts", || count() == malformed.len() as u64);
    // Padding is taken off, however much of it there is.
    for padding in [0, 1, 15, 16, 1_000] {
        client.send(&client.seal(&good, padding));
        assert_eq!(host.receive(), good);
    }
}

#[test]
fn a_message_that_comes_twice_or_too_late_is_taken_once() {
    let host = Host::start(9, false);
    let mut client = Client::known(1, &host, &["10.50.0.1"]);
    client.connect();
    let there = packet(CLIENT, host.ip, b"once");
    let datagrams: Vec<Vec<u8>> = (0..9_000).map(|_| client.seal(&there, 0)).collect();
    let rejected = || host.device.counters().get(Loss::Transport(Rejected::Replayed));
    // In no order, each of them twice.
    for number in [5, 3, 4, 0, 1, 2] {
        client.send(&datagrams[number]);
        client.send(&datagrams[number]);
        assert_eq!(host.receive(), there);
    }
    eventually("the counts", || rejected() == 6);
    // Far ahead; and then one that nobody can tell any more whether it came.
    client.send(&datagrams[8_999]);
    assert_eq!(host.receive(), there);
    client.send(&datagrams[6]);
    eventually("the count", || rejected() == 7);
    assert!(host.receive_within(Duration::from_millis(50)).is_none());
    client.send(&datagrams[8_998]);
    assert_eq!(host.receive(), there);
}

#[test]
fn two_workers_never_use_a_number_twice() {
    const ROUNDS: usize = 25;
    const EACH: usize = 40;
    let host = Host::start(9, false);
    let mut client = Client::known(1, &host, &["10.50.0.1"]);
    client.connect();
    client.send(&client.seal(&packet(CLIENT, host.ip, b"begin"), 0));
    host.receive();
    let back = packet(host.ip, CLIENT, b"numbered");
    let mut numbers = HashSet::new();
    for round in 1..=ROUNDS {
        thread::scope(|scope| {
            for worker in 0..WORKERS {
                let (host, back) = (&host, &back);
                scope.spawn(move || (0..EACH).for_each(|_| host.send_by(worker, back)));
            }
        });
        // Some may be lost where the kernel's queue is full.
        while numbers.len() < round * WORKERS * EACH {
            let Some(datagram) = client.receive_within(Duration::from_millis(100)) else { break };
            let header = Header::parse(&datagram).expect("nothing else is sent");
            assert!(numbers.insert(header.counter), "{} twice", header.counter);
        }
    }
    println!("{} of {} came", numbers.len(), ROUNDS * WORKERS * EACH);
    assert!(numbers.len() > WORKERS * EACH);
}
