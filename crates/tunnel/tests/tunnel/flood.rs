//! Strangers in great number: what they cost, what they are told, and who gets through all the same.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use edgeproxy_tunnel::{
    CookieJar, Dropped, GateSettings, Handshakes, Identity, MacKey, Moment, Outcome, Owners, PresharedKey, PublicKey,
    Random, Tai64N,
};

use crate::support::{Node, Seeded, address, deliver, padded, pass, private, secs};

const GATE: GateSettings = GateSettings {
    unproven_per_second: 100,
    proven_per_second: 50,
    per_source_per_second: 20,
    per_source_burst: 5,
    sources: 256,
};

/// An initiation that everybody can make who knows the public key: its mac1 fits, and nothing else.
fn forged(random: &mut Seeded, to: &PublicKey) -> [u8; 148] {
    let mut message = random.bytes::<148>();
    message[..4].copy_from_slice(&[1, 0, 0, 0]);
    CookieJar::default().sign(&mut message, &MacKey::of(to), Moment::default());
    message[132..].fill(0);
    message
}

/// An address that was written on a datagram.
fn spoofed(random: &mut Seeded) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(random.number() as u32)), 1 + random.below(60_000) as u16)
}

/// The other way to do it, an allowance for each address alone, never notices: no address comes twice.
#[test]
fn a_flood_from_spoofed_addresses_makes_the_honest_prove_theirs_and_lets_them_in_by_the_next_attempt() {
    let mut b = Node::gated(2, "192.0.2.2:1", GATE);
    let mut a = Node::new(1, "192.0.2.1:1");
    a.meet(b.public(), b.address, None);
    b.register(a.public(), PresharedKey::default());
    let (mut random, to) = (Seeded(1), b.public());
    let mut flood = |b: &mut Node| {
        for _ in 0..2_000 {
            let from = spoofed(&mut random);
            b.receive(from, &forged(&mut random, &to));
        }
    };
    flood(&mut b);
    let told = b.take_sent();
    assert_eq!(b.dropped, vec![Dropped::Forged; 100], "as many as the first budget has were looked into");
    assert!(
        told.len() == 1_900 && told.iter().all(|(_, answer)| answer.len() == 64),
        "all others are told to prove it"
    );

    a.send(b.public(), b"let me in");
    for (_, initiation) in a.take_sent() {
        b.receive(a.address, &initiation);
    }
    let [(to, cookie)] = &b.take_sent()[..] else { panic!("one answer") };
    assert_eq!((*to, cookie[0]), (a.address, 3));
    a.receive(b.address, cookie);

    // The flood goes on until its next attempt, and beyond.
    while a.sent.is_empty() {
        let next = a.next_timeout().unwrap();
        a.advance(next);
        b.advance(next);
        flood(&mut b);
        b.take_sent();
    }
    deliver(&mut [&mut a, &mut b]);
    assert_eq!(b.take_received(), [padded(b"let me in")]);
}

#[test]
fn a_flood_leaves_no_load_behind_even_where_there_is_no_peer() {
    let mut gateway = Handshakes::new(private(2), GATE, Owners::new(1, 1), Seeded(1));
    let (mut random, to) = (Seeded(2), gateway.public());
    let mut now = Moment::from_millis(5);
    for round in 0..5 {
        let mut cookies = 0;
        for _ in 0..500 {
            let from = spoofed(&mut random);
            let outcome =
                gateway.handle_datagram(&forged(&mut random, &to), from, now, |_| panic!("nobody is asked for"));
            cookies += u32::from(matches!(outcome, Outcome::Cookie(_)));
        }
        assert_eq!(cookies, 400, "round {round}");
        now = now.after(secs(1));
    }
    assert_eq!(gateway.len(), (0, 0));
}

#[test]
fn strangers_are_looked_for_no_more_often_than_the_gate_allows() {
    let mut gateway = Handshakes::new(private(2), GATE, Owners::new(1, 1), Seeded(1));
    let (us, mut random, mut looked_for) = (gateway.public(), Seeded(2), 0);
    let now = Moment::from_millis(5);
    for number in 0..400 {
        // Well made in every respect, by somebody whom nobody has registered.
        let stranger = Identity::new(edgeproxy_tunnel::PrivateKey::from_bytes(random.bytes()));
        let shared = stranger.shared_with(&us).unwrap();
        let ephemeral = edgeproxy_tunnel::PrivateKey::from_bytes(random.bytes());
        let (mut message, _) = stranger.initiate(&us, &shared, Tai64N::default(), ephemeral, number).unwrap();
        CookieJar::default().sign(&mut message, &MacKey::of(&us), now);
        let outcome = gateway.handle_datagram(&message, spoofed(&mut random), now, |_| {
            looked_for += 1;
            None
        });
        match outcome {
            Outcome::Dropped(Dropped::UnknownPeer) => assert!(number < 100),
            Outcome::Cookie(_) => assert!(number >= 100),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((looked_for, gateway.len()), (100, (0, 0)));
}

#[test]
fn no_answer_is_longer_than_what_it_answers() {
    let (mut a, mut b) = (Node::new(1, "192.0.2.1:1"), Node::new(2, "192.0.2.2:1"));
    a.meet(b.public(), b.address, None);
    b.register(a.public(), PresharedKey::default());
    let lengths = |sent: &[(SocketAddr, Vec<u8>)]| sent.iter().map(|(_, datagram)| datagram.len()).collect::<Vec<_>>();
    a.send(b.public(), b"packet");
    let (_, initiation) = a.take_sent().pop().unwrap();
    b.receive(a.address, &initiation);
    let (_, response) = b.take_sent().pop().unwrap();
    assert_eq!((initiation.len(), response.len()), (148, 92));

    // Under load each of the two gets a cookie, which is shorter than either.
    let mut busy = Node::gated(2, "192.0.2.2:1", GateSettings { unproven_per_second: 0, ..GATE });
    busy.register(a.public(), PresharedKey::default());
    busy.receive(a.address, &initiation);
    assert_eq!(lengths(&busy.take_sent()), [64]);
    let mut busy = Node::gated(1, "192.0.2.1:1", GateSettings { unproven_per_second: 0, ..GATE });
    busy.meet(b.public(), b.address, None);
    for node in [&mut busy, &mut b] {
        node.advance(node.now.after(secs(1)));
    }
    busy.send(b.public(), b"packet");
    let (_, initiation) = busy.take_sent().pop().unwrap();
    b.receive(busy.address, &initiation);
    let (_, response) = b.take_sent().pop().unwrap();
    busy.receive(b.address, &response);
    assert_eq!(lengths(&busy.take_sent()), [64]);

    // To all else there is no answer.
    let mut random = Seeded(3);
    for kind in 0..=255 {
        for length in [0, 1, 4, 31, 32, 64, 92, 148, 1_500] {
            let mut datagram = vec![0; length];
            random.fill(&mut datagram);
            if let Some(first) = datagram.first_chunk_mut::<4>() {
                *first = [kind, 0, 0, 0];
            }
            b.receive(a.address, &datagram);
        }
    }
    assert!(b.take_sent().is_empty());
}

/// Whoever saw our initiation can send a cookie for it: it is taken, and the peer is still where it was.
#[test]
fn a_cookie_does_not_move_the_peer() {
    let mut a = Node::new(1, "192.0.2.1:1");
    let mut busy = Node::gated(2, "192.0.2.2:1", GateSettings { unproven_per_second: 0, ..GATE });
    a.meet(busy.public(), busy.address, None);
    busy.register(a.public(), PresharedKey::default());
    a.send(busy.public(), b"packet");
    let (_, initiation) = a.take_sent().pop().unwrap();
    busy.receive(a.address, &initiation);
    let (_, cookie) = busy.take_sent().pop().unwrap();
    a.receive(address("203.0.113.66:666"), &cookie);
    assert_eq!(a.peers[&busy.public()].outlet().endpoint(), Some(busy.address));
    pass(&mut [&mut a, &mut busy], secs(6));
    assert_eq!(busy.take_received(), [padded(b"packet")], "and it was of use");
}

/// A cookie for the address of one client is worth nothing to another behind the same address.
#[test]
fn a_cookie_is_worth_nothing_at_another_address_or_port() {
    for other in ["192.0.2.1:2", "192.0.2.9:1"] {
        let mut a = Node::new(1, "192.0.2.1:1");
        let mut busy = Node::gated(2, "192.0.2.2:1", GateSettings { unproven_per_second: 0, ..GATE });
        a.meet(busy.public(), busy.address, None);
        busy.register(a.public(), PresharedKey::default());
        a.send(busy.public(), b"packet");
        deliver(&mut [&mut a, &mut busy]);
        a.address = address(other);
        a.advance(a.now.after(secs(6)));
        let (_, again) = a.take_sent().pop().unwrap();
        busy.advance(a.now.after(Duration::from_millis(1)));
        busy.receive(a.address, &again);
        let answers = busy.take_sent();
        assert_eq!((answers.len(), answers[0].1[0]), (1, 3), "another cookie");
    }
}
