//! What the published table leaves out: like beside like, how far a figure can be trusted, and what failed.

use super::table::{Table, two_decimals};
use crate::db::Operation;
use crate::fleet::{Outcome, Row, Run};

/// A row per site, in ms unless the column says otherwise.
pub fn honest(run: &Run) -> Table {
    let columns = vec![
        ("Site", false),
        ("n", true),
        ("Read p50", true),
        ("p95", true),
        ("p99", true),
        ("Insert p50", true),
        ("p95", true),
        ("p99", true),
        ("RTT", true),
        ("Read/RTT", true),
        ("Insert/RTT", true),
        ("Tx/RTT", true),
        ("Connect", true),
        ("First", true),
        ("Errors", true),
    ];
    Table { columns, rows: run.rows.iter().map(row).collect() }
}

fn row(row: &Row) -> Vec<String> {
    let Some(measured) = row.measured() else {
        let mut cells = vec!["".to_owned(); 15];
        cells[0].clone_from(&row.site.name);
        cells[1] = "0".to_owned();
        return cells;
    };
    let of = |operation| measured.sample(operation).summary();
    let (read, insert) = (of(Operation::Read), of(Operation::Insert));
    let mut cells = vec![row.site.name.clone(), insert.count.to_string()];
    cells.extend([read.p50, read.p95, read.p99, insert.p50, insert.p95, insert.p99].map(two_decimals));
    cells.push(two_decimals(of(Operation::Probe).middle()));
    let trips = [Operation::Read, Operation::Insert, Operation::Transaction];
    cells.extend(trips.map(|operation| two_decimals(measured.round_trips(operation))));
    cells.extend([&measured.connect, &measured.first].map(|sample| two_decimals(sample.summary().middle())));
    cells.push(measured.failures().to_string());
    cells
}

/// What is to be known of single sites, a line each: `lhr: 3 x 42P01`.
pub fn notes(run: &Run) -> Vec<String> {
    let mut notes = Vec::new();
    for Row { site, outcome } in &run.rows {
        let name = &site.name;
        match outcome {
            Outcome::Failed(error) => notes.push(format!("{name}: {error}")),
            Outcome::Measured(measured) => {
                notes.extend(measured.errors.iter().map(|(kind, count)| format!("{name}: {count} x {kind}")));
                notes.extend(measured.notes.iter().map(|note| format!("{name}: {note}")));
                if ![&measured.region, &site.region].contains(&&String::new()) && measured.region != site.region {
                    notes.push(format!("{name}: answers that it is in region {}", measured.region));
                }
            }
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::published::tests::example;

    #[test]
    fn what_the_sample_does_not_carry_is_not_told() {
        let text = honest(&example()).markdown();
        let lhr: Vec<_> = text.lines().find(|line| line.contains("lhr")).unwrap().split('|').map(str::trim).collect();
        // Two samples: a median, no more.
        assert_eq!(lhr[3..9], ["51.45", "n/a", "n/a", "100.50", "n/a", "n/a"], "{text}");
        assert_eq!(lhr[9..16], ["50.00", "1.03", "2.01", "n/a", "200.00", "n/a", "0"], "{text}");
        assert!(text.lines().any(|line| line.contains("sin")), "{text}");
    }

    #[test]
    fn who_is_missing_is_told_why() {
        let notes = notes(&example());
        assert_eq!(notes, ["sin: not reached: no connection within 10 s", "syd: Database not configured"]);
    }
}
