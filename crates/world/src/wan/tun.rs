//! A path for whole IP packets, between two network namespaces: for programs that know nothing of it. All of TCP is as on a
//! real way, and a connect takes its round trip.

use std::io::{self, IoSlice};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::Poll as Readiness;
use std::time::Instant;

use edgeproxy_overlay::{Enclave, HEADER, LARGEST, LinkSettings, Queue, Tun, configure};
use ipnet::{IpNet, Ipv4Net};
use rustix::event::epoll::EventFlags;
use rustix::ioctl::{self, IntegerSetter, opcode};

use super::chance::Chance;
use super::engine::{Engine, Laid, Poll, Station};
use super::flight::Flights;
use super::link::{Direction, Line, Link};

/// Addresses of the ends, and the bits of their network.
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
const LENGTH: u8 = 24;
const MTU: u32 = 1500;
/// Packets taken from one end before the other gets its turn.
const AT_ONCE: usize = 64;

/// A path for packets. Its interfaces are gone when this is dropped, and its namespaces when nothing is in them any more.
#[derive(Debug)]
pub struct TunPath {
    near: End,
    far: End,
    outward: Arc<Direction>,
    inward: Arc<Direction>,
    laid: Laid,
}

/// One end of it: a network namespace with an interface.
#[derive(Debug)]
pub struct End {
    address: Ipv4Addr,
    enclave: Arc<Enclave>,
}

impl End {
    /// Its address, which the other end reaches.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Does something in its namespace: what is opened or started there belongs there. Programs that are started there end
    /// as others do, not with the path.
    ///
    /// # Errors
    /// The work panicked.
    pub fn within<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        self.enclave.within(work)
    }

    fn open(number: usize) -> io::Result<(Self, Queue)> {
        let enclave = Enclave::start().map_err(io::Error::other)?;
        let address = ADDRESSES[number];
        let queue = enclave.within(move || -> io::Result<Queue> {
            let tun = Tun::open(None, 1).map_err(io::Error::other)?;
            let own = Ipv4Net::new(address, LENGTH).map_err(io::Error::other)?;
            let settings = LinkSettings { addresses: vec![IpNet::V4(own)], mtu: MTU, routes: Vec::new() };
            configure(tun.name(), &settings).map_err(io::Error::other)?;
            let queue = tun.into_queues().pop().ok_or(io::ErrorKind::NotFound)?;
            in_single_packets(&queue)?;
            Ok(queue)
        })??;
        Ok((Self { address, enclave }, queue))
    }
}

impl TunPath {
    pub(super) fn lay(engine: &Arc<Engine>, seed: u64, link: Link) -> io::Result<Self> {
        let ((near, here), (far, there)) = (End::open(0)?, End::open(1)?);
        let (outward, inward) = (Direction::new(link), Direction::new(link));
        let lane = 2 * engine.next_lane();
        let lines = [Line::new(&outward, Chance::new(seed, lane)), Line::new(&inward, Chance::new(seed, lane + 1))];
        let laid = engine.lay(move |poll| {
            poll.add(here.as_fd(), 0, EventFlags::IN)?;
            poll.add(there.as_fd(), 1, EventFlags::IN)?;
            let buffer = vec![0; LARGEST].into_boxed_slice();
            Ok(Bridge { ends: [here, there], lines, flights: Flights::new(), buffer })
        })?;
        Ok(Self { near, far, outward, inward, laid })
    }

    /// The end that is called so, where clients are.
    pub fn near(&self) -> &End {
        &self.near
    }

    /// The other, where servers are.
    pub fn far(&self) -> &End {
        &self.far
    }

    /// From near to far.
    pub fn outward(&self) -> &Direction {
        &self.outward
    }

    /// From far to near.
    pub fn inward(&self) -> &Direction {
        &self.inward
    }

    /// Changes both directions.
    pub fn set(&self, link: Link) {
        self.outward.set(link);
        self.inward.set(link);
        self.laid.look();
    }
}

/// The kernel would hand over many segments in one piece, which would be delayed and lost as one.
fn in_single_packets(queue: &Queue) -> io::Result<()> {
    // linux/if_tun.h
    const TUNSETOFFLOAD: ioctl::Opcode = opcode::write::<u32>(b'T', 208);
    // SAFETY: TUNSETOFFLOAD takes the flags, of which there are none, as its argument and touches no memory.
    #[allow(unsafe_code, reason = "a system call without a wrapper")]
    unsafe {
        ioctl::ioctl(queue.as_fd(), IntegerSetter::<TUNSETOFFLOAD>::new_usize(0))?;
    }
    Ok(())
}

/// The path, seen from the engine.
struct Bridge {
    ends: [Queue; 2],
    /// What comes from each end goes by its line.
    lines: [Line; 2],
    flights: Flights<Packet>,
    buffer: Box<[u8]>,
}

/// With the header that the interface puts before it.
struct Packet {
    from: usize,
    bytes: Vec<u8>,
}

impl Station for Bridge {
    fn ready(&mut self, _: &Poll<'_>, key: u32, _: EventFlags, now: Instant) {
        let from = usize::from(key == 1);
        for _ in 0..AT_ONCE {
            let Readiness::Ready(Ok(length)) = self.ends[from].read(&mut self.buffer) else { return };
            if let Some(due) = self.lines[from].admit(now, length.saturating_sub(HEADER)) {
                self.flights.push(due, Packet { from, bytes: self.buffer[..length].to_vec() });
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        self.flights.due()
    }

    fn release(&mut self, _: &Poll<'_>, now: Instant) {
        while let Some(Packet { from, bytes }) = self.flights.land(now) {
            // What the kernel does not take is lost, as on any network.
            let _ = self.ends[1 - from].write_vectored(&[IoSlice::new(&bytes)]);
        }
    }
}
