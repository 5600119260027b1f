//! Measured round trips: a peak-sensitive moving average, and the near set of the latency policy.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::moment::Moment;

/// Time constant of the average: a sample's weight falls to 37 % after this long. Long enough to ride over one slow
/// connect, short enough to follow a route change within half a minute.
const TIME_CONSTANT_MS: f32 = 10_000.0;
/// Length of a stamp, the unit in which the age of a sample is kept: 31 bits of it last four years. A process older
/// than that is stuck in the last stamp: nothing ages any more, averages only rise, and spans of blocks stay as they are.
const STAMP_MS: u16 = 62;
const LAST_STAMP: u32 = i32::MAX.cast_unsigned();
/// Three time constants in stamps: an average without a sample for this long is no longer believed when it is bad.
const STALE_STAMPS: u32 = 484;
/// What a backend of an unknown place is taken to be away: half-way to the other side of the globe.
const UNKNOWN_KM: f32 = 10_000.0;

/// A backend joins the near set when its round trip is at most this much above the best…
const ENTER: Margin = Margin { factor: 1.15, millis: 0.5 };
/// …and leaves it only above this, so that two backends with alike round trips do not take turns.
const LEAVE: Margin = Margin { factor: 1.40, millis: 2.0 };

struct Margin {
    factor: f32,
    millis: f32,
}

impl Margin {
    fn above(&self, best: f32) -> f32 {
        (best * self.factor).max(best + self.millis)
    }
}

/// The backends about as near as the best.
#[derive(Clone, Copy)]
pub(crate) struct NearSet {
    enter: f32,
    leave: f32,
}

impl NearSet {
    pub(crate) fn around(best: f32) -> Self {
        Self { enter: ENTER.above(best), leave: LEAVE.above(best) }
    }

    /// Whether a backend with round trip `millis` belongs to it, given whether it did so far.
    pub(crate) fn has(&self, millis: f32, was_near: bool) -> bool {
        millis <= if was_near { self.leave } else { self.enter }
    }

    /// Whether a backend with this round trip could belong to it at all.
    pub(crate) fn may_have(&self, millis: f32) -> bool {
        millis <= self.leave
    }
}

/// What a round trip should be before anything was measured: light in fibre covers 100 km there and back in 1 ms, and
/// cables are about half as long again as the great circle.
pub(crate) fn expected_ms(distance_km: Option<f32>) -> f32 {
    distance_km.unwrap_or(UNKNOWN_KM) / 100.0 * 1.5
}

/// Turns a packed round trip into the milliseconds that a backend is taken to be away at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Estimate {
    now: u32,
    oldest_fresh: u32,
}

impl Estimate {
    pub(crate) fn at(now: Moment) -> Self {
        let now = stamp(now);
        Self { now, oldest_fresh: now.saturating_sub(STALE_STAMPS).max(1) }
    }

    /// Milliseconds that hold for the present stamp, in one word.
    pub(crate) fn pack(self, millis: f32) -> u64 {
        u64::from(millis.to_bits()) << 32 | u64::from(self.now)
    }

    /// The milliseconds of such a word, unless it is of an earlier stamp. Of a later one it is where another core has
    /// looked at the clock since: were it found anew, each of the two would undo what the other found.
    #[allow(clippy::cast_possible_truncation, reason = "unpacking two halves")]
    pub(crate) fn unpack_if_current(self, packed: u64) -> Option<f32> {
        (packed as u32 >= self.now).then(|| f32::from_bits((packed >> 32) as u32))
    }

    /// The average; where nothing was measured, `guess`. A bad average that nothing has confirmed for long is worth no
    /// more than the guess either: a backend that gets no clients because of it could never show that it is over.
    #[inline]
    pub(crate) fn millis(self, (average, stamp): (f32, u32), guess: f32) -> f32 {
        // Signed, and without a shortcut, so that several are done at a time.
        let is_fresh = stamp.cast_signed() >= self.oldest_fresh.cast_signed();
        if is_fresh | (average < guess) { average } else { guess }
    }
}

/// Peak EWMA: a sample above the average replaces it at once, one below pulls it down slowly. What users feel is the
/// slow connect, so the average is quick to believe bad news and slow to believe good news.
pub(crate) struct RoundTrip {
    /// Average in ms as `f32` bits in the high half, the stamp of the last sample that counted in the low half.
    packed: AtomicU64,
}

/// Infinitely far, and older than any sample.
#[allow(clippy::cast_lossless, reason = "not const otherwise")]
const NOT_MEASURED: u64 = (f32::INFINITY.to_bits() as u64) << 32;

impl Default for RoundTrip {
    fn default() -> Self {
        Self { packed: AtomicU64::new(NOT_MEASURED) }
    }
}

impl RoundTrip {
    /// Of two samples that come at the very same time one is lost: the next makes up for it.
    pub(crate) fn observe(&self, millis: f32, now: Moment) {
        let sample = millis.max(0.001);
        let average = match self.unpack() {
            // What is too old to be believed is also too old to be a part of the new average.
            Some((average, at)) if sample < average && stamp(now).saturating_sub(at) <= STALE_STAMPS => {
                let elapsed = elapsed_ms(at, now);
                if elapsed == 0.0 {
                    // Many samples at one time say no more than one: the next stamp's counts for the time since.
                    return;
                }
                let keep = (-elapsed / TIME_CONSTANT_MS).exp();
                average * keep + sample * (1.0 - keep)
            }
            _ => sample,
        };
        self.packed.store(u64::from(average.to_bits()) << 32 | u64::from(stamp(now)), Relaxed);
    }

    /// The average in ms.
    pub(crate) fn measured(&self) -> Option<f32> {
        self.unpack().map(|(average, _)| average)
    }

    /// The average, infinite where nothing was measured, and the stamp of the last sample.
    #[allow(clippy::cast_possible_truncation, reason = "unpacking two halves")]
    pub(crate) fn average_and_stamp(&self) -> (f32, u32) {
        let packed = self.packed.load(Relaxed);
        (f32::from_bits((packed >> 32) as u32), packed as u32)
    }

    pub(crate) fn clear(&self) {
        self.packed.store(NOT_MEASURED, Relaxed);
    }

    fn unpack(&self) -> Option<(f32, u32)> {
        Some(self.average_and_stamp()).filter(|(average, _)| average.is_finite())
    }
}

/// From 1 on: 0 is older than any sample.
fn stamp(now: Moment) -> u32 {
    u32::try_from(now.as_millis() / u64::from(STAMP_MS) + 1).map_or(LAST_STAMP, |stamp| stamp.min(LAST_STAMP))
}

fn elapsed_ms(at: u32, now: Moment) -> f32 {
    let stamps = u16::try_from(stamp(now).saturating_sub(at)).unwrap_or(u16::MAX);
    f32::from(stamps) * f32::from(STAMP_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Moment {
        Moment::from_millis(secs * 1000)
    }

    #[test]
    fn a_peak_is_believed_at_once_and_forgotten_slowly() {
        let trip = RoundTrip::default();
        assert_eq!(trip.measured(), None);
        trip.observe(10.0, at(0));
        trip.observe(80.0, at(1));
        assert_eq!(trip.measured(), Some(80.0));
        trip.observe(10.0, at(2));
        let soon = trip.measured().unwrap();
        assert!((70.0..78.0).contains(&soon), "{soon}");
        for second in 3..60 {
            trip.observe(10.0, at(second));
        }
        let later = trip.measured().unwrap();
        assert!((10.0..11.0).contains(&later), "{later}");
    }

    #[test]
    fn a_peak_is_forgotten_by_time_and_not_by_the_number_of_connects() {
        let (idle, busy) = (RoundTrip::default(), RoundTrip::default());
        for trip in [&idle, &busy] {
            trip.observe(80.0, at(0));
        }
        for millis in 1..=10_000 {
            busy.observe(10.0, Moment::from_millis(millis));
            if millis % 1_000 == 0 {
                idle.observe(10.0, Moment::from_millis(millis));
            }
        }
        // After one time constant 37 % of the peak is left.
        for trip in [&idle, &busy] {
            let left = trip.measured().unwrap();
            assert!((34.0..38.0).contains(&left), "{left}");
        }
    }

    #[test]
    fn an_old_average_is_believed_only_where_it_is_better_than_the_guess() {
        let millis = |trip: &RoundTrip, now| Estimate::at(now).millis(trip.average_and_stamp(), 15.0);
        let trip = RoundTrip::default();
        assert_eq!(millis(&trip, at(0)), 15.0, "nothing measured");
        trip.observe(1_010.0, at(100));
        assert_eq!(millis(&trip, at(129)), 1_010.0);
        assert_eq!(millis(&trip, at(131)), 15.0, "a peak of long ago");
        trip.clear();
        assert_eq!(millis(&trip, at(131)), 15.0);
        trip.observe(5.0, at(200));
        assert_eq!(millis(&trip, at(10_000)), 5.0);
    }

    #[test]
    fn a_peak_too_old_to_be_believed_is_no_part_of_the_next_average() {
        let trip = RoundTrip::default();
        trip.observe(1_010.0, at(100));
        trip.observe(10.0, at(131));
        assert_eq!(trip.measured(), Some(10.0));
    }

    #[test]
    fn what_a_core_ahead_has_found_is_current() {
        let (behind, ahead) = (Estimate::at(at(10)), Estimate::at(at(11)));
        assert_eq!(behind.unpack_if_current(ahead.pack(7.0)), Some(7.0));
        assert_eq!(ahead.unpack_if_current(behind.pack(7.0)), None);
    }

    #[test]
    fn nearness_has_hysteresis() {
        let near = NearSet::around(10.0);
        assert!(near.has(11.4, false));
        assert!(!near.has(12.0, false), "not near enough to join");
        assert!(near.has(12.0, true), "near enough to stay");
        assert!(!near.has(15.0, true));
        assert!(NearSet::around(0.2).has(0.6, false), "a fraction of a millisecond is noise");
    }
}
