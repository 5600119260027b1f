//! What is under way, in the order in which it is released.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Datagrams or packets on their way.
#[derive(Debug)]
pub(super) struct Flights<T> {
    flying: BinaryHeap<Reverse<Flight<T>>>,
    departures: u64,
}

#[derive(Debug)]
struct Flight<T> {
    due: Instant,
    /// Of those that are due at the same time the earlier one is first.
    departure: u64,
    load: T,
}

impl<T> Flights<T> {
    pub(super) fn new() -> Self {
        Self { flying: BinaryHeap::new(), departures: 0 }
    }

    pub(super) fn push(&mut self, due: Instant, load: T) {
        self.departures += 1;
        self.flying.push(Reverse(Flight { due, departure: self.departures, load }));
    }

    /// When the first of them is.
    pub(super) fn due(&self) -> Option<Instant> {
        self.flying.peek().map(|Reverse(first)| first.due)
    }

    /// The first of them, if it is due.
    pub(super) fn land(&mut self, now: Instant) -> Option<T> {
        if self.due()? > now {
            return None;
        }
        self.flying.pop().map(|Reverse(first)| first.load)
    }
}

impl<T> Ord for Flight<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.departure).cmp(&(other.due, other.departure))
    }
}

impl<T> PartialOrd for Flight<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Flight<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Flight<T> {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn they_land_when_they_are_due_and_in_order() {
        let (mut flights, start) = (Flights::new(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for (ms, load) in [(5, 'b'), (3, 'a'), (5, 'c'), (9, 'd')] {
            flights.push(at(ms), load);
        }
        assert_eq!((flights.due(), flights.land(at(2))), (Some(at(3)), None));
        let landed: String = std::iter::from_fn(|| flights.land(at(8))).collect();
        assert_eq!((landed.as_str(), flights.due()), ("abc", Some(at(9))));
    }
}
