//! All handshakes of one identity: those of peers that begin, and those we begin.
//!
//! What comes in is a datagram that is no transport message; what comes out says what to send and which keys to hand to
//! the core that owns the peer. The registry is asked (`lookup`) in each handshake, and is the only one who knows; what is
//! kept here until a peer is [forgotten](Handshakes::forget) is what its next handshake is spared.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::time::Duration;

use crate::cookie::{CookieJar, CookieMint, MacKey, has_mac1};
use crate::gate::{Admission, Gate, GateSettings};
use crate::handshake::{HandshakeError, Identity, Initiated, SessionKeys, Verified};
use crate::key::{KEY, KeyError, PresharedKey, PrivateKey, PublicKey, SharedSecret};
use crate::message::{COOKIE_REPLY, CookieReply, INITIATION, Initiation, Message, RESPONSE, Response};
use crate::moment::Moment;
use crate::random::Random;
use crate::routes::Keyed;
use crate::tai64n::Tai64N;

/// Initiations of one peer that follow each other more closely are not answered.
const CLOSEST: Duration = Duration::from_millis(20);
/// Draws for a free index before it is given up: with a quarter of all taken, one time in 10^19 in vain.
const DRAWS: usize = 32;

/// What the registry tells of a peer.
#[derive(Clone, Default, Debug)]
pub struct Introduction {
    /// The secret it shares with us beforehand, if any.
    pub preshared: PresharedKey,
    /// The timestamp of its last initiation that was answered.
    pub greatest: Tai64N,
}

/// What is to be done with a datagram.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing at all.
    Dropped(Dropped),
    /// Its sender has to prove its address: send it this.
    Cookie([u8; COOKIE_REPLY]),
    /// A peer has begun a session: hand the keys to whoever owns it, then send it this.
    Answered {
        /// Which peer.
        peer: PublicKey,
        /// To be remembered, as no older initiation of this peer counts any more.
        timestamp: Tai64N,
        /// Keys of the session.
        keys: SessionKeys,
        /// The answer.
        response: [u8; RESPONSE],
    },
    /// A peer has answered: hand the keys to whoever owns it.
    Established {
        /// Which peer.
        peer: PublicKey,
        /// Keys of the session.
        keys: SessionKeys,
    },
    /// A peer is under load and gave a cookie; our next attempt will carry it.
    CookieTaken,
}

/// Why a datagram is answered with silence.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Dropped {
    /// It is no handshake message.
    Malformed,
    /// Its sender does not know our public key.
    NoMac,
    /// Made for another key, or changed on its way.
    Forged,
    /// A key in it protects nothing.
    LowOrder,
    /// Nobody knows its sender.
    UnknownPeer,
    /// It is not newer than the last one of its sender.
    Replayed,
    /// It follows the last one of its sender too closely.
    TooSoon,
    /// It answers nothing of ours that waits for an answer.
    NotAsked,
    /// Its address has had its share.
    SourceLimited,
    /// More senders proved their addresses than can be answered.
    Overloaded,
    /// No index is free.
    NoIndex,
}

impl From<HandshakeError> for Dropped {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Forged => Self::Forged,
            HandshakeError::Key(_) => Self::LowOrder,
        }
    }
}

impl From<KeyError> for Dropped {
    fn from(_: KeyError) -> Self {
        Self::LowOrder
    }
}

/// The handshakes of one identity.
pub struct Handshakes<R> {
    identity: Identity,
    mint: CookieMint,
    gate: Gate,
    known: HashMap<PublicKey, Known, Keyed>,
    /// Our indices that are in use, and by whom.
    indices: HashMap<u32, PublicKey, Keyed>,
    owners: Owners,
    random: R,
}

/// Which core owns a peer: the lowest byte of its sessions' indices says so, and thereby every datagram that carries one.
#[derive(Clone, Copy, Debug)]
pub struct Owners {
    cores: u32,
    hash: Keyed,
}

impl Owners {
    /// As many cores as the byte can tell apart.
    pub const MOST: u32 = 256;

    /// Spreads peers over so many cores. `secret` has to be random.
    pub fn new(cores: u32, secret: u64) -> Self {
        Self { cores: cores.clamp(1, Self::MOST), hash: Keyed(secret) }
    }

    /// The core that owns a peer.
    #[allow(clippy::cast_possible_truncation, reason = "the remainder is less than a u32")]
    pub fn of_peer(&self, peer: &PublicKey) -> u32 {
        (self.hash.hash_one(peer) % u64::from(self.cores)) as u32
    }

    /// The core that owns the session of an index.
    pub fn of_index(&self, index: u32) -> u32 {
        index % Self::MOST % self.cores
    }

    /// An index of that owner.
    fn index(&self, owner: u32, random: u32) -> u32 {
        let (rest, byte) = (random & !(Self::MOST - 1), random % Self::MOST);
        // So many bytes say this owner.
        let choices = (Self::MOST - owner).div_ceil(self.cores);
        rest | (owner + self.cores * (byte % choices))
    }
}

/// What is kept of a peer between its handshakes.
struct Known {
    shared: SharedSecret,
    answered: Option<Moment>,
    jar: CookieJar,
    /// Boxed, as there is none most of the time.
    initiated: Option<Box<Initiated>>,
}

impl Known {
    fn new(shared: SharedSecret) -> Self {
        Self { shared, answered: None, jar: CookieJar::default(), initiated: None }
    }
}

impl<R: Random> Handshakes<R> {
    /// The handshakes of the owner of this key.
    pub fn new(private: PrivateKey, gate: GateSettings, owners: Owners, mut random: R) -> Self {
        let identity = Identity::new(private);
        let mut secret = || u64::from_le_bytes(random.bytes());
        Self {
            mint: CookieMint::new(&identity.public()),
            gate: Gate::new(gate, secret()),
            known: HashMap::with_hasher(Keyed(secret())),
            indices: HashMap::with_hasher(Keyed(secret())),
            identity,
            owners,
            random,
        }
    }

    /// What others know us by.
    pub fn public(&self) -> PublicKey {
        self.identity.public()
    }

    /// From now on we are somebody else: handshakes that are half done are over, and what was agreed on with peers is
    /// agreed on anew. Indices of sessions stay taken until they are [released](Self::release).
    pub fn set_identity(&mut self, private: PrivateKey) {
        self.identity = Identity::new(private);
        self.mint = CookieMint::new(&self.identity.public());
        let half_done = self.known.drain().filter_map(|(_, known)| known.initiated);
        for initiated in half_done {
            self.indices.remove(&initiated.local());
        }
    }

    /// Takes a datagram that is no transport message.
    pub fn handle_datagram(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        now: Moment,
        lookup: impl FnOnce(&PublicKey) -> Option<Introduction>,
    ) -> Outcome {
        let outcome = match Message::parse(datagram) {
            Some(Message::Initiation(initiation)) => self.handle_initiation(initiation, from, now, lookup),
            Some(Message::Response(response)) => self.handle_response(response, from, now, lookup),
            Some(Message::CookieReply(reply)) => self.handle_cookie(reply, now),
            Some(Message::Transport(_)) | None => Err(Dropped::Malformed),
        };
        outcome.unwrap_or_else(Outcome::Dropped)
    }

    fn handle_initiation(
        &mut self,
        initiation: Initiation<'_>,
        from: SocketAddr,
        now: Moment,
        lookup: impl FnOnce(&PublicKey) -> Option<Introduction>,
    ) -> Result<Outcome, Dropped> {
        let Initiation(message) = initiation;
        if !has_mac1(message, self.identity.mac_key()) {
            return Err(Dropped::NoMac);
        }
        if let Some(cookie) = self.admit(message, initiation.sender(), from, now)? {
            return Ok(cookie);
        }
        let identified = self.identity.identify(initiation)?;
        let peer = identified.peer;
        let introduction = lookup(&peer).ok_or(Dropped::UnknownPeer)?;
        // Whoever writes somebody else's name on an initiation, or repeats an old one, must not have us keep anything for it.
        let (verified, first_met) = match self.known.get(&peer) {
            Some(known) => (identified.verify(&known.shared)?, None),
            None => {
                let shared = self.identity.shared_with(&peer)?;
                (identified.verify(&shared)?, Some(Known::new(shared)))
            }
        };
        if verified.timestamp <= introduction.greatest {
            return Err(Dropped::Replayed);
        }
        let local = self.take_index(&peer)?;
        if let Some(known) = first_met {
            self.known.insert(peer, known);
        }
        match self.answer(verified, &introduction.preshared, local, now) {
            Ok(answered) => Ok(answered),
            Err(dropped) => {
                self.release(local);
                Err(dropped)
            }
        }
    }

    /// Whether a message is looked into now. If its sender has to prove its address first, what it is told instead.
    fn admit<const LENGTH: usize>(
        &mut self,
        message: &[u8; LENGTH],
        sender: u32,
        from: SocketAddr,
        now: Moment,
    ) -> Result<Option<Outcome>, Dropped> {
        match self.gate.admit(from, now, || self.mint.has_mac2(message, from, now)) {
            Admission::Answer => Ok(None),
            Admission::CookieFirst => {
                let reply = self.mint.reply(message, sender, from, now, &mut self.random);
                Ok(Some(Outcome::Cookie(reply)))
            }
            Admission::SourceLimited => Err(Dropped::SourceLimited),
            Admission::Overloaded => Err(Dropped::Overloaded),
        }
    }

    fn answer(
        &mut self,
        verified: Verified,
        preshared: &PresharedKey,
        local: u32,
        now: Moment,
    ) -> Result<Outcome, Dropped> {
        let (peer, timestamp) = (verified.peer, verified.timestamp);
        let known = self.known.get_mut(&peer).ok_or(Dropped::UnknownPeer)?;
        if known.answered.is_some_and(|last| now.since(last) < CLOSEST) {
            return Err(Dropped::TooSoon);
        }
        let ephemeral = PrivateKey::from_bytes(self.random.bytes::<KEY>());
        let (mut response, keys) = verified.answer(preshared, &ephemeral, local)?;
        known.jar.sign(&mut response, &MacKey::of(&peer), now);
        known.answered = Some(now);
        // Both have begun at once: the one with the lesser key goes on, so that one session comes of it.
        if self.identity.public() > peer
            && let Some(initiated) = known.initiated.take()
        {
            self.indices.remove(&initiated.local());
        }
        Ok(Outcome::Answered { peer, timestamp, keys, response })
    }

    fn handle_response(
        &mut self,
        response: Response<'_>,
        from: SocketAddr,
        now: Moment,
        lookup: impl FnOnce(&PublicKey) -> Option<Introduction>,
    ) -> Result<Outcome, Dropped> {
        let Response(message) = response;
        if !has_mac1(message, self.identity.mac_key()) {
            return Err(Dropped::NoMac);
        }
        let peer = *self.indices.get(&response.receiver()).ok_or(Dropped::NotAsked)?;
        let asked = |initiated: &&Initiated| initiated.local() == response.receiver();
        let initiated = |known: &Known| known.initiated.as_deref().filter(asked).is_some();
        if !self.known.get(&peer).is_some_and(initiated) {
            return Err(Dropped::NotAsked);
        }
        if let Some(cookie) = self.admit(message, response.sender(), from, now)? {
            return Ok(cookie);
        }
        let known = self.known.get_mut(&peer).ok_or(Dropped::NotAsked)?;
        let initiated = known.initiated.as_deref().ok_or(Dropped::NotAsked)?;
        let introduction = lookup(&peer).ok_or(Dropped::UnknownPeer)?;
        let keys = self.identity.finish(initiated, response, &introduction.preshared)?;
        known.initiated = None;
        Ok(Outcome::Established { peer, keys })
    }

    fn handle_cookie(&mut self, reply: CookieReply<'_>, now: Moment) -> Result<Outcome, Dropped> {
        let peer = *self.indices.get(&reply.receiver()).ok_or(Dropped::NotAsked)?;
        let known = self.known.get_mut(&peer).ok_or(Dropped::NotAsked)?;
        if known.jar.take(reply, &peer, now) { Ok(Outcome::CookieTaken) } else { Err(Dropped::Forged) }
    }

    /// Begins a handshake with a peer, in place of one that was not answered.
    ///
    /// # Errors
    /// Its key protects nothing, or no index is free.
    pub fn initiate(&mut self, peer: &PublicKey, now: Moment, wall: Tai64N) -> Result<[u8; INITIATION], Dropped> {
        let local = self.take_index(peer)?;
        let known = match self.known.entry(*peer) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => match self.identity.shared_with(peer) {
                Ok(shared) => vacant.insert(Known::new(shared)),
                Err(error) => {
                    self.release(local);
                    return Err(error.into());
                }
            },
        };
        let ephemeral = PrivateKey::from_bytes(self.random.bytes::<KEY>());
        match self.identity.initiate(peer, &known.shared, wall, ephemeral, local) {
            Ok((mut message, initiated)) => {
                known.jar.sign(&mut message, &MacKey::of(peer), now);
                if let Some(before) = known.initiated.replace(Box::new(initiated)) {
                    self.indices.remove(&before.local());
                }
                Ok(message)
            }
            Err(error) => {
                self.release(local);
                Err(error.into())
            }
        }
    }

    /// A session was forgotten: its index may be used again.
    pub fn release(&mut self, local: u32) {
        self.indices.remove(&local);
    }

    /// Nobody answered our initiations to this peer: a late answer is not taken, and nothing is kept for it.
    pub fn give_up(&mut self, peer: &PublicKey) {
        if let Some(initiated) = self.known.get_mut(peer).and_then(|known| known.initiated.take()) {
            self.release(initiated.local());
        }
    }

    /// Keeps nothing of a peer: it sleeps, or was removed. A handshake half done is over.
    pub fn forget(&mut self, peer: &PublicKey) {
        if let Some(initiated) = self.known.remove(peer).and_then(|known| known.initiated) {
            self.release(initiated.local());
        }
    }

    /// Peers known here, and indices in use.
    pub fn len(&self) -> (usize, usize) {
        (self.known.len(), self.indices.len())
    }

    /// A random index that nobody uses.
    fn take_index(&mut self, peer: &PublicKey) -> Result<u32, Dropped> {
        let owner = self.owners.of_peer(peer);
        for _ in 0..DRAWS {
            let index = self.owners.index(owner, u32::from_le_bytes(self.random.bytes()));
            if let Entry::Vacant(vacant) = self.indices.entry(index) {
                vacant.insert(*peer);
                return Ok(index);
            }
        }
        Err(Dropped::NoIndex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::TIMESTAMP;
    use crate::noise::{Chain, MAC};
    use crate::random::Seeded;

    fn private(seed: u8) -> PrivateKey {
        PrivateKey::from_bytes([seed; KEY])
    }

    /// An initiation of somebody who writes another's name on it. What only the other could say is in its place.
    fn in_the_name_of(name: &PublicKey, us: &PublicKey, liar: &PrivateKey) -> [u8; INITIATION] {
        let ephemeral = private(77);
        let mut chain = Chain::begin(us);
        chain.mix_ephemeral(&ephemeral.public());
        let key = chain.mix_shared_for_key(&ephemeral.agree(us).unwrap());
        let mut static_key = [0; KEY + MAC];
        chain.seal(&key, &name.0, &mut static_key);
        // The liar's own, as it has no other.
        let key = chain.mix_shared_for_key(&liar.agree(us).unwrap());
        let mut timestamp = [0; TIMESTAMP + MAC];
        chain.seal(&key, &[0xff; TIMESTAMP], &mut timestamp);
        let mut message = Initiation::write(5, &ephemeral.public(), &static_key, &timestamp);
        CookieJar::default().sign(&mut message, &MacKey::of(us), Moment::default());
        message
    }

    #[test]
    fn a_peer_cannot_wake_another_by_writing_its_name() {
        let mut us = Handshakes::new(private(1), GateSettings::default(), Owners::new(1, 1), Seeded::new(1));
        let (sleeping, liar, mut asked) = (private(2).public(), private(3), Vec::new());
        let message = in_the_name_of(&sleeping, &us.public(), &liar);
        let from = "192.0.2.1:1".parse().unwrap();
        let outcome = us.handle_datagram(&message, from, Moment::from_millis(9), |peer| {
            asked.push(*peer);
            Some(Introduction::default())
        });
        assert!(matches!(outcome, Outcome::Dropped(Dropped::Forged)), "{outcome:?}");
        assert_eq!((asked, us.len()), (vec![sleeping], (0, 0)), "the name is read, and nothing kept for it");
        // With its own name on it, the same is authentic.
        let message = in_the_name_of(&liar.public(), &us.public(), &liar);
        let outcome = us.handle_datagram(&message, from, Moment::from_millis(9), |_| Some(Introduction::default()));
        assert!(matches!(outcome, Outcome::Answered { .. }), "{outcome:?}");
    }

    #[test]
    fn an_index_tells_its_owner() {
        for cores in [1, 2, 3, 7, 100, 255, 256] {
            let owners = Owners::new(cores, 1);
            for owner in 0..cores {
                for random in [0, 1, 255, 256, 12_345_678, u32::MAX] {
                    let index = owners.index(owner, random);
                    assert_eq!((owners.of_index(index), index >> 8), (owner, random >> 8), "{cores} {owner} {random}");
                }
            }
        }
    }
}
