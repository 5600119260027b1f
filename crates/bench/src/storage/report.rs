//! What a command has measured: settings, the runs of each, and what may be said of them.

use serde::{Deserialize, Serialize};

use super::outcome::Outcome;
use super::plan::{Shape, size};
use super::socket_facts::{send_buffer_most, single_stream_bound};

/// A saved measurement. `version` grows when its fields change their meaning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// 1.
    pub version: u32,
    /// RFC 3339, UTC.
    pub started: String,
    /// Of the store.
    pub endpoint: String,
    /// In signatures.
    pub region: String,
    /// In the order they were measured.
    pub settings: Vec<Setting>,
    /// What one stream can send at most on this path, in bytes per second: send buffer by round trip.
    pub single_stream_bound: Option<f64>,
    /// Most that a send buffer grows to by itself here, in bytes.
    pub send_buffer_most: Option<u64>,
}

/// One way to upload, and its runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// For tables and comparisons, e.g. `10 x 100MB, 5 streams`.
    pub name: String,
    /// Where it was measured; empty: here.
    pub place: String,
    /// What was uploaded.
    pub shape: Shape,
    /// All runs that succeeded.
    pub runs: Vec<Outcome>,
    /// What failed, a line each.
    pub failures: Vec<String>,
    /// Median of the runs, of 1,000,000 bytes.
    pub median_mb_per_second: Option<f64>,
    /// From the slowest to the fastest run, in percent of the median.
    pub spread_percent: Option<f64>,
}

impl Report {
    /// Of these settings, measured against `endpoint`.
    #[must_use]
    pub fn new(started: String, endpoint: String, region: String, settings: Vec<Setting>) -> Self {
        let trips = settings.iter().flat_map(|setting| &setting.runs).filter_map(Outcome::min_round_trip_ms);
        let trip = trips.min_by(f64::total_cmp);
        let send_buffer_most = send_buffer_most();
        let bound = send_buffer_most.zip(trip).and_then(|(buffer, trip)| single_stream_bound(buffer, trip));
        Self { version: 1, started, endpoint, region, settings, single_stream_bound: bound, send_buffer_most }
    }

    /// The setting with the highest median.
    #[must_use]
    pub fn best(&self) -> Option<&Setting> {
        let known = self.settings.iter().filter(|setting| setting.median_mb_per_second.is_some());
        known.max_by(|one, other| {
            let rate = |setting: &Setting| setting.median_mb_per_second.unwrap_or(0.0);
            rate(one).total_cmp(&rate(other))
        })
    }

    /// What failed anywhere, or was odd.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = Vec::new();
        for setting in &self.settings {
            let of_runs = setting.runs.iter().flat_map(|run| run.notes.iter().chain(&run.trouble_texts));
            for text in setting.failures.iter().chain(of_runs) {
                let place = if setting.place.is_empty() { String::new() } else { format!("{}: ", setting.place) };
                let note = format!("{place}{}: {text}", setting.name);
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
        }
        notes
    }
}

impl Setting {
    /// Computes what is said of the runs.
    #[must_use]
    pub fn new(place: &str, shape: Shape, runs: Vec<Outcome>, failures: Vec<String>) -> Self {
        let mut rates: Vec<f64> = runs.iter().map(|run| run.mb_per_second).collect();
        rates.sort_unstable_by(f64::total_cmp);
        let median = median(&rates);
        let spread = rates.first().zip(rates.last()).zip(median);
        Self {
            name: name(&shape),
            place: place.to_owned(),
            shape,
            failures,
            median_mb_per_second: median,
            spread_percent: spread.map(|((least, most), median)| 100.0 * (most - least) / median),
            runs,
        }
    }

    /// The run in the middle, whose other figures stand for all.
    #[must_use]
    pub fn typical(&self) -> Option<&Outcome> {
        let median = self.median_mb_per_second?;
        let away = |run: &Outcome| (run.mb_per_second - median).abs();
        self.runs.iter().min_by(|one, other| away(one).total_cmp(&away(other)))
    }
}

fn name(shape: &Shape) -> String {
    match *shape {
        Shape::Single { bytes } => format!("{} in one request", size(bytes)),
        Shape::Parts { count, bytes, streams } => {
            format!("{count} x {}, {streams} stream{}", size(bytes), if streams == 1 { "" } else { "s" })
        }
    }
}

/// Of sorted figures.
fn median(sorted: &[f64]) -> Option<f64> {
    let (lower, upper) = (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
    Some((lower + upper) / 2.0)
}

/// One setting in two reports.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// See [`Setting::name`].
    pub name: String,
    /// See [`Setting::place`].
    pub place: String,
    /// Median before.
    pub before_mb_per_second: Option<f64>,
    /// Median now.
    pub now_mb_per_second: Option<f64>,
    /// Change in percent of before.
    pub change_percent: Option<f64>,
    /// Slower by more than allowed and by more than half of what the runs are apart from each other; or failed now.
    pub regression: bool,
}

/// Compares every setting of `before` with the one of the same name and place in `now`.
#[must_use]
pub fn compare(before: &Report, now: &Report, allowed_percent: f64) -> Vec<Difference> {
    let differences = before.settings.iter().filter_map(|old| {
        let new = now.settings.iter().find(|new| (&new.name, &new.place) == (&old.name, &old.place))?;
        let rates = old.median_mb_per_second.zip(new.median_mb_per_second);
        let change = rates.map(|(old, new)| 100.0 * (new - old) / old);
        let noise = old.spread_percent.unwrap_or(0.0).max(new.spread_percent.unwrap_or(0.0)) / 2.0;
        let lost = old.median_mb_per_second.is_some() && new.median_mb_per_second.is_none();
        Some(Difference {
            name: old.name.clone(),
            place: old.place.clone(),
            before_mb_per_second: old.median_mb_per_second,
            now_mb_per_second: new.median_mb_per_second,
            change_percent: change,
            regression: lost || change.is_some_and(|change| change < -allowed_percent.max(noise)),
        })
    });
    differences.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(rates: &[f64]) -> Setting {
        let run = |rate: &f64| Outcome { mb_per_second: *rate, ..Outcome::default() };
        Setting::new("", Shape::PARTS, rates.iter().map(run).collect(), vec![])
    }

    fn report(rates: &[f64]) -> Report {
        Report { settings: vec![setting(rates)], ..Report::default() }
    }

    #[test]
    fn the_middle_and_the_spread_are_told() {
        let three = setting(&[100.0, 80.0, 90.0]);
        assert_eq!(three.name, "10 x 100MB, 5 streams");
        assert_eq!(three.median_mb_per_second, Some(90.0));
        assert!((three.spread_percent.unwrap() - 22.2).abs() < 0.1);
        assert_eq!(three.typical().unwrap().mb_per_second, 90.0);
        assert_eq!(setting(&[1.0, 2.0]).median_mb_per_second, Some(1.5));
        assert_eq!(setting(&[]).median_mb_per_second, None);
    }

    #[test]
    fn slower_is_a_regression_only_beyond_what_is_allowed_and_beyond_noise() {
        let verdict = |before: &[f64], now: &[f64]| compare(&report(before), &report(now), 10.0)[0].regression;
        assert!(verdict(&[100.0], &[89.0]));
        assert!(!verdict(&[100.0], &[91.0]));
        assert!(!verdict(&[100.0], &[200.0]));
        assert!(!verdict(&[120.0, 100.0, 80.0], &[85.0]));
        assert!(verdict(&[100.0], &[]));
        assert!(!verdict(&[], &[1.0]));
    }
}
