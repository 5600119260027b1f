//! What held a key is wiped before its memory is used for something else. An allocator looks at all that is given back.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(unsafe_code, reason = "an allocator that looks")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use edgeproxy_tunnel::{
    GateSettings, Handshakes, Identity, Introduction, Moment, Owners, PresharedKey, PrivateKey, Random, Tai64N,
};

/// As they are once they are clamped.
const PRIVATE: [u8; 32] = [0x48; 32];
const EPHEMERAL: [u8; 32] = [0x50; 32];
const PRESHARED: [u8; 32] = [0xb2; 32];

struct Looking;

/// Blocks given back with a key in them.
static LEFT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Looking {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Zeroed, so that all of it may be looked at. SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the block is as long as its layout says, was zeroed when it was made, and is nobody's any more.
        let block = unsafe { std::slice::from_raw_parts(pointer, layout.size()) };
        let key = |window: &[u8]| {
            let first = window[0];
            [0x48, 0x50, 0xb2].contains(&first) && window.iter().all(|byte| *byte == first)
        };
        if block.windows(24).any(key) {
            LEFT.fetch_add(1, Relaxed);
        }
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Looking = Looking;

/// Every private key that is drawn is the same.
struct Ephemeral;

impl Random for Ephemeral {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill(EPHEMERAL[0]);
    }
}

fn left_by<T>(what: impl FnOnce() -> T) -> usize {
    let before = LEFT.load(Relaxed);
    drop(std::hint::black_box(what()));
    LEFT.load(Relaxed) - before
}

/// One test alone in its process, as it sees all that is given back.
#[test]
fn what_held_a_key_is_wiped_before_it_is_given_back() {
    assert_eq!(left_by(|| Box::new(PRIVATE)), 1, "what is not wiped is seen");
    assert_eq!(left_by(|| Box::new(PrivateKey::from_bytes(PRIVATE))), 0);
    assert_eq!(left_by(|| Box::new(PrivateKey::from_bytes(PRIVATE).clone())), 0);
    assert_eq!(left_by(|| Box::new(Identity::new(PrivateKey::from_bytes(PRIVATE)))), 0);
    assert_eq!(left_by(|| vec![PresharedKey::from_bytes(PRESHARED); 5]), 0);
    let introduction = || Introduction { preshared: PresharedKey::from_bytes(PRESHARED), ..Introduction::default() };
    assert_eq!(left_by(|| Box::new(introduction())), 0);
    let peer = PrivateKey::from_bytes([7; 32]).public();
    let begun = || {
        let mut handshakes =
            Handshakes::new(PrivateKey::from_bytes(PRIVATE), GateSettings::default(), Owners::new(1, 1), Ephemeral);
        // The second takes the place of the first, whose ephemeral key is of no use any more.
        for second in 1..3 {
            let made = handshakes.initiate(&peer, Moment::from_millis(second), Tai64N::default());
            handshakes.release(0x5050_5050);
            made.unwrap();
        }
        handshakes.give_up(&peer);
        handshakes
    };
    assert_eq!(left_by(begun), 0);
}
