//! The folder of one run: raw data, summary, machine and chart.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::chart;
use crate::cpu::Clock;
use crate::failure::{Context, Failure};
use crate::measurement::Sample;
use crate::summary::Summary;

pub(crate) struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// `runs/<date>-<machine>`, with a number behind it when there is one already.
    pub(crate) fn make(runs: &Path, date: &str, machine: &str) -> Result<Self, Failure> {
        let name = format!("{date}-{machine}");
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let free = std::iter::once(name.clone()).chain(numbered).map(|name| runs.join(name));
        let path = free.into_iter().find(|path| !path.exists()).context("no free folder name")?;
        Self::at(path)
    }

    pub(crate) fn at(path: PathBuf) -> Result<Self, Failure> {
        fs::create_dir_all(&path).context(format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn write_session(&self, samples: &[Sample], summary: &Summary, machine: &str) -> Result<(), Failure> {
        self.write("raw.csv", &raw(samples))?;
        self.write("summary.md", &summary.to_markdown())?;
        self.write("machine.md", machine)?;
        match chart::draw(summary) {
            Some(chart) => self.write("chart.svg", &chart),
            None => Ok(()),
        }
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Result<(), Failure> {
        let file = self.path.join(name);
        fs::write(&file, text).context(format!("cannot write {}", file.display()))
    }
}

/// One line per measurement, one column per metric of any case.
fn raw(samples: &[Sample]) -> String {
    let metrics: BTreeSet<&str> = samples.iter().flat_map(|sample| sample.metrics.keys().copied()).collect();
    let mut text = String::from("case,round,peer,clock,errors,error_kinds");
    for metric in &metrics {
        text.push(',');
        text.push_str(metric);
    }
    text.push('\n');
    for sample in samples {
        let clock = match sample.clock {
            Some(Clock::Schedstat) => "schedstat",
            Some(Clock::Ticks) => "ticks",
            None => "",
        };
        let errors: u64 = sample.errors.values().sum();
        let kinds = sample.errors.iter().map(|(kind, count)| format!("{count} x {kind}"));
        let kinds = kinds.collect::<Vec<_>>().join("; ").replace(['"', '\n'], " ");
        text.push_str(&format!("{},{},{},{clock},{errors},\"{kinds}\"", sample.case, sample.round, sample.peer));
        for metric in &metrics {
            let value = sample.metrics.get(metric).map(|value| format!("{value:.3}"));
            text.push(',');
            text.push_str(&value.unwrap_or_default());
        }
        text.push('\n');
    }
    text
}

/// Today in UTC as `2026-01-31`.
pub(crate) fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    date(seconds / 86_400)
}

/// The Gregorian date of a day counted from 1970-01-01.
fn date(days: u64) -> String {
    // Years begin in March here, so that the leap day is the last of a year; 719,468 days before 1970 began year 0.
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn days_become_dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(19_782), "2024-02-29");
        assert_eq!(date(19_783), "2024-03-01");
        assert_eq!(date(20_453), "2025-12-31");
    }

    #[test]
    fn a_metric_that_was_not_measured_stays_empty() {
        let sample = |metrics: &[(&'static str, f64)], errors: &[(&str, u64)]| Sample {
            case: "short".to_owned(),
            round: 1,
            peer: "nginx".to_owned(),
            metrics: metrics.iter().copied().collect(),
            errors: errors.iter().map(|&(kind, count)| (kind.to_owned(), count)).collect::<BTreeMap<_, _>>(),
            clock: Some(Clock::Schedstat),
        };
        let text = raw(&[sample(&[("a", 1.0)], &[]), sample(&[("b", 2.5)], &[("timeout", 3)])]);
        let expected = "case,round,peer,clock,errors,error_kinds,a,b\nshort,1,nginx,schedstat,0,\"\",1.000,\n\
                        short,1,nginx,schedstat,3,\"3 x timeout\",,2.500\n";
        assert_eq!(text, expected);
    }
}
