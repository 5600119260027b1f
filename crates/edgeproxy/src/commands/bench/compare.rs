//! `compare`: what has become slower between two saved runs.

use std::path::PathBuf;

use edgeproxy_bench::compare::{Difference, THRESHOLD_PERCENT, Verdict, compare};
use edgeproxy_bench::fleet::Run;
use edgeproxy_bench::report::read_run;
use serde::Serialize;

use crate::commands::{Failure, columns, say};

/// Compares two saved runs, site by site
///
/// A difference counts where the median has changed by more than the threshold, and the 95 % confidence intervals of both
/// medians have nothing in common. Exit code 1 when something has become slower, is not measured any more or fails now.
#[derive(clap::Args)]
pub(super) struct Compare {
    /// The earlier run: a folder of `bench db --out`, or what `--json` printed
    before: PathBuf,
    /// The later one
    after: PathBuf,
    /// Percent by which a median may grow
    #[arg(long, value_name = "PERCENT", default_value_t = THRESHOLD_PERCENT, value_parser = percent)]
    threshold: f64,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Answer {
    threshold_percent: f64,
    differences: Vec<Difference>,
    regressions: usize,
}

impl Compare {
    pub(super) fn run(self) -> Result<(), Failure> {
        let [before, after] = [&self.before, &self.after].map(|path| read_run(path).map_err(Failure::from_display));
        let (before, after): (Run, Run) = (before?, after?);
        if before.asked != after.asked {
            say::note(format_args!("the runs asked for different things: {} and {}", before.asked, after.asked));
        }
        let differences = compare(&before, &after, self.threshold);
        let regressions = differences.iter().filter(|difference| difference.verdict.is_regression()).count();
        if differences.iter().any(|difference| difference.verdict == Verdict::TooFew) {
            say::note("medians of fewer than six samples have no confidence interval and are not judged");
        }
        if self.json {
            say::json(&Answer { threshold_percent: self.threshold, differences, regressions });
        } else {
            let rows = differences.into_iter().map(row).collect();
            columns::print(["site", "operation", "before", "after", "change", "verdict"], &[2, 3, 4], rows);
        }
        match regressions {
            0 => Ok(()),
            1 => Err(Failure::Failed("there is a regression".to_owned())),
            count => Err(Failure::Failed(format!("there are {count} regressions"))),
        }
    }
}

fn row(difference: Difference) -> [String; 6] {
    let Difference { site, operation, before_ms, after_ms, percent, verdict } = difference;
    let ms = |value: Option<f64>| value.map(|value| format!("{value:.2} ms")).unwrap_or_default();
    let operation = operation.map_or("", |operation| operation.name()).to_owned();
    let change = percent.map(|percent| format!("{percent:+.1} %")).unwrap_or_default();
    [site, operation, ms(before_ms), ms(after_ms), change, verdict.word().to_owned()]
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').trim().parse().ok();
    number
        .filter(|percent: &f64| percent.is_finite() && *percent >= 0.0)
        .ok_or_else(|| "it is not a percentage".to_owned())
}
