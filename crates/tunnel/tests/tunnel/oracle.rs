//! Our ends against boringtun's: in either role, with and without a preshared key, and with cookies.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey as TheirPublic, StaticSecret};
use edgeproxy_tunnel::{GateSettings, PresharedKey, PublicKey};

use crate::support::{Node, address, padded, secs};

const THEM: &str = "192.0.2.9:51820";

struct Them {
    tunn: Tunn,
    public: PublicKey,
}

fn them(us: &Node, preshared: Option<[u8; 32]>, cookies_from: u64) -> Them {
    let secret = StaticSecret::from([99; 32]);
    let public = TheirPublic::from(&secret);
    let limiter = Arc::new(RateLimiter::new(&public, cookies_from));
    let tunn = Tunn::new(secret, TheirPublic::from(us.public().0), preshared, None, 7, Some(limiter));
    Them { tunn, public: PublicKey(public.to_bytes()) }
}

impl Them {
    /// Takes a datagram of ours; what they send back, and what came out as a packet.
    fn receive(&mut self, datagram: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let (mut sent, mut packets, mut buffer) = (Vec::new(), Vec::new(), vec![0; 2048]);
        let mut input = datagram;
        loop {
            match self.tunn.decapsulate(Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), input, &mut buffer) {
                TunnResult::WriteToNetwork(datagram) => sent.push(datagram.to_vec()),
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    packets.push(packet.to_vec());
                    break;
                }
                TunnResult::Done => break,
                TunnResult::Err(error) => panic!("{error:?}"),
            }
            // "Call again with nothing": what waited for the session.
            input = &[];
        }
        (sent, packets)
    }

    fn send(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; 2048];
        match self.tunn.encapsulate(packet, &mut buffer) {
            TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
            other => panic!("{other:?}"),
        }
    }
}

/// A packet that their side takes for one of IPv4.
fn packet(payload: u8) -> Vec<u8> {
    let mut packet = vec![payload; 32];
    packet[..20].copy_from_slice(&[0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet
}

/// Carries everything until nothing is left; packets that came out on their side.
fn deliver(us: &mut Node, them: &mut Them) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    loop {
        let sent = us.take_sent();
        if sent.is_empty() {
            return packets;
        }
        for (_, datagram) in sent {
            let (answers, came) = them.receive(&datagram);
            packets.extend(came);
            answers.iter().for_each(|answer| us.receive(address(THEM), answer));
        }
    }
}

#[test]
fn we_begin() {
    for preshared in [None, Some([5; 32])] {
        let mut us = Node::new(1, "192.0.2.1:1");
        let mut them = them(&us, preshared, 100);
        us.meet(them.public, address(THEM), None);
        us.register(them.public, preshared.map(PresharedKey::from_bytes).unwrap_or_default());
        us.send(them.public, &packet(1));
        assert_eq!(deliver(&mut us, &mut them), [packet(1)]);
        let back = them.send(&packet(2));
        us.receive(address(THEM), &back);
        assert_eq!(us.take_received(), [packet(2)]);
        for number in 3..200 {
            us.send(them.public, &packet(number));
        }
        assert_eq!(deliver(&mut us, &mut them).len(), 197);
    }
}

#[test]
fn they_begin() {
    for preshared in [None, Some([5; 32])] {
        let mut us = Node::new(1, "192.0.2.1:1");
        let mut them = them(&us, preshared, 100);
        us.register(them.public, preshared.map(PresharedKey::from_bytes).unwrap_or_default());
        let initiation = them.send(&packet(1));
        us.receive(address(THEM), &initiation);
        assert_eq!(deliver(&mut us, &mut them), Vec::<Vec<u8>>::new());
        assert_eq!(us.take_received(), [packet(1)], "the packet that waited for the session");
        us.send(them.public, &packet(2));
        assert_eq!(deliver(&mut us, &mut them), [packet(2)]);
    }
}

#[test]
fn another_preshared_key_is_noticed_by_both() {
    let mut us = Node::new(1, "192.0.2.1:1");
    let mut them = them(&us, Some([5; 32]), 100);
    us.meet(them.public, address(THEM), None);
    us.register(them.public, PresharedKey::from_bytes([6; 32]));
    us.send(them.public, &packet(1));
    assert!(deliver(&mut us, &mut them).is_empty());
    assert_eq!(us.dropped, [edgeproxy_tunnel::Dropped::Forged]);
}

#[test]
fn they_are_under_load() {
    let mut us = Node::new(1, "192.0.2.1:1");
    // They give cookies from the first handshake on.
    let mut them = them(&us, None, 0);
    us.meet(them.public, address(THEM), None);
    us.send(them.public, &packet(1));
    assert!(deliver(&mut us, &mut them).is_empty());
    assert!(us.dropped.is_empty(), "a cookie was taken");
    us.advance(us.now.after(secs(6)));
    assert_eq!(deliver(&mut us, &mut them), [packet(1)]);
}

#[test]
fn we_are_under_load() {
    let mut us = Node::gated(1, "192.0.2.1:1", GateSettings { unproven_per_second: 0, ..GateSettings::default() });
    let mut them = them(&us, None, 100);
    us.register(them.public, PresharedKey::default());
    let initiation = them.send(&packet(1));
    us.receive(address(THEM), &initiation);
    let sent = us.take_sent();
    assert_eq!((sent.len(), sent[0].1.len()), (1, 64), "a cookie, and nothing else");
    assert_eq!(them.receive(&sent[0].1), (vec![], vec![]));
    let mut buffer = [0; 2048];
    let TunnResult::WriteToNetwork(again) = them.tunn.format_handshake_initiation(&mut buffer, true) else {
        panic!("no second initiation")
    };
    us.receive(address(THEM), again);
    deliver(&mut us, &mut them);
    assert_eq!(us.take_received(), [padded(&packet(1))]);
}
