//! Peers that are removed while something is going on.

use std::net::Ipv4Addr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, SystemTime};

use edgeproxy_overlay::Loss;
use edgeproxy_tunnel::Tai64N;

use crate::client::Client;
use crate::support::{AtEnd, Host, LONG, WORKERS, eventually, packet};

/// Long enough for a packet that was let through to come, if one was.
const A_WHILE: Duration = Duration::from_millis(100);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 1);

#[test]
fn nothing_is_sent_or_taken_once_a_peer_is_removed_while_traffic_flows() {
    let host = Host::start(9, false);
    let mut client = Client::known(1, &host, &["10.50.0.1"]);
    let (there, back) = (packet(CLIENT, host.ip, b"there"), packet(host.ip, CLIENT, b"back"));
    for round in 0..10 {
        client.connect();
        client.send(&client.seal(&there, 0));
        assert_eq!(host.receive(), there, "round {round}");
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for worker in 0..WORKERS {
                let (host, back, over) = (&host, &back, &over);
                scope.spawn(move || {
                    while !over.load(Relaxed) {
                        host.send_by(worker, back);
                    }
                });
            }
            let (client, there, over) = (&client, &there, &over);
            scope.spawn(move || {
                while !over.load(Relaxed) {
                    client.send(&client.seal(there, 0));
                    thread::yield_now();
                }
            });
            let _end = AtEnd(over);
            // It flows both ways.
            for _ in 0..20 {
                assert!(client.receive_within(LONG).is_some());
                assert_eq!(host.receive(), *there);
            }
            assert!(host.device.remove_peer(&client.public()));
            // Whatever came before it returned is read; from then on there is nothing more, though both go on.
            while client.socket.set_nonblocking(true).is_ok() && client.socket.recv(&mut [0; 2048]).is_ok() {}
            client.socket.set_nonblocking(false).unwrap();
            while host.receive_within(Duration::ZERO).is_some() {}
            assert!(client.receive_within(A_WHILE).is_none(), "round {round}: sent to a peer that is gone");
            assert!(host.receive_within(A_WHILE).is_none(), "round {round}: taken from a peer that is gone");
        });
        client.register(&host, &["10.50.0.1"]);
    }
    assert!(host.device.counters().get(Loss::NoSession) > 0 && host.device.counters().get(Loss::NoRoute) > 0);
}

#[test]
fn what_waited_for_a_removed_peer_is_not_sent_to_its_successor() {
    let (a, b) = (Host::start(1, false), Host::start(2, false));
    let nowhere = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    a.know(&b, false, &["10.50.0.2"]);
    a.device.set_endpoint(&b.device.public(), nowhere.local_addr().unwrap());
    a.send(&packet(a.ip, b.ip, b"waits"));
    assert!(crate::client::receive(&nowhere, LONG).is_some(), "an initiation");
    assert!(a.device.remove_peer(&b.device.public()));
    a.know(&b, true, &["10.50.0.2"]);
    b.know(&a, false, &["10.50.0.1"]);
    let fresh = packet(a.ip, b.ip, b"fresh");
    a.send(&fresh);
    assert_eq!(b.receive(), fresh);
    assert!(b.receive_within(A_WHILE).is_none());
}

#[test]
fn a_handshake_half_done_ends_with_its_peer_and_the_next_begins_anew() {
    let host = Host::start(9, false);
    let mut client = Client::known(1, &host, &["10.50.0.1"]);
    let (initiation, initiated) = client.initiation(Tai64N::of(SystemTime::now()));
    client.send(&initiation);
    let response = client.receive_within(LONG).expect("a response comes");
    client.finish(&initiated, &response);
    assert!(host.device.remove_peer(&client.public()));
    client.register(&host, &["10.50.0.1"]);
    let there = packet(CLIENT, host.ip, b"there");
    client.send(&client.seal(&there, 0));
    eventually("the count", || host.device.counters().get(Loss::NoSession) == 1);
    assert_eq!(host.device.peer(&client.public()).unwrap().last_handshake, None);
    client.connect();
    client.send(&client.seal(&there, 0));
    assert_eq!(host.receive(), there);
    assert!(host.receive_within(A_WHILE).is_none());
}
