//! Two devices, above each a TCP stack of its own instead of an interface.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use edgeproxy_overlay::{
    Acceptor, Device, DeviceSettings, Line, ListenSettings, Netstack, PeerSettings, Sockets, Stream, Tenants,
};
use edgeproxy_tunnel::{Prefix, PresharedKey};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::support::{LONG, private};

const PORT: u16 = 5432;
const WORKERS: usize = 2;

struct Host {
    device: Device,
    netstack: Arc<Netstack>,
    ip: IpAddr,
}

impl Host {
    fn start(number: u8) -> Self {
        Self::start_at(number, &format!("10.50.0.{number}/24"), None)
    }

    /// With this address. Given tenants, it passes packets on.
    fn start_at(number: u8, address: &str, tenants: Option<Tenants>) -> Self {
        let (ip, _) = address.split_once('/').unwrap();
        let ip = ip.parse().unwrap();
        let (netstack, queues) = Netstack::start(&[address.parse().unwrap()], 1420, WORKERS).unwrap();
        let settings = DeviceSettings {
            forward: tenants.is_some(),
            tenants: tenants.unwrap_or_default(),
            ..DeviceSettings::new(private(number), 1420, vec![ip])
        };
        Self { device: Device::start(settings, queues).unwrap(), netstack, ip }
    }

    fn below(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.device.port()))
    }

    fn know(&self, other: &Self, endpoint: Option<SocketAddr>) {
        self.know_as(other, endpoint, &[&other.ip.to_string()]);
    }

    fn know_as(&self, other: &Self, endpoint: Option<SocketAddr>, allowed_ips: &[&str]) {
        self.device.set_peer(PeerSettings {
            public: other.device.public(),
            preshared: PresharedKey::default(),
            endpoint,
            keepalive: None,
            allowed_ips: allowed_ips.iter().map(|prefix| prefix.parse::<Prefix>().unwrap()).collect(),
        });
    }

    fn listen(&self) -> Acceptor {
        self.listen_with(ListenSettings { backlog: 512, ..ListenSettings::at(self.at(PORT)) }).unwrap().1.pop().unwrap()
    }

    fn listen_with(&self, settings: ListenSettings) -> io::Result<(SocketAddr, Vec<Acceptor>)> {
        Sockets::Netstack(Arc::clone(&self.netstack)).listen(&settings)
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.ip, port))
    }

    fn connect(&self, to: SocketAddr) -> io::Result<(UnixStream, Line)> {
        let (mut stream, line) = blocking(self.netstack.dial(to)?);
        let read = stream.read(&mut [0])?;
        line.settled(read)?;
        Ok((stream, line))
    }
}

fn pair() -> (Host, Host) {
    joined(Host::start(1), Host::start(2))
}

fn pair_of_v6() -> (Host, Host) {
    joined(Host::start_at(1, "fd50::1/64", None), Host::start_at(2, "fd50::2/64", None))
}

fn joined(a: Host, b: Host) -> (Host, Host) {
    a.know(&b, Some(b.below()));
    b.know(&a, None);
    (a, b)
}

fn blocking(stream: Stream) -> (UnixStream, Line) {
    let socket = UnixStream::from(stream.fd);
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.set_write_timeout(Some(LONG)).unwrap();
    (socket, stream.line.expect("a stack's stream has a line"))
}

fn accept(acceptor: &Acceptor) -> (UnixStream, Line, SocketAddr) {
    assert!(rings(acceptor, LONG), "nobody comes");
    let (stream, from) = acceptor.accept().unwrap();
    let (stream, line) = blocking(stream);
    (stream, line, from)
}

/// Whether somebody waits to be accepted, or does within that time.
fn rings(acceptor: &Acceptor, within: Duration) -> bool {
    poll(&mut [PollFd::new(acceptor, PollFlags::IN)], Some(&Timespec::try_from(within).unwrap())).unwrap() == 1
}

/// Bytes of which no two stretches are alike.
fn sample(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32).to_le_bytes()
    };
    std::iter::repeat_with(word).flatten().take(length).collect()
}

/// Sends back what comes, and ends when the other has ended.
fn echo(mut stream: UnixStream) {
    let mut reading = stream.try_clone().unwrap();
    io::copy(&mut reading, &mut stream).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Sends all of it and ends, while it takes in what comes back.
fn exchange(stream: &UnixStream, sent: Vec<u8>) -> Vec<u8> {
    let mut writing = stream.try_clone().unwrap();
    let writer = spawn(move || {
        writing.write_all(&sent).unwrap();
        writing.shutdown(Shutdown::Write).unwrap();
    });
    let mut came = Vec::new();
    (&*stream).read_to_end(&mut came).unwrap();
    writer.join().unwrap();
    came
}

fn echoes(acceptor: Acceptor, count: usize) -> JoinHandle<()> {
    spawn(move || {
        let threads: Vec<_> = (0..count).map(|_| accept(&acceptor).0).map(|stream| spawn(|| echo(stream))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    })
}

#[test]
fn ten_megabytes_come_back_as_they_were() {
    comes_back(&pair(), 10_000_000);
}

#[test]
fn with_nothing_but_ipv6_it_is_the_same() {
    let pair = pair_of_v6();
    comes_back(&pair, 3_000_000);
    let (a, b) = pair;
    let acceptor = b.listen();
    let _dialled = a.connect(b.at(PORT)).unwrap();
    assert_eq!(accept(&acceptor).2.ip(), a.ip);
    let started = Instant::now();
    assert_eq!(a.connect(b.at(81)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    let unreachable = a.netstack.dial("10.50.0.2:443".parse().unwrap()).unwrap_err();
    assert_eq!(unreachable.kind(), io::ErrorKind::NetworkUnreachable);
}

fn comes_back((a, b): &(Host, Host), length: usize) {
    let server = echoes(b.listen(), 1);
    let (stream, line) = a.connect(b.at(PORT)).unwrap();
    let sent = sample(length);
    let came = exchange(&stream, sent.clone());
    assert!(came == sent, "{} bytes of {} came back, or others", came.len(), sent.len());
    assert!(line.error().is_none());
    server.join().unwrap();
}

#[test]
fn an_accepted_connection_tells_where_it_is_from() {
    let (a, b) = pair();
    let acceptor = b.listen();
    let _dialled = a.connect(b.at(PORT)).unwrap();
    let (_, _, from) = accept(&acceptor);
    assert_eq!(from.ip(), a.ip);
    assert!((32_768..61_000).contains(&from.port()));
}

#[test]
fn where_nobody_listens_it_is_refused_at_once() {
    let (a, b) = pair();
    // The handshake below takes its time once.
    assert_eq!(a.connect(b.at(PORT)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    let started = Instant::now();
    assert_eq!(a.connect(b.at(PORT)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
}

#[test]
fn what_cannot_be_dialled_is_said_at_once() {
    let (a, b) = pair();
    let kind = |to: SocketAddr| a.netstack.dial(to).unwrap_err().kind();
    assert_eq!(kind("[fd00::1]:443".parse().unwrap()), io::ErrorKind::NetworkUnreachable);
    assert_eq!(kind(a.at(443)), io::ErrorKind::ConnectionRefused);
    for odd in ["0.0.0.0:1", "255.255.255.255:1", "224.0.0.1:1", "10.50.0.2:0"] {
        assert_eq!(kind(odd.parse().unwrap()), io::ErrorKind::InvalidInput, "{odd}");
    }
    assert_eq!(b.listen_with(ListenSettings::at(a.at(443))).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
}

#[test]
fn from_where_there_is_no_peer_nothing_comes_until_the_dialler_gives_up() {
    let (a, _b) = pair();
    let (mut stream, line) = blocking(a.netstack.dial("10.50.0.77:443".parse().unwrap()).unwrap());
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert!(line.error().is_none());
}

#[test]
fn a_hub_that_does_not_pass_it_on_ends_a_dial_at_once() {
    for (hub, near, far, network, own) in [
        ("10.50.0.1/24", "10.50.0.2/24", "10.50.0.3/24", "10.50.0.0/24", "10.50.0.77"),
        ("fd50::1/64", "fd50::2/64", "fd50::3/64", "fd50::/64", "fd50::77"),
    ] {
        let prefix = |address: &str| address.split_once('/').unwrap().0.parse::<Prefix>().unwrap();
        let tenants = [near, far].map(|spoke| [prefix(spoke)]);
        let hub = Host::start_at(1, hub, Some(Tenants::new(tenants.iter().map(|tenant| &tenant[..]))));
        let (near, far) = (Host::start_at(2, near, None), Host::start_at(3, far, None));
        near.know_as(&hub, Some(hub.below()), &[network]);
        hub.know_as(&near, None, &[&near.ip.to_string(), own]);
        hub.know(&far, Some(far.below()));
        // The handshake below takes its time once.
        assert_eq!(near.connect(hub.at(PORT)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        // That of another tenant, and one that is our own as the hub sees it.
        for nowhere in [far.ip, own.parse().unwrap()] {
            let started = Instant::now();
            let refused = near.connect(SocketAddr::new(nowhere, PORT)).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::HostUnreachable);
            assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
        }
    }
}

#[test]
fn a_full_backlog_does_not_answer() {
    let (a, b) = pair();
    let settings = ListenSettings { backlog: 2, ..ListenSettings::at(b.at(PORT)) };
    let (_, acceptors) = b.listen_with(settings).unwrap();
    let waiting: Vec<_> = (0..2).map(|_| a.connect(b.at(PORT)).unwrap()).collect();
    let (mut third, line) = blocking(a.netstack.dial(b.at(PORT)).unwrap());
    third.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
    assert_eq!(third.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock, "it was asked twice by now");
    accept(&acceptors[0]);
    third.set_read_timeout(Some(LONG)).unwrap();
    line.settled(third.read(&mut [0]).unwrap()).unwrap();
    // Those who gave up meanwhile are accepted as well, as by the kernel.
    drop(waiting);
    accept(&acceptors[0]);
    accept(&acceptors[0]);
    assert!(!rings(&acceptors[0], Duration::ZERO));
}

#[test]
fn those_who_share_an_address_take_their_turns() {
    let (a, b) = pair();
    let settings = ListenSettings { shares: 3, ..ListenSettings::at(b.at(0)) };
    let (address, acceptors) = b.listen_with(settings).unwrap();
    assert_ne!(address.port(), 0);
    assert_eq!(b.listen_with(ListenSettings::at(address)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    let dialled: Vec<_> = (0..6).map(|_| a.connect(address).unwrap()).collect();
    for acceptor in &acceptors {
        accept(acceptor);
        accept(acceptor);
    }
    drop((acceptors, dialled));
    assert_eq!(a.connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    b.listen_with(ListenSettings::at(address)).unwrap();
}

#[test]
fn what_is_our_own_is_dialled_as_well() {
    let a = Host::start(1);
    let acceptor = a.listen();
    for dialler_resets in [true, false] {
        let (near, far) = (a.connect(a.at(PORT)).unwrap(), accept(&acceptor));
        assert_eq!(far.2.ip(), a.ip);
        let server = spawn(move || {
            echo(far.0.try_clone().unwrap());
            (far.0, far.1)
        });
        let sent = sample(1_000_000);
        assert!(exchange(&near.0, sent.clone()) == sent);
        let far = server.join().unwrap();
        assert!(near.1.error().is_none() && far.1.error().is_none());
        let (resets, (mut hears, line)) = if dialler_resets { (near, far) } else { (far, near) };
        resets.1.reset_on_close();
        drop(resets);
        assert_eq!(hears.read(&mut [0]).unwrap(), 0);
        assert_eq!(line.error().unwrap().kind(), io::ErrorKind::ConnectionReset);
    }
    drop(acceptor);
    assert_eq!(a.netstack.dial(a.at(PORT)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn who_waits_when_nobody_listens_any_more_is_reset() {
    let (a, b) = pair();
    let acceptor = b.listen();
    let (mut waits, line) = a.connect(b.at(PORT)).unwrap();
    assert!(rings(&acceptor, LONG));
    drop(acceptor);
    assert_eq!(waits.read(&mut [0]).unwrap(), 0);
    assert_eq!(line.error().unwrap().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn who_does_not_read_hears_of_a_reset_as_well() {
    let (a, b) = pair();
    let acceptor = b.listen();
    for dialler_resets in [true, false] {
        let (near, far) = (a.connect(b.at(PORT)).unwrap(), accept(&acceptor));
        let far = (far.0, far.1);
        let ((mut resets, its_line), (mut hears, line)) = if dialler_resets { (near, far) } else { (far, near) };
        // More than the longest buffers on the way hold: on a busy machine the round trip is taken for a long one.
        let said = sample(12_000_000);
        resets.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        assert!(resets.write_all(&said).is_err());
        assert!(its_line.unacknowledged() > 0);
        its_line.reset_on_close();
        drop(resets);
        crate::support::eventually("word of the reset", || line.error().is_some());
        assert_eq!(line.error().unwrap().kind(), io::ErrorKind::ConnectionReset);
        let mut heard = Vec::new();
        hears.read_to_end(&mut heard).unwrap();
        assert!(heard.len() > 100_000 && said.starts_with(&heard), "{} bytes of {}", heard.len(), said.len());
    }
}

#[test]
fn a_finished_direction_leaves_the_other_open() {
    let (a, b) = pair();
    let acceptor = b.listen();
    for dialler_first in [true, false] {
        let (near, _) = a.connect(b.at(PORT)).unwrap();
        let (far, far_line, _) = accept(&acceptor);
        let (mut first, mut second) = if dialler_first { (near, far) } else { (far, near) };
        first.write_all(b"that is all").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        second.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"that is all");
        let answer = sample(300_000);
        second.write_all(&answer).unwrap();
        drop(second);
        let mut heard = Vec::new();
        first.read_to_end(&mut heard).unwrap();
        assert!(heard == answer);
        assert!(far_line.error().is_none());
    }
}

#[test]
fn a_reset_is_passed_on_both_ways_and_what_was_said_before_it_is_heard() {
    let (a, b) = pair();
    let acceptor = b.listen();
    for dialler_resets in [true, false] {
        let (near, far) = (a.connect(b.at(PORT)).unwrap(), accept(&acceptor));
        let far = (far.0, far.1);
        let ((mut resets, its_line), (mut hears, line)) = if dialler_resets { (near, far) } else { (far, near) };
        resets.write_all(b"last words").unwrap();
        let mut words = [0; 10];
        hears.read_exact(&mut words).unwrap();
        assert_eq!(&words, b"last words");
        its_line.reset_on_close();
        drop(resets);
        assert_eq!(hears.read(&mut words).unwrap(), 0);
        assert_eq!(line.error().unwrap().kind(), io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn who_closes_with_bytes_unread_resets() {
    let (a, b) = pair();
    let acceptor = b.listen();
    let (mut near, line) = a.connect(b.at(PORT)).unwrap();
    let (far, ..) = accept(&acceptor);
    near.write_all(b"never read").unwrap();
    let until = Instant::now() + LONG;
    while rustix::io::ioctl_fionread(&far).unwrap() < 10 {
        assert!(Instant::now() < until);
        sleep(Duration::from_millis(1));
    }
    drop(far);
    // The kernel says so itself if bytes of ours were left as well.
    assert!(matches!(near.read(&mut [0]).map_err(|error| error.kind()), Ok(0) | Err(io::ErrorKind::ConnectionReset)));
    assert_eq!(line.error().unwrap().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn two_hundred_flows_run_at_once() {
    const FLOWS: usize = 200;
    let (a, b) = pair();
    let server = echoes(b.listen(), FLOWS);
    let streams: Vec<_> = (0..FLOWS).map(|_| a.netstack.dial(b.at(PORT)).unwrap()).map(blocking).collect();
    let threads: Vec<_> = streams
        .into_iter()
        .enumerate()
        .map(|(number, (mut stream, line))| {
            spawn(move || {
                line.settled(stream.read(&mut [0]).unwrap()).unwrap();
                let mut sent = sample(50_000);
                sent[..8].copy_from_slice(&number.to_le_bytes());
                assert!(exchange(&stream, sent.clone()) == sent, "flow {number}");
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    server.join().unwrap();
}

#[test]
fn there_are_no_more_flows_than_there_may_be() {
    let (a, _b) = pair();
    let nowhere = "10.50.0.77:443".parse().unwrap();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limit.current.is_some_and(|most| most < 9000) {
        let wanted = rustix::process::Rlimit { current: limit.maximum, ..limit };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, wanted).unwrap();
    }
    let streams: Vec<_> = (0..4096).map(|_| a.netstack.dial(nowhere).unwrap()).collect();
    assert_eq!(a.netstack.dial(nowhere).unwrap_err().raw_os_error(), Some(Errno::NOBUFS.raw_os_error()));
    drop(streams);
    crate::support::eventually("room", || a.netstack.dial(nowhere).is_ok());
}

#[test]
fn what_is_lost_on_the_way_is_sent_again() {
    let (a, b) = (Host::start(1), Host::start(2));
    let shim = UdpSocket::bind("127.0.0.1:0").unwrap();
    shim.set_read_timeout(Some(LONG)).unwrap();
    a.know(&b, Some(shim.local_addr().unwrap()));
    b.know(&a, None);
    let (from, to) = (a.below(), b.below());
    let losses = Arc::new(AtomicUsize::new(0));
    let lost_by_shim = Arc::clone(&losses);
    // One datagram of a hundred, after the handshake.
    spawn(move || {
        let (mut datagram, mut count) = ([0; 2000], 0_u64);
        while let Ok((length, source)) = shim.recv_from(&mut datagram) {
            count += 1;
            let lost = count > 10 && (count.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % 100 == 0;
            if lost {
                lost_by_shim.fetch_add(1, Relaxed);
            } else {
                let _ = shim.send_to(&datagram[..length], if source == from { to } else { from });
            }
        }
    });
    let server = echoes(b.listen(), 1);
    let (stream, _) = a.connect(b.at(PORT)).unwrap();
    let sent = sample(1_000_000);
    let came = exchange(&stream, sent.clone());
    assert!(came == sent, "{} bytes of {} came back, or others", came.len(), sent.len());
    assert!(losses.load(Relaxed) >= 5, "{losses:?}");
    server.join().unwrap();
}

#[test]
fn when_the_stack_ends_its_streams_do() {
    let (a, b) = pair();
    let acceptor = b.listen();
    let (mut stream, line) = a.connect(b.at(PORT)).unwrap();
    let _accepted = accept(&acceptor);
    assert_eq!(acceptor.accept().unwrap_err(), Errno::AGAIN);
    let Host { device, netstack, .. } = a;
    drop((device, netstack));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert_eq!(line.error().unwrap().kind(), io::ErrorKind::NetworkDown);
    drop(b);
    assert!(rings(&acceptor, LONG));
    assert_eq!(acceptor.accept().unwrap_err(), Errno::NETDOWN);
}
