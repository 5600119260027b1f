//! Handshakes between two ends of our own: the usual way, and every way that must lead nowhere.

use crate::support::{Node, address, connected, deliver, padded, pass, private, secs};
use edgeproxy_tunnel::{Dropped, KeyError, Message, Outcome, PresharedKey, PublicKey};

fn kind(datagram: &[u8]) -> u8 {
    datagram[0]
}

#[test]
fn two_that_know_each_other_exchange_packets() {
    let (mut a, mut b) = connected();
    b.send(a.public(), b"back");
    a.send(b.public(), b"and forth");
    deliver(&mut [&mut a, &mut b]);
    assert_eq!((a.take_received(), b.take_received()), (vec![padded(b"back")], vec![padded(b"and forth")]));
    assert_eq!(a.handshakes.len(), (1, 1));
}

#[test]
fn a_peer_nobody_registered_hears_nothing() {
    let (mut a, mut b) = (Node::new(1, "192.0.2.1:1"), Node::new(2, "192.0.2.2:1"));
    a.meet(b.public(), b.address, None);
    a.send(b.public(), b"hello?");
    deliver(&mut [&mut a, &mut b]);
    assert_eq!((b.dropped.as_slice(), b.handshakes.len()), (&[Dropped::UnknownPeer][..], (0, 0)));
    assert!(b.peers.is_empty());
}

/// Sends `b` an initiation of `a`'s and returns it.
fn initiation(a: &mut Node, b: &Node) -> Vec<u8> {
    a.send(b.public(), b"packet");
    let [(_, initiation)] = &a.take_sent()[..] else { panic!("one initiation") };
    assert_eq!(kind(initiation), 1);
    initiation.clone()
}

#[test]
fn a_repeated_initiation_is_dropped() {
    let (mut a, mut b) = (Node::new(1, "192.0.2.1:1"), Node::new(2, "192.0.2.2:1"));
    a.meet(b.public(), b.address, None);
    b.register(a.public(), PresharedKey::default());
    let first = initiation(&mut a, &b);
    b.receive(a.address, &first);
    assert_eq!(b.take_sent().len(), 1);
    b.receive(a.address, &first);
    b.receive(address("203.0.113.9:9"), &first);
    assert_eq!(b.dropped, [Dropped::Replayed, Dropped::Replayed]);

    // An older one, held back on its way, is none either.
    a.advance(a.now.after(secs(6)));
    let (_, held_back) = a.take_sent().pop().unwrap();
    a.advance(a.now.after(secs(6)));
    let (_, newer) = a.take_sent().pop().unwrap();
    b.advance(b.now.after(secs(12)));
    b.receive(a.address, &newer);
    assert_eq!(b.take_sent().len(), 1);
    b.receive(a.address, &held_back);
    assert_eq!(b.dropped[2..], [Dropped::Replayed]);

    // Nor is it after the peer went to sleep, or the process was started anew.
    b.handshakes.forget(&a.public());
    b.receive(a.address, &newer);
    assert_eq!(b.dropped[3..], [Dropped::Replayed]);
    b.restart(2);
    b.receive(a.address, &newer);
    b.receive(a.address, &first);
    assert_eq!(b.dropped[4..], [Dropped::Replayed, Dropped::Replayed]);
    assert!(b.take_sent().is_empty());
}

#[test]
fn initiations_that_follow_too_closely_are_dropped() {
    let (mut a, mut b) = (Node::new(1, "192.0.2.1:1"), Node::new(2, "192.0.2.2:1"));
    a.meet(b.public(), b.address, None);
    b.register(a.public(), PresharedKey::default());
    let first = initiation(&mut a, &b);
    b.receive(a.address, &first);
    // The sender's clock says otherwise; ours decides.
    a.advance(a.now.after(secs(6)));
    let (_, second) = a.take_sent().pop().unwrap();
    b.advance(b.now.after(std::time::Duration::from_millis(19)));
    b.receive(a.address, &second);
    assert_eq!(b.dropped, [Dropped::TooSoon]);
    b.advance(b.now.after(std::time::Duration::from_millis(1)));
    b.receive(a.address, &second);
    assert_eq!(b.take_sent().len(), 2);
}

#[test]
fn responses_that_were_not_asked_for_change_nothing() {
    let (mut a, mut b) = (Node::new(1, "192.0.2.1:1"), Node::new(2, "192.0.2.2:1"));
    a.meet(b.public(), b.address, None);
    b.register(a.public(), PresharedKey::default());
    let first = initiation(&mut a, &b);
    b.receive(a.address, &first);
    let (_, response) = b.take_sent().pop().unwrap();

    let mut other_index = response.clone();
    other_index[8] ^= 1;
    let mut changed = response.clone();
    changed[20] ^= 1;
    for wrong in [&other_index, &changed] {
        a.receive(b.address, wrong);
    }
    assert_eq!(a.dropped, [Dropped::NoMac, Dropped::NoMac]);
    // Even one whose mac1 fits, as everybody can make it fit who knows our public key.
    let resign = |message: &mut Vec<u8>, to: &PublicKey| {
        let mut fixed: [u8; 92] = message.as_slice().try_into().unwrap();
        edgeproxy_tunnel::CookieJar::default().sign(&mut fixed, &edgeproxy_tunnel::MacKey::of(to), a.now);
        fixed.to_vec()
    };
    let forged = [resign(&mut other_index, &a.public()), resign(&mut changed, &a.public())];
    forged.iter().for_each(|forged| a.receive(b.address, forged));
    assert_eq!(a.dropped[2..], [Dropped::NotAsked, Dropped::Forged]);

    a.receive(b.address, &response);
    assert_eq!(a.take_sent().len(), 1, "the packet that waited");
    a.receive(b.address, &response);
    assert_eq!(a.dropped[4..], [Dropped::NotAsked], "the same again");
    assert!(a.take_sent().is_empty());
}

#[test]
fn both_need_the_same_preshared_key() {
    let (mut a, mut b) = (Node::new(1, "192.0.2.1:1"), Node::new(2, "192.0.2.2:1"));
    a.meet(b.public(), b.address, None);
    b.register(a.public(), PresharedKey::from_bytes([7; 32]));
    a.send(b.public(), b"packet");
    deliver(&mut [&mut a, &mut b]);
    assert_eq!(a.dropped, [Dropped::Forged]);
    assert!(b.take_received().is_empty());

    a.register(b.public(), PresharedKey::from_bytes([7; 32]));
    pass(&mut [&mut a, &mut b], secs(6));
    assert_eq!(b.take_received(), [padded(b"packet")]);
}

#[test]
fn another_preshared_key_leaves_the_session_alone_and_is_used_by_the_next() {
    let (mut a, mut b) = connected();
    for (node, peer) in [(&mut a, b.public()), (&mut b, private(1).public())] {
        node.register(peer, PresharedKey::from_bytes([8; 32]));
    }
    a.send(b.public(), b"in the old session");
    deliver(&mut [&mut a, &mut b]);
    pass(&mut [&mut a, &mut b], secs(125));
    a.send(b.public(), b"renews");
    deliver(&mut [&mut a, &mut b]);
    a.send(b.public(), b"in the new one");
    deliver(&mut [&mut a, &mut b]);
    let expected = [padded(b"in the old session"), padded(b"renews"), padded(b"in the new one")];
    assert_eq!(b.take_received(), expected);
    assert!(a.dropped.is_empty() && a.rejected.is_empty() && b.rejected.is_empty());

    // Where but one side has the new one, the old session ends with its time, and no other follows.
    b.register(a.public(), PresharedKey::from_bytes([9; 32]));
    a.send(b.public(), b"still in the old one");
    deliver(&mut [&mut a, &mut b]);
    assert_eq!(b.take_received(), [padded(b"still in the old one")]);
    pass(&mut [&mut a, &mut b], secs(181));
    a.send(b.public(), b"in none");
    pass(&mut [&mut a, &mut b], secs(20));
    assert!(b.take_received().is_empty() && a.dropped.contains(&Dropped::Forged));
}

#[test]
fn a_timestamp_counts_once() {
    let (a, mut b) = (edgeproxy_tunnel::Identity::new(private(1)), Node::new(2, "192.0.2.2:1"));
    b.register(a.public(), PresharedKey::default());
    let shared = a.shared_with(&b.public()).unwrap();
    let initiate = |b: &mut Node, stamp: u8, seed: u8| {
        b.advance(b.now.after(secs(1)));
        let stamp = edgeproxy_tunnel::Tai64N([stamp; 12]);
        let (mut message, _) = a.initiate(&b.public(), &shared, stamp, private(seed), seed.into()).unwrap();
        edgeproxy_tunnel::CookieJar::default().sign(&mut message, &edgeproxy_tunnel::MacKey::of(&b.public()), b.now);
        b.receive(address("192.0.2.1:1"), &message);
        b.take_sent().len()
    };
    assert_eq!(initiate(&mut b, 5, 50), 1);
    assert_eq!(initiate(&mut b, 5, 51), 0, "another message of the same moment");
    assert_eq!(initiate(&mut b, 4, 52), 0, "another of an earlier one");
    assert_eq!(initiate(&mut b, 6, 53), 1);
    assert_eq!(b.dropped, [Dropped::Replayed, Dropped::Replayed]);
}

/// Whoever has recorded an initiation of each peer must not be able to fill memory with what peers that sleep would need.
#[test]
fn what_is_repeated_of_a_sleeping_peer_leaves_nothing_behind() {
    let (mut a, mut b) = (Node::new(1, "192.0.2.1:1"), Node::new(2, "192.0.2.2:1"));
    a.meet(b.public(), b.address, None);
    b.register(a.public(), PresharedKey::default());
    let first = initiation(&mut a, &b);
    b.receive(a.address, &first);
    pass(&mut [&mut b], secs(200));
    assert_eq!(b.handshakes.len().1, 0, "a session that was never used is forgotten");
    b.handshakes.forget(&a.public());
    b.receive(a.address, &first);
    assert_eq!((b.dropped.as_slice(), b.handshakes.len()), (&[Dropped::Replayed][..], (0, 0)));
}

#[test]
fn a_half_done_handshake_ends_with_its_peer() {
    let (mut a, mut b) = (Node::new(1, "192.0.2.1:1"), Node::new(2, "192.0.2.2:1"));
    a.meet(b.public(), b.address, None);
    b.register(a.public(), PresharedKey::default());
    let first = initiation(&mut a, &b);
    b.receive(a.address, &first);
    let (_, response) = b.take_sent().pop().unwrap();
    a.handshakes.forget(&b.public());
    a.registered.remove(&b.public());
    a.receive(b.address, &response);
    assert_eq!((a.dropped.as_slice(), a.handshakes.len()), (&[Dropped::NotAsked][..], (0, 0)));
}

#[test]
fn an_answer_that_comes_after_all_was_given_up_is_not_taken() {
    let (mut a, mut b) = (Node::new(1, "192.0.2.1:1"), Node::new(2, "192.0.2.2:1"));
    a.meet(b.public(), b.address, None);
    b.register(a.public(), PresharedKey::default());
    let mut last = initiation(&mut a, &b);
    while let Some(next) = a.next_timeout() {
        a.advance(next);
        last = a.take_sent().pop().map_or(last, |(_, initiation)| initiation);
    }
    b.advance(a.now);
    b.receive(a.address, &last);
    let (_, response) = b.take_sent().pop().unwrap();
    a.receive(b.address, &response);
    assert_eq!((a.dropped.as_slice(), a.handshakes.len().1), (&[Dropped::NotAsked][..], 0));
}

#[test]
fn keys_of_low_order_are_refused() {
    let (mut a, mut b) = (Node::new(1, "192.0.2.1:1"), Node::new(2, "192.0.2.2:1"));
    let nobody = PublicKey([0; 32]);
    assert_eq!(edgeproxy_tunnel::Identity::new(private(1)).shared_with(&nobody).err(), Some(KeyError::LowOrder));
    a.meet(nobody, b.address, None);
    a.send(nobody, b"packet");
    assert!(a.take_sent().is_empty(), "nothing is sent to a key that protects nothing");
    // An ephemeral key that is none.
    a.meet(b.public(), b.address, None);
    let mut forged: [u8; 148] = initiation(&mut a, &b).try_into().unwrap();
    forged[8..40].fill(0);
    edgeproxy_tunnel::CookieJar::default().sign(&mut forged, &edgeproxy_tunnel::MacKey::of(&b.public()), a.now);
    b.receive(a.address, &forged);
    assert_eq!(b.dropped, [Dropped::LowOrder]);
}

#[test]
fn both_beginning_at_once_come_to_one_session() {
    let (mut a, mut b) = (Node::new(1, "192.0.2.1:1"), Node::new(2, "192.0.2.2:1"));
    a.meet(b.public(), b.address, None);
    b.meet(a.public(), a.address, None);
    a.send(b.public(), b"from a");
    b.send(a.public(), b"from b");
    deliver(&mut [&mut a, &mut b]);
    assert_eq!((a.take_received(), b.take_received()), (vec![padded(b"from b")], vec![padded(b"from a")]));
    // Both send in the same one: the initiator is the one with the lesser key.
    let sessions = [&a, &b].map(|node| node.peers.values().next().unwrap().outlet().ready(node.now).unwrap().0);
    assert_ne!(sessions[0].role, sessions[1].role);
    pass(&mut [&mut a, &mut b], secs(600));
    assert_eq!((a.handshakes.len(), b.handshakes.len()), ((1, 0), (1, 0)), "no index is left behind");
}

/// Every answer is shorter than what it answers.
#[test]
fn nobody_can_have_us_send_more_than_he_did() {
    let (mut a, mut b) = (Node::new(1, "192.0.2.1:1"), Node::new(2, "192.0.2.2:1"));
    a.meet(b.public(), b.address, None);
    b.register(a.public(), PresharedKey::default());
    let first = initiation(&mut a, &b);
    b.receive(a.address, &first);
    let answers = b.take_sent();
    assert_eq!((answers.len(), answers[0].1.len()), (1, 92));
}

#[test]
fn any_bytes_are_borne() {
    let (mut a, mut b) = connected();
    let mut random = crate::support::Seeded(5);
    let begun = {
        a.peers.get_mut(&b.public()).unwrap().erase();
        a.send(b.public(), b"x");
        a.take_sent().pop().unwrap().1
    };
    for round in 0..20_000 {
        let mut datagram = if round % 2 == 0 { begun.clone() } else { vec![0; random.below(200) as usize] };
        if round % 2 == 1 {
            edgeproxy_tunnel::Random::fill(&mut random, &mut datagram);
            if let Some(first) = datagram.first_chunk_mut::<4>() {
                *first = [1 + random.below(4) as u8, 0, 0, 0];
            }
        }
        for _ in 0..1 + random.below(3) {
            let at = random.below(datagram.len().max(1) as u64) as usize;
            if let Some(byte) = datagram.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        datagram.truncate(random.below(300) as usize);
        b.receive(a.address, &datagram);
    }
    assert!(b.take_received().is_empty());
    let registered = b.registered.clone();
    let outcome = b.handshakes.handle_datagram(&[], a.address, b.now, |peer| registered.get(peer).cloned());
    assert!(matches!(outcome, Outcome::Dropped(Dropped::Malformed)));
    assert!(Message::parse(&[]).is_none());
}
