//! The numbers that sessions go by.

use std::collections::HashSet;

use edgeproxy_tunnel::{
    Dropped, GateSettings, Handshakes, Identity, Moment, Owners, PresharedKey, PrivateKey, PublicKey, Random, Tai64N,
};

use crate::support::{Node, Seeded, connected, deliver, padded, pass, private, secs};

/// Random in all but what indices are made of: of those there are as many as said.
struct Few(Seeded, u64);

impl Random for Few {
    fn fill(&mut self, bytes: &mut [u8]) {
        match bytes.len() {
            4 => bytes.copy_from_slice(&(self.0.below(self.1) as u32).to_le_bytes()),
            _ => self.0.fill(bytes),
        }
    }
}

fn peer(number: u8) -> PublicKey {
    private(100 + number).public()
}

fn index(initiation: &[u8; 148]) -> u32 {
    u32::from_le_bytes(*initiation[4..].first_chunk().unwrap())
}

#[test]
fn where_no_index_is_free_one_handshake_fails_and_the_others_go_on() {
    let mut handshakes = Handshakes::new(private(1), GateSettings::default(), Owners::new(1, 1), Few(Seeded(1), 3));
    let (now, wall) = (Moment::from_millis(5), Tai64N([9; 12]));
    let begun: Vec<_> = (0..3).map(|number| handshakes.initiate(&peer(number), now, wall).unwrap()).collect();
    assert_eq!(begun.iter().map(index).collect::<HashSet<_>>().len(), 3);
    assert_eq!(handshakes.initiate(&peer(3), now, wall), Err(Dropped::NoIndex));

    // One whose answer comes is not hurt by that.
    let them = Identity::new(private(100));
    let Some(edgeproxy_tunnel::Message::Initiation(initiation)) = edgeproxy_tunnel::Message::parse(&begun[0]) else {
        panic!("no initiation")
    };
    let shared = them.shared_with(&handshakes.public()).unwrap();
    let verified = them.identify(initiation).unwrap().verify(&shared).unwrap();
    let (mut response, _) = verified.answer(&PresharedKey::default(), &PrivateKey::from_bytes([7; 32]), 1).unwrap();
    let key = edgeproxy_tunnel::MacKey::of(&handshakes.public());
    edgeproxy_tunnel::CookieJar::default().sign(&mut response, &key, now);
    let from = crate::support::address("192.0.2.1:1");
    let outcome = handshakes.handle_datagram(&response, from, now, |_| Some(Default::default()));
    assert!(matches!(outcome, edgeproxy_tunnel::Outcome::Established { .. }), "{outcome:?}");

    // One that is given up makes room.
    handshakes.give_up(&peer(1));
    let next = handshakes.initiate(&peer(3), now, wall).unwrap();
    assert_eq!(index(&next), index(&begun[1]));
    assert_eq!(handshakes.len().1, 3);
}

#[test]
fn an_index_is_not_used_again_while_messages_for_it_may_come() {
    let (mut a, mut b) = connected();
    pass(&mut [&mut a, &mut b], secs(121));
    b.send(a.public(), b"held back");
    let (_, held_back) = b.take_sent().pop().unwrap();
    for (node, other) in [(&mut a, b.public()), (&mut b, private(1).public())] {
        node.send(other, b"renews");
    }
    deliver(&mut [&mut a, &mut b]);
    pass(&mut [&mut a, &mut b], secs(1));
    a.take_received();
    // There is a new session, and the old one's index is still its own.
    assert_eq!(a.handshakes.len().1, 2);
    a.receive(b.address, &held_back);
    assert_eq!(a.take_received(), [padded(b"held back")]);
    assert!(a.rejected.is_empty());
}

#[test]
fn indices_tell_nothing_of_one_another() {
    let mut node = Node::new(1, "192.0.2.1:1");
    let mut random = Seeded(5);
    let indices: Vec<u32> = (0..1_000)
        .map(|_| {
            let peer = PrivateKey::from_bytes(random.bytes()).public();
            index(&node.handshakes.initiate(&peer, node.now, Tai64N([9; 12])).unwrap())
        })
        .collect();
    assert_eq!(indices.iter().collect::<HashSet<_>>().len(), 1_000);
    let rising = indices.windows(2).filter(|pair| pair[0] < pair[1]).count();
    assert!((400..600).contains(&rising), "{rising} of 999 follow a lesser one");
    let gaps: HashSet<u32> = indices.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    assert!(gaps.len() > 990, "{} different gaps", gaps.len());
    let high: HashSet<u32> = indices.iter().map(|index| index >> 24).collect();
    assert!(high.len() > 200, "all of the space is used");
}
