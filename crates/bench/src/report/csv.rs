//! A line per site and operation, for spreadsheets.

use std::fmt::Write;

use crate::fleet::{Outcome, Run};

const HEAD: &str = "site,region,location,country,operation,count,errors,min_ms,mean_ms,p50_ms,p50_low_ms,p50_high_ms,p95_ms,p99_ms,max_ms,sd_ms,round_trips,status\n";

/// RFC 4180, with a line of names. What the sample does not carry is empty.
pub fn csv(run: &Run) -> String {
    let mut text = HEAD.to_owned();
    for row in &run.rows {
        let site = &row.site;
        let of_site = [&site.name, &site.region, &site.location, &site.country].map(|text| quoted(text)).join(",");
        match &row.outcome {
            // Writing to a string does not fail.
            Outcome::Failed(error) => drop(writeln!(text, "{of_site},,0,,,,,,,,,,,,{}", quoted(&error.to_string()))),
            Outcome::Measured(measured) => {
                for (operation, sample) in &measured.samples {
                    let summary = sample.summary();
                    let interval = summary.p50_interval.unzip();
                    let errors = measured.failures();
                    let _ = write!(text, "{of_site},{},{},{errors}", operation.name(), summary.count);
                    let figures = [
                        Some(summary.min),
                        Some(summary.mean),
                        summary.p50,
                        interval.0,
                        interval.1,
                        summary.p95,
                        summary.p99,
                        Some(summary.max),
                        summary.sd,
                        measured.round_trips(*operation),
                    ];
                    for figure in figures {
                        text.push(',');
                        text.extend(figure.map(|figure| format!("{figure:.3}")));
                    }
                    text.push_str(",ok\n");
                }
            }
        }
    }
    text
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::published::tests::example;

    #[test]
    fn all_lines_have_as_many_fields() {
        let mut run = example();
        run.rows[0].site.location = "Here, \"there\"".to_owned();
        let text = csv(&run);
        let columns = HEAD.matches(',').count();
        for line in text.lines().skip(1) {
            let plain = line.replace("\"Here, \"\"there\"\"\"", "Here");
            assert_eq!(plain.matches(',').count(), columns, "{line}");
        }
        // Three operations of eight sites, and two that failed.
        assert_eq!(text.lines().count(), 1 + 8 * 3 + 2);
    }
}
