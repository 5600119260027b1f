//! The thread of the stack: packets from the workers, news of the pairs, deadlines.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use edgeproxy_tunnel::{Moment, Wheel};
use ipnet::IpNet;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use slab::Slab;
use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::socket::tcp::State;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr, TcpPacket};

use super::clock::{Clock, moment_of};
use super::flow::{Flow, Start, Tuple};
use super::memory::Memory;
use super::notice::unreachable;
use super::ports::Answer;
use super::wire::{Outlet, Wire};
use super::{EPHEMERAL, Letter, Place, Shared, stream_pair};
use crate::device::LONGEST_SLEEP;
use crate::packet::{Offload, Split, VnetHeader, protocol};
use crate::random::OsRandom;
use crate::stream::Line;
use crate::tun::LARGEST;

/// Events taken from the kernel at once.
const EVENTS: usize = 256;
/// Reads from one worker before the others and the users have their turn.
const ROUNDS: usize = 32;
/// What epoll calls the letters; the queues follow, and from [`FIRST_FLOW`] on the flows.
const LETTERS: u64 = 0;
const FIRST_FLOW: u64 = 1 << 32;

pub(super) struct Stack {
    mtu: usize,
    shared: Shared,
    epoll: OwnedFd,
    outlets: Vec<Outlet>,
    interface: Interface,
    /// Of no flow: what comes to nobody is answered with it.
    nobody: SocketSet<'static>,
    flows: Slab<Flow>,
    by_tuple: HashMap<Tuple, usize>,
    memory: Memory,
    wheel: Wheel<usize>,
    clock: Clock,
    random: OsRandom,
    /// It was told why connections are not taken in, and none was since.
    told: bool,
    /// Flows that took in segments since they were last looked at.
    touched: Vec<usize>,
}

/// A segment, and where it belongs.
struct Segment<'a> {
    packet: &'a [u8],
    header: TcpPacket<&'a [u8]>,
    tuple: Tuple,
}

impl Stack {
    pub(super) fn new(
        addresses: &[IpNet],
        mtu: usize,
        queues: Vec<OwnedFd>,
        shared: Shared,
        mut random: OsRandom,
    ) -> io::Result<Self> {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = random.number();
        let mut wire = Wire { outlet: None, packet: None, sent: None, mtu };
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|own| {
            // There is room: the caller has counted them.
            own.extend(addresses.iter().map(|address| IpCidr::new(address.addr().into(), address.prefix_len())));
        });
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &*shared.mailbox, EventData::new_u64(LETTERS), EventFlags::IN)?;
        let outlets: Vec<_> = queues.into_iter().map(Outlet::new).collect();
        for (number, outlet) in (1..).zip(&outlets) {
            epoll::add(&epoll, outlet, EventData::new_u64(number), EventFlags::IN)?;
        }
        Ok(Self {
            mtu,
            shared,
            epoll,
            outlets,
            interface,
            nobody: SocketSet::new(Vec::new()),
            flows: Slab::new(),
            by_tuple: HashMap::new(),
            memory: Memory::default(),
            wheel: Wheel::new(Moment::from_millis(0)),
            clock: Clock::start(),
            random,
            told: false,
            touched: Vec::new(),
        })
    }

    pub(super) fn run(mut self) -> io::Result<()> {
        let done = self.serve();
        for flow in self.flows.drain() {
            flow.cut();
        }
        done
    }

    fn serve(&mut self) -> io::Result<()> {
        let (mut events, mut due) = (Vec::with_capacity(EVENTS), Vec::new());
        let mut packet = vec![0; LARGEST];
        loop {
            let until = self.wheel.first().map(|at| at.since(self.clock.moment()).min(LONGEST_SLEEP));
            let timeout = until.and_then(|until| Timespec::try_from(until).ok());
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let news = event.flags;
                match event.data.u64() {
                    LETTERS => {
                        if !self.read_letters() {
                            return Ok(());
                        }
                    }
                    flow @ FIRST_FLOW.. => {
                        let key = usize::try_from(flow - FIRST_FLOW).unwrap_or(usize::MAX);
                        let now = self.clock.moment();
                        if let Some(flow) = self.flows.get_mut(key) {
                            flow.note(news, now);
                            self.advance(key);
                        }
                    }
                    queue => {
                        let number = usize::try_from(queue - 1).unwrap_or(usize::MAX);
                        if news.contains(EventFlags::OUT) {
                            self.resume(number)?;
                        }
                        if news.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                            self.receive(number, &mut packet)?;
                        }
                    }
                }
            }
            self.wheel.take_due(self.clock.moment(), &mut due);
            for key in due.drain(..) {
                if let Some(flow) = self.flows.get_mut(key) {
                    flow.visit = None;
                    self.advance(key);
                }
            }
        }
    }

    /// Returns whether it goes on.
    fn read_letters(&mut self) -> bool {
        for letter in self.shared.mailbox.take() {
            match letter {
                Letter::Dial { local, remote, pair, line, place } => self.dial(local, remote, pair, line, place),
                Letter::End => return false,
            }
        }
        true
    }

    fn dial(&mut self, local: IpAddr, remote: SocketAddr, pair: OwnedFd, line: Line, place: Place) {
        let Some(tuple) = self.free_port(local, remote) else { return line.fail(Errno::ADDRNOTAVAIL) };
        let grant = self.memory.grant(remote.ip());
        let start = Start { tuple, grant, place, now: self.clock.now() };
        let flow = Flow::dial(start, pair, line.clone(), self.interface.context());
        match flow.and_then(|flow| self.insert(flow)) {
            Ok(key) => self.advance(key),
            Err(error) => {
                self.memory.give_back(grant);
                line.fail(error);
            }
        }
    }

    /// A free one, from a random one on.
    fn free_port(&mut self, local: IpAddr, remote: SocketAddr) -> Option<Tuple> {
        let (first, last) = EPHEMERAL;
        let ports = u64::from(last - first) + 1;
        let start = self.random.number() % ports;
        let port = |step| u16::try_from(u64::from(first) + (start + step) % ports).unwrap_or(last);
        (0..ports)
            .map(|step| Tuple { local: SocketAddr::new(local, port(step)), remote })
            .find(|tuple| !self.by_tuple.contains_key(tuple))
    }

    fn insert(&mut self, flow: Flow) -> Result<usize, Errno> {
        let tuple = flow.tuple;
        let vacant = self.flows.vacant_entry();
        let key = vacant.key();
        let news = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &flow, EventData::new_u64(FIRST_FLOW + key as u64), news)?;
        vacant.insert(flow);
        self.by_tuple.insert(tuple, key);
        Ok(key)
    }

    /// Takes packets from a worker.
    fn receive(&mut self, number: usize, buffer: &mut [u8]) -> io::Result<()> {
        let mut room = Vec::new();
        for _ in 0..ROUNDS {
            let Some(outlet) = self.outlets.get(number) else { return Ok(()) };
            match outlet.read(buffer) {
                Err(Errno::AGAIN) => break,
                // The worker has ended.
                Ok(0) | Err(_) => {
                    epoll::delete(&self.epoll, outlet)?;
                    break;
                }
                Ok(length) => self.open(&buffer[..length], number, &mut room),
            }
        }
        Ok(())
    }

    /// Cuts what a worker has joined.
    fn open(&mut self, read: &[u8], number: usize, room: &mut Vec<u8>) {
        let parsed = Offload::parse(read, VnetHeader::Short).ok();
        let Some(split) = parsed.and_then(|(offload, packet)| Split::new(&offload, packet).ok()) else { return };
        let view = split.packet();
        let upper = view.upper().filter(|upper| upper.protocol == protocol::TCP && !upper.fragment.is_part());
        let (Some(upper), Some((from, to))) = (upper, view.ports()) else {
            if let Some((local, remote, why)) = unreachable(view) {
                return self.refuse(Tuple { local, remote }, why);
            }
            return self.answer(view.bytes(), number);
        };
        let (remote, local) = (SocketAddr::new(view.source(), from), SocketAddr::new(view.destination(), to));
        for segment in split.segments() {
            room.resize(segment.length(), 0);
            if segment.write_to(room).is_ok()
                && let Some(header) = room.get(upper.offset..).and_then(|bytes| TcpPacket::new_checked(bytes).ok())
            {
                self.take_in(Segment { packet: room, header, tuple: Tuple { local, remote } }, number);
            }
        }
        while let Some(key) = self.touched.pop() {
            self.advance(key);
        }
    }

    /// Each segment is answered before the next is looked at: the stack's windows grow with packets, not with bytes.
    fn take_in(&mut self, segment: Segment<'_>, number: usize) {
        let key = match self.by_tuple.get(&segment.tuple) {
            Some(key) => *key,
            None => match self.welcome(&segment) {
                Welcome::As(key) => key,
                Welcome::NoRoom => return,
                Welcome::Nobody => return self.answer(segment.packet, number),
            },
        };
        let now = self.clock.now();
        let place = self.place(&segment.tuple);
        let Some(flow) = self.flows.get_mut(key).filter(|flow| !flow.is_quiet()) else { return };
        flow.sent.note(&segment.header);
        let (outlet, packet) = (self.outlets.get_mut(place), Some(segment.packet));
        let mut wire = Wire { outlet, packet, sent: Some(&mut flow.sent), mtu: self.mtu };
        self.interface.poll_ingress_single(now, &mut wire, &mut flow.sockets);
        if let Some(round_trip) = flow.note_segment(segment.header.rst(), now) {
            self.memory.note_round_trip(segment.tuple.remote.ip(), round_trip);
        }
        if self.touched.last() != Some(&key) {
            self.touched.push(key);
        }
        self.egress(key);
    }

    /// A flow for a segment that belongs to none yet.
    fn welcome(&mut self, segment: &Segment<'_>) -> Welcome {
        let Segment { header, .. } = segment;
        if !header.syn() || header.ack() || header.rst() {
            return Welcome::Nobody;
        }
        let local = segment.tuple.local;
        let seat = match self.shared.ports.knock(local) {
            Answer::Come(seat) => seat,
            Answer::Full => return self.turn_away(local, "its backlog is full"),
            Answer::Nobody => return Welcome::Nobody,
        };
        let Some(place) = Place::take(&self.shared.flows) else {
            return self.turn_away(local, "there are as many connections as there may be");
        };
        let Ok(pair) = stream_pair() else { return self.turn_away(local, "descriptors or memory are short") };
        let grant = self.memory.grant(segment.tuple.remote.ip());
        let start = Start { tuple: segment.tuple, grant, place, now: self.clock.now() };
        match Flow::accept(start, seat, pair).and_then(|flow| self.insert(flow)) {
            Ok(key) => {
                self.told = false;
                Welcome::As(key)
            }
            Err(_) => {
                self.memory.give_back(grant);
                Welcome::NoRoom
            }
        }
    }

    /// Whoever knocks gets no answer, and will try again.
    fn turn_away(&mut self, listener: SocketAddr, why: &'static str) -> Welcome {
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(%listener, why, "connections from inside are not taken in for now");
        }
        Welcome::NoRoom
    }

    /// A packet for no flow: a reset, an echo, or silence.
    fn answer(&mut self, packet: &[u8], number: usize) {
        let now = self.clock.now();
        let (outlet, packet) = (self.outlets.get_mut(number), Some(packet));
        let mut wire = Wire { outlet, packet, sent: None, mtu: self.mtu };
        self.interface.poll_ingress_single(now, &mut wire, &mut self.nobody);
        self.watch(number);
    }

    fn refuse(&mut self, tuple: Tuple, why: Errno) {
        if let Some(key) = self.by_tuple.get(&tuple).copied()
            && let Some(flow) = self.flows.get_mut(key)
        {
            flow.refuse(why);
            self.retire_if_over(key);
        }
    }

    /// Moves what can be moved, and says when to look again.
    fn advance(&mut self, key: usize) {
        let moment = self.clock.moment();
        let Some(flow) = self.flows.get_mut(key) else { return };
        // A dial that nobody waits for any more is not ended by a word, nor one that was refused.
        if !(flow.state() == State::SynSent && flow.is_over()) {
            flow.pump(moment);
            self.egress(key);
        }
        if self.retire_if_over(key) {
            return;
        }
        let now = self.clock.now();
        let Some(flow) = self.flows.get_mut(key) else { return };
        flow.tell_cause();
        let next = match flow.is_quiet() {
            true => None,
            false => self.interface.poll_at(now, &flow.sockets).map(|at| moment_of(at).max(moment)),
        };
        let at = next.into_iter().chain(flow.orphan_until()).min();
        // One that waits for room is looked at when there is some.
        if let Some(at) = at.filter(|at| !flow.waits && flow.visit.is_none_or(|visit| *at < visit)) {
            flow.visit = Some(self.wheel.set(at, key));
        }
    }

    /// Has the stack send what a flow has to send.
    fn egress(&mut self, key: usize) {
        let now = self.clock.now();
        let Some(flow) = self.flows.get(key) else { return };
        let number = self.place(&flow.tuple);
        let (Some(flow), Some(outlet)) = (self.flows.get_mut(key), self.outlets.get_mut(number)) else { return };
        if flow.is_quiet() {
            return;
        }
        let before = flow.state();
        let mut wire = Wire { outlet: Some(&mut *outlet), packet: None, sent: Some(&mut flow.sent), mtu: self.mtu };
        while self.interface.poll_egress(now, &mut wire, &mut flow.sockets) == PollResult::SocketStateChanged {}
        if before != State::Closed && flow.state() == State::Closed {
            flow.give_up();
        }
        flow.settle();
        if outlet.is_full() && !std::mem::replace(&mut flow.waits, true) {
            outlet.waiting.push(key);
        }
        self.watch(number);
    }

    /// Watches for room where there is none.
    fn watch(&mut self, number: usize) {
        let Some(outlet) = self.outlets.get_mut(number) else { return };
        if outlet.is_full() && !std::mem::replace(&mut outlet.watched, true) {
            let news = EventFlags::IN | EventFlags::OUT;
            // Fails only where the worker has ended.
            let _ = epoll::modify(&self.epoll, &*outlet, EventData::new_u64(number as u64 + 1), news);
        }
    }

    /// A worker has made room.
    fn resume(&mut self, number: usize) -> io::Result<()> {
        let Some(outlet) = self.outlets.get_mut(number) else { return Ok(()) };
        outlet.resume();
        if outlet.is_full() {
            return Ok(());
        }
        outlet.watched = false;
        epoll::modify(&self.epoll, outlet.as_fd(), EventData::new_u64(number as u64 + 1), EventFlags::IN)?;
        for key in std::mem::take(&mut outlet.waiting) {
            if let Some(flow) = self.flows.get_mut(key) {
                flow.waits = false;
                self.advance(key);
            }
        }
        Ok(())
    }

    fn retire_if_over(&mut self, key: usize) -> bool {
        let over = self.flows.get(key).is_some_and(Flow::is_over);
        if over {
            let flow = self.flows.remove(key);
            self.by_tuple.remove(&flow.tuple);
            self.memory.give_back(flow.grant);
            flow.end();
        }
        over
    }

    /// The queue of a flow: always the same, so that its packets stay in order.
    fn place(&self, tuple: &Tuple) -> usize {
        (usize::from(tuple.local.port()) ^ usize::from(tuple.remote.port())) % self.outlets.len().max(1)
    }
}

/// What becomes of a segment that belongs to no flow.
enum Welcome {
    As(usize),
    NoRoom,
    Nobody,
}
