//! A flood of strangers on a real socket: what becomes of those who are there, and of those who want to be let in.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

use edgeproxy_overlay::{Loss, Tenants};
use edgeproxy_tunnel::{CookieJar, Dropped, GateSettings, MacKey, Moment, PublicKey};

use crate::client::socket;
use crate::support::{AtEnd, Host, eventually, packet};

/// Set to 1, what takes long and is timed is run as well.
const SLOW: &str = "EDGEPROXY_SLOW_TESTS";
/// Each pretends to be somebody else.
const SOURCES: u8 = 200;
/// What a test machine bears while other tests run on it.
const GATE: GateSettings = GateSettings {
    unproven_per_second: 50,
    proven_per_second: 50,
    per_source_per_second: 20,
    per_source_burst: 5,
    sources: 256,
};

/// Initiations whose mac1 fits, from many addresses of this machine.
struct Flood {
    sockets: Vec<UdpSocket>,
    messages: Vec<[u8; 148]>,
    sent: AtomicU64,
    over: AtomicBool,
}

impl Flood {
    fn of(to: &PublicKey) -> Self {
        let sockets = (1..=SOURCES).map(|number| socket(&Ipv4Addr::new(127, 9, number, 7).to_string())).collect();
        let message = |number: u8| {
            let mut message = [number; 148];
            message[..4].copy_from_slice(&[1, 0, 0, 0]);
            // Not of low order, so that all of the work is done.
            message[8] = 9;
            CookieJar::default().sign(&mut message, &MacKey::of(to), Moment::default());
            message
        };
        Self {
            sockets,
            messages: (0..=255).map(message).collect(),
            sent: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// Sends so many in each millisecond until it is over, and at most `most`.
    fn run(&self, host: &Host, each: usize, most: u64) {
        let to = host.address();
        let mut all = self.sockets.iter().cycle().zip(self.messages.iter().cycle());
        while !self.over.load(Relaxed) && self.sent.load(Relaxed) < most {
            for (socket, message) in all.by_ref().take(each) {
                if socket.send_to(message, to).is_ok() {
                    self.sent.fetch_add(1, Relaxed);
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lengths of the answers, each once.
    fn answers(&self) -> Vec<usize> {
        let mut lengths = Vec::new();
        for socket in &self.sockets {
            socket.set_nonblocking(true).unwrap();
            while let Ok(length) = socket.recv(&mut [0; 2048]) {
                lengths.push(length);
            }
        }
        lengths.sort_unstable();
        lengths.dedup();
        lengths
    }
}

#[test]
fn a_flood_hurts_no_session_and_keeps_no_new_peer_out_for_longer_than_one_retry() {
    let hub = Host::start_gated(9, false, Tenants::default(), GATE);
    let (old, new) = (Host::start(1, false), Host::start(2, false));
    for (host, ip) in [(&old, "10.50.0.1"), (&new, "10.50.0.2")] {
        hub.know(host, false, &[ip]);
        host.know(&hub, true, &["10.50.0.9"]);
    }
    let hello = packet(old.ip, hub.ip, b"hello");
    old.send(&hello);
    assert_eq!(hub.receive(), hello);

    let flood = Flood::of(&hub.device.public());
    let started = Instant::now();
    let first = packet(new.ip, hub.ip, b"let me in");
    thread::scope(|scope| {
        scope.spawn(|| flood.run(&hub, 5, 60_000));
        let _end = AtEnd(&flood.over);
        // It is a flood by now: the first budget is used up.
        eventually("a load", || flood.sent.load(Relaxed) > 1_000);
        new.send(&first);
        // Meanwhile each packet of the other comes, one after the other, there and back, until the new one's comes too.
        let (mut exchanged, mut came_in) = (0_u32, None);
        while came_in.is_none() {
            let there = packet(old.ip, hub.ip, &exchanged.to_be_bytes());
            let back = packet(hub.ip, old.ip, &exchanged.to_be_bytes());
            old.send(&there);
            loop {
                let came = hub.receive();
                if came == there {
                    break;
                }
                assert_eq!(came, first);
                came_in = Some(started.elapsed());
            }
            hub.send(&back);
            assert_eq!(old.receive(), back);
            exchanged += 1;
        }
        let took = came_in.unwrap();
        println!(
            "{exchanged} packets each way, {} initiations, the new peer in after {took:?}",
            flood.sent.load(Relaxed)
        );
        assert!(exchanged > 100);
        // Two attempts: at once and after 5 to 5.4 seconds. A third would come after 10.
        assert!(took < Duration::from_millis(9_500), "{took:?}");
    });
    // As many were looked into as the gate allows in that time, and what it held; all others were sent a cookie or lost.
    let looked_into = hub.device.counters().get(Loss::Handshake(Dropped::Forged));
    let most = u64::from(GATE.unproven_per_second) * (started.elapsed().as_secs() + 2);
    assert!((40..=most).contains(&looked_into), "{looked_into} of at most {most}");
    assert_eq!(flood.answers(), [64], "cookies, and nothing longer");
    assert_eq!(hub.device.peer_count(), 2);
    assert!(new.device.peer(&hub.device.public()).unwrap().last_handshake.is_some());
}

/// Where nobody is registered at all, the gate is as it is everywhere; and it opens again.
#[test]
fn a_flood_is_told_to_prove_itself_by_a_hub_without_peers() {
    let hub = Host::start_gated(9, false, Tenants::default(), GATE);
    let flood = Flood::of(&hub.device.public());
    let forged = || hub.device.counters().get(Loss::Handshake(Dropped::Forged));
    flood.run(&hub, 20, 1_000);
    eventually("answers", || flood.answers() == [64]);
    // What comes after it, once counted, tells that all of it is behind us.
    let mut last = [0; 92];
    last[0] = 2;
    eventually("the end of it", || {
        flood.sockets[0].send_to(&last, hub.address()).unwrap();
        hub.device.counters().get(Loss::Handshake(Dropped::NoMac)) > 0
    });
    // Some time passes: whoever comes is looked into at once.
    let new = Host::start(1, false);
    hub.know(&new, false, &["10.50.0.1"]);
    new.know(&hub, true, &["10.50.0.9"]);
    let before = forged();
    thread::sleep(Duration::from_millis(100));
    let sent = packet(new.ip, hub.ip, b"hello");
    new.send(&sent);
    assert_eq!(hub.receive_within(Duration::from_secs(4)), Some(sent), "by its first attempt");
    assert_eq!(forged(), before);
}

/// Packets of a session that come through, at an even pace that this machine bears well.
fn come_through(old: &Host, hub: &Host, time: Duration) -> (u64, u64) {
    const EACH: u64 = 10;
    let (started, mut sent, mut came) = (Instant::now(), 0, 0);
    let there = packet(old.ip, hub.ip, &[7; 1_000]);
    while started.elapsed() < time {
        (0..EACH).for_each(|_| old.send(&there));
        sent += EACH;
        let until = started + Duration::from_micros(1_000 * (sent / EACH));
        while let Some(_packet) = hub.receive_within(until.saturating_duration_since(Instant::now())) {
            came += 1;
        }
    }
    while hub.receive_within(Duration::from_millis(50)).is_some() {
        came += 1;
    }
    (sent, came)
}

/// Timed, and so of use on a machine that has nothing else to do only.
#[test]
fn a_session_keeps_its_rate_during_a_flood() {
    if std::env::var(SLOW).as_deref() != Ok("1") {
        println!("skipped: {SLOW}=1 has it run");
        return;
    }
    let (hub, old) = (Host::start(9, false), Host::start(1, false));
    hub.know(&old, false, &["10.50.0.1"]);
    old.know(&hub, true, &["10.50.0.9"]);
    let hello = packet(old.ip, hub.ip, b"hello");
    old.send(&hello);
    assert_eq!(hub.receive(), hello);
    let time = Duration::from_secs(4);
    let rate = |came: u64| came as f64 / time.as_secs_f64();
    let (sent, came) = come_through(&old, &hub, time);
    println!("without a flood: {sent} sent, {came} came, {:.0} a second", rate(came));
    let flood = Flood::of(&hub.device.public());
    let (sent, during) = thread::scope(|scope| {
        scope.spawn(|| flood.run(&hub, 20, u64::MAX));
        let _end = AtEnd(&flood.over);
        come_through(&old, &hub, time)
    });
    let strangers = flood.sent.load(Relaxed);
    println!("during one of {:.0} a second: {sent} sent, {during} came, {:.0} a second", rate(strangers), rate(during));
    assert!(during as f64 >= 0.9 * came as f64);
}
