//! A path for datagrams: a socket that anyone sends to, and one per sender towards the target.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use socket2::SockRef;

use super::chance::Chance;
use super::engine::{Engine, Laid, Poll, Station};
use super::flight::Flights;
use super::link::{Direction, Line, Link};

/// Largest datagram there is.
const LARGEST: usize = 65_535;
/// Datagrams taken from a socket before others get their turn.
const AT_ONCE: usize = 64;
/// Senders at a time; the one that was silent longest gives way to a new one.
const SENDERS: usize = 64;
/// Asked of the kernel for each socket, which gives what it allows.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// Addresses and lengths before each datagram, which take their time on a link with a rate.
const HEADERS: usize = 28;

/// Key of the socket that senders send to; each sender has one of its own above it.
const FRONT: u32 = 0;

/// A path for datagrams. It is gone when this is dropped.
#[derive(Debug)]
pub struct UdpPath {
    address: SocketAddr,
    outward: Arc<Direction>,
    inward: Arc<Direction>,
    laid: Laid,
}

impl UdpPath {
    pub(super) fn lay(engine: &Arc<Engine>, seed: u64, target: SocketAddr, link: Link) -> io::Result<Self> {
        let front = socket(target)?;
        let address = front.local_addr()?;
        let (outward, inward) = (Direction::new(link), Direction::new(link));
        let lane = 2 * engine.next_lane();
        let (out, back) =
            (Line::new(&outward, Chance::new(seed, lane)), Line::new(&inward, Chance::new(seed, lane + 1)));
        let laid = engine.lay(move |poll| {
            poll.add(&front, FRONT, EventFlags::IN)?;
            let (senders, keys, flights) = (HashMap::new(), HashMap::new(), Flights::new());
            let buffer = vec![0; LARGEST].into_boxed_slice();
            Ok(Ferry { front, target, out, back, senders, keys, flights, next_key: FRONT, buffer })
        })?;
        Ok(Self { address, outward, inward, laid })
    }

    /// Where to send to instead of to the target.
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
        self.set_each(link, link);
    }

    /// Changes each direction.
    pub fn set_each(&self, outward: Link, inward: Link) {
        self.outward.set(outward);
        self.inward.set(inward);
        self.laid.look();
    }
}

/// On loopback, of the family of the target.
fn socket(target: SocketAddr) -> io::Result<UdpSocket> {
    let socket = match target {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?,
        SocketAddr::V6(_) => UdpSocket::bind((std::net::Ipv6Addr::LOCALHOST, 0))?,
    };
    socket.set_nonblocking(true)?;
    let buffers = SockRef::from(&socket);
    buffers.set_recv_buffer_size(SOCKET_BUFFER)?;
    buffers.set_send_buffer_size(SOCKET_BUFFER)?;
    Ok(socket)
}

/// The path, seen from the engine.
struct Ferry {
    front: UdpSocket,
    target: SocketAddr,
    out: Line,
    back: Line,
    senders: HashMap<u32, Sender>,
    keys: HashMap<SocketAddr, u32>,
    flights: Flights<Flying>,
    next_key: u32,
    buffer: Box<[u8]>,
}

struct Sender {
    address: SocketAddr,
    socket: UdpSocket,
    heard: Instant,
}

/// A datagram under way.
struct Flying {
    sender: u32,
    outward: bool,
    datagram: Vec<u8>,
}

impl Station for Ferry {
    fn ready(&mut self, poll: &Poll<'_>, key: u32, _: EventFlags, now: Instant) {
        for _ in 0..AT_ONCE {
            let taken = match self.senders.get(&key) {
                None if key == FRONT => self.front.recv_from(&mut self.buffer),
                None => return,
                Some(sender) => sender.socket.recv(&mut self.buffer).map(|length| (length, sender.address)),
            };
            match taken {
                Ok((length, address)) => self.take(poll, key, address, length, now),
                // Nothing listens at the target, which one datagram or another was told.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return,
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        self.flights.due()
    }

    fn release(&mut self, _: &Poll<'_>, now: Instant) {
        while let Some(Flying { sender, outward, datagram }) = self.flights.land(now) {
            // One that gave way takes with it what was under way.
            let Some(sender) = self.senders.get(&sender) else { continue };
            // What cannot be sent is lost, as on any network.
            let _ = match outward {
                true => sender.socket.send(&datagram),
                false => self.front.send_to(&datagram, sender.address),
            };
        }
    }
}

impl Ferry {
    fn take(&mut self, poll: &Poll<'_>, key: u32, address: SocketAddr, length: usize, now: Instant) {
        let outward = key == FRONT;
        let line = if outward { &mut self.out } else { &mut self.back };
        let Some(due) = line.admit(now, length + HEADERS) else { return };
        let sender = match outward {
            false => key,
            true => match self.sender(poll, address, now) {
                Ok(sender) => sender,
                Err(_) => return,
            },
        };
        self.flights.push(due, Flying { sender, outward, datagram: self.buffer[..length].to_vec() });
    }

    /// The key of who sends from this address.
    fn sender(&mut self, poll: &Poll<'_>, address: SocketAddr, now: Instant) -> io::Result<u32> {
        if let Some(&key) = self.keys.get(&address) {
            if let Some(sender) = self.senders.get_mut(&key) {
                sender.heard = now;
            }
            return Ok(key);
        }
        let socket = socket(self.target)?;
        socket.connect(self.target)?;
        self.next_key = self.next_key.wrapping_add(1).max(1);
        poll.add(&socket, self.next_key, EventFlags::IN)?;
        if self.senders.len() >= SENDERS
            && let Some((&silent, _)) = self.senders.iter().min_by_key(|(_, sender)| sender.heard)
            && let Some(sender) = self.senders.remove(&silent)
        {
            self.keys.remove(&sender.address);
        }
        self.senders.insert(self.next_key, Sender { address, socket, heard: now });
        self.keys.insert(address, self.next_key);
        Ok(self.next_key)
    }
}
