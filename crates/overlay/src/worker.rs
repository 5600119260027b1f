//! A worker: its share of the peers, of the datagrams below and of the packets above, from end to end.
//!
//! ```text
//! UDP -> open in place -> whose source? -> ours: merge, write to the interface
//!                                       -> another peer's: seal, send
//! interface -> split -> whose destination? -> seal in place -> UDP
//! ```

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::task::Poll;

use edgeproxy_tunnel::{
    Action, Dropped, Message, Moment, Path, Peer, PublicKey, Received, SessionKeys, Transport, Wheel,
};
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use slab::Slab;

use crate::counters::Loss;
use crate::destination::{self, Destination};
use crate::device::{LONGEST_SLEEP, Shared};
use crate::manners::Manners;
use crate::outbox::{Flushed, Outbox, Sent};
use crate::packet::{MergeSettings, Merger, Offload, SLICES_MOST, Split, VnetHeader};
use crate::random::OsRandom;
use crate::reception;
use crate::registry::Remote;
use crate::tun::{LARGEST, Queue};
use crate::udp::{Inbox, Run, Udp};

/// Batches taken from one side before the other has its turn.
const ROUNDS: usize = 4;

/// What others want of a worker.
pub(crate) enum Letter {
    /// A handshake with one of its peers is complete.
    Established { remote: Arc<Remote>, keys: SessionKeys, from: Path },
    /// A packet for one of its peers, which has no session.
    Packet { remote: Arc<Remote>, packet: Vec<u8> },
    /// The session of one of its peers should be renewed.
    Worn(Arc<Remote>),
    /// What is said of one of its peers was changed.
    Changed(Arc<Remote>),
    /// One of its peers was removed.
    Revoked(Arc<Remote>),
    /// One of its peers of the directory has to sleep, as others are awake instead.
    Sleep(Arc<Remote>),
    /// Our own key was changed: sessions agreed on before are void.
    Rekeyed,
    /// This is its socket now.
    Socket(Arc<Udp>),
    /// A datagram that came to another socket.
    Stray(Vec<u8>, Path),
    /// Say that all letters before this one were read.
    Barrier(Sender<()>),
    /// End.
    End,
}

pub(crate) struct Worker {
    shared: Arc<Shared>,
    number: u32,
    udp: Arc<Udp>,
    /// Whether the socket is waited on.
    watched: bool,
    queue: Queue,
    peers: Slab<Awake>,
    by_key: HashMap<PublicKey, usize>,
    /// Our indices, and the peers they belong to.
    sessions: HashMap<u32, usize>,
    wheel: Wheel<usize>,
    outbox: Outbox,
    merger: Merger,
    manners: Manners,
    random: OsRandom,
    now: Moment,
    /// Indices that are free again.
    released: Vec<u32>,
    /// Letters taken and not read yet.
    letters: VecDeque<Letter>,
    /// Those who wait until this round is over.
    barriers: Vec<Sender<()>>,
    ended: bool,
}

/// A peer that has a session, or is about to.
struct Awake {
    remote: Arc<Remote>,
    peer: Peer,
    /// When the wheel visits it first.
    visit: Option<Moment>,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, number: u32, udp: Arc<Udp>, queue: Queue) -> Self {
        let now = shared.clock.now();
        Self {
            shared,
            number,
            udp,
            watched: false,
            queue,
            peers: Slab::new(),
            by_key: HashMap::new(),
            sessions: HashMap::new(),
            wheel: Wheel::new(now),
            outbox: Outbox::default(),
            merger: Merger::new(MergeSettings::default()),
            manners: Manners::new(now),
            random: OsRandom::new(),
            now,
            released: Vec::new(),
            letters: VecDeque::new(),
            barriers: Vec::new(),
            ended: false,
        }
    }

    pub(crate) fn run(mut self) -> io::Result<()> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let shared = Arc::clone(&self.shared);
        let Some(mailbox) = shared.workers.get(self.number as usize) else { return Ok(()) };
        for (number, source) in [(0, mailbox as &dyn AsFd), (2, &self.queue)] {
            epoll::add(&epoll, source, EventData::new_u64(number), EventFlags::IN)?;
        }
        let (mut inbox, mut packet) = (Inbox::new(), vec![0; LARGEST]);
        let (mut events, mut due) = (Vec::with_capacity(4), Vec::new());
        loop {
            if !self.watched {
                epoll::add(&epoll, &*self.udp, EventData::new_u64(1), EventFlags::IN)?;
                self.watched = true;
            }
            let until = self.wheel.first().map(|at| at.since(self.shared.clock.now()).min(LONGEST_SLEEP));
            let timeout = until.and_then(|until| Timespec::try_from(until).ok());
            events.clear();
            match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.now = self.shared.clock.now();
            self.read_letters();
            for event in &events {
                match event.data.u64() {
                    1 => self.receive(&mut inbox),
                    2 => self.send(&mut packet)?,
                    _ => {}
                }
            }
            self.wheel.take_due(self.now, &mut due);
            for slot in due.drain(..) {
                self.visit(slot);
            }
            self.flush();
            // What was opened and sealed before has left by now. Whoever asked may have stopped waiting.
            self.barriers.drain(..).for_each(|reply| _ = reply.send(()));
            if self.ended {
                return Ok(());
            }
        }
    }

    /// Reads the letters in the order in which they were left, also when one of them has more read.
    fn read_letters(&mut self) {
        let new = self.shared.workers.get(self.number as usize).map(|mailbox| mailbox.take());
        self.letters.extend(new.into_iter().flatten());
        while let Some(letter) = self.letters.pop_front() {
            match letter {
                Letter::Established { remote, keys, from } => self.establish(&remote, keys, from),
                Letter::Packet { remote, packet } => self.stage(&remote, packet),
                Letter::Worn(remote) => {
                    let random = self.random();
                    self.with(&remote, |peer, now| peer.handle_worn(now, random));
                }
                Letter::Changed(remote) => {
                    let (random, keepalive) = (self.random(), remote.terms.lock().keepalive);
                    if keepalive.is_some() || self.by_key.contains_key(&remote.public) {
                        self.with(&remote, |peer, now| peer.handle_change(keepalive, now, random));
                    }
                }
                Letter::Revoked(remote) | Letter::Sleep(remote) => self.revoke(&remote),
                Letter::Rekeyed => self.rekey(),
                Letter::Socket(udp) => (self.udp, self.watched) = (udp, false),
                Letter::Stray(mut datagram, from) => {
                    let (stride, mut inward) = (datagram.len().max(1), Vec::new());
                    self.open(Run { from, bytes: &mut datagram, stride }, &mut inward);
                    self.deliver(&inward);
                }
                Letter::Barrier(reply) => self.barriers.push(reply),
                Letter::End => self.ended = true,
            }
        }
    }

    /// Takes datagrams, and hands what was inside to the interface or to other peers.
    fn receive(&mut self, inbox: &mut Inbox) {
        for _ in 0..ROUNDS {
            let runs = match self.udp.receive(inbox) {
                Ok(None) => break,
                Ok(Some(runs)) => runs,
                Err(error) => {
                    // What an earlier datagram of ours met with: of no use here.
                    tracing::debug!(%error, "cannot receive");
                    break;
                }
            };
            let mut inward = Vec::new();
            for run in runs {
                self.open(run, &mut inward);
            }
            self.deliver(&inward);
        }
    }

    /// Opens datagrams of one sender. Adds packets for this machine to `inward`.
    fn open<'a>(&mut self, run: Run<'a>, inward: &mut Vec<&'a [u8]>) {
        let Run { from, bytes, stride } = run;
        let mut datagrams = bytes.chunks_mut(stride).peekable();
        while let Some(first) = datagrams.peek() {
            let Some(header) = Transport::parse(first) else {
                let Some(datagram) = datagrams.next() else { break };
                let stray = || reception::Letter::Stray(datagram.to_vec(), from);
                if Message::parse(datagram).is_none() || !self.shared.reception.offer(stray) {
                    self.shared.counters.lost(Loss::Handshake(Dropped::Malformed));
                }
                continue;
            };
            let of_session = std::iter::from_fn(|| {
                datagrams.next_if(|next| Transport::parse(next).is_some_and(|next| next.receiver == header.receiver))
            });
            match self.slot_of(header.receiver) {
                Some(slot) => self.open_session(slot, header.receiver, from, of_session, inward),
                None => {
                    let lost = of_session.count() as u64;
                    self.shared.counters.add(Loss::NoSession, lost);
                }
            }
        }
    }

    /// The peer of one of our indices. A session may have been agreed on since the letters were read.
    fn slot_of(&mut self, local: u32) -> Option<usize> {
        if let Some(slot) = self.sessions.get(&local) {
            return Some(*slot);
        }
        if self.shared.owners.of_index(local) == self.number {
            self.read_letters();
        }
        self.sessions.get(&local).copied()
    }

    /// Opens a run of datagrams of one session.
    fn open_session<'a>(
        &mut self,
        slot: usize,
        local: u32,
        from: Path,
        datagrams: impl Iterator<Item = &'a mut [u8]>,
        inward: &mut Vec<&'a [u8]>,
    ) {
        let Self { shared, peers, outbox, udp, now, manners, .. } = self;
        let Some(Awake { remote, peer, .. }) = peers.get_mut(slot) else { return };
        let (place, mut opener) = match peer.opener(local, *now) {
            None => return shared.counters.add(Loss::NoSession, datagrams.count() as u64),
            Some(Err(why)) => return shared.counters.add(Loss::Transport(why), datagrams.count() as u64),
            Some(Ok(opener)) => opener,
        };
        let (mut received, mut flushed, mut authentic) = (Received::default(), Flushed::default(), false);
        let (mut waiting, mut answer) = (Vec::new(), Vec::new());
        for datagram in datagrams {
            let Some(header) = Transport::parse(datagram) else { continue };
            let length = datagram.len() as u64;
            let opened = match opener.open(header, datagram) {
                Ok(opened) => opened,
                Err(why) => {
                    shared.counters.lost(Loss::Transport(why));
                    continue;
                }
            };
            authentic = true;
            received.bytes += length;
            received.newest |= opened.newest;
            if opened.packet.is_empty() {
                continue;
            }
            received.packets = true;
            match destination::of(shared, remote, opened.packet) {
                Ok(Destination::Here(packet)) => inward.push(packet),
                Ok(Destination::Peer(other, packet)) => {
                    let copy = |room: &mut [u8]| room.copy_from_slice(packet);
                    let sent = outbox.add(&other, packet.len(), shared.mtu, (&**udp, *now), &mut flushed, copy);
                    if sent == Sent::NoSession {
                        waiting.push((other, packet.to_vec()));
                    }
                }
                Err((loss, packet)) => {
                    shared.counters.lost(loss);
                    // One answer a run is enough for whoever wants to know.
                    if answer.is_empty() {
                        answer = manners.answer(loss, packet, &shared.addresses, *now);
                    }
                }
            }
        }
        drop(opener);
        if authentic {
            let remote = Arc::clone(remote);
            remote.note_received(received.bytes);
            let random = self.random();
            let now = self.now;
            self.at(slot, |peer| peer.handle_received(place, received, from, now, random));
        }
        self.settle(flushed);
        for (other, packet) in waiting {
            self.pass_on(&other, packet);
        }
        if !answer.is_empty()
            && let Some(remote) = self.peers.get(slot).map(|awake| Arc::clone(&awake.remote))
        {
            self.seal(&remote, &answer);
        }
    }

    /// Writes packets to the interface, those of one flow as one.
    fn deliver(&mut self, packets: &[&[u8]]) {
        let mut slices = [io::IoSlice::new(&[]); 1 + SLICES_MOST];
        for write in self.merger.merge(packets).writes() {
            match self.queue.write_vectored(write.gather(&mut slices)) {
                Poll::Ready(Ok(_)) => continue,
                Poll::Ready(Err(error)) => tracing::debug!(%error, "the interface refuses a packet"),
                Poll::Pending => {}
            }
            self.shared.counters.add(Loss::InterfaceFull, write.count() as u64);
        }
    }

    /// Takes packets from the interface, and sends them to the peers whose they are.
    fn send(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        for _ in 0..ROUNDS * 8 {
            let Poll::Ready(length) = self.queue.read(buffer) else { break };
            let length = match length {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => length,
                Err(error) if Errno::from_io_error(&error) == Some(Errno::BADFD) => return Err(error),
                Err(error) => {
                    // A shortage that passes.
                    tracing::debug!(%error, "cannot read from the interface");
                    break;
                }
            };
            let split = Offload::parse(&buffer[..length], VNET_HEADER)
                .ok()
                .and_then(|(offload, packet)| Split::new(&offload, packet).ok());
            let Some(split) = split else {
                self.shared.counters.lost(Loss::MalformedPacket);
                continue;
            };
            let Some(remote) = self.shared.registry.owner_of(split.packet().destination()) else {
                self.shared.counters.lost(Loss::NoRoute);
                continue;
            };
            let (mut flushed, mut waiting) = (Flushed::default(), Vec::new());
            for segment in split.segments() {
                let write = |room: &mut [u8]| _ = segment.write_to(room);
                let below = (&*self.udp, self.now);
                let length = segment.length();
                if self.outbox.add(&remote, length, self.shared.mtu, below, &mut flushed, write) == Sent::NoSession {
                    let mut packet = vec![0; length];
                    if segment.write_to(&mut packet).is_ok() {
                        waiting.push(packet);
                    }
                }
            }
            self.settle(flushed);
            for packet in waiting {
                self.pass_on(&remote, packet);
            }
        }
        Ok(())
    }

    /// Leaves a packet that has no session yet to the worker that has the peer.
    fn pass_on(&mut self, remote: &Arc<Remote>, packet: Vec<u8>) {
        match remote.owner == self.number {
            true => self.stage(remote, packet),
            false => {
                let mailbox = self.shared.workers.get(remote.owner as usize);
                let letter = || Letter::Packet { remote: Arc::clone(remote), packet };
                if !mailbox.is_some_and(|mailbox| mailbox.offer(letter)) {
                    self.shared.counters.lost(Loss::Overtaxed);
                }
            }
        }
    }

    fn stage(&mut self, remote: &Arc<Remote>, packet: Vec<u8>) {
        let random = self.random();
        // A session may have been agreed on since; then it is not for the peer to keep the packet.
        match self.seal(remote, &packet) {
            Sent::Sealed => {}
            // Nobody knows where it is: it has to come to us.
            Sent::NoSession if remote.outlet.endpoint().is_none() => self.shared.counters.lost(Loss::NoEndpoint),
            Sent::NoSession => self.with(remote, |peer, now| peer.handle_packet(packet, now, random)),
        }
    }

    fn seal(&mut self, remote: &Arc<Remote>, packet: &[u8]) -> Sent {
        let mut flushed = Flushed::default();
        let below = (&*self.udp, self.now);
        let copy = |room: &mut [u8]| room.copy_from_slice(packet);
        let sent = self.outbox.add(remote, packet.len(), self.shared.mtu, below, &mut flushed, copy);
        self.settle(flushed);
        sent
    }

    fn flush(&mut self) {
        let mut flushed = Flushed::default();
        self.outbox.flush(&self.udp, self.now, &mut flushed);
        self.settle(flushed);
        if !self.released.is_empty() {
            self.shared.reception.post(reception::Letter::Release(std::mem::take(&mut self.released)));
        }
    }

    /// Does what a flush has found to be done.
    fn settle(&mut self, flushed: Flushed) {
        if flushed.lost > 0 {
            self.shared.counters.add(Loss::NetworkFull, flushed.lost);
        }
        for remote in flushed.worn {
            match remote.owner == self.number {
                true => {
                    let random = self.random();
                    self.with(&remote, |peer, now| peer.handle_worn(now, random));
                }
                false => self.shared.post(remote.owner, Letter::Worn(remote)),
            }
        }
    }

    fn establish(&mut self, remote: &Arc<Remote>, keys: SessionKeys, from: Path) {
        remote.note_taken();
        let Some(slot) = self.wake(remote) else { return self.released.push(keys.local) };
        self.sessions.insert(keys.local, slot);
        let now = self.now;
        self.at(slot, |peer| peer.handle_established(keys, from, now));
    }

    fn revoke(&mut self, remote: &Arc<Remote>) {
        let slot = self.by_key.get(&remote.public).copied();
        // One that was registered anew meanwhile is another.
        if let Some(slot) = slot.filter(|slot| self.is(*slot, remote)) {
            self.at(slot, Peer::erase);
            self.retire(slot);
        }
    }

    fn is(&self, slot: usize, remote: &Arc<Remote>) -> bool {
        self.peers.get(slot).is_some_and(|awake| Arc::ptr_eq(&awake.remote, remote))
    }

    fn rekey(&mut self) {
        let awake: Vec<usize> = self.peers.iter().map(|(slot, _)| slot).collect();
        for slot in awake {
            let (now, random) = (self.now, self.random());
            self.at(slot, |peer| peer.handle_rekeyed(now, random));
        }
    }

    /// Works on a peer, which is woken for it.
    fn with(&mut self, remote: &Arc<Remote>, work: impl FnOnce(&mut Peer, Moment)) {
        let now = self.now;
        if let Some(slot) = self.wake(remote) {
            self.at(slot, |peer| work(peer, now));
        }
    }

    /// `None`: the peer was removed meanwhile.
    fn wake(&mut self, remote: &Arc<Remote>) -> Option<usize> {
        let before = self.by_key.get(&remote.public).copied();
        if let Some(slot) = before.filter(|slot| self.is(*slot, remote)) {
            return Some(slot);
        }
        if !self.shared.registry.has(remote) {
            return None;
        }
        // It was removed and registered anew, and word of the first has not come yet.
        if let Some(slot) = before {
            self.at(slot, Peer::erase);
            self.retire(slot);
        }
        let keepalive = remote.terms.lock().keepalive;
        let peer = Peer::new(Arc::clone(&remote.outlet), keepalive, self.now);
        let slot = self.peers.insert(Awake { remote: Arc::clone(remote), peer, visit: None });
        self.by_key.insert(remote.public, slot);
        Some(slot)
    }

    /// Works on an awake peer, and does what it then wants done.
    fn at(&mut self, slot: usize, work: impl FnOnce(&mut Peer)) {
        let Some(awake) = self.peers.get_mut(slot) else { return };
        work(&mut awake.peer);
        // One of the peer's making is complete with the first message in its session, not with our answer.
        if let Some(at) = awake.peer.last_handshake() {
            awake.remote.note_handshake(at);
        }
        while let Some(action) = self.peers.get_mut(slot).and_then(|awake| awake.peer.poll_action()) {
            self.act(slot, action);
        }
        let Some(awake) = self.peers.get_mut(slot) else { return };
        match awake.peer.poll_timeout() {
            Some((at, _)) if awake.visit.is_none_or(|visit| at < visit) => {
                awake.visit = Some(self.wheel.set(at, slot));
            }
            Some(_) => {}
            // Nothing would ever come back to it.
            None if awake.peer.is_idle() => self.retire(slot),
            None => {}
        }
    }

    fn act(&mut self, slot: usize, action: Action) {
        let Some(remote) = self.peers.get(slot).map(|awake| Arc::clone(&awake.remote)) else { return };
        match action {
            Action::Initiate => self.shared.reception.post(reception::Letter::Initiate(remote)),
            Action::GiveUp => self.shared.reception.post(reception::Letter::GiveUp(remote)),
            // Without a session there is nothing to keep alive.
            Action::Keepalive => _ = self.seal(&remote, &[]),
            Action::Send(packet) => _ = self.seal(&remote, &packet),
            Action::Forget(index) => {
                self.sessions.remove(&index);
                self.released.push(index);
            }
        }
    }

    /// The wheel has come to a peer.
    fn visit(&mut self, slot: usize) {
        let Some(awake) = self.peers.get_mut(slot) else { return };
        // Set before an earlier one was wanted, or for another peer: nothing any more.
        if awake.visit.is_none_or(|visit| visit > self.now) {
            return;
        }
        awake.visit = None;
        let due = awake.peer.poll_timeout().is_some_and(|(at, _)| at <= self.now);
        let (now, random) = (self.now, self.random());
        self.at(slot, |peer| {
            if due {
                peer.handle_timeout(now, random);
            }
        });
        if self.peers.get(slot).is_some_and(|awake| awake.peer.is_idle()) {
            self.retire(slot);
        }
    }

    /// Back to sleep: nothing is kept but the row in the registry.
    fn retire(&mut self, slot: usize) {
        let Some(awake) = self.peers.try_remove(slot) else { return };
        self.by_key.remove(&awake.remote.public);
        self.shared.reception.post(match awake.remote.listed {
            true => {
                let taken = awake.remote.taken();
                reception::Letter::Asleep(awake.remote, taken)
            }
            false => reception::Letter::Forget(awake.remote.public),
        });
    }

    #[allow(clippy::cast_possible_truncation, reason = "as many random bits as are wanted")]
    fn random(&mut self) -> u32 {
        self.random.number() as u32
    }
}

/// The header in front of each packet of the interface.
const VNET_HEADER: VnetHeader = VnetHeader::Short;
