//! A session: the sending half, usable from any core, and the receiving half, which one core owns.
//!
//! A datagram is built and taken apart where it lies:
//!
//! ```text
//! | header 16 | packet, padded to a multiple of 16 | tag 16 |
//! ```

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use aws_lc_rs::aead::{Aad, LessSafeKey};

use crate::handshake::{Role, SessionKeys};
use crate::key::Secret;
use crate::message::{PADDING, TRANSPORT_HEADER, TRANSPORT_TAG, Transport};
use crate::moment::Moment;
use crate::noise::{aead, nonce};
use crate::window::ReplayWindow;

/// A new session is wanted once so many messages were sent…
const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// …and none is sent or taken with a counter from here on.
pub(crate) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13) - 1;
/// Its initiator wants a new session once it is so old…
pub const REKEY_AFTER: Duration = Duration::from_secs(120);
/// …and nobody uses it once it is so old.
pub const REJECT_AFTER: Duration = Duration::from_secs(180);

/// Nothing can be sent in this session any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the session is used up")]
pub struct Exhausted;

/// Why a transport message is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Rejected {
    /// It came already, or so late that nobody can tell.
    #[error("replayed")]
    Replayed,
    /// Made with another key, or changed on its way.
    #[error("forged")]
    Forged,
    /// The session is too old, or its counter too high.
    #[error("the session is over")]
    Expired,
}

/// The half that sends. Its counter gives each message a number of its own, whichever core takes it.
pub struct SendingHalf {
    key: Secret,
    counter: AtomicU64,
    /// The index the other end knows the session by.
    pub remote: u32,
    /// Which end we are.
    pub role: Role,
    /// When the handshake was complete.
    pub since: Moment,
}

/// The half that receives.
pub struct ReceivingHalf {
    key: Secret,
    window: ReplayWindow,
    /// The index we know the session by.
    pub local: u32,
    /// When the handshake was complete.
    pub since: Moment,
}

/// Both halves of a session that has just been agreed on.
pub fn halves(keys: SessionKeys, now: Moment) -> (SendingHalf, ReceivingHalf) {
    let SessionKeys { role, local, remote, send, receive } = keys;
    (
        SendingHalf { key: send, counter: AtomicU64::new(0), remote, role, since: now },
        ReceivingHalf { key: receive, window: ReplayWindow::default(), local, since: now },
    )
}

impl SendingHalf {
    /// Readies the key for a run of messages.
    ///
    /// # Errors
    /// The session is over.
    pub fn sealer(self: Arc<Self>, now: Moment) -> Result<Sealer, Exhausted> {
        if !self.is_usable(now) {
            return Err(Exhausted);
        }
        Ok(Sealer { key: aead(&self.key), half: self })
    }

    /// Whether anything may still be sent.
    pub fn is_usable(&self, now: Moment) -> bool {
        now.since(self.since) < REJECT_AFTER && self.counter.load(Relaxed) < REJECT_AFTER_MESSAGES
    }

    /// Whether a new session should take its place. (The responder leaves the time to the initiator, lest both begin.)
    pub fn is_worn(&self, now: Moment) -> bool {
        self.counter.load(Relaxed) >= REKEY_AFTER_MESSAGES
            || self.role == Role::Initiator && now.since(self.since) >= REKEY_AFTER
    }

    /// A number that no other message of this session has.
    fn take_counter(&self) -> Result<u64, Exhausted> {
        let counter = self.counter.fetch_add(1, Relaxed);
        if counter < REJECT_AFTER_MESSAGES {
            return Ok(counter);
        }
        // It must never come round, however often it is asked.
        self.counter.store(REJECT_AFTER_MESSAGES, Relaxed);
        Err(Exhausted)
    }
}

/// A sending half with its key readied.
pub struct Sealer {
    half: Arc<SendingHalf>,
    key: LessSafeKey,
}

/// Bytes of the datagram that carries a packet of this length over a tunnel with this MTU: padded, but not beyond it.
pub const fn datagram_length(packet: usize, mtu: usize) -> usize {
    let padded = packet.next_multiple_of(PADDING);
    let padded = if padded > mtu && packet <= mtu { mtu } else { padded };
    TRANSPORT_HEADER + padded + TRANSPORT_TAG
}

impl Sealer {
    /// The session it sends in.
    pub fn session(&self) -> &SendingHalf {
        &self.half
    }

    /// Seals a datagram whose packet stands behind the header, padded with zeros, and before the room for the tag.
    ///
    /// # Errors
    /// The session is used up.
    ///
    /// # Panics
    /// The datagram has no room for header and tag.
    pub fn seal(&self, datagram: &mut [u8]) -> Result<(), Exhausted> {
        let counter = self.half.take_counter()?;
        let (header, rest) = datagram.split_first_chunk_mut().expect("a datagram has room for its header");
        Transport { receiver: self.half.remote, counter }.write(header);
        let (packet, tag) = rest.split_last_chunk_mut::<TRANSPORT_TAG>().expect("a datagram has room for its tag");
        let made = self.key.seal_in_place_separate_tag(nonce(counter), Aad::empty(), packet);
        tag.copy_from_slice(made.map_err(|_| Exhausted)?.as_ref());
        Ok(())
    }
}

/// What a transport message held.
#[derive(Debug)]
pub struct Opened<'a> {
    /// The packet, still with its padding; empty for a keepalive.
    pub packet: &'a mut [u8],
    /// No later message has come before it.
    pub newest: bool,
}

impl ReceivingHalf {
    /// Readies the key for a run of messages.
    ///
    /// # Errors
    /// The session is over.
    pub fn opener(&mut self, now: Moment) -> Result<Opener<'_>, Rejected> {
        if now.since(self.since) >= REJECT_AFTER {
            return Err(Rejected::Expired);
        }
        Ok(Opener { key: aead(&self.key), window: &mut self.window })
    }
}

/// A receiving half with its key readied.
pub struct Opener<'a> {
    key: LessSafeKey,
    window: &'a mut ReplayWindow,
}

impl Opener<'_> {
    /// Opens a datagram in its place. `header` is what [`Transport::parse`] made of it.
    ///
    /// # Errors
    /// It is not what the other end sent, or not the first time.
    pub fn open<'d>(&mut self, header: Transport, datagram: &'d mut [u8]) -> Result<Opened<'d>, Rejected> {
        let counter = header.counter;
        if counter >= REJECT_AFTER_MESSAGES {
            return Err(Rejected::Expired);
        }
        self.window.check(counter).map_err(|_| Rejected::Replayed)?;
        let sealed = datagram.get_mut(TRANSPORT_HEADER..).ok_or(Rejected::Forged)?;
        let packet = self.key.open_in_place(nonce(counter), Aad::empty(), sealed).map_err(|_| Rejected::Forged)?;
        Ok(Opened { packet, newest: self.window.mark(counter) })
    }
}

impl fmt::Debug for SendingHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendingHalf").field("remote", &self.remote).field("role", &self.role).finish_non_exhaustive()
    }
}

impl fmt::Debug for ReceivingHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivingHalf").field("local", &self.local).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::key::KEY;

    const NOW: Moment = Moment::from_millis(5_000);

    /// Both ends of a session.
    fn pair() -> ((Arc<SendingHalf>, ReceivingHalf), (Arc<SendingHalf>, ReceivingHalf)) {
        let keys = |role, local, remote, send, receive| {
            let (send, receive) = (Secret::new([send; KEY]), Secret::new([receive; KEY]));
            let (send, receive) = halves(SessionKeys { role, local, remote, send, receive }, NOW);
            (Arc::new(send), receive)
        };
        (keys(Role::Initiator, 1, 2, 10, 20), keys(Role::Responder, 2, 1, 20, 10))
    }

    fn sealed(half: &Arc<SendingHalf>, packet: &[u8]) -> Vec<u8> {
        let mut datagram = vec![0; datagram_length(packet.len(), 1420)];
        datagram[TRANSPORT_HEADER..][..packet.len()].copy_from_slice(packet);
        Arc::clone(half).sealer(NOW).unwrap().seal(&mut datagram).unwrap();
        datagram
    }

    fn open(half: &mut ReceivingHalf, datagram: &mut [u8]) -> Result<Vec<u8>, Rejected> {
        let header = Transport::parse(datagram).ok_or(Rejected::Forged)?;
        Ok(half.opener(NOW)?.open(header, datagram)?.packet.to_vec())
    }

    #[test]
    fn what_one_end_seals_the_other_opens_once() {
        let ((send, _), (_, mut receive)) = pair();
        let datagram = sealed(&send, b"a packet");
        assert_eq!(datagram.len(), 48);
        assert_eq!(&datagram[..16], [4, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut changed = datagram.clone();
        changed[20] ^= 1;
        assert_eq!(open(&mut receive, &mut changed), Err(Rejected::Forged));
        assert_eq!(open(&mut receive, &mut datagram.clone()).unwrap(), b"a packet\0\0\0\0\0\0\0\0");
        assert_eq!(open(&mut receive, &mut datagram.clone()), Err(Rejected::Replayed));
        assert_eq!(open(&mut receive, &mut sealed(&send, b"")).unwrap(), b"");
    }

    #[test]
    fn padding_does_not_exceed_the_mtu() {
        assert_eq!(datagram_length(0, 1420), 32);
        assert_eq!(datagram_length(1, 1420), 48);
        assert_eq!(datagram_length(1408, 1420), 1440);
        assert_eq!(datagram_length(1409, 1420), 1452, "padded to the MTU, which is no multiple of 16");
        assert_eq!(datagram_length(1420, 1420), 1452);
        assert_eq!(datagram_length(1421, 1420), 32 + 1424, "longer than the MTU: as if there were none");
    }

    #[test]
    fn the_last_counters_are_never_used() {
        let ((send, _), (other, mut receive)) = pair();
        send.counter.store(REJECT_AFTER_MESSAGES - 1, Relaxed);
        let mut datagram = sealed(&send, b"the last");
        assert!(send.is_worn(NOW) && !send.is_usable(NOW));
        assert_eq!(Arc::clone(&send).sealer(NOW).err(), Some(Exhausted));
        assert!(open(&mut receive, &mut datagram).is_ok());
        // Taken by many at once, the limit holds as well.
        for _ in 0..10 {
            assert_eq!(send.take_counter(), Err(Exhausted));
        }
        assert_eq!(send.counter.load(Relaxed), REJECT_AFTER_MESSAGES);
        // A peer that goes beyond it is not listened to.
        let beyond = Transport { receiver: 2, counter: REJECT_AFTER_MESSAGES };
        let mut datagram = sealed(&other, b"");
        assert_eq!(receive.opener(NOW).unwrap().open(beyond, &mut datagram).err(), Some(Rejected::Expired));
    }

    #[test]
    fn no_number_is_used_twice_by_two_cores() {
        let ((send, _), _) = pair();
        let taken: Vec<Vec<u64>> = std::thread::scope(|scope| {
            let take = || (0..20_000).map(|_| send.take_counter().unwrap()).collect();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let different: HashSet<u64> = taken.iter().flatten().copied().collect();
        assert_eq!(different.len(), 80_000);
    }

    #[test]
    fn nothing_is_sent_or_taken_in_an_old_session() {
        let ((send, _), (answering, mut receive)) = pair();
        let aged = |age: Duration| NOW.after(age);
        assert!(!send.is_worn(aged(Duration::from_secs(119))) && send.is_worn(aged(REKEY_AFTER)));
        assert!(!answering.is_worn(aged(REKEY_AFTER)), "the initiator renews it");
        assert!(Arc::clone(&send).sealer(aged(Duration::from_secs(179))).is_ok());
        assert!(Arc::clone(&send).sealer(aged(REJECT_AFTER)).is_err());
        assert!(receive.opener(aged(Duration::from_secs(179))).is_ok());
        assert_eq!(receive.opener(aged(REJECT_AFTER)).err(), Some(Rejected::Expired));
    }
}
