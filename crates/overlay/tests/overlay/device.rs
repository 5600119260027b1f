use std::net::UdpSocket;
use std::time::Duration;

use edgeproxy_overlay::packet::Sum;
use edgeproxy_overlay::{Loss, PeerSettings, Tenants};
use edgeproxy_tunnel::{Dropped, Prefix, PresharedKey};
use quinn_udp::{Transmit, UdpSockRef, UdpSocketState};

use crate::support::{Host, LONG, eventually, packet};

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
fn a_handshake_counts_once_both_have_its_keys() {
    let (a, b) = (Host::start(1, false), Host::start(2, false));
    a.know(&b, true, &["10.50.0.2"]);
    b.device.set_peer(PeerSettings {
        public: a.device.public(),
        preshared: PresharedKey::from_bytes([1; 32]),
        endpoint: None,
        keepalive: None,
        allowed_ips: vec!["10.50.0.1".parse().unwrap()],
    });
    a.send(&packet(a.ip, b.ip, b"in no session"));
    eventually("the answer", || a.device.counters().get(Loss::Handshake(Dropped::Forged)) == 1);
    assert!(b.receive_within(A_WHILE).is_none());
    for (host, other) in [(&a, &b), (&b, &a)] {
        assert_eq!(host.device.peer(&other.device.public()).unwrap().last_handshake, None);
    }
}

/// The kernel joins what comes from one sender, and one socket gets all of it.
#[test]
fn a_packet_right_after_an_initiation_is_taken() {
    let (a, b) = (Host::start(1, false), Host::start(2, false));
    let relay = UdpSocket::bind("127.0.0.1:0").unwrap();
    relay.set_read_timeout(Some(LONG)).unwrap();
    a.know(&b, false, &["10.50.0.2"]);
    a.device.set_endpoint(&b.device.public(), relay.local_addr().unwrap());
    b.know(&a, false, &["10.50.0.1"]);
    let sent = packet(a.ip, b.ip, b"short");
    a.send(&sent);
    let mut buffer = [0; 2000];
    for to in [&b, &a] {
        let length = relay.recv(&mut buffer).unwrap();
        relay.send_to(&buffer[..length], to.address()).unwrap();
    }
    let length = relay.recv(&mut buffer).unwrap();
    const INITIATION: usize = 148;
    assert!(length < INITIATION);
    let mut both = vec![1; INITIATION];
    both.extend_from_slice(&buffer[..length]);
    let state = UdpSocketState::new(UdpSockRef::from(&relay)).unwrap();
    if state.max_gso_segments() == 1 {
        // A kernel that does not take them as one does not give them as one.
        return;
    }
    let transmit =
        Transmit { destination: b.address(), ecn: None, contents: &both, segment_size: Some(INITIATION), src_ip: None };
    state.try_send(UdpSockRef::from(&relay), &transmit).unwrap();
    assert_eq!(b.receive(), sent);
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
    assert_eq!(Sum::ZERO.bytes(&came[..20]).checksum(), 0);
    assert!(hub.receive_within(A_WHILE).is_none());
}

/// Type and code of an ICMP message for this host.
fn icmp(packet: &[u8]) -> (u8, u8) {
    assert_eq!((packet[9], &packet[12..16]), (1, &[10, 50, 0, 9][..]), "ICMP, from the hub");
    (packet[20], packet[21])
}

#[test]
fn a_packet_that_has_passed_too_many_machines_is_told_of() {
    let (hub, a, b) = (Host::start(9, true), Host::start(1, false), Host::start(2, false));
    hub.know(&a, false, &["10.50.0.1"]);
    hub.know(&b, true, &["10.50.0.2"]);
    a.know(&hub, true, &["10.50.0.0/24"]);
    let mut last = packet(a.ip, b.ip, b"its last");
    last[8] = 1;
    last[10..12].fill(0);
    let sum = Sum::ZERO.bytes(&last[..20]).checksum();
    last[10..12].copy_from_slice(&sum.to_be_bytes());
    a.send(&last);
    assert_eq!(icmp(&a.receive()), (11, 0), "time exceeded");
    assert_eq!(hub.device.counters().get(Loss::Expired), 1);
    assert!(b.receive_within(A_WHILE).is_none());
}

#[test]
fn tenants_do_not_reach_one_another() {
    let prefixes = |text: &str| vec![text.parse::<Prefix>().unwrap()];
    let (one, other) = (prefixes("10.50.0.1"), prefixes("10.50.0.2"));
    let hub = Host::start_with(9, true, Tenants::new([&one[..], &other[..]]));
    let (a, b, shared) = (Host::start(1, false), Host::start(2, false), Host::start(3, false));
    hub.know(&a, false, &["10.50.0.1"]);
    hub.know(&b, true, &["10.50.0.2"]);
    hub.know(&shared, true, &["10.50.0.3"]);
    a.know(&hub, true, &["10.50.0.0/24"]);
    shared.know(&hub, false, &["10.50.0.0/24"]);
    a.send(&packet(a.ip, b.ip, b"to another tenant"));
    assert_eq!(icmp(&a.receive()), (3, 13), "administratively prohibited");
    assert_eq!(hub.device.counters().get(Loss::OtherTenant), 1);
    a.send(&packet(a.ip, shared.ip, b"to what is shared"));
    assert_eq!(shared.receive()[28..], *b"to what is shared");
    assert!(b.receive_within(A_WHILE).is_none());
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
