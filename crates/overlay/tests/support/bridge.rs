//! Two overlays with their queues joined: what leaves the one arrives in the other, super-packets whole.

use std::io::{IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use edgeproxy_overlay::{Enclave, HEADER, LARGEST, LinkSettings, ListenSettings, Queue, Sockets};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::packet::Header;
use super::{PATIENCE, accept, open};

/// What a transfer moves.
const BULK: usize = 64 << 20;
const MTU: usize = 1420;
/// What one send of UDP can hold, and what WireGuard adds to each segment.
const LARGEST_SEND: usize = 65_507;
const WIREGUARD: usize = 32;

/// A bulk transfer between two enclaves: what the kernel hands over in one piece fits one send of the encrypted
/// segments, and nearly fills it.
pub(crate) fn check_bulk() {
    let (left, right) = (side("10.50.0.1/24"), side("10.50.0.2/24"));
    let settings = ListenSettings::at("10.50.0.2:5432".parse().unwrap());
    let (_, listening) = right.0.listen(&settings).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let most = Arc::new(Most::default());
    let queues = [Arc::new(left.1), Arc::new(right.1)];
    let carriers = [(0, 1), (1, 0)].map(|(from, to)| {
        let (from, to) = (Arc::clone(&queues[from]), Arc::clone(&queues[to]));
        let (over, most) = (Arc::clone(&over), Arc::clone(&most));
        thread::spawn(move || carry(&from, &to, &over, &most))
    });
    let server = thread::spawn(move || {
        let mut client = TcpStream::from(accept(&listening[0]).0.fd);
        client.set_nonblocking(false).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        std::io::copy(&mut Read::by_ref(&mut client), &mut std::io::sink()).unwrap()
    });
    let started = Instant::now();
    let mut client = dial(&left.0);
    client.write_all(&vec![7; BULK]).unwrap();
    drop(client);
    assert_eq!(server.join().unwrap(), BULK as u64);
    let took = started.elapsed();
    over.store(true, Ordering::Relaxed);
    for carrier in carriers {
        carrier.join().unwrap();
    }
    let [segments, segment, sealed] =
        [&most.segments, &most.segment, &most.sealed].map(|one| one.load(Ordering::Relaxed));
    println!("{} MiB in {took:?}; at most {segments} segments, {sealed} bytes once encrypted", BULK >> 20);
    assert!(segment <= MTU, "{segment}");
    assert!((LARGEST_SEND - 5 * MTU..=LARGEST_SEND).contains(&sealed), "{sealed}");
}

/// The most of everything that was carried in one piece.
#[derive(Default)]
struct Most {
    segments: AtomicUsize,
    /// Bytes of a segment.
    segment: AtomicUsize,
    /// Bytes of all segments of a piece with what WireGuard adds.
    sealed: AtomicUsize,
}

fn side(address: &str) -> (Sockets, Queue) {
    let sockets = Sockets::Enclave(Enclave::start().unwrap());
    let link =
        LinkSettings { addresses: vec![address.parse().unwrap()], mtu: u32::try_from(MTU).unwrap(), routes: vec![] };
    let queue = open(&sockets, 1, link).into_queues().remove(0);
    (sockets, queue)
}

fn dial(sockets: &Sockets) -> TcpStream {
    let to = "10.50.0.2:5432".parse().unwrap();
    let socket: OwnedFd = sockets.tcp(edgeproxy_overlay::Family::of(to)).unwrap();
    let _ = rustix::net::connect(&socket, &to);
    let mut watched = [PollFd::new(&socket, PollFlags::OUT)];
    rustix::event::poll(&mut watched, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })).unwrap();
    let stream = TcpStream::from(socket);
    assert!(stream.take_error().unwrap().is_none());
    stream.set_nonblocking(false).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn carry(from: &Queue, to: &Queue, over: &AtomicBool, most: &Most) {
    let mut buffer = vec![0; LARGEST];
    let wait = Timespec::try_from(Duration::from_millis(20)).unwrap();
    while !over.load(Ordering::Relaxed) {
        let Poll::Ready(count) = from.read(&mut buffer) else {
            rustix::event::poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&wait)).unwrap();
            continue;
        };
        let bytes = &buffer[..count.unwrap()];
        let header = Header::parse(bytes);
        if header.gso_type != 0 {
            let headers = usize::from(header.length);
            let segment = headers + usize::from(header.gso_size);
            let segments = (bytes.len() - HEADER - headers).div_ceil(usize::from(header.gso_size));
            most.segments.fetch_max(segments, Ordering::Relaxed);
            most.segment.fetch_max(segment, Ordering::Relaxed);
            most.sealed.fetch_max(segments * (segment + WIREGUARD), Ordering::Relaxed);
        }
        let Poll::Ready(written) = to.write_vectored(&[IoSlice::new(bytes)]) else { panic!("the queue is full") };
        assert_eq!(written.unwrap(), bytes.len());
    }
}
