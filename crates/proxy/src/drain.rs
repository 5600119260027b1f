//! The end of a POP: unready, then no new clients, then no clients at all.

use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// How far a drain has got. Never goes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Phase {
    /// Takes clients.
    Serving,
    /// Says it is not ready, but still takes those who come.
    Unready,
    /// Takes no more; finishes what runs.
    Draining,
    /// Nothing runs any more.
    Over,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Serving, Self::Unready, Self::Draining, Self::Over];
}

/// How far a drain has got, for everybody to see.
#[derive(Default)]
pub struct Drain(AtomicU8);

impl Drain {
    /// How far it has got.
    pub fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.0.load(SeqCst))]
    }

    pub(crate) fn advance(&self, to: Phase) {
        self.0.fetch_max(to as u8, SeqCst);
    }
}

/// How often a drain looks whether the last connection has gone.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);
