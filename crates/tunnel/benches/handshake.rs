//! What a handshake and a packet cost.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use edgeproxy_tunnel::{
    CookieJar, GateSettings, Handshakes, INITIATION, Identity, Introduction, MacKey, Message, Moment, Outcome, Owners,
    PresharedKey, PrivateKey, Random, TRANSPORT_HEADER, Tai64N, Transport, datagram_length, halves,
};

fn main() {
    divan::main();
}

struct Counting(u64);

impl Random for Counting {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
    }
}

const NOW: Moment = Moment::from_millis(1_000_000);
const UNLIMITED: GateSettings = GateSettings {
    unproven_per_second: u32::MAX,
    proven_per_second: u32::MAX,
    per_source_per_second: u32::MAX,
    per_source_burst: u32::MAX,
    sources: 1,
};

fn private(seed: u8) -> PrivateKey {
    PrivateKey::from_bytes([seed; 32])
}

fn responder() -> Handshakes<Counting> {
    Handshakes::new(private(2), UNLIMITED, Owners::new(2, 1), Counting(1))
}

fn initiation(to: &Handshakes<Counting>) -> [u8; INITIATION] {
    let identity = Identity::new(private(1));
    let shared = identity.shared_with(&to.public()).unwrap();
    let now = Tai64N::of(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000));
    let (mut message, _) = identity.initiate(&to.public(), &shared, now, private(3), 7).unwrap();
    CookieJar::default().sign(&mut message, &MacKey::of(&to.public()), NOW);
    message
}

fn from() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 51820))
}

/// From the initiation of a peer that is a row and nothing else to the response and the keys.
#[divan::bench]
fn answer_dormant(bencher: Bencher) {
    let mut responder = responder();
    let message = initiation(&responder);
    let peer = private(1).public();
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        let outcome = responder.handle_datagram(&message, from(), NOW, |_| Some(Introduction::default()));
        let Outcome::Answered { keys, .. } = &outcome else { unreachable!("a first initiation is answered") };
        responder.release(keys.local);
        responder.forget(&peer);
        outcome
    });
}

/// The same where the peer is known from before: what is agreed with it whatever the handshake is at hand.
#[divan::bench]
fn answer_known(bencher: Bencher) {
    let identity = Identity::new(private(2));
    let message = initiation(&responder());
    let shared = identity.shared_with(&private(1).public()).unwrap();
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        let Some(Message::Initiation(message)) = Message::parse(&message) else { unreachable!("it is one") };
        let verified = identity.identify(message).unwrap().verify(&shared).unwrap();
        verified.answer(&PresharedKey::default(), &private(4), 9).unwrap()
    });
}

/// An initiation of somebody nobody registered.
#[divan::bench]
fn identify_unknown(bencher: Bencher) {
    let mut responder = responder();
    let message = initiation(&responder);
    bencher.bench_local(|| responder.handle_datagram(&message, from(), NOW, |_| None));
}

/// A datagram of somebody who does not know our key.
#[divan::bench]
fn reject_without_mac(bencher: Bencher) {
    let mut responder = responder();
    let mut message = initiation(&responder);
    message[130] ^= 1;
    bencher.bench_local(|| responder.handle_datagram(&message, from(), NOW, |_| None));
}

#[divan::bench]
fn initiate(bencher: Bencher) {
    let mut handshakes = responder();
    let (peer, now) = (private(1).public(), Tai64N::of(SystemTime::UNIX_EPOCH));
    bencher.bench_local(|| handshakes.initiate(&peer, NOW, now));
}

/// Both ends of a session.
fn session() -> (Arc<edgeproxy_tunnel::SendingHalf>, edgeproxy_tunnel::ReceivingHalf) {
    let (initiator, mut responder) = (Identity::new(private(1)), responder());
    let shared = initiator.shared_with(&responder.public()).unwrap();
    let now = Tai64N::of(SystemTime::UNIX_EPOCH);
    let (mut message, initiated) = initiator.initiate(&responder.public(), &shared, now, private(3), 7).unwrap();
    CookieJar::default().sign(&mut message, &MacKey::of(&responder.public()), NOW);
    let outcome = responder.handle_datagram(&message, from(), NOW, |_| Some(Introduction::default()));
    let Outcome::Answered { keys, response, .. } = outcome else { unreachable!("it is answered") };
    let Some(Message::Response(response)) = Message::parse(&response) else { unreachable!("it is a response") };
    let ours = initiator.finish(&initiated, response, &PresharedKey::default()).unwrap();
    (Arc::new(halves(ours, NOW).0), halves(keys, NOW).1)
}

#[divan::bench(args = [64, 1420])]
fn seal(bencher: Bencher, packet: usize) {
    let sealer = session().0.sealer(NOW).unwrap();
    let mut datagram = vec![0; datagram_length(packet, 1420)];
    bencher.counter(BytesCount::new(packet)).bench_local(|| sealer.seal(&mut datagram));
}

#[divan::bench(args = [64, 1420])]
fn open(bencher: Bencher, packet: usize) {
    let (send, mut receive) = session();
    let sealer = send.sealer(NOW).unwrap();
    let mut opener = receive.opener(NOW).unwrap();
    let sealed = || {
        let mut datagram = vec![0; datagram_length(packet, 1420)];
        datagram[TRANSPORT_HEADER..].fill(7);
        sealer.seal(&mut datagram).unwrap();
        datagram
    };
    bencher.counter(BytesCount::new(packet)).with_inputs(sealed).bench_local_values(|mut datagram| {
        let header = Transport::parse(&datagram).unwrap();
        opener.open(header, &mut datagram).unwrap().newest
    });
}
