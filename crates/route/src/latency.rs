//! Measured round trips: a peak-sensitive moving average, and the near set of the latency policy.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::moment::Moment;

/// Time constant of the average: a sample's weight falls to 37 % after this long. Long enough to ride over one slow
/// connect, short enough to follow a route change within half a minute.
const TIME_CONSTANT_MS: f32 = 10_000.0;

/// A backend joins the near set when its round trip is at most this much above the best…
const ENTER: Margin = Margin { factor: 1.15, millis: 0.5 };
/// …and leaves it only above this, so that two backends with alike round trips do not take turns.
const LEAVE: Margin = Margin { factor: 1.40, millis: 2.0 };

struct Margin {
    factor: f32,
    millis: f32,
}

/// Whether a backend with round trip `millis` belongs to those as near as the best, given whether it did so far.
pub(crate) fn is_near(millis: f32, best: f32, was_near: bool) -> bool {
    let margin = if was_near { LEAVE } else { ENTER };
    millis <= (best * margin.factor).max(best + margin.millis)
}

/// What a round trip should be before anything was measured: light in fibre covers 100 km there and back in 1 ms, and
/// cables are about half as long again as the great circle.
pub(crate) fn expected_ms(distance_km: f32) -> f32 {
    distance_km / 100.0 * 1.5
}

/// Peak EWMA: a sample above the average replaces it at once, one below pulls it down slowly. What users feel is the
/// slow connect, so the average is quick to believe bad news and slow to believe good news.
#[derive(Default)]
pub(crate) struct RoundTrip {
    /// Average in ms as `f32` bits (high half, 0: nothing measured) and the moment of the last sample in 1/16 s.
    packed: AtomicU64,
}

impl RoundTrip {
    pub(crate) fn observe(&self, millis: f32, now: Moment) {
        let sample = millis.max(0.001);
        let average = match self.unpack() {
            Some((average, at)) if sample < average => {
                let keep = (-elapsed_ms(at, now) / TIME_CONSTANT_MS).exp();
                // Several connects within one stamp still count a little each.
                let keep = keep.min(0.98);
                average * keep + sample * (1.0 - keep)
            }
            _ => sample,
        };
        self.packed.store(u64::from(average.to_bits()) << 32 | u64::from(stamp(now)), Relaxed);
    }

    /// The average in ms.
    pub(crate) fn estimate(&self) -> Option<f32> {
        self.unpack().map(|(average, _)| average)
    }

    pub(crate) fn clear(&self) {
        self.packed.store(0, Relaxed);
    }

    #[allow(clippy::cast_possible_truncation, reason = "unpacking two halves")]
    fn unpack(&self) -> Option<(f32, u32)> {
        let packed = self.packed.load(Relaxed);
        let bits = (packed >> 32) as u32;
        (bits != 0).then(|| (f32::from_bits(bits), packed as u32))
    }
}

fn stamp(now: Moment) -> u32 {
    u32::try_from(now.as_millis() / 62).unwrap_or(u32::MAX)
}

fn elapsed_ms(at: u32, now: Moment) -> f32 {
    let stamps = u16::try_from(stamp(now).saturating_sub(at)).unwrap_or(u16::MAX);
    f32::from(stamps) * 62.0
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
        assert_eq!(trip.estimate(), None);
        trip.observe(10.0, at(0));
        trip.observe(80.0, at(1));
        assert_eq!(trip.estimate(), Some(80.0));
        trip.observe(10.0, at(2));
        let soon = trip.estimate().unwrap();
        assert!((70.0..78.0).contains(&soon), "{soon}");
        for second in 3..60 {
            trip.observe(10.0, at(second));
        }
        let later = trip.estimate().unwrap();
        assert!((10.0..11.0).contains(&later), "{later}");
    }

    #[test]
    fn nearness_has_hysteresis() {
        assert!(is_near(11.4, 10.0, false));
        assert!(!is_near(12.0, 10.0, false), "not near enough to join");
        assert!(is_near(12.0, 10.0, true), "near enough to stay");
        assert!(!is_near(15.0, 10.0, true));
        assert!(is_near(0.6, 0.2, false), "a fraction of a millisecond is noise");
    }
}
