//! A path for TCP connections: a relay that gives each of them the time of a real one.
//!
//! The kernel accepts a connection before we know of it, so a client believes to be connected at once. What it says is
//! held back by the round trip that its handshake would have taken, and what the server says as long: the sum is right,
//! only that it is seen in the first exchange.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Instant;

use parking_lot::Mutex;
use rustix::event::epoll::EventFlags;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::chance::Chance;
use super::engine::{Engine, Laid, Poll, Station};
use super::link::{Direction, Line, Link};

const BACKLOG: i32 = 1024;
/// Bytes read at once.
const PIECE: usize = 64 * 1024;
/// Bytes under way in one direction of a connection; beyond it the one who sends has to wait. Enough for 100 Mbit/s over
/// the longest way.
const UNDER_WAY: usize = 4 * 1024 * 1024;
/// Key of the listener; connections have two each.
const LISTENER: u32 = 0;

/// A path for TCP connections. They and it are gone when this is dropped.
#[derive(Debug)]
pub struct TcpPath {
    address: SocketAddr,
    outward: Arc<Direction>,
    inward: Arc<Direction>,
    tally: Arc<Tally>,
    laid: Laid,
}

#[derive(Debug, Default)]
struct Tally {
    flights: AtomicU64,
    accepted: AtomicU64,
    open: AtomicUsize,
    /// To be reset.
    doomed: Mutex<bool>,
}

impl TcpPath {
    pub(super) fn lay(engine: &Arc<Engine>, seed: u64, target: SocketAddr, link: Link) -> io::Result<Self> {
        let listener = TcpListener::from(listener(target)?);
        let address = listener.local_addr()?;
        let (outward, inward) = (Direction::new(link), Direction::new(link));
        let tally = Arc::new(Tally::default());
        let relay = Relay {
            listener,
            target,
            directions: [Arc::clone(&outward), Arc::clone(&inward)],
            lane: engine.next_lane() << 32,
            seed,
            connections: HashMap::new(),
            tally: Arc::clone(&tally),
            buffer: vec![0; PIECE].into_boxed_slice(),
        };
        let laid = engine.lay(move |poll| {
            poll.add(&relay.listener, LISTENER, EventFlags::IN)?;
            Ok(relay)
        })?;
        Ok(Self { address, outward, inward, tally, laid })
    }

    /// Where to connect to instead of to the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Towards the target.
    pub fn outward(&self) -> &Direction {
        &self.outward
    }

    /// From the target back.
    pub fn inward(&self) -> &Direction {
        &self.inward
    }

    /// Changes both directions.
    pub fn set(&self, link: Link) {
        self.outward.set(link);
        self.inward.set(link);
        self.laid.look();
    }

    /// How often a client has begun to speak, at first or after it had heard something: the round trips of what it did,
    /// without those of its handshakes.
    pub fn flights(&self) -> u64 {
        self.tally.flights.load(Relaxed)
    }

    /// Connections so far.
    pub fn accepted(&self) -> u64 {
        self.tally.accepted.load(Relaxed)
    }

    /// Connections now.
    pub fn open(&self) -> usize {
        self.tally.open.load(Relaxed)
    }

    /// Resets every connection, on both sides.
    pub fn reset(&self) {
        *self.tally.doomed.lock() = true;
        self.laid.look();
    }
}

fn listener(target: SocketAddr) -> io::Result<Socket> {
    let any = match target {
        SocketAddr::V4(_) => SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0)),
        SocketAddr::V6(_) => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0)),
    };
    let socket = Socket::new(Domain::for_address(any), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&any.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// The path, seen from the engine.
struct Relay {
    listener: TcpListener,
    target: SocketAddr,
    directions: [Arc<Direction>; 2],
    lane: u64,
    seed: u64,
    /// By the key of their client's socket, which is odd; the target's is the next.
    connections: HashMap<u32, Connection>,
    tally: Arc<Tally>,
    buffer: Box<[u8]>,
}

/// Two sockets, and what is under way between them.
struct Connection {
    client: TcpStream,
    server: Target,
    /// When the client's first bytes may be on their way: after its handshake.
    client_speaks: Instant,
    /// When the server's may.
    server_speaks: Instant,
    out: Stream,
    back: Stream,
    /// The client has heard something since it last spoke, or has not spoken at all.
    heard: bool,
}

enum Target {
    /// The first packet of the handshake is under way until then.
    Awaited(Instant),
    Connected(TcpStream),
}

/// One direction of a connection.
struct Stream {
    line: Line,
    under_way: VecDeque<Piece>,
    bytes: usize,
    /// Its source has been read to the end.
    ended: bool,
    /// Its destination takes nothing at the moment.
    blocked: bool,
    /// What its source's socket is asked for by epoll, as far as this direction goes.
    finished: bool,
}

/// What was read at once; nothing at all is the end.
struct Piece {
    due: Instant,
    bytes: Vec<u8>,
    written: usize,
}

impl Stream {
    fn new(line: Line) -> Self {
        Self { line, under_way: VecDeque::new(), bytes: 0, ended: false, blocked: false, finished: false }
    }

    fn wants_more(&self) -> bool {
        !self.ended && self.bytes < UNDER_WAY
    }

    fn due(&self) -> Option<Instant> {
        let first = self.under_way.front()?;
        (!self.blocked && self.line.is_up()).then_some(first.due)
    }

    /// Reads what its source has, as if it had come no earlier than `earliest`. `None`: nothing was there.
    fn read(&mut self, source: &mut TcpStream, buffer: &mut [u8], came: Instant) -> io::Result<Option<usize>> {
        match source.read(buffer) {
            Ok(length) => {
                self.ended = length == 0;
                self.bytes += length;
                let due = self.line.admit_piece(came, length);
                self.under_way.push_back(Piece { due, bytes: buffer[..length].to_vec(), written: 0 });
                Ok(Some(length))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes what is due. Whether anything was.
    fn write(&mut self, destination: &mut TcpStream, now: Instant) -> io::Result<bool> {
        let mut any = false;
        while !self.blocked
            && self.line.is_up()
            && let Some(first) = self.under_way.front_mut()
            && first.due <= now
        {
            any = true;
            if first.bytes.is_empty() {
                self.finished = true;
                // A peer that has reset it needs no end any more.
                let _ = destination.shutdown(Shutdown::Write);
                self.under_way.pop_front();
                continue;
            }
            match destination.write(&first.bytes[first.written..]) {
                Ok(length) => {
                    first.written += length;
                    self.bytes -= length;
                    if first.written == first.bytes.len() {
                        self.under_way.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.blocked = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(any)
    }
}

impl Station for Relay {
    fn ready(&mut self, poll: &Poll<'_>, key: u32, flags: EventFlags, now: Instant) {
        if key == LISTENER {
            // One that is gone before it is taken, or a shortage of descriptors: others follow.
            while let Ok((client, _)) = self.listener.accept() {
                // Without a way to be told of it, it is dropped, which the client sees.
                let _ = self.accept(poll, client, now);
            }
            return;
        }
        let of_client = key % 2 == 1;
        let number = if of_client { key } else { key - 1 };
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let told = connection.ready(of_client, flags, &mut self.buffer, &self.tally, now);
        self.settle(poll, number, told);
    }

    fn due(&self) -> Option<Instant> {
        if *self.tally.doomed.lock() {
            return Some(Instant::now());
        }
        self.connections.values().filter_map(Connection::due).min()
    }

    fn release(&mut self, poll: &Poll<'_>, now: Instant) {
        if std::mem::take(&mut *self.tally.doomed.lock()) {
            for number in self.connections.keys().copied().collect::<Vec<_>>() {
                self.settle(poll, number, Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
        let due = |(number, connection): (&u32, &Connection)| (connection.due()? <= now).then_some(*number);
        for number in self.connections.iter().filter_map(due).collect::<Vec<_>>() {
            let Some(connection) = self.connections.get_mut(&number) else { continue };
            let told = connection.release(poll, number, self.target, now);
            self.settle(poll, number, told);
        }
    }
}

impl Relay {
    fn accept(&mut self, poll: &Poll<'_>, client: TcpStream, now: Instant) -> io::Result<()> {
        client.set_nonblocking(true)?;
        client.set_nodelay(true)?;
        let accepted = self.tally.accepted.fetch_add(1, Relaxed);
        let Ok(number) = u32::try_from(2 * accepted + 1) else { return Ok(()) };
        let line = |way: usize| {
            let lane = self.lane + 2 * accepted + way as u64;
            Stream::new(Line::new(&self.directions[way], Chance::new(self.seed, lane)))
        };
        let (out, back) = (line(0), line(1));
        let (there, back_again) = (out.line.delay(), back.line.delay());
        let connection = Connection {
            server: Target::Awaited(now + there),
            client_speaks: now + there + back_again,
            server_speaks: now + there + back_again + there,
            out,
            back,
            heard: true,
            client,
        };
        poll.add(&connection.client, number, EventFlags::IN)?;
        self.connections.insert(number, connection);
        self.tally.open.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Asks for what a connection waits for now, or ends it.
    fn settle(&mut self, poll: &Poll<'_>, number: u32, told: io::Result<()>) {
        let Some(connection) = self.connections.get(&number) else { return };
        let asked = told.and_then(|()| connection.ask(poll, number));
        if asked.is_ok() && !connection.is_over() {
            return;
        }
        if let Some(connection) = self.connections.remove(&number) {
            self.tally.open.fetch_sub(1, Relaxed);
            if asked.is_err() {
                connection.reset();
            }
        }
    }
}

impl Connection {
    fn due(&self) -> Option<Instant> {
        match self.server {
            Target::Awaited(at) => self.out.line.is_up().then_some(at),
            Target::Connected(_) => self.out.due().into_iter().chain(self.back.due()).min(),
        }
    }

    fn is_over(&self) -> bool {
        self.out.finished && self.back.finished
    }

    fn ready(
        &mut self,
        of_client: bool,
        flags: EventFlags,
        buffer: &mut [u8],
        tally: &Tally,
        now: Instant,
    ) -> io::Result<()> {
        let reads = flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR);
        if of_client {
            self.back.blocked &= !flags.contains(EventFlags::OUT);
            if reads && self.out.wants_more() {
                let length = self.out.read(&mut self.client, buffer, now.max(self.client_speaks))?;
                if length.is_some_and(|length| length > 0) && std::mem::take(&mut self.heard) {
                    tally.flights.fetch_add(1, Relaxed);
                }
            }
            return Ok(());
        }
        let Target::Connected(server) = &mut self.server else { return Ok(()) };
        self.out.blocked &= !flags.contains(EventFlags::OUT);
        if reads && self.back.wants_more() {
            self.back.read(server, buffer, now.max(self.server_speaks))?;
        }
        Ok(())
    }

    fn release(&mut self, poll: &Poll<'_>, number: u32, target: SocketAddr, now: Instant) -> io::Result<()> {
        if let Target::Awaited(at) = self.server {
            if at > now {
                return Ok(());
            }
            let server = dial(target)?;
            poll.add(&server, number + 1, EventFlags::IN)?;
            // Written to only once it is connected.
            self.out.blocked = true;
            self.server = Target::Connected(server);
        }
        let Target::Connected(server) = &mut self.server else { return Ok(()) };
        self.out.write(server, now)?;
        self.heard |= self.back.write(&mut self.client, now)?;
        Ok(())
    }

    fn ask(&self, poll: &Poll<'_>, number: u32) -> io::Result<()> {
        let flags = |reads: bool, writes: bool| {
            let mut flags = EventFlags::empty();
            flags.set(EventFlags::IN, reads);
            flags.set(EventFlags::OUT, writes);
            // Of the end of both directions epoll tells unasked: once is enough.
            flags.set(EventFlags::ET, flags.is_empty());
            flags
        };
        poll.modify(&self.client, number, flags(self.out.wants_more(), self.back.blocked))?;
        if let Target::Connected(server) = &self.server {
            poll.modify(server, number + 1, flags(self.back.wants_more(), self.out.blocked))?;
        }
        Ok(())
    }

    /// Both ends learn that it did not end as it should.
    fn reset(self) {
        let abort = |stream: &TcpStream| SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
        // On a socket that is reset already there is nothing left to say.
        let _ = abort(&self.client);
        if let Target::Connected(server) = &self.server {
            let _ = abort(server);
        }
    }
}

/// Begins to connect.
fn dial(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&SockAddr::from(target)) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(socket.into()),
    }
}
