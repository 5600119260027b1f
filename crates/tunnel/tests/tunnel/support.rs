//! One end of tunnels, joined from the parts of the crate, with a clock and a network that the test holds in its hand.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edgeproxy_tunnel::{
    Action, Dropped, GateSettings, Handshakes, Introduction, Message, Moment, Outcome, Outlet, Owners, Peer,
    PresharedKey, PrivateKey, PublicKey, Random, Received, Rejected, TRANSPORT_HEADER, Tai64N, datagram_length,
};

pub(crate) const MTU: usize = 1420;

/// The same bytes for the same seed (SplitMix64).
#[derive(Clone)]
pub(crate) struct Seeded(pub(crate) u64);

impl Seeded {
    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// True so many times in a hundred.
    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

impl Random for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.number().to_le_bytes()[..chunk.len()]);
        }
    }
}

pub(crate) fn private(seed: u8) -> PrivateKey {
    PrivateKey::from_bytes([seed; 32])
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(crate) struct Node {
    pub(crate) handshakes: Handshakes<Seeded>,
    pub(crate) registered: BTreeMap<PublicKey, Introduction>,
    pub(crate) peers: BTreeMap<PublicKey, Peer>,
    owners: HashMap<u32, PublicKey>,
    pub(crate) address: SocketAddr,
    pub(crate) now: Moment,
    /// How far its clock is ahead of the test's.
    pub(crate) ahead: Duration,
    random: Seeded,
    /// Datagrams that left, and where to.
    pub(crate) sent: Vec<(SocketAddr, Vec<u8>)>,
    /// Packets that came, without their padding where the test knows how long they are.
    pub(crate) received: Vec<(PublicKey, Vec<u8>)>,
    pub(crate) dropped: Vec<Dropped>,
    pub(crate) rejected: Vec<Rejected>,
}

impl Node {
    pub(crate) fn new(seed: u8, at: &str) -> Self {
        Self::gated(seed, at, GateSettings::default())
    }

    pub(crate) fn gated(seed: u8, at: &str, gate: GateSettings) -> Self {
        let random = Seeded(seed.into());
        Self {
            handshakes: Handshakes::new(private(seed), gate, Owners::new(3, 1), random.clone()),
            registered: BTreeMap::new(),
            peers: BTreeMap::new(),
            owners: HashMap::new(),
            address: address(at),
            now: Moment::from_millis(1_000),
            ahead: Duration::ZERO,
            random: Seeded(!u64::from(seed)),
            sent: Vec::new(),
            received: Vec::new(),
            dropped: Vec::new(),
            rejected: Vec::new(),
        }
    }

    pub(crate) fn public(&self) -> PublicKey {
        self.handshakes.public()
    }

    pub(crate) fn register(&mut self, peer: PublicKey, preshared: PresharedKey) {
        self.registered.entry(peer).or_default().preshared = preshared;
    }

    /// Registers a peer that is at this address, and wakes it.
    pub(crate) fn meet(&mut self, peer: PublicKey, at: SocketAddr, keepalive: Option<Duration>) {
        self.register(peer, PresharedKey::default());
        let outlet = Arc::new(Outlet::default());
        outlet.set_endpoint(Some(at));
        self.peers.insert(peer, Peer::new(outlet, keepalive, self.now));
    }

    /// What its clock on the wall says.
    fn wall(&self) -> Tai64N {
        let since = Duration::from_millis(1_700_000_000_000 + self.now.as_millis()) + self.ahead;
        Tai64N::of(SystemTime::UNIX_EPOCH + since)
    }

    /// Begins with a new process: only what was registered, and the greatest timestamps, are left.
    pub(crate) fn restart(&mut self, seed: u8) {
        self.random = Seeded(self.random.number());
        self.handshakes =
            Handshakes::new(private(seed), GateSettings::default(), Owners::new(3, 1), self.random.clone());
        self.owners.clear();
        for peer in self.peers.values_mut() {
            let outlet = Arc::new(Outlet::default());
            outlet.set_endpoint(peer.outlet().endpoint());
            *peer = Peer::new(outlet, None, self.now);
        }
    }

    pub(crate) fn send(&mut self, to: PublicKey, packet: &[u8]) {
        let (now, random) = (self.now, self.random.number() as u32);
        let Some(peer) = self.peers.get_mut(&to) else { return };
        if peer.outlet().ready(now).is_some() {
            self.transmit(to, packet);
            let peer = self.peers.get_mut(&to).unwrap();
            peer.handle_worn(now, random);
        } else {
            peer.handle_packet(packet.to_vec(), now, random);
        }
        self.act(to);
    }

    fn transmit(&mut self, to: PublicKey, packet: &[u8]) {
        let outlet = Arc::clone(self.peers[&to].outlet());
        let Some((session, path)) = outlet.ready(self.now) else { return };
        let mut datagram = vec![0; datagram_length(packet.len(), MTU)];
        datagram[TRANSPORT_HEADER..][..packet.len()].copy_from_slice(packet);
        session.sealer(self.now).unwrap().seal(&mut datagram).unwrap();
        match packet {
            [] => outlet.note(datagram.len() as u64, self.now),
            _ => outlet.note_packets(datagram.len() as u64, self.now),
        }
        self.sent.push((path.remote, datagram));
    }

    pub(crate) fn receive(&mut self, from: SocketAddr, datagram: &[u8]) {
        let mut datagram = datagram.to_vec();
        if let Some(Message::Transport(header)) = Message::parse(&datagram) {
            return self.receive_transport(from, header, &mut datagram);
        }
        let registered = &self.registered;
        let outcome = self.handshakes.handle_datagram(&datagram, from, self.now, |peer| registered.get(peer).cloned());
        match outcome {
            Outcome::Dropped(why) => self.dropped.push(why),
            Outcome::CookieTaken => {}
            Outcome::Cookie(reply) => self.sent.push((from, reply.to_vec())),
            Outcome::Answered { peer, timestamp, keys, response } => {
                self.registered.get_mut(&peer).unwrap().greatest = timestamp;
                let now = self.now;
                self.owners.insert(keys.local, peer);
                let awake = self.peers.entry(peer).or_insert_with(|| Peer::new(Arc::default(), None, now));
                awake.handle_established(keys, from, now);
                awake.outlet().note(response.len() as u64, now);
                self.sent.push((from, response.to_vec()));
                self.act(peer);
            }
            Outcome::Established { peer, keys } => {
                self.owners.insert(keys.local, peer);
                self.peers.get_mut(&peer).unwrap().handle_established(keys, from, self.now);
                self.act(peer);
            }
        }
    }

    fn receive_transport(&mut self, from: SocketAddr, header: edgeproxy_tunnel::Transport, datagram: &mut [u8]) {
        let Some(&key) = self.owners.get(&header.receiver) else { return };
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let bytes = datagram.len() as u64;
        let opened = match peer.opener(header.receiver, self.now) {
            None => return,
            Some(Err(why)) => Err(why),
            Some(Ok((slot, mut opener))) => opener.open(header, datagram).map(|opened| (slot, opened)),
        };
        match opened {
            Err(why) => self.rejected.push(why),
            Ok((slot, opened)) => {
                let received = Received { packets: !opened.packet.is_empty(), newest: opened.newest, bytes };
                if received.packets {
                    self.received.push((key, opened.packet.to_vec()));
                }
                let random = self.random.number() as u32;
                peer.handle_received(slot, received, from, self.now, random);
                self.act(key);
            }
        }
    }

    /// Lets the time come to `now`.
    pub(crate) fn advance(&mut self, now: Moment) {
        self.now = now;
        let due: Vec<PublicKey> = self.peers.keys().copied().collect();
        for key in due {
            let random = self.random.number() as u32;
            let peer = self.peers.get_mut(&key).unwrap();
            if peer.poll_timeout().is_some_and(|(at, _)| at <= now) {
                peer.handle_timeout(now, random);
                assert!(
                    peer.poll_timeout().is_none_or(|(at, why)| at > now || { panic!("{why} is due again at once") })
                );
            }
            self.act(key);
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Moment> {
        self.peers.values().filter_map(Peer::poll_timeout).map(|(at, _)| at).min()
    }

    fn act(&mut self, key: PublicKey) {
        while let Some(action) = self.peers.get_mut(&key).and_then(Peer::poll_action) {
            match action {
                Action::Initiate => {
                    let (wall, now) = (self.wall(), self.now);
                    if let Ok(message) = self.handshakes.initiate(&key, now, wall) {
                        let outlet = self.peers[&key].outlet();
                        outlet.note(message.len() as u64, now);
                        self.sent.push((outlet.endpoint().unwrap(), message.to_vec()));
                    }
                }
                Action::GiveUp => self.handshakes.give_up(&key),
                Action::Keepalive => self.transmit(key, &[]),
                Action::Send(packet) => self.transmit(key, &packet),
                Action::Forget(index) => {
                    self.owners.remove(&index);
                    self.handshakes.release(index);
                }
            }
        }
    }

    pub(crate) fn take_sent(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        std::mem::take(&mut self.sent)
    }

    pub(crate) fn take_received(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.received).into_iter().map(|(_, packet)| packet).collect()
    }
}

/// Carries everything that was sent between these nodes, until nothing is left. Nothing is lost, and no time passes.
pub(crate) fn deliver(nodes: &mut [&mut Node]) {
    loop {
        let mut carried = false;
        for from in 0..nodes.len() {
            let source = nodes[from].address;
            for (to, datagram) in nodes[from].take_sent() {
                carried = true;
                if let Some(node) = nodes.iter_mut().find(|node| node.address == to) {
                    node.receive(source, &datagram);
                }
            }
        }
        if !carried {
            return;
        }
    }
}

/// Two nodes that know each other, with a session from the first to the second.
pub(crate) fn connected() -> (Node, Node) {
    let (mut a, mut b) = (Node::new(1, "192.0.2.1:51820"), Node::new(2, "192.0.2.2:51820"));
    a.meet(b.public(), b.address, None);
    b.register(a.public(), PresharedKey::default());
    a.send(b.public(), b"first");
    deliver(&mut [&mut a, &mut b]);
    assert_eq!(b.take_received(), [padded(b"first")]);
    (a, b)
}

pub(crate) fn padded(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet.resize(packet.len().next_multiple_of(16), 0);
    packet
}

/// Lets the time of both pass, in steps, while everything they send arrives at once.
pub(crate) fn pass(nodes: &mut [&mut Node], time: Duration) {
    let end = nodes[0].now.after(time);
    loop {
        let next = nodes.iter().filter_map(|node| node.next_timeout()).min().filter(|next| *next < end);
        for node in nodes.iter_mut() {
            node.advance(next.unwrap_or(end));
        }
        deliver(nodes);
        if next.is_none() {
            return;
        }
    }
}
