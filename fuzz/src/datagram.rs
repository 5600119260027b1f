//! Datagrams at the door of a WireGuard device: as they are, and good ones that were tampered with on their way.
//!
//! The input is a datagram; and, read as steps, what happens to the handshakes of two devices that know each other.
//!
//! - Nothing is answered with more bytes than it has.
//! - What is dropped takes no index, and nobody is known who did not prove who he is.
//! - A message with a changed byte is never taken for a good one, and the good one still works after it.
//! - Two devices that hand each other whole messages agree on a session, and a message counts once.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use edgeproxy_tunnel::{
    CookieJar, GateSettings, Handshakes, Introduction, MacKey, Message, Moment, Outcome, Owners, PrivateKey, PublicKey,
    Random, Tai64N, Transport,
};

/// The last bytes of an initiation or response prove the sender's address, which is asked for under load only.
const SECOND_MAC: usize = 16;
/// Exchanges of an input, each with some milliseconds of arithmetic.
const MOST_STEPS: usize = 2;

/// Whatever bytes: see the head of this module.
pub fn datagram(data: &[u8]) {
    let (mut ours, mut theirs) = (Side::new(1), Side::new(2));
    raw(&mut ours, &theirs, data);
    // Each step: where to change a byte and by what.
    for (step, change) in data.chunks_exact(3).take(MOST_STEPS).enumerate() {
        let now = Moment::from_millis(1000 * (step as u64 + 1));
        let wall = Tai64N::of(SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000 + step as u64));
        let at = usize::from(u16::from_le_bytes([change[0], change[1]]));
        exchange(&mut ours, &mut theirs, (at, change[2]), now, wall);
        std::mem::swap(&mut ours, &mut theirs);
    }
}

/// One device, and the other's key.
struct Side {
    handshakes: Handshakes<Seeded>,
    address: SocketAddr,
    greatest: Tai64N,
}

impl Side {
    fn new(number: u8) -> Self {
        let owners = Owners::new(4, 1);
        let private = PrivateKey::from_bytes([number; 32]);
        Self {
            handshakes: Handshakes::new(private, GateSettings::default(), owners, Seeded(number.into())),
            address: SocketAddr::from(([192, 0, 2, number], 51820)),
            greatest: Tai64N::default(),
        }
    }

    fn public(&self) -> PublicKey {
        self.handshakes.public()
    }

    /// Takes a datagram of the other; who else speaks is unknown.
    fn take(&mut self, datagram: &[u8], other: &PublicKey, from: SocketAddr, now: Moment) -> Outcome {
        let before = self.handshakes.len();
        let known = Introduction { greatest: self.greatest, ..Introduction::default() };
        let lookup = |peer: &PublicKey| (peer == other).then_some(known);
        let outcome = self.handshakes.handle_datagram(datagram, from, now, lookup);
        match &outcome {
            Outcome::Dropped(_) => {
                assert!(self.handshakes.len().1 == before.1, "what is dropped keeps an index");
                assert!(self.handshakes.len().0 <= 1, "somebody else is known");
            }
            Outcome::Cookie(reply) => assert!(reply.len() <= datagram.len()),
            Outcome::Answered { peer, timestamp, response, .. } => {
                assert!(response.len() <= datagram.len() && peer == other && *timestamp > self.greatest);
                self.greatest = *timestamp;
            }
            Outcome::Established { peer, .. } => assert_eq!(peer, other),
            Outcome::CookieTaken => {}
        }
        outcome
    }
}

fn raw(ours: &mut Side, theirs: &Side, data: &[u8]) {
    let is_transport = matches!(Message::parse(data), Some(Message::Transport(_)));
    assert_eq!(is_transport, Transport::parse(data).is_some());
    let outcome = ours.take(data, &theirs.public(), theirs.address, Moment::default());
    assert!(matches!(outcome, Outcome::Dropped(_)), "{outcome:?} for nothing of ours");
    assert_eq!(ours.handshakes.len(), (0, 0));
}

fn exchange(a: &mut Side, b: &mut Side, change: (usize, u8), now: Moment, wall: Tai64N) {
    let (of_a, of_b) = (a.public(), b.public());
    let initiation = a.handshakes.initiate(&of_b, now, wall).expect("an index is free");
    let forged = tampered(&initiation, &of_b, change);
    let outcome = b.take(&forged, &of_a, a.address, now);
    assert!(matches!(outcome, Outcome::Dropped(_)), "{outcome:?} for a forged initiation, {change:?}");
    let Outcome::Answered { keys: at_b, response, .. } = b.take(&initiation, &of_a, a.address, now) else {
        panic!("a good initiation is not answered");
    };
    let again = b.take(&initiation, &of_a, a.address, now.after(Duration::from_millis(500)));
    assert!(matches!(again, Outcome::Dropped(_)), "{again:?} for a repeated initiation");
    let forged = tampered(&response, &of_a, change);
    let outcome = a.take(&forged, &of_b, b.address, now);
    assert!(matches!(outcome, Outcome::Dropped(_)), "{outcome:?} for a forged response, {change:?}");
    let Outcome::Established { keys: at_a, .. } = a.take(&response, &of_b, b.address, now) else {
        panic!("a good response is refused");
    };
    assert_eq!((at_a.local, at_a.remote), (at_b.remote, at_b.local));
    let again = a.take(&response, &of_b, b.address, now);
    assert!(matches!(again, Outcome::Dropped(_)), "{again:?} for a repeated response");
    a.handshakes.release(at_a.local);
    b.handshakes.release(at_b.local);
}

/// With one byte changed, or cut short. Every other time it is signed again by whoever did that, as anybody can who knows
/// the receiver's public key.
fn tampered<const LENGTH: usize>(message: &[u8; LENGTH], receiver: &PublicKey, (at, by): (usize, u8)) -> Vec<u8> {
    let mut message = *message;
    if by == 0 {
        return message[..at % LENGTH].to_vec();
    }
    let covered = LENGTH - SECOND_MAC;
    let at = at % covered;
    message[at] ^= by;
    // The sender's index is covered by nothing but this signature.
    if by % 2 == 0 && !(4..8).contains(&at) {
        CookieJar::default().sign(&mut message, &MacKey::of(receiver), Moment::default());
    }
    // A changed signature that is made anew is the good one.
    if by % 2 == 0 && at >= covered - SECOND_MAC {
        message[at] ^= by;
    }
    message.to_vec()
}

/// SplitMix64.
struct Seeded(u64);

impl Random for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(mixed ^ mixed >> 31).to_le_bytes()[..chunk.len()]);
        }
    }
}
