//! Random numbers that a seed repeats.

use std::time::Duration;

use edgeproxy_world::Pattern;

/// One stream of them.
pub(crate) struct Dice(Pattern);

impl Dice {
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Self(Pattern::new(seed ^ stream.wrapping_mul(0xD6E8_FEB8_6659_FD93)))
    }

    pub(crate) fn next(&mut self) -> u64 {
        u64::from_le_bytes(self.0.take(8).try_into().unwrap())
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub(crate) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    /// A length in bytes: any order of magnitude is as likely.
    pub(crate) fn length(&mut self, low: u64, high: u64) -> u64 {
        let doublings = self.below(u64::from((high / low).ilog2()) + 1);
        let low = low << doublings;
        self.between(low, (low * 2).min(high))
    }

    pub(crate) fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[usize::try_from(self.below(list.len() as u64)).unwrap()]
    }
}
