//! Latencies of one kind, and what may be said of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Samples from which a median is told, and so on: below, one outlier more or less moves the figure at will.
const P50_NEEDS: usize = 2;
const P95_NEEDS: usize = 20;
const P99_NEEDS: usize = 100;
/// How likely the median may lie beyond one end of a 95 % interval.
const TAIL: f64 = 0.025;

/// Latencies in ms, in the order they were measured.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sample(pub Vec<f64>);

/// What is said of a sample, in ms. What it does not carry is not there.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// How many.
    pub count: usize,
    /// Smallest; 0 of none, as the two below.
    pub min: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Largest.
    pub max: f64,
    /// Standard deviation, from 2 on.
    pub sd: Option<f64>,
    /// Median, from 2 on.
    pub p50: Option<f64>,
    /// From 20 on.
    pub p95: Option<f64>,
    /// From 100 on.
    pub p99: Option<f64>,
    /// 95 % confidence interval of the median, from 6 on.
    pub p50_interval: Option<(f64, f64)>,
}

impl Sample {
    /// Adds one, in whole microseconds.
    pub fn push(&mut self, took: Duration) {
        self.0.push(milliseconds(took));
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// What may be said of them.
    pub fn summary(&self) -> Summary {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else { return Summary::default() };
        let count = sorted.len();
        let mean = sorted.iter().sum::<f64>() / float(count);
        let sd = (count >= 2).then(|| {
            let squares: f64 = sorted.iter().map(|value| (value - mean).powi(2)).sum();
            (squares / float(count - 1)).sqrt()
        });
        let at = |quantile: f64, needs: usize| (count >= needs).then(|| sorted[rank(quantile * float(count), count)]);
        Summary {
            count,
            min,
            mean,
            max,
            sd,
            p50: (count >= P50_NEEDS).then(|| median(&sorted)),
            p95: at(0.95, P95_NEEDS),
            p99: at(0.99, P99_NEEDS),
            p50_interval: interval(&sorted),
        }
    }
}

impl Summary {
    /// The median, or the mean where there is none; `None`: there are no samples.
    pub fn middle(&self) -> Option<f64> {
        (self.count > 0).then(|| self.p50.unwrap_or(self.mean))
    }
}

/// Whole microseconds, as ms.
pub(crate) fn milliseconds(took: Duration) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a latency in us is exact in an f64")]
    let micros = took.as_micros() as f64;
    micros / 1000.0
}

#[allow(clippy::cast_precision_loss, reason = "the number of samples is exact in an f64")]
fn float(count: usize) -> f64 {
    count as f64
}

/// Nearest rank: the smallest value that so many are not above. From 0 on.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
fn rank(position: f64, count: usize) -> usize {
    (position.ceil().clamp(1.0, float(count)) as usize) - 1
}

/// The value in the middle, or the mean of the two there.
fn median(sorted: &[f64]) -> f64 {
    let upper = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[upper] } else { f64::midpoint(sorted[upper - 1], sorted[upper]) }
}

/// By order statistics: how many of the values lie below the median is binomial, whatever their distribution. From the
/// largest rank that the median lies below in no more than [`TAIL`] of all cases to the same rank from the other end. `None`:
/// not even the smallest and the largest value enclose it that often.
fn interval(sorted: &[f64]) -> Option<(f64, f64)> {
    let count = sorted.len();
    // As logarithms: from 1075 values on, 2^-n is 0.
    let mut exactly = -float(count) * std::f64::consts::LN_2;
    let mut fewer = exactly.exp();
    let mut rank = 0;
    while fewer <= TAIL {
        rank += 1;
        exactly += (float(count + 1 - rank) / float(rank)).ln();
        fewer += exactly.exp();
    }
    (rank > 0).then(|| (sorted[rank - 1], sorted[count - rank]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(values: impl IntoIterator<Item = u32>) -> Sample {
        Sample(values.into_iter().map(f64::from).collect())
    }

    #[test]
    fn a_percentile_is_told_only_of_a_sample_that_carries_it() {
        assert_eq!(Sample::default().summary(), Summary::default());
        let one = sample([7]).summary();
        assert_eq!((one.count, one.min, one.mean, one.max, one.p50, one.sd), (1, 7.0, 7.0, 7.0, None, None));
        let ten = sample(1..=10).summary();
        assert_eq!((ten.p50, ten.p95, ten.p99), (Some(5.5), None, None));
        let twenty = sample(1..=20).summary();
        assert_eq!((twenty.p95, twenty.p99), (Some(19.0), None));
        let hundred = sample((1..=100).rev()).summary();
        assert_eq!((hundred.p50, hundred.p95, hundred.p99), (Some(50.5), Some(95.0), Some(99.0)));
        assert!((hundred.mean - 50.5).abs() < 1e-9 && (hundred.sd.unwrap() - 29.011).abs() < 0.001);
    }

    #[test]
    fn the_interval_encloses_the_median() {
        assert_eq!(sample(1..=5).summary().p50_interval, None);
        // As tables of order statistics have it.
        for (count, low) in [(6, 1), (7, 1), (8, 1), (9, 2), (10, 2), (15, 4), (20, 6), (25, 8), (50, 18), (100, 40)] {
            let expected = (f64::from(low), f64::from(count + 1 - low));
            assert_eq!(sample(1..=count).summary().p50_interval, Some(expected), "{count}");
        }
        // Far beyond what an f64 has as a power of two; by the normal distribution, 4,901.5 and 5,099.5.
        let (low, high) = sample(1..=10_000).summary().p50_interval.unwrap();
        assert!((4_900.0..=4_903.0).contains(&low) && (low + high - 10_001.0).abs() < 1e-9, "{low} {high}");
    }

    #[test]
    fn whole_microseconds_are_kept() {
        let mut sample = Sample::default();
        sample.push(Duration::from_nanos(11_890_999));
        assert_eq!(sample, Sample(vec![11.89]));
    }
}
