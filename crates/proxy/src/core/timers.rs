//! When to look at which connection again.
//!
//! A wheel: setting a timer and finding it due cost the same few nanoseconds however many there are. Nobody takes a
//! timer back: it names a connection by its token, and when it is due for one that has ended, nothing happens. A
//! connection asks for a near look first, so that short ones leave no far timers behind; those of others that have ended
//! are swept out when they outnumber the living.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::token::Token;

/// How late a timer may be. None is early.
const TICK: Duration = Duration::from_millis(16);
/// Ticks on the wheel: 8 s, more than any wait of a client that is not served yet.
const BUCKETS: u64 = 512;
/// Far timers that are no burden, whomever they belong to: 24 KiB.
const SWEPT_FROM: usize = 1024;

pub(crate) struct Timers {
    zero: Instant,
    /// The first tick that has not been looked at.
    next: u64,
    wheel: Vec<Vec<Token>>,
    /// Timers on the wheel.
    near: usize,
    /// What is beyond the wheel.
    far: BinaryHeap<Reverse<(u64, Token)>>,
}

impl Timers {
    pub(crate) fn new(now: Instant) -> Self {
        let wheel = (0..BUCKETS).map(|_| Vec::new()).collect();
        Self { zero: now, next: 0, wheel, near: 0, far: BinaryHeap::new() }
    }

    /// The token will be due at this time, or up to a tick later.
    pub(crate) fn set(&mut self, at: Instant, token: Token) {
        let since = at.saturating_duration_since(self.zero).as_nanos();
        let tick = u64::try_from(since.div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX).max(self.next);
        if tick - self.next < BUCKETS {
            self.bucket(tick).push(token);
            self.near += 1;
        } else {
            self.far.push(Reverse((tick, token)));
        }
    }

    /// When the first timer is due.
    pub(crate) fn first(&self) -> Option<Instant> {
        let near = (self.near > 0)
            .then(|| (self.next..self.next + BUCKETS).find(|tick| !self.wheel[slot(*tick)].is_empty()))
            .flatten();
        let far = self.far.peek().map(|Reverse((tick, _))| *tick);
        let tick = near.into_iter().chain(far).min()?;
        Some(self.zero + Duration::from_millis(tick * u64::try_from(TICK.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Moves what is due by now to `due`.
    pub(crate) fn take_due(&mut self, now: Instant, due: &mut Vec<Token>) {
        let since = now.saturating_duration_since(self.zero).as_nanos() / TICK.as_nanos();
        let present = u64::try_from(since).unwrap_or(u64::MAX);
        if present < self.next {
            return;
        }
        for tick in self.next..=present.min(self.next + BUCKETS - 1) {
            // Taken whole: the memory of a busy second is not kept for a quiet one.
            let bucket = std::mem::take(self.bucket(tick));
            self.near -= bucket.len();
            due.extend(bucket);
        }
        self.next = present + 1;
        while let Some(Reverse((tick, token))) = self.far.peek().copied()
            && tick <= present
        {
            self.far.pop();
            due.push(token);
        }
    }

    /// Drops far timers of connections that have ended, once there are many more of them than of `living` ones.
    pub(crate) fn sweep(&mut self, living: usize, lives: impl Fn(Token) -> bool) {
        if self.far.len() > 2 * living + SWEPT_FROM {
            self.far.retain(|Reverse((_, token))| lives(*token));
        }
    }

    fn bucket(&mut self, tick: u64) -> &mut Vec<Token> {
        &mut self.wheel[slot(tick)]
    }
}

#[allow(clippy::cast_possible_truncation, reason = "below BUCKETS")]
fn slot(tick: u64) -> usize {
    (tick % BUCKETS) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(serial: u32) -> Token {
        Token { index: 0, serial }
    }

    #[test]
    fn timers_are_due_in_time_and_never_early() {
        let zero = Instant::now();
        let mut timers = Timers::new(zero);
        let waits = [0, 1, 999, 15_999, 16_000, 16_001, 16_500, 500_000, 8_191_999, 8_192_000, 8_192_001, 20_000_000]
            .map(Duration::from_micros);
        for (serial, wait) in (0..).zip(waits) {
            timers.set(zero + wait, token(serial));
        }
        let mut fired = vec![None; waits.len()];
        let mut due = Vec::new();
        while let Some(first) = timers.first() {
            timers.take_due(first, &mut due);
            assert!(!due.is_empty(), "a loop that sleeps until the first timer finds one");
            for token in due.drain(..) {
                fired[token.serial as usize] = Some(first - zero);
            }
        }
        for (wait, fired) in waits.into_iter().zip(fired) {
            let late = fired.unwrap().checked_sub(wait).expect("not early");
            assert!(late <= TICK, "{wait:?} was {late:?} late");
        }
    }

    #[test]
    fn far_timers_of_the_dead_are_swept_out() {
        let zero = Instant::now();
        let mut timers = Timers::new(zero);
        for serial in 0..100_000 {
            timers.set(zero + Duration::from_secs(3600), token(serial));
            timers.sweep(10, |token| token.serial < 10);
            assert!(timers.far.len() <= 20 + SWEPT_FROM + 1);
        }
        let mut due = Vec::new();
        timers.take_due(zero + Duration::from_secs(3601), &mut due);
        assert!((0..10).all(|serial| due.contains(&token(serial))), "the living keep theirs");
    }

    #[test]
    fn a_long_sleep_misses_none() {
        let zero = Instant::now();
        let mut timers = Timers::new(zero);
        let mut due = Vec::new();
        for (serial, wait) in (0..).zip([100, 9_000, 60_000]) {
            timers.set(zero + Duration::from_millis(wait), token(serial));
        }
        timers.take_due(zero + Duration::from_secs(30), &mut due);
        assert_eq!(due, [token(0), token(1)]);
        timers.set(zero, token(3));
        timers.take_due(zero + Duration::from_millis(30_016), &mut due);
        assert_eq!(due, [token(0), token(1), token(3)], "a time that has passed is due at the next tick");
        assert!(timers.first().unwrap() >= zero + Duration::from_secs(60));
    }
}
