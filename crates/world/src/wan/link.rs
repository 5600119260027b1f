//! What one direction of a path does to what passes.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::chance::Chance;

/// Bytes that wait for their turn on a link with a rate, where nothing else is said: 64 KiB and more are sent at once.
const QUEUE: usize = 256 * 1024;

/// The properties of one direction. It can be changed while it is used; what is under way keeps its time.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Link {
    /// From one end to the other.
    pub delay: Duration,
    /// Up to so much more or less, evenly, and never so that anything is overtaken.
    pub jitter: Duration,
    /// Share of datagrams that is lost, from 0 to 1. A stream loses nothing.
    pub loss: f64,
    /// Share of datagrams that overtakes: it needs half of the delay. A stream keeps its order.
    pub reorder: f64,
    /// Bits in a second; `None`: no bound.
    pub rate: Option<u64>,
    /// Where there is a rate: bytes that may wait for their turn; a datagram that would be more is lost.
    pub queue: usize,
    /// Down, datagrams are lost, and streams stand still until it is up again.
    pub up: bool,
}

impl Link {
    /// Nothing but this delay.
    pub fn one_way(delay: Duration) -> Self {
        Self { delay, jitter: Duration::ZERO, loss: 0.0, reorder: 0.0, rate: None, queue: QUEUE, up: true }
    }

    /// One of the two directions that make this round trip.
    pub fn half_of(round_trip: Duration) -> Self {
        Self::one_way(round_trip / 2)
    }
}

/// One direction of a path, seen from outside.
#[derive(Debug)]
pub struct Direction {
    link: Mutex<Link>,
    carried: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
    overflowed: AtomicU64,
}

/// What has come to a direction so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Datagrams or pieces of streams that got through, or are under way.
    pub carried: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Datagrams lost by chance, or because the link was down.
    pub lost: u64,
    /// Datagrams for which the queue had no room.
    pub overflowed: u64,
}

impl Direction {
    pub(super) fn new(link: Link) -> Arc<Self> {
        let zero = || AtomicU64::new(0);
        Arc::new(Self { link: Mutex::new(link), carried: zero(), bytes: zero(), lost: zero(), overflowed: zero() })
    }

    /// As it is now.
    pub fn link(&self) -> Link {
        *self.link.lock()
    }

    /// So far.
    pub fn counts(&self) -> Counts {
        Counts {
            carried: self.carried.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            lost: self.lost.load(Relaxed),
            overflowed: self.overflowed.load(Relaxed),
        }
    }

    pub(super) fn set(&self, link: Link) {
        *self.link.lock() = link;
    }
}

/// One direction, seen from the engine: it decides when each thing that comes is released.
#[derive(Debug)]
pub(super) struct Line {
    direction: Arc<Direction>,
    chance: Chance,
    /// When the last byte that came will have been put on a link with a rate.
    sent: Option<Instant>,
    /// When the last thing is released that has to stay in order.
    released: Option<Instant>,
}

impl Line {
    pub(super) fn new(direction: &Arc<Direction>, chance: Chance) -> Self {
        Self { direction: Arc::clone(direction), chance, sent: None, released: None }
    }

    pub(super) fn is_up(&self) -> bool {
        self.direction.link.lock().up
    }

    pub(super) fn delay(&self) -> Duration {
        self.direction.link.lock().delay
    }

    /// When a datagram is released that came at this time; `None`: never.
    pub(super) fn admit(&mut self, came: Instant, bytes: usize) -> Option<Instant> {
        let link = self.direction.link();
        // As many draws for every datagram, whatever the link is like: a change of it shifts no later decision.
        let (loss, order, jitter) = (self.chance.share(), self.chance.share(), self.chance.share());
        if !link.up || loss < link.loss {
            self.direction.lost.fetch_add(1, Relaxed);
            return None;
        }
        let Some(sent) = self.put(&link, came, bytes) else {
            self.direction.overflowed.fetch_add(1, Relaxed);
            return None;
        };
        self.count(bytes);
        if order < link.reorder {
            return Some(sent + link.delay / 2);
        }
        Some(self.in_order(sent + varied(&link, jitter)))
    }

    /// When a piece of a stream is released.
    pub(super) fn admit_piece(&mut self, came: Instant, bytes: usize) -> Instant {
        let link = Link { queue: usize::MAX, ..self.direction.link() };
        let jitter = self.chance.share();
        let sent = self.put(&link, came, bytes).unwrap_or(came);
        self.count(bytes);
        self.in_order(sent + varied(&link, jitter))
    }

    /// When the last of it is on the link.
    fn put(&mut self, link: &Link, came: Instant, bytes: usize) -> Option<Instant> {
        let Some(rate) = link.rate.filter(|rate| *rate > 0) else { return Some(came) };
        let start = self.sent.map_or(came, |sent| sent.max(came));
        let waiting = (start - came).as_nanos() * u128::from(rate) / 8_000_000_000;
        if waiting + bytes as u128 > link.queue as u128 {
            return None;
        }
        let takes = bytes as u128 * 8_000_000_000 / u128::from(rate);
        let sent = start + Duration::from_nanos(u64::try_from(takes).unwrap_or(u64::MAX));
        self.sent = Some(sent);
        Some(sent)
    }

    fn in_order(&mut self, at: Instant) -> Instant {
        let at = self.released.map_or(at, |released| released.max(at));
        self.released = Some(at);
        at
    }

    fn count(&self, bytes: usize) {
        self.direction.carried.fetch_add(1, Relaxed);
        self.direction.bytes.fetch_add(bytes as u64, Relaxed);
    }
}

fn varied(link: &Link, share: f64) -> Duration {
    (link.delay + link.jitter.mul_f64(2.0 * share)).saturating_sub(link.jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn line(link: Link, seed: u64) -> Line {
        Line::new(&Direction::new(link), Chance::new(seed, 0))
    }

    #[test]
    fn what_comes_is_released_after_the_delay() {
        let mut line = line(Link::half_of(20 * MS), 1);
        let start = Instant::now();
        for at in [0, 3, 3, 900] {
            assert_eq!(line.admit(start + at * MS, 100), Some(start + (at + 10) * MS));
        }
        assert_eq!(line.direction.counts(), Counts { carried: 4, bytes: 400, lost: 0, overflowed: 0 });
    }

    #[test]
    fn a_seed_decides_what_is_lost_and_overtakes() {
        let link = Link { loss: 0.1, reorder: 0.05, jitter: 2 * MS, ..Link::one_way(10 * MS) };
        let run = |seed| {
            let (mut line, start) = (line(link, seed), Instant::now());
            let times: Vec<_> =
                (0..10_000).map(|i| line.admit(start + i * MS, 100).map(|at| at - (start + i * MS))).collect();
            (times, line.direction.counts())
        };
        let (times, counts) = run(7);
        assert_eq!((&times, &counts), (&run(7).0, &run(7).1));
        assert_ne!(times, run(8).0);
        assert!((900..1100).contains(&counts.lost), "{counts:?}");
        let overtaking = times.iter().filter(|time| **time == Some(5 * MS)).count();
        assert!((380..520).contains(&overtaking), "{overtaking}");
        let late = times.iter().flatten().filter(|time| **time != 5 * MS);
        assert!(late.clone().all(|time| (8 * MS..=12 * MS).contains(time)));
        assert!(late.clone().any(|time| *time < 9 * MS) && late.clone().any(|time| *time > 11 * MS));
    }

    #[test]
    fn jitter_overtakes_nothing() {
        let mut line = line(Link { jitter: 5 * MS, ..Link::one_way(10 * MS) }, 3);
        let start = Instant::now();
        let times: Vec<_> = (0..1000).filter_map(|i| line.admit(start + i * MS / 10, 100)).collect();
        assert!(times.is_sorted());
    }

    #[test]
    fn a_rate_spaces_datagrams_and_a_full_queue_loses_them() {
        // 1000 bytes are a millisecond.
        let link = Link { rate: Some(8_000_000), queue: 3000, ..Link::one_way(10 * MS) };
        let mut line = line(link, 1);
        let start = Instant::now();
        let at = |ms| Some(start + ms * MS);
        let times: Vec<_> = (0..5).map(|_| line.admit(start, 1000)).collect();
        assert_eq!(times, [at(11), at(12), at(13), None, None]);
        assert_eq!(line.admit(start + MS, 1000), at(14));
        assert_eq!(line.admit(start + 100 * MS, 1000), at(111));
        assert_eq!(line.direction.counts().overflowed, 2);
    }

    #[test]
    fn a_change_lets_nothing_overtake() {
        let mut line = line(Link::one_way(100 * MS), 1);
        let start = Instant::now();
        assert_eq!(line.admit(start, 1), Some(start + 100 * MS));
        line.direction.set(Link::one_way(10 * MS));
        assert_eq!(line.admit(start + MS, 1), Some(start + 100 * MS));
        assert_eq!(line.admit(start + 200 * MS, 1), Some(start + 210 * MS));
        line.direction.set(Link { up: false, ..Link::one_way(10 * MS) });
        assert_eq!(line.admit(start + 201 * MS, 1), None);
    }
}
