//! One page with everything on it, in one file.

use std::fmt::Write;

use super::chart::{ChartError, chart};
use super::honest::{honest, notes};
use super::published::{Marks, by_insert, figures, title};
use super::table::{Table, two_decimals};
use crate::fleet::Run;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#222}\
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}th,td{padding:.25rem .7rem;border-bottom:1px \
solid #ddd;text-align:left}.n{text-align:right}svg{max-width:100%;height:auto}code{background:#f3f3f3;padding:0 .3em}";

/// HTML that needs nothing beside itself: no script, no font, no picture of elsewhere.
///
/// # Errors
/// [`ChartError`].
pub fn page(run: &Run) -> Result<String, ChartError> {
    let title = title(run, Marks::Unicode).replace("===", "");
    let title = escaped(title.trim());
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n<h1>{title}</h1>\n<p>Begun {}; asked for <code>{}</code>, {} time(s) each.</p>\n",
        escaped(&run.started),
        escaped(&run.asked),
        run.requests
    );
    text.push_str(&chart(run)?);
    text.push_str("\n<h2>Ranked</h2>\n<p>As published: Insert is the average, Read the <em>minimum</em>.</p>\n");
    table(&mut text, &ranked(run));
    text.push_str(
        "<h2>Like beside like</h2>\n<p>In ms. RTT is the median of an empty round trip to the database; \
                   \u{201c}n/a\u{201d}: the sample does not carry that percentile.</p>\n",
    );
    table(&mut text, &honest(run));
    let notes = notes(run);
    if !notes.is_empty() {
        text.push_str("<h2>To be known</h2>\n<ul>\n");
        for note in notes {
            // Writing to a string does not fail.
            let _ = writeln!(text, "<li>{}</li>", escaped(&note));
        }
        text.push_str("</ul>\n");
    }
    text.push_str("</body>\n</html>\n");
    Ok(text)
}

fn ranked(run: &Run) -> Table {
    let cells = by_insert(run).into_iter().map(|(rank, row)| {
        let (insert, read) = figures(row).unzip();
        let site = &row.site;
        let place = format!("{} {}", Marks::Unicode.flag(&site.country), site.location);
        vec![rank, site.name.clone(), place, two_decimals(insert), two_decimals(read)]
    });
    let columns =
        vec![("Rank", true), ("Site", false), ("Location", false), ("Insert (ms)", true), ("Read (ms)", true)];
    Table { columns, rows: cells.collect() }
}

fn table(text: &mut String, table: &Table) {
    let class = |is_number: bool| if is_number { " class=\"n\"" } else { "" };
    // Writing to a string does not fail, here and below.
    text.push_str("<table>\n<thead><tr>");
    for (name, is_number) in &table.columns {
        let _ = write!(text, "<th{}>{}</th>", class(*is_number), escaped(name));
    }
    text.push_str("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        text.push_str("<tr>");
        for (cell, (_, is_number)) in row.iter().zip(&table.columns) {
            let _ = write!(text, "<td{}>{}</td>", class(*is_number), escaped(cell));
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</tbody>\n</table>\n");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::published::tests::example;

    /// Every element that is opened is closed, in order.
    fn is_nested(text: &str) -> bool {
        let mut open = Vec::new();
        for tag in text.split('<').skip(1) {
            let Some((tag, _)) = tag.split_once('>') else { return false };
            let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap_or_default();
            if tag.starts_with('!') || tag.ends_with('/') || name == "meta" {
                continue;
            } else if tag.starts_with('/') {
                if open.pop() != Some(name) {
                    return false;
                }
            } else {
                open.push(name);
            }
        }
        open.is_empty()
    }

    #[test]
    fn the_page_is_whole_and_needs_nothing_else() {
        let mut run = example();
        run.rows[0].site.location = "<script>alert(1)</script>".to_owned();
        let text = page(&run).unwrap();
        assert!(is_nested(&text), "{text}");
        assert!(!text.contains("<script") && !text.contains("href=") && !text.contains("src="));
        assert!(text.contains("<svg") && text.contains("London") && text.contains("no connection within 10 s"));
        assert!(is_nested(&super::chart(&run).unwrap()));
    }
}
