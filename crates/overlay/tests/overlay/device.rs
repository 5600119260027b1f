use std::time::Duration;

use edgeproxy_overlay::Loss;

use crate::support::{Host, eventually, packet};

/// Long enough for a packet that was let through to come, if one was.
const A_WHILE: Duration = Duration::from_millis(200);

#[test]
fn two_hosts_exchange_packets() {
    let (a, b) = (Host::start(1, false), Host::start(2, false));
    a.know(&b, true, &["10.50.0.2"]);
    b.know(&a, false, &["10.50.0.1"]);
    let there = packet(a.ip, b.ip, b"there");
    a.send(&there);
    assert_eq!(b.receive(), there);
    let back = packet(b.ip, a.ip, b"and back");
    b.send(&back);
    assert_eq!(a.receive(), back);
    for number in 0..1000_u32 {
        let numbered = packet(a.ip, b.ip, &number.to_be_bytes());
        a.send(&numbered);
        assert_eq!(b.receive(), numbered);
    }
    let status = b.device.peer(&a.device.public()).unwrap();
    assert_eq!(status.settings.endpoint, Some(a.address()));
    assert!(status.received > 64_000 && status.last_handshake.is_some());
}

#[test]
fn a_hub_passes_packets_on() {
    let (hub, a, b) = (Host::start(9, true), Host::start(1, false), Host::start(2, false));
    hub.know(&a, false, &["10.50.0.1"]);
    hub.know(&b, true, &["10.50.0.2"]);
    a.know(&hub, true, &["10.50.0.0/24"]);
    b.know(&hub, false, &["10.50.0.0/24"]);
    let sent = packet(a.ip, b.ip, b"by way of the hub");
    a.send(&sent);
    let came = b.receive();
    assert_eq!((came[8], sent[8]), (63, 64), "one hop fewer");
    assert_eq!(came[12..], sent[12..]);
    assert_eq!(edgeproxy_overlay::packet::Sum::ZERO.bytes(&came[..20]).checksum(), 0);
    assert!(hub.receive_within(A_WHILE).is_none());
}

#[test]
fn nobody_sends_from_an_address_that_is_not_its_own() {
    let (hub, a, b) = (Host::start(9, true), Host::start(1, false), Host::start(2, false));
    // The host's address lies within what the other may use; it is not the other's for that.
    hub.know(&a, false, &["10.50.0.0/24"]);
    hub.know(&b, true, &["10.50.0.2"]);
    a.know(&hub, true, &["10.50.0.9"]);
    a.send(&packet(b.ip, hub.ip, b"I am b"));
    eventually("the count", || hub.device.counters().get(Loss::ForeignSource) == 1);
    a.send(&packet(a.ip, hub.ip, b"I am a"));
    assert_eq!(hub.receive(), packet(a.ip, hub.ip, b"I am a"));
}

#[test]
fn nothing_is_taken_from_a_removed_peer_nor_sent_to_it() {
    let (a, b) = (Host::start(1, false), Host::start(2, false));
    a.know(&b, true, &["10.50.0.2"]);
    b.know(&a, false, &["10.50.0.1"]);
    let there = packet(a.ip, b.ip, b"there");
    a.send(&there);
    assert_eq!(b.receive(), there);

    assert!(b.device.remove_peer(&a.device.public()));
    assert!(!b.device.remove_peer(&a.device.public()));
    a.send(&there);
    b.send(&packet(b.ip, a.ip, b"back"));
    assert_eq!((b.receive_within(A_WHILE), a.receive_within(A_WHILE)), (None, None));

    // Registered again, it has to begin anew.
    b.know(&a, true, &["10.50.0.1"]);
    let back = packet(b.ip, a.ip, b"back again");
    b.send(&back);
    assert_eq!(a.receive(), back);
}
