//! What an awake peer costs in memory, and what a stranger does. Each test counts what its own thread allocates.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and tells what it measured")]
#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use edgeproxy_tunnel::{
    CookieJar, Dropped, GateSettings, Handshakes, Identity, Introduction, MacKey, Message, Moment, Outcome, Outlet,
    Owners, Peer, PresharedKey, PrivateKey, Random, Received, TRANSPORT_HEADER, Tai64N, Transport, datagram_length,
    halves,
};

struct Counting;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
    /// How often something was allocated.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn allocated() -> usize {
    ALLOCATED.get()
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get().wrapping_add(layout.size()));
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.set(ALLOCATED.get().wrapping_sub(layout.size()));
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Dice(u64);

impl Random for Dice {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            chunk.copy_from_slice(&(self.0 ^ self.0 >> 29).to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Awake peers measured.
const PEERS: u32 = 5_000;
/// Bytes of one, in two sessions, with its window, its way out, and what its handshakes need.
const LIMIT: usize = 1_200;

#[test]
fn an_awake_peer_fits_its_budget() {
    let gate = GateSettings { unproven_per_second: u32::MAX, ..GateSettings::default() };
    let mut gateway = Handshakes::new(PrivateKey::from_bytes([2; 32]), gate, Owners::new(2, 1), Dice(1));
    let us = gateway.public();
    let mut peers: Vec<Peer> = Vec::with_capacity(PEERS as usize);
    let before = allocated();
    for number in 0..PEERS {
        let mut key = [1; 32];
        key[8..12].copy_from_slice(&number.to_le_bytes());
        let client = Identity::new(PrivateKey::from_bytes(key));
        let shared = client.shared_with(&us).unwrap();
        let from = SocketAddr::from(([192, 0, 2, 1], 1024));
        let mut peer = Peer::new(Arc::new(Outlet::default()), None, Moment::default());
        // Two handshakes, a packet in each session.
        for round in 0..2 {
            let now = Moment::from_millis(1_000 + 121_000 * round);
            let wall = Tai64N::of(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(now.as_millis()));
            let ephemeral = PrivateKey::from_bytes([3; 32]);
            let (mut message, initiated) = client.initiate(&us, &shared, wall, ephemeral, 7).unwrap();
            CookieJar::default().sign(&mut message, &MacKey::of(&us), now);
            let outcome = gateway.handle_datagram(&message, from, now, |_| Some(Introduction::default()));
            let Outcome::Answered { keys, response, .. } = outcome else { unreachable!("{outcome:?}") };
            let Some(Message::Response(response)) = Message::parse(&response) else { unreachable!("a response") };
            let theirs = client.finish(&initiated, response, &PresharedKey::default()).unwrap();
            let local = keys.local;
            peer.handle_established(keys, from, now);
            let mut datagram = vec![0; datagram_length(100, 1420)];
            datagram[TRANSPORT_HEADER] = 0x45;
            Arc::new(halves(theirs, now).0).sealer(now).unwrap().seal(&mut datagram).unwrap();
            let header = Transport::parse(&datagram).unwrap();
            let (slot, mut opener) = peer.opener(local, now).unwrap().unwrap();
            opener.open(header, &mut datagram).unwrap();
            drop(opener);
            let received = Received { packets: true, newest: true, bytes: 148 };
            peer.handle_received(slot, received, from, now, 0);
            while peer.poll_action().is_some() {}
        }
        peers.push(peer);
    }
    let each = (allocated() - before) / PEERS as usize + size_of::<Peer>();
    println!("{each} bytes for an awake peer, {} of them in itself; at most {LIMIT}", size_of::<Peer>());
    assert!(each <= LIMIT);
}

/// Nothing is kept of what strangers send, however well it is made; and to tell them to prove their addresses takes no
/// memory at all, not even for a moment.
#[test]
fn strangers_leave_nothing_behind() {
    // Half of them find a full budget, the others a used-up one.
    let gate = GateSettings { unproven_per_second: 500, proven_per_second: 200, ..GateSettings::default() };
    let mut gateway = Handshakes::new(PrivateKey::from_bytes([2; 32]), gate, Owners::new(2, 1), Dice(1));
    let us = gateway.public();
    let now = Moment::from_millis(1_000);
    let made: Vec<([u8; 148], SocketAddr)> = (0..1_000_u32)
        .map(|number| {
            let mut key = [3; 32];
            key[8..12].copy_from_slice(&number.to_le_bytes());
            let stranger = Identity::new(PrivateKey::from_bytes(key));
            let shared = stranger.shared_with(&us).unwrap();
            let ephemeral = PrivateKey::from_bytes([4; 32]);
            let (mut message, _) = stranger.initiate(&us, &shared, Tai64N::default(), ephemeral, number).unwrap();
            CookieJar::default().sign(&mut message, &MacKey::of(&us), now);
            (message, SocketAddr::from(((0x0a00_0000 + number).to_be_bytes(), 1024)))
        })
        .collect();
    let (before, mut allocations, mut outcomes) = (allocated(), [0; 2], [0; 2]);
    for (message, from) in &made {
        let so_far = ALLOCATIONS.get();
        let place = match gateway.handle_datagram(message, *from, now, |_| None) {
            Outcome::Dropped(Dropped::UnknownPeer) => 0,
            Outcome::Cookie(_) => 1,
            other => unreachable!("{other:?}"),
        };
        allocations[place] += ALLOCATIONS.get() - so_far;
        outcomes[place] += 1;
    }
    let kept = allocated() - before;
    println!("{allocations:?} allocations for {outcomes:?} strangers");
    assert_eq!((outcomes, kept, allocations[1]), ([500, 500], 0, 0));
}
