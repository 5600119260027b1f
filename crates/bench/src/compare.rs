//! Two saved runs beside each other: what has become slower, beyond what chance explains.

use serde::Serialize;

use crate::db::Operation;
use crate::fleet::{Measured, Run};
use crate::sample::Summary;

/// Percent by which a median may grow before it counts.
pub const THRESHOLD_PERCENT: f64 = 10.0;

/// What is compared of every site.
const COMPARED: [Operation; 4] = [Operation::Probe, Operation::Read, Operation::Insert, Operation::Transaction];

/// One operation at one site, in both runs.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Difference {
    /// The site's name.
    pub site: String,
    /// `None`: the site as a whole.
    pub operation: Option<Operation>,
    /// Medians in ms.
    pub before_ms: Option<f64>,
    #[allow(missing_docs)]
    pub after_ms: Option<f64>,
    /// By how much the median has grown.
    pub percent: Option<f64>,
    /// What is to be thought of it.
    pub verdict: Verdict,
}

/// What is to be thought of a difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Below the threshold, or the two confidence intervals have something in common.
    Same,
    /// Quicker by more than the threshold and beyond the intervals.
    Quicker,
    /// Slower by more than the threshold and beyond the intervals.
    Slower,
    /// It was measured and is not any more.
    Lost,
    /// It fails where it did not.
    Failing,
    /// It was not measured before.
    New,
    /// Too few samples for a confidence interval: six are needed in both.
    TooFew,
}

impl Verdict {
    /// Whether it is a step back.
    pub fn is_regression(self) -> bool {
        matches!(self, Self::Slower | Self::Lost | Self::Failing)
    }

    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Quicker => "quicker",
            Self::Slower => "SLOWER",
            Self::Lost => "LOST",
            Self::Failing => "FAILING",
            Self::New => "new",
            Self::TooFew => "too few",
        }
    }
}

/// Each site of either run; those of `before` first.
pub fn compare(before: &Run, after: &Run, threshold_percent: f64) -> Vec<Difference> {
    let mut differences = Vec::new();
    // What the later run was not asked for has not been lost.
    let left_out = after.asked.split('&').any(|parameter| parameter == "phases=off");
    let compared: Vec<_> =
        COMPARED.into_iter().filter(|operation| !(left_out && *operation == Operation::Transaction)).collect();
    for row in &before.rows {
        let later = after.rows.iter().find(|other| other.site.name == row.site.name);
        let later = later.and_then(|row| row.measured());
        let whole = |verdict| Difference {
            site: row.site.name.clone(),
            operation: None,
            before_ms: None,
            after_ms: None,
            percent: None,
            verdict,
        };
        match (row.measured(), later) {
            (None, None) => {}
            (None, Some(_)) => differences.push(whole(Verdict::New)),
            (Some(_), None) => differences.push(whole(Verdict::Lost)),
            (Some(earlier), Some(later)) => {
                differences.extend(operations(&row.site.name, earlier, later, &compared, threshold_percent));
                if earlier.failures() == 0 && later.failures() > 0 {
                    differences.push(whole(Verdict::Failing));
                }
            }
        }
    }
    let is_new = |name: &str| before.rows.iter().all(|row| row.site.name != name);
    for row in after.rows.iter().filter(|row| is_new(&row.site.name) && row.measured().is_some()) {
        differences.push(Difference {
            site: row.site.name.clone(),
            operation: None,
            before_ms: None,
            after_ms: None,
            percent: None,
            verdict: Verdict::New,
        });
    }
    differences
}

fn operations(
    site: &str,
    before: &Measured,
    after: &Measured,
    compared: &[Operation],
    threshold_percent: f64,
) -> Vec<Difference> {
    let differences = compared.iter().filter_map(|operation| {
        let [before, after] = [before, after].map(|measured| measured.sample(*operation).summary());
        if before.count == 0 && after.count == 0 {
            return None;
        }
        let percent = before.middle().zip(after.middle()).map(|(before, after)| (after / before - 1.0) * 100.0);
        let verdict = match (before.count, after.count) {
            (0, _) => Verdict::New,
            (_, 0) => Verdict::Lost,
            _ => judge(&before, &after, percent.unwrap_or(0.0), threshold_percent),
        };
        Some(Difference {
            site: site.to_owned(),
            operation: Some(*operation),
            before_ms: before.middle(),
            after_ms: after.middle(),
            percent,
            verdict,
        })
    });
    differences.collect()
}

fn judge(before: &Summary, after: &Summary, percent: f64, threshold_percent: f64) -> Verdict {
    let (Some((before_low, before_high)), Some((after_low, after_high))) = (before.p50_interval, after.p50_interval)
    else {
        return Verdict::TooFew;
    };
    if percent > threshold_percent && after_low > before_high {
        Verdict::Slower
    } else if percent < -threshold_percent && after_high < before_low {
        Verdict::Quicker
    } else {
        Verdict::Same
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Outcome;
    use crate::sample::Sample;

    fn run(of: impl Fn(usize) -> Option<Vec<f64>>) -> Run {
        Run::of_inserts((0..3).map(of))
    }

    fn verdicts(before: &Run, after: &Run) -> Vec<Verdict> {
        compare(before, after, THRESHOLD_PERCENT).into_iter().map(|difference| difference.verdict).collect()
    }

    #[test]
    fn a_difference_counts_beyond_threshold_and_chance() {
        let steady = |value: f64| (0..20).map(|at| value + f64::from(at) * 0.01).collect::<Vec<_>>();
        let before = run(|_| Some(steady(100.0)));
        assert_eq!(verdicts(&before, &before), [Verdict::Same; 3]);
        let after = run(|at| Some(steady([109.0, 112.0, 80.0][at])));
        assert_eq!(verdicts(&before, &after), [Verdict::Same, Verdict::Slower, Verdict::Quicker]);
        // Twice as slow by the median, and all over the place.
        let wild: Vec<f64> = (0..20).map(|at| if at % 3 == 0 { 50.0 } else { 50.0 + f64::from(at) * 20.0 }).collect();
        assert_eq!(verdicts(&run(|_| Some(wild.clone())), &run(|_| Some(steady(200.0))))[0], Verdict::Same);
        assert_eq!(verdicts(&run(|_| Some(vec![1.0; 5])), &run(|_| Some(vec![9.0; 5])))[0], Verdict::TooFew);
    }

    #[test]
    fn what_was_not_asked_for_is_not_lost() {
        let with_transactions = |mut run: Run| {
            for row in &mut run.rows {
                if let Outcome::Measured(measured) = &mut row.outcome {
                    measured.samples.insert(Operation::Transaction, Sample(vec![1.0; 10]));
                }
            }
            run
        };
        let plain = || run(|_| Some(vec![1.0; 10]));
        let before = with_transactions(plain());
        assert!(verdicts(&before, &plain()).contains(&Verdict::Lost));
        let after = Run { asked: "iterations=10&phases=off".to_owned(), ..plain() };
        assert_eq!(verdicts(&before, &after), [Verdict::Same; 3]);
    }

    #[test]
    fn what_is_gone_is_a_regression_and_what_is_new_is_none() {
        let values = || Some(vec![1.0; 10]);
        let (before, after) = (run(|at| values().filter(|_| at != 2)), run(|at| values().filter(|_| at != 0)));
        let found = verdicts(&before, &after);
        assert_eq!(found, [Verdict::Lost, Verdict::Same, Verdict::New]);
        assert_eq!(found.iter().map(|verdict| verdict.is_regression()).collect::<Vec<_>>(), [true, false, false]);
        let mut failing = run(|_| values());
        if let Outcome::Measured(measured) = &mut failing.rows[1].outcome {
            measured.errors.insert("42P01".to_owned(), 3);
        }
        assert_eq!(verdicts(&run(|_| values()), &failing)[2], Verdict::Failing);
    }
}
