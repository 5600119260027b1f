//! Two peers over a bad network, for hours of their time, by the dice. `SEED=7 cargo test -p edgeproxy-tunnel simulation`
//! plays one game again.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;

use edgeproxy_tunnel::Moment;

use crate::support::{Node, Seeded, address, secs};

/// Games played, and how long each lasts.
const GAMES: u64 = 40;
const HOURS: u64 = 2;

struct Network {
    random: Seeded,
    /// Datagrams on their way: when they come, from and to whom.
    flying: BTreeMap<(Moment, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    flown: u64,
    cut: bool,
}

impl Network {
    /// Loses some, holds some back, and brings some twice.
    fn take(&mut self, node: &mut Node) {
        let from = node.address;
        for (to, datagram) in node.take_sent() {
            let lost = self.cut || self.random.percent(10);
            let copies = if lost { 0 } else { 1 + u64::from(self.random.percent(5)) };
            for _ in 0..copies {
                let slow = if self.random.percent(3) { 30_000 } else { 300 };
                let comes = Moment::from_millis(node.now.as_millis() + 1 + self.random.below(slow));
                self.flown += 1;
                self.flying.insert((comes, self.flown), (from, to, datagram.clone()));
            }
        }
    }
}

fn play(seed: u64) {
    let mut random = Seeded(seed);
    let (mut a, mut b) = (Node::new(1, "192.0.2.1:1"), Node::new(2, "192.0.2.2:1"));
    a.meet(b.public(), b.address, None);
    b.meet(a.public(), a.address, random.percent(50).then_some(secs(25)));
    let keys = [a.public(), b.public()];
    let mut network = Network { random: random.clone(), flying: BTreeMap::new(), flown: 0, cut: false };
    let (mut sent, mut came) = ([HashSet::new(), HashSet::new()], [HashSet::new(), HashSet::new()]);
    let (mut number, mut moves) = (0_u64, 0_u16);
    let end = Moment::default().after(secs(HOURS * 3600));
    let mut now = a.now;
    let mut next_play = now;
    while now < end {
        let events =
            [Some(next_play), network.flying.keys().next().map(|(at, _)| *at), a.next_timeout(), b.next_timeout()];
        now = events.into_iter().flatten().min().unwrap().max(now);
        a.advance(now);
        b.advance(now);
        while let Some(entry) = network.flying.first_entry().filter(|entry| entry.key().0 <= now) {
            let (from, to, datagram) = entry.remove();
            for node in [&mut a, &mut b] {
                if node.address == to {
                    node.receive(from, &datagram);
                }
            }
        }
        if now >= next_play {
            next_play = now.after(secs(random.below(8)));
            match random.below(400) {
                0 => next_play = now.after(secs(random.below(900))),
                1 => network.cut = !network.cut,
                2 => a.restart(1),
                3 => b.restart(2),
                4 => {
                    moves += 1;
                    a.address = SocketAddr::new(address("198.51.100.1:1").ip(), moves);
                }
                die => {
                    number += 1;
                    let (from, to) = if die % 2 == 0 { (&mut a, keys[1]) } else { (&mut b, keys[0]) };
                    from.send(to, &number.to_be_bytes().repeat(2));
                    sent[usize::from(die % 2 != 0)].insert(number);
                }
            }
            if network.cut && random.percent(10) {
                network.cut = false;
            }
        }
        network.take(&mut a);
        network.take(&mut b);
        for (node, from) in [(&mut b, 0), (&mut a, 1)] {
            for packet in node.take_received() {
                let number = u64::from_be_bytes(*packet.first_chunk().unwrap());
                assert!(sent[from].contains(&number), "seed {seed}: a packet nobody sent");
                assert!(came[from].insert(number), "seed {seed}: packet {number} came twice");
            }
            let (_, indices) = node.handshakes.len();
            assert!(indices <= 4, "seed {seed}: {indices} indices for one peer");
        }
    }
    let (all, arrived) = (sent[0].len() + sent[1].len(), came[0].len() + came[1].len());
    assert!(arrived * 100 > all * 60, "seed {seed}: {arrived} of {all} packets came");

    // Left in peace, they find each other again, and agree.
    network.flying.clear();
    a.take_sent();
    b.take_sent();
    for node in [&mut a, &mut b] {
        let peer = if node.public() == keys[0] { keys[1] } else { keys[0] };
        node.send(peer, &u64::MAX.to_be_bytes().repeat(2));
    }
    crate::support::deliver(&mut [&mut a, &mut b]);
    crate::support::pass(&mut [&mut a, &mut b], secs(120));
    for _ in 0..2 {
        a.send(keys[1], b"peace at last, b");
        b.send(keys[0], b"peace at last, a");
        crate::support::deliver(&mut [&mut a, &mut b]);
    }
    assert_eq!(b.take_received().last().unwrap(), b"peace at last, b", "seed {seed}");
    assert_eq!(a.take_received().last().unwrap(), b"peace at last, a", "seed {seed}");
}

#[test]
fn whatever_the_network_does_no_packet_comes_twice_and_peace_brings_them_together() {
    match std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => play(seed),
        None => (0..GAMES).for_each(play),
    }
}
