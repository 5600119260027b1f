//! An overlay with nobody at its other end, or another overlay.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]
#![allow(clippy::print_stdout, reason = "measured and skipped things are told")]

pub(crate) mod bridge;
pub(crate) mod netstack;
pub(crate) mod packet;

use std::fs;
use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::task::Poll;
use std::time::{Duration, Instant};

use edgeproxy_overlay::{
    Acceptor, Family, HEADER, LARGEST, LinkSettings, ListenSettings, Queue, Sockets, Stream, Tun, TunError, configure,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use packet::{Header, Packet};

/// How long something may take that takes no time.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn link() -> LinkSettings {
    LinkSettings {
        addresses: vec!["10.50.0.1/24".parse().unwrap(), "fd50::1/64".parse().unwrap()],
        mtu: 1420,
        // The second is there already, with the address.
        routes: vec!["10.60.0.0/16".parse().unwrap(), "10.50.0.0/24".parse().unwrap(), "fd60::/48".parse().unwrap()],
    }
}

pub(crate) fn open(sockets: &Sockets, queues: usize, link: LinkSettings) -> Tun {
    let opened = sockets.within(move || {
        let tun = Tun::open(None, queues).unwrap();
        configure(tun.name(), &link).unwrap();
        tun
    });
    opened.unwrap()
}

/// The network namespace of the calling thread.
pub(crate) fn network() -> PathBuf {
    fs::read_link("/proc/thread-self/ns/net").unwrap()
}

/// The next packet of any queue.
fn next(queues: &[Queue]) -> Packet {
    let mut buffer = vec![0; LARGEST];
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        for queue in queues {
            if let Poll::Ready(count) = queue.read(&mut buffer) {
                return Packet::parse(&buffer[..count.unwrap()]);
            }
        }
        let mut watched: Vec<_> = queues.iter().map(|queue| PollFd::new(queue, PollFlags::IN)).collect();
        rustix::event::poll(&mut watched, Some(&Timespec::try_from(PATIENCE).unwrap())).unwrap();
    }
    panic!("no packet came");
}

/// Everything that is to hold of an overlay, wherever it lives.
pub(crate) fn check(sockets: &Sockets) {
    let tun = open(sockets, 2, link());
    let name = tun.name().to_owned();
    assert!(name.starts_with("edge"), "{name}");
    println!("{name}: offload {:?}", tun.offload());
    let queues = tun.into_queues();
    leaves_by_address_and_route(sockets, &queues);
    arrives(sockets, &queues);
    listens(sockets);
    dials(sockets, &queues);

    let taken = name.clone();
    let second = sockets.within(move || Tun::open(Some(&taken), 1)).unwrap();
    assert_eq!(second.unwrap_err(), TunError::NameTaken(name.clone()));
    let loopback = sockets.within(|| Tun::open(Some("lo"), 1)).unwrap();
    assert_eq!(loopback.unwrap_err(), TunError::NameTaken("lo".into()));
    drop(queues);
    // With its queues the interface went.
    sockets.within(move || Tun::open(Some(&name), 1)).unwrap().unwrap();
}

/// What a socket sends to a neighbour or along a route comes out of a queue; and nothing came before that.
fn leaves_by_address_and_route(sockets: &Sockets, queues: &[Queue]) {
    for (from, to) in [
        ("10.50.0.1", "10.50.0.2:7"),
        ("10.50.0.1", "10.60.1.2:7"),
        ("fd50::1", "[fd50::2]:7"),
        ("fd50::1", "[fd60::2]:7"),
    ] {
        let to: SocketAddr = to.parse().unwrap();
        let socket = UdpSocket::from(sockets.udp(Family::of(to)).unwrap());
        socket.send_to(b"hello", to).unwrap();
        let packet = next(queues);
        assert_eq!((packet.source.ip(), packet.destination), (from.parse().unwrap(), to));
        assert_eq!(packet.payload, b"hello");
        // The kernel leaves the checksum to us.
        let starts = if to.is_ipv4() { 20 } else { 40 };
        let header =
            Header { flags: Header::NEEDS_CHECKSUM, checksum_start: starts, checksum_offset: 6, ..packet.header };
        assert_eq!(packet.header, header);
        assert_eq!((packet.header.gso_type, packet.header.gso_size), (0, 0));
    }
}

/// What is written to a queue comes out of a socket.
fn arrives(sockets: &Sockets, queues: &[Queue]) {
    let own: SocketAddr = "10.50.0.1:5000".parse().unwrap();
    let peer = "10.50.0.2:6000".parse().unwrap();
    let socket = UdpSocket::from(sockets.udp(Family::V4).unwrap());
    rustix::net::bind(&socket, &own).unwrap();
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    for (queue, text) in queues.iter().zip(["first", "second"]) {
        let packet = packet::udp(peer, own, text.as_bytes());
        let parts = [IoSlice::new(&[0; HEADER]), IoSlice::new(&packet[..20]), IoSlice::new(&packet[20..])];
        let Poll::Ready(written) = queue.write_vectored(&parts) else { panic!("a TUN takes packets at once") };
        assert_eq!(written.unwrap(), HEADER + packet.len());
        let mut buffer = [0; 64];
        let (count, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..count], from), (text.as_bytes(), peer));
    }
}

/// A service of the overlay may have any port.
fn listens(sockets: &Sockets) {
    let address: SocketAddr = "10.50.0.1:443".parse().unwrap();
    let (own, listening) = sockets.listen(&ListenSettings::at(address)).unwrap();
    assert_eq!(own, address);
    assert_eq!(listening[0].accept().unwrap_err(), Errno::AGAIN);
    let client = sockets.tcp(Family::V4).unwrap();
    assert_eq!(rustix::net::connect(&client, &address), Err(Errno::INPROGRESS));
    let (accepted, from) = accept(&listening[0]);
    assert_eq!(from.ip(), address.ip());
    assert_eq!(std::net::TcpStream::from(accepted.fd).local_addr().unwrap(), address);
    let taken = sockets.listen(&ListenSettings::at(address)).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    let foreign = sockets.listen(&ListenSettings::at("10.50.0.9:443".parse().unwrap())).unwrap_err();
    assert_eq!(foreign.kind(), std::io::ErrorKind::AddrNotAvailable);
}

/// The next connection.
fn accept(acceptor: &Acceptor) -> (Stream, SocketAddr) {
    let mut watched = [PollFd::new(acceptor, PollFlags::IN)];
    rustix::event::poll(&mut watched, Some(&Timespec::try_from(PATIENCE).unwrap())).unwrap();
    acceptor.accept().unwrap()
}

/// Sockets are to be had one after the other, from the stock and beyond it, and each reaches into the overlay.
fn dials(sockets: &Sockets, queues: &[Queue]) {
    let mut dialled = Vec::new();
    for number in 0..100 {
        let to: SocketAddr = format!("10.50.0.2:{}", 1000 + number).parse().unwrap();
        let socket = sockets.tcp(Family::V4).unwrap();
        let flags = rustix::fs::fcntl_getfl(&socket).unwrap();
        assert!(flags.contains(rustix::fs::OFlags::NONBLOCK));
        assert_eq!(rustix::io::fcntl_getfd(&socket).unwrap(), rustix::io::FdFlags::CLOEXEC);
        assert_eq!(rustix::net::connect(&socket, &to), Err(Errno::INPROGRESS));
        // One that waits for its answer may ask again meanwhile.
        let asked = std::iter::repeat_with(|| next(queues)).find(|packet| packet.destination.port() >= to.port());
        assert_eq!(asked.unwrap().destination, to);
        dialled.push(socket);
    }
}
