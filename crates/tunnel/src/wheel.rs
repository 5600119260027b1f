//! When to look at which peer again: setting a deadline and finding it due cost the same however many there are.
//!
//! Nobody takes a deadline back. A peer that is visited says when it wants to be visited next; one that wants an earlier
//! visit is set again, and the later visit finds nothing to do.

use std::time::Duration;

use crate::moment::Moment;

/// How late a visit may be. None is early.
const TICK: Duration = Duration::from_millis(100);
/// Ticks on the wheel: 25.6 s, more than what lies between two visits of an active peer. One that is set beyond is
/// visited at the end of the wheel, and set again.
const BUCKETS: u64 = 256;

/// Deadlines of peers.
pub struct Wheel<T> {
    /// The first tick that has not been looked at.
    next: u64,
    buckets: Box<[Vec<T>]>,
    count: usize,
}

impl<T> Wheel<T> {
    /// No deadlines yet.
    pub fn new(now: Moment) -> Self {
        Self { next: tick_before(now), buckets: (0..BUCKETS).map(|_| Vec::new()).collect(), count: 0 }
    }

    /// Visits at this moment or up to a tick later; at the end of the wheel, where that lies beyond it. Returns when.
    pub fn set(&mut self, at: Moment, what: T) -> Moment {
        let tick = at.as_millis().div_ceil(MILLIS).clamp(self.next, self.next + BUCKETS - 1);
        self.buckets[place(tick)].push(what);
        self.count += 1;
        Moment::from_millis(tick * MILLIS)
    }

    /// When the first visit is due.
    pub fn first(&self) -> Option<Moment> {
        let ticks = (self.count > 0).then_some(self.next..self.next + BUCKETS)?;
        let tick = ticks.into_iter().find(|tick| !self.buckets[place(*tick)].is_empty())?;
        Some(Moment::from_millis(tick * MILLIS))
    }

    /// Adds what is due by now to `due`.
    pub fn take_due(&mut self, now: Moment, due: &mut Vec<T>) {
        let present = tick_before(now);
        if present < self.next {
            return;
        }
        for tick in self.next..=present.min(self.next + BUCKETS - 1) {
            let bucket = std::mem::take(&mut self.buckets[place(tick)]);
            self.count -= bucket.len();
            due.extend(bucket);
        }
        self.next = present + 1;
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a tick is some milliseconds")]
const MILLIS: u64 = TICK.as_millis() as u64;

fn tick_before(now: Moment) -> u64 {
    now.as_millis() / MILLIS
}

#[allow(clippy::cast_possible_truncation, reason = "below BUCKETS")]
fn place(tick: u64) -> usize {
    (tick % BUCKETS) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Seeded;

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    #[test]
    fn visits_are_due_in_time_and_never_early() {
        let mut random = Seeded::new(1);
        let mut wheel = Wheel::new(at(12_345));
        let mut set = Vec::new();
        for _ in 0..1000 {
            let due = 12_345 + random.number() % 20_000;
            wheel.set(at(due), due);
            set.push(due);
        }
        set.sort_unstable();
        let mut seen = Vec::new();
        let mut now = at(12_345);
        while let Some(first) = wheel.first() {
            now = now.max(first);
            let mut due = Vec::new();
            wheel.take_due(now, &mut due);
            for due in due {
                assert!(due <= now.as_millis() && now.as_millis() <= due.max(12_345) + 100, "{due} at {now:?}");
                seen.push(due);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, set);
    }

    #[test]
    fn what_is_far_is_visited_at_the_end_of_the_wheel() {
        let mut wheel = Wheel::new(at(0));
        assert_eq!(wheel.set(at(1_000_000), 1), at(25_500));
        assert_eq!(wheel.first(), Some(at(25_500)));
        let mut due = Vec::new();
        wheel.take_due(at(25_499), &mut due);
        assert!(due.is_empty());
        wheel.take_due(at(90_000), &mut due);
        assert_eq!(due, [1]);
        assert_eq!(wheel.first(), None);
        // Time stood still for the wheel meanwhile; it goes on from the present.
        assert_eq!(wheel.set(at(90_001), 2), at(90_100));
    }
}
