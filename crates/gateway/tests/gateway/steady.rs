//! What goes on beside a running peer does not touch it; and what CI does all day works every time.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use edgeproxy_gateway::{Opened, PeerRequest};
use edgeproxy_overlay::{Device, DeviceSettings, PeerSettings, Queue};
use edgeproxy_tunnel::{Prefix, PresharedKey, PrivateKey};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::support::{Client, LONG, NoFlows, Served, device, file, private, settings};

/// Bytes of the header in front of each packet of an interface.
const HEADER: usize = 10;
/// Between two packets.
const PACE: Duration = Duration::from_micros(200);
/// Packets that are sent, at least.
const LEAST: u32 = 1000;
/// Packets between the two ends, at most.
const UNDER_WAY: usize = 50;
/// Set to 1, more is done.
const SLOW: &str = "EDGEPROXY_SLOW_TESTS";

/// A device whose interface is the test.
struct Bare {
    device: Arc<Device>,
    above: OwnedFd,
}

impl Bare {
    fn start(settings: DeviceSettings) -> Self {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (above, below) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        Self { device: Arc::new(Device::start(settings, vec![Queue::from(below)]).unwrap()), above }
    }

    fn send(&self, from: Ipv4Addr, to: Ipv4Addr, number: u32) {
        let mut packet = vec![0; HEADER];
        packet.extend_from_slice(&[0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0]);
        packet.extend_from_slice(&[from.octets(), to.octets()].concat());
        packet.extend_from_slice(&[0, 9, 0, 9, 0, 12, 0, 0]);
        packet.extend_from_slice(&number.to_be_bytes());
        rustix::io::write(&self.above, &packet).unwrap();
    }

    /// The number of a packet that came up, if one did.
    fn receive(&self) -> Option<u32> {
        let mut buffer = [0; 2048];
        let length = rustix::io::read(&self.above, &mut buffer).ok()?;
        buffer[..length].last_chunk().map(|number| u32::from_be_bytes(*number))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_packet_is_lost_while_ten_thousand_others_come_and_go() {
    let (_folder, db) = file();
    let ip = Ipv4Addr::new(10, 50, 0, 1);
    let opened = Opened::open(settings(&db), &[Prefix::host(ip.into())]).unwrap();
    let own = DeviceSettings { directory: Some(opened.directory()), awake_most: 10, ..device(private(), ip.into()) };
    let hub = Bare::start(own);
    let gateway = Arc::new(opened.serve(Arc::clone(&hub.device), Arc::new(NoFlows)));
    let key: PrivateKey = private();
    let request = PeerRequest { public: Some(key.public()), ..PeerRequest::default() };
    let theirs = gateway.create(request).await.unwrap().peer.row.v4.unwrap();
    let client = Bare::start(device(key, theirs.into()));
    client.device.set_peer(PeerSettings {
        public: hub.device.public(),
        preshared: PresharedKey::default(),
        endpoint: Some(SocketAddr::from(([127, 0, 0, 1], hub.device.port()))),
        keepalive: None,
        allowed_ips: vec!["10.50.0.0/16".parse().unwrap()],
    });
    // The first waits for the handshake.
    client.send(theirs, ip, 0);
    let until = Instant::now() + LONG;
    while hub.receive().is_none() {
        assert!(Instant::now() < until, "no handshake");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    let over = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&over);
    let flow = std::thread::spawn(move || {
        let (mut sent, mut came) = (0, Vec::new());
        let (began, mut last) = (Instant::now(), Instant::now());
        let goes_on = |sent: u32| !is_over.load(Relaxed) || sent < LEAST;
        while goes_on(sent) || last.elapsed() < Duration::from_millis(500) {
            assert!(began.elapsed() < 6 * LONG, "{} of {sent} packets came", came.len());
            // So few are under way that no queue is ever full, whoever has the processor; one that is lost is missed below.
            let under_way = sent as usize - came.len();
            if goes_on(sent) && (under_way < UNDER_WAY || last.elapsed() > LONG) {
                sent += 1;
                client.send(theirs, ip, sent);
            }
            std::thread::sleep(PACE);
            while let Some(number) = hub.receive() {
                came.push(number);
                last = Instant::now();
            }
        }
        (sent, came)
    });
    let mut others = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let gateway = Arc::clone(&gateway);
        others.spawn(async move {
            for _ in 0..200 {
                let created = gateway.create(PeerRequest::default()).await.unwrap();
                gateway.remove(created.peer.row.id).await.unwrap();
            }
        });
    }
    others.join_all().await;
    over.store(true, Relaxed);
    let (sent, came) = flow.join().unwrap();
    assert!(came.iter().copied().eq(1..=sent), "{} of {sent} packets came", came.len());
    assert_eq!(gateway.len(), 1);
}

#[tokio::test]
async fn peers_that_live_for_one_request_are_served_every_time() {
    let count = if std::env::var(SLOW).is_ok_and(|set| set == "1") { 10_000 } else { 200 };
    let (_folder, db) = file();
    let quarantine = Duration::ZERO;
    let served = Served::start_with(edgeproxy_gateway::GatewaySettings { quarantine, ..settings(&db) }, 100);
    for number in 0..count {
        let client = Client::create(&served, PeerRequest::default()).await;
        // Once: an initiation that is lost would be sent again only after five seconds.
        assert!(client.up(&served).is_heard(Duration::from_secs(4)), "number {number}");
        served.gateway.remove(served.gateway.find(&client.public()).unwrap()).await.unwrap();
    }
    assert_eq!((served.gateway.len(), served.gateway.device().awake()), (0, 0));
}
