//! Whose an address is, and where packets go.

use std::net::Ipv4Addr;
use std::time::Duration;

use edgeproxy_overlay::Loss;
use edgeproxy_tunnel::PublicKey;

use crate::client::Client;
use crate::support::{Host, LONG, eventually, packet};

/// Long enough for a packet that was let through to come, if one was.
const A_WHILE: Duration = Duration::from_millis(100);

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 50, 0, last)
}

#[test]
fn a_packet_is_not_sent_back_to_where_it_came_from() {
    let hub = Host::start(9, true);
    let mut client = Client::known(1, &hub, &["10.50.0.0/28"]);
    client.connect();
    client.send(&client.seal(&packet(ip(1), ip(2), b"to myself"), 0));
    eventually("the count", || hub.device.counters().get(Loss::Loop) == 1);
    // It is told that there is no such host (ICMP 3, 1), and gets nothing else.
    let (_, told) = client.open_within(LONG).expect("a notice");
    assert_eq!((told[9], told[20], told[21]), (1, 3, 1));
    assert!(client.open_within(A_WHILE).is_none() && hub.receive_within(A_WHILE).is_none());
}

#[test]
fn what_two_hubs_send_to_one_another_ends() {
    let (one, other) = (Host::start(9, true), Host::start(8, true));
    // Each believes that the other has the address.
    one.know(&other, true, &["10.50.0.0/24"]);
    other.know(&one, true, &["10.50.0.0/24", "10.50.1.0/24"]);
    let mut client = Client::known(1, &one, &["10.50.0.1"]);
    client.connect();
    client.send(&client.seal(&packet(ip(1), ip(77), b"round and round"), 0));
    let ended = |host: &Host| host.device.counters().get(Loss::Expired) + host.device.counters().get(Loss::Loop);
    eventually("the end of it", || ended(&one) + ended(&other) == 1);
    assert!(one.receive_within(A_WHILE).is_none() && other.receive_within(A_WHILE).is_none());
    assert_eq!(ended(&one) + ended(&other), 1);
}

#[test]
fn a_loop_of_hubs_ends_when_the_hops_are_used_up() {
    // Three of them in a circle, so that none sends back to where it came from.
    let hubs = [Host::start(7, true), Host::start(8, true), Host::start(9, true)];
    for (number, hub) in hubs.iter().enumerate() {
        let (next, before) = (&hubs[(number + 1) % 3], &hubs[(number + 2) % 3]);
        hub.know(before, true, &["10.50.0.0/24"]);
        hub.know(next, true, &["10.50.1.0/24"]);
    }
    // From an address that each hub takes for one of the hub before it.
    hubs[0].send(&packet(ip(1), Ipv4Addr::new(10, 50, 1, 1), b"round and round"));
    let ended = || hubs.iter().map(|hub| hub.device.counters().get(Loss::Expired)).sum::<u64>();
    eventually("the end of it", || ended() == 1);
    assert!(hubs.iter().all(|hub| hub.receive_within(A_WHILE).is_none()));
    assert_eq!(ended(), 1);
}

#[test]
fn an_address_that_moves_to_another_peer_is_its_alone_from_then_on() {
    let hub = Host::start(9, false);
    let mut clients = [Client::known(1, &hub, &["10.50.0.0/24"]), Client::known(2, &hub, &["10.50.0.64/26"])];
    clients.iter_mut().for_each(Client::connect);
    let from = |client: &Client, last: u8| client.send(&client.seal(&packet(ip(last), hub.ip, b"it is mine"), 0));
    let foreign = || hub.device.counters().get(Loss::ForeignSource);
    let mut refused = 0;
    // What lies within another's longer prefix is not one's own: 70 is the second's, with the shorter one around it.
    let mut check = |owner: usize, last: u8| {
        from(&clients[owner], last);
        assert_eq!(hub.receive()[12..16], ip(last).octets(), "{last} is that of {owner}");
        from(&clients[1 - owner], last);
        refused += 1;
        eventually("the refusal", || foreign() == refused);
    };
    check(1, 70);
    check(0, 5);
    // A host within that moves there and back, and goes.
    clients[0].register(&hub, &["10.50.0.0/24", "10.50.0.70"]);
    check(0, 70);
    check(1, 71);
    clients[1].register(&hub, &["10.50.0.64/26", "10.50.0.70"]);
    check(1, 70);
    let settings = |key: &PublicKey| hub.device.peer(key).unwrap().settings.allowed_ips;
    assert_eq!(settings(&clients[0].public()), ["10.50.0.0/24".parse().unwrap()]);
    assert!(hub.device.remove_peer(&clients[1].public()));
    from(&clients[0], 70);
    assert_eq!(hub.receive()[12..16], ip(70).octets(), "with the prefix around it");
    // What is sent to an address follows it as well.
    hub.send(&packet(hub.ip, ip(70), b"yours"));
    assert!(clients[0].open_within(LONG).is_some());
}

/// Taken for one of IPv6 by a hub and for one of IPv4 by a program behind it, such an address would be anybody's.
#[test]
fn an_address_of_ipv4_in_the_guise_of_ipv6_is_nobodys() {
    let hub = Host::start(9, false);
    let mut client = Client::known(1, &hub, &["10.50.0.1", "::/0"]);
    client.connect();
    let six = |from: [u8; 16], to: [u8; 16]| {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        packet.extend(from);
        packet.extend(to);
        packet.extend([0, 1, 0, 2, 0, 8, 0, 0]);
        packet
    };
    let plain = |last: u8| [0xfd, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    let mapped = |last: u8| Ipv4Addr::new(10, 50, 0, last).to_ipv6_mapped().octets();
    for (from, to) in [(mapped(2), plain(9)), (plain(1), mapped(9)), (mapped(1), mapped(9))] {
        client.send(&client.seal(&six(from, to), 0));
    }
    eventually("the counts", || hub.device.counters().get(Loss::ForeignSource) == 3);
    let honest = six(plain(1), plain(9));
    client.send(&client.seal(&honest, 0));
    assert_eq!(hub.receive(), honest);
}
