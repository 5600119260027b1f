//! What happens when nothing does: renewals, keepalives, giving up, forgetting, moving.

use std::time::Duration;

use edgeproxy_tunnel::{Dropped, PresharedKey, Rejected, Role};

use crate::support::{Node, address, connected, deliver, padded, pass, secs};

fn kinds(node: &mut Node) -> Vec<u8> {
    node.take_sent().iter().map(|(_, datagram)| datagram[0]).collect()
}

#[test]
fn a_session_is_renewed_by_its_initiator_while_it_is_used() {
    let (mut a, mut b) = connected();
    let mut initiations = 0;
    for second in 0..600 {
        a.send(b.public(), b"tick");
        initiations += a.sent.iter().filter(|(_, datagram)| datagram[0] == 1).count();
        b.send(a.public(), b"tock");
        assert!(b.sent.iter().all(|(_, datagram)| datagram[0] != 1), "the responder leaves it to the initiator");
        deliver(&mut [&mut a, &mut b]);
        pass(&mut [&mut a, &mut b], secs(1));
        assert_eq!(a.take_received(), [padded(b"tock")], "second {second}");
        assert_eq!(b.take_received(), [padded(b"tick")], "second {second}");
    }
    assert_eq!(initiations, 4, "after 120 s each");
    assert!(a.rejected.is_empty() && b.rejected.is_empty());
}

#[test]
fn an_initiator_that_only_receives_renews_as_well() {
    let (mut a, mut b) = connected();
    for second in 0..400 {
        b.send(a.public(), b"news");
        deliver(&mut [&mut a, &mut b]);
        pass(&mut [&mut a, &mut b], secs(1));
        assert_eq!(a.take_received().len(), 1, "second {second}");
    }
}

#[test]
fn whoever_got_a_packet_says_so_within_ten_seconds() {
    let (mut a, mut b) = connected();
    pass(&mut [&mut a, &mut b], secs(30));
    a.send(b.public(), b"one way");
    for (_, datagram) in a.take_sent() {
        b.receive(a.address, &datagram);
    }
    let at = b.now;
    while b.sent.is_empty() {
        b.advance(b.next_timeout().unwrap());
    }
    assert_eq!((b.now.since(at), kinds(&mut b)), (secs(10), vec![4]));
    // Nothing is said to a keepalive, and no other follows.
    a.advance(b.now);
    b.advance(b.now.after(secs(60)));
    assert!(b.sent.is_empty());
}

#[test]
fn keepalives_do_not_answer_keepalives() {
    let (mut a, mut b) = connected();
    pass(&mut [&mut a, &mut b], secs(20));
    a.peers.get_mut(&b.public()).unwrap().handle_change(Some(secs(1)), a.now, 0);
    deliver(&mut [&mut a, &mut b]);
    let before = b.peers[&a.public()].outlet().bytes();
    pass(&mut [&mut a, &mut b], secs(90));
    assert_eq!(b.peers[&a.public()].outlet().bytes(), before);
}

#[test]
fn a_peer_that_does_not_answer_is_asked_again_and_given_up() {
    let mut a = Node::new(1, "192.0.2.1:1");
    let b = Node::new(2, "192.0.2.2:1");
    a.meet(b.public(), b.address, None);
    a.send(b.public(), b"hello?");
    let start = a.now;
    let mut asked = Vec::new();
    loop {
        asked.extend(kinds(&mut a));
        let Some(next) = a.next_timeout() else { break };
        a.advance(next);
    }
    assert_eq!(asked, vec![1; 18], "each 5 to 5.333 s for 90 s");
    assert!(a.now.since(start) >= secs(90) && a.now.since(start) < secs(96));
    assert!(a.peers[&b.public()].is_idle());
    assert_eq!(a.handshakes.len().1, 0, "nothing is kept for a late answer");
    a.send(b.public(), b"once more");
    assert_eq!(kinds(&mut a), [1]);
}

#[test]
fn a_session_that_gets_no_answer_is_renewed() {
    let (mut a, mut b) = connected();
    pass(&mut [&mut a, &mut b], secs(20));
    b.restart(2);
    let at = a.now;
    a.send(b.public(), b"into the void");
    for (_, datagram) in a.take_sent() {
        b.receive(a.address, &datagram);
    }
    while a.sent.is_empty() {
        a.advance(a.next_timeout().unwrap());
        b.advance(a.now);
    }
    assert!(a.now.since(at) >= secs(15) && a.now.since(at) < secs(16), "{:?}", a.now.since(at));
    deliver(&mut [&mut a, &mut b]);
    a.send(b.public(), b"heard");
    deliver(&mut [&mut a, &mut b]);
    assert_eq!(b.take_received(), [padded(b"heard")]);
}

#[test]
fn keys_are_erased_and_the_peer_may_sleep() {
    let (mut a, mut b) = connected();
    for node in [&a, &b] {
        assert!(!node.peers.values().next().unwrap().is_idle());
    }
    pass(&mut [&mut a, &mut b], secs(541));
    for node in [&mut a, &mut b] {
        let peer = node.peers.values().next().unwrap();
        assert!(peer.is_idle(), "{:?} at {:?}", peer.poll_timeout(), node.now);
        assert_eq!((node.next_timeout(), node.handshakes.len()), (None, (1, 0)));
    }
}

#[test]
fn nothing_is_taken_or_sent_in_a_session_of_three_minutes() {
    let (mut a, mut b) = connected();
    a.send(b.public(), b"late");
    let (_, late) = a.take_sent().pop().unwrap();
    b.advance(b.now.after(secs(180)));
    b.receive(a.address, &late);
    assert_eq!(b.rejected, [Rejected::Expired]);
    a.advance(a.now.after(secs(180)));
    a.send(b.public(), b"waits");
    assert_eq!(kinds(&mut a), [1], "an initiation, and nothing in the old session");
}

#[test]
fn a_persistent_keepalive_keeps_the_session_and_the_way() {
    let (mut a, mut b) = (Node::new(1, "192.0.2.1:1"), Node::new(2, "192.0.2.2:1"));
    a.meet(b.public(), b.address, Some(secs(25)));
    b.register(a.public(), PresharedKey::default());
    // Without anything to send, it begins by itself.
    pass(&mut [&mut a, &mut b], secs(1));
    assert!(b.peers[&a.public()].outlet().ready(b.now).is_some());
    for _ in 0..40 {
        let before = a.peers[&b.public()].outlet().bytes();
        pass(&mut [&mut a, &mut b], secs(26));
        assert!(a.peers[&b.public()].outlet().bytes() > before);
        assert!(b.peers[&a.public()].outlet().ready(b.now).is_some());
    }
}

#[test]
fn the_endpoint_follows_the_newest_message_only() {
    let (mut a, mut b) = connected();
    let key = a.public();
    let endpoint = |b: &Node| b.peers[&key].outlet().endpoint().unwrap();
    a.send(b.public(), b"1");
    a.send(b.public(), b"2");
    let sent = a.take_sent();
    let (home, away) = (a.address, address("198.51.100.7:4000"));
    b.receive(away, &sent[1].1);
    assert_eq!(endpoint(&b), away);
    b.receive(home, &sent[0].1);
    assert_eq!(endpoint(&b), away, "an older message does not move it back");
    b.receive(home, &sent[1].1);
    assert_eq!((endpoint(&b), b.rejected.as_slice()), (away, &[Rejected::Replayed][..]));
    let mut forged = sent[1].1.clone();
    forged[8..16].copy_from_slice(&99_u64.to_le_bytes());
    b.receive(home, &forged);
    assert_eq!((endpoint(&b), b.rejected[1]), (away, Rejected::Forged));

    // A peer that moves begins anew from there. It is answered there; but whoever repeats its initiation from elsewhere
    // before it came moves nothing.
    a.peers.get_mut(&b.public()).unwrap().erase();
    a.advance(a.now.after(secs(1)));
    a.send(b.public(), b"3");
    let (_, initiation) = a.take_sent().pop().unwrap();
    let thief = address("203.0.113.66:666");
    b.advance(a.now);
    b.receive(thief, &initiation);
    assert_eq!((b.take_sent()[0].0, endpoint(&b)), (thief, away));
    b.receive(home, &initiation);
    assert_eq!(b.dropped, [Dropped::Replayed]);
}

#[test]
fn the_endpoint_moves_with_the_first_message_of_a_new_session_and_not_before() {
    let (mut a, mut b) = connected();
    let (key, home, away) = (a.public(), a.address, address("198.51.100.7:4000"));
    let endpoint = |b: &Node| b.peers[&key].outlet().endpoint().unwrap();
    a.peers.get_mut(&b.public()).unwrap().erase();
    for node in [&mut a, &mut b] {
        node.advance(node.now.after(secs(1)));
    }
    a.send(b.public(), b"from elsewhere");
    let (_, initiation) = a.take_sent().pop().unwrap();
    b.receive(away, &initiation);
    let (to, response) = b.take_sent().pop().unwrap();
    assert_eq!((to, endpoint(&b)), (away, home), "answered there, and still at home for all else");
    b.send(key, b"goes home");
    assert_eq!(b.take_sent()[0].0, home);
    a.receive(b.address, &response);
    let (_, packet) = a.take_sent().pop().unwrap();
    b.receive(away, &packet);
    assert_eq!((endpoint(&b), b.take_received()), (away, vec![padded(b"from elsewhere")]));
}

#[test]
fn a_revoked_peer_is_gone_at_once() {
    let (mut a, mut b) = connected();
    let key = a.public();
    a.send(b.public(), b"on its way");
    let (_, on_its_way) = a.take_sent().pop().unwrap();
    let outlet = b.peers[&key].outlet().clone();
    let mut gone = b.peers.remove(&key).unwrap();
    gone.erase();
    b.registered.remove(&key);
    b.handshakes.forget(&key);
    b.receive(a.address, &on_its_way);
    assert!(b.take_received().is_empty());
    assert!(outlet.ready(b.now).is_none(), "no core that still holds the way out gets anything sent");

    // Registered again, it begins anew.
    b.register(key, PresharedKey::default());
    a.peers.get_mut(&b.public()).unwrap().erase();
    a.advance(a.now.after(Duration::from_secs(1)));
    b.advance(a.now);
    a.send(b.public(), b"again");
    deliver(&mut [&mut a, &mut b]);
    assert_eq!(b.take_received(), [padded(b"again")]);
    assert_eq!(b.peers[&key].outlet().ready(b.now).unwrap().0.role, Role::Responder);
}
