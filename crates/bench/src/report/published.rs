//! The table of the published benchmark, to the letter, and the ranked one.
//!
//! Its Insert column is the average and its Read column the *minimum*: whoever compares the two compares a usual write with
//! the luckiest read. What is comparable, [`honest`](super::honest()) shows.

use std::fmt::Write;

use super::table::escaped;
use crate::db::Operation;
use crate::fleet::AskError;
use crate::fleet::{Outcome, Row, Run};
use crate::sample::Summary;

/// Width of a flag's column. A flag is two characters, and two columns of a terminal.
const FLAG_WIDTH: usize = 4;
const TIMEOUT: &str = "TIMEOUT";
/// What stands where a backend answered that it cannot.
const ERROR: &str = "ERROR";

/// What may be used beside ASCII.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Marks {
    /// Flags and arrows.
    #[default]
    Unicode,
    /// Country codes, and "->".
    Ascii,
}

impl Marks {
    fn arrow(self) -> &'static str {
        if self == Self::Ascii { "->" } else { "\u{2192}" }
    }

    /// A country's flag: its two letters as regional indicators.
    pub(super) fn flag(self, country: &str) -> String {
        let indicator = |letter: char| {
            let offset = u32::from(letter).checked_sub(u32::from('A'))?;
            char::from_u32(0x1F1E6 + offset)
        };
        match self {
            Self::Ascii => country.to_owned(),
            Self::Unicode => country.chars().filter_map(indicator).collect(),
        }
    }
}

/// The title line, an empty line, and the table in the order of the fleet.
pub fn table(run: &Run, marks: Marks) -> String {
    let mut text = format!("{}\n\n", title(run, marks));
    // Writing to a string does not fail, here and below.
    let _ = writeln!(
        text,
        "| {:<FLAG_WIDTH$} | {:<6} | {:<13} | {:<11} | {:<9} |",
        "Flag", "Region", "Location", "Insert (ms)", "Read (ms)"
    );
    text.push_str("|------|--------|---------------|-------------|-----------|\n");
    for row in &run.rows {
        let flag = marks.flag(&row.site.country);
        let (insert, read) = cells(row);
        let site = &row.site;
        let _ = writeln!(
            text,
            "| {flag:<FLAG_WIDTH$} | {:<6} | {:<13} | {insert:>11} | {read:>9} |",
            escaped(&site.region),
            escaped(&site.location)
        );
    }
    text
}

/// What was measured between where.
pub(super) fn title(run: &Run, marks: Marks) -> String {
    format!("=== RDS Benchmark: {} {} {} ===", run.source, marks.arrow(), run.database)
}

/// Sites by their inserts, the quickest first and in bold; those without any come last, without a rank.
pub fn ranked(run: &Run, marks: Marks) -> String {
    let mut text = String::from(
        "| Flag | Region | Location | Insert (ms) | Read (ms) | Rank |\n|:----:|:------:|----------|:-----------:|:---------:|:----:|\n",
    );
    let quickest_read = run.rows.iter().filter_map(|row| Some(figures(row)?.1)).min_by(f64::total_cmp);
    for (rank, row) in by_insert(run) {
        let (mut insert, mut read) = cells(row);
        if let Some((_, of_read)) = figures(row) {
            if rank == "1" {
                insert = format!("**{insert}**");
            }
            if Some(of_read) == quickest_read {
                read = format!("**{read}**");
            }
        }
        let site = &row.site;
        let flag = marks.flag(&site.country);
        let _ = writeln!(
            text,
            "| {flag} | {} | {} | {insert} | {read} | {rank} |",
            escaped(&site.region),
            escaped(&site.location)
        );
    }
    text
}

/// Sites with their rank, the quickest first; those without an insert come last, without a rank.
pub(super) fn by_insert(run: &Run) -> Vec<(String, &Row)> {
    let insert = |row: &&Row| figures(row).map(|(insert, _)| insert);
    let mut rows: Vec<&Row> = run.rows.iter().collect();
    rows.sort_by(|a, b| insert(a).unwrap_or(f64::INFINITY).total_cmp(&insert(b).unwrap_or(f64::INFINITY)));
    let ranked = rows.into_iter().zip(1_u32..);
    ranked.map(|(row, rank)| (insert(&row).map(|_| rank.to_string()).unwrap_or_default(), row)).collect()
}

/// Average insert and smallest read, in ms.
pub(super) fn figures(row: &Row) -> Option<(f64, f64)> {
    let measured = row.measured()?;
    let of =
        |operation| Some(measured.samples.get(&operation)?.summary()).filter(|summary: &Summary| summary.count > 0);
    Some((of(Operation::Insert)?.mean, of(Operation::Read)?.min))
}

fn cells(row: &Row) -> (String, String) {
    let same = |text: &str| (text.to_owned(), text.to_owned());
    match (&row.outcome, figures(row)) {
        (Outcome::Measured(_), Some((insert, read))) => (format!("{insert:.2}"), format!("{read:.2}")),
        (Outcome::Failed(AskError::Unreachable(_) | AskError::Late(_) | AskError::Broken(_)), _) => same(TIMEOUT),
        _ => same(ERROR),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::fleet::{Fleet, Measured};
    use crate::sample::Sample;

    /// Ten regions, of which one is not there and one has no database.
    pub(in crate::report) fn example() -> Run {
        let fleet = Fleet::default();
        let rows = fleet.sites.iter().zip(1_u32..).map(|(site, number)| {
            let outcome = match site.region.as_str() {
                "sin" => Outcome::Failed(AskError::Unreachable("no connection within 10 s".to_owned())),
                "syd" => Outcome::Failed(AskError::Refused("Database not configured".to_owned())),
                _ => {
                    let near = f64::from(number) * 10.0;
                    let samples = BTreeMap::from([
                        (Operation::Probe, Sample(vec![near, near, near])),
                        (Operation::Read, Sample(vec![near + 0.895, near + 2.0])),
                        (Operation::Insert, Sample(vec![2.0 * near, 2.0 * near + 1.0])),
                    ]);
                    let connect = Sample(vec![near * 4.0]);
                    let region = site.region.clone();
                    Outcome::Measured(Box::new(Measured { region, samples, connect, ..Measured::default() }))
                }
            };
            Row { site: site.clone(), outcome }
        });
        Run {
            version: 1,
            started: "2025-12-07T15:48:02Z".to_owned(),
            asked: "iterations=2".to_owned(),
            requests: 1,
            source: "Fly.io".to_owned(),
            database: "AWS RDS Ireland".to_owned(),
            rows: rows.collect(),
        }
    }

    #[test]
    fn the_table_is_the_published_one() {
        let expected = "\
=== RDS Benchmark: Fly.io \u{2192} AWS RDS Ireland ===

| Flag | Region | Location      | Insert (ms) | Read (ms) |
|------|--------|---------------|-------------|-----------|
| \u{1F1E7}\u{1F1F7}   | gru    | Sao Paulo     |       20.50 |     10.89 |
| \u{1F1FA}\u{1F1F8}   | iad    | Virginia      |       40.50 |     20.89 |
| \u{1F1FA}\u{1F1F8}   | ord    | Chicago       |       60.50 |     30.89 |
| \u{1F1FA}\u{1F1F8}   | lax    | Los Angeles   |       80.50 |     40.90 |
| \u{1F1EC}\u{1F1E7}   | lhr    | London        |      100.50 |     50.90 |
| \u{1F1E9}\u{1F1EA}   | fra    | Frankfurt     |      120.50 |     60.90 |
| \u{1F1EB}\u{1F1F7}   | cdg    | Paris         |      140.50 |     70.89 |
| \u{1F1EF}\u{1F1F5}   | nrt    | Tokyo         |      160.50 |     80.89 |
| \u{1F1F8}\u{1F1EC}   | sin    | Singapore     |     TIMEOUT |   TIMEOUT |
| \u{1F1E6}\u{1F1FA}   | syd    | Sydney        |       ERROR |     ERROR |
";
        assert_eq!(table(&example(), Marks::Unicode), expected);
    }

    #[test]
    fn without_marks_it_is_ascii() {
        let text = table(&example(), Marks::Ascii);
        assert!(text.is_ascii() && text.starts_with("=== RDS Benchmark: Fly.io -> AWS RDS Ireland ===\n\n"), "{text}");
        assert!(text.contains("| BR   | gru    | Sao Paulo     |       20.50 |     10.89 |"), "{text}");
        assert!(ranked(&example(), Marks::Ascii).is_ascii());
    }

    #[test]
    fn ranks_are_by_insert_and_the_best_is_bold() {
        let mut run = example();
        run.rows.reverse();
        let text = ranked(&run, Marks::Ascii);
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(lines[0], "| BR | gru | Sao Paulo | **20.50** | **10.89** | 1 |");
        assert_eq!(lines[7], "| JP | nrt | Tokyo | 160.50 | 80.89 | 8 |");
        assert_eq!(lines[9], "| SG | sin | Singapore | TIMEOUT | TIMEOUT |  |");
    }
}
