//! CSV as RFC 4180 has it: comma, double quotes around what holds a comma, a quote or a line break; quotes doubled.

use super::FoundRow;
use super::cell::{Cell, RowBuilder, column};

/// The rows below the header; an `Err` where the file as a whole makes no sense.
pub(super) fn rows(text: &str) -> Result<Vec<FoundRow>, String> {
    let mut records = Records { rest: text, line: 1 };
    let header = loop {
        match records.next().transpose()? {
            Some(record) if record.is_blank() => {}
            Some(record) => break record,
            None => return Err("is empty; give a header of column names and a row for each backend".to_owned()),
        }
    };
    let columns = header.values.iter().map(|name| column(name)).collect::<Result<Vec<_>, _>>();
    let columns = columns.map_err(|rule| format!("line {}: {rule}", header.line))?;
    if let Some(twice) = columns.iter().enumerate().find_map(|(n, name)| columns[..n].contains(name).then_some(*name)) {
        return Err(format!("line {}: column {:?} stands there twice", header.line, twice.unwrap_or("state")));
    }
    let mut rows = Vec::new();
    for record in records {
        let record = record?;
        if !record.is_blank() {
            rows.push(row(&columns, record));
        }
    }
    Ok(rows)
}

fn row(columns: &[Option<&'static str>], record: Record) -> FoundRow {
    let Record { line, values } = record;
    let mut builder = RowBuilder::default();
    if values.len() != columns.len() {
        let rule = format!("has {} values, the header has {}", values.len(), columns.len());
        builder.refuse("row", rule);
    }
    for (column, value) in columns.iter().zip(values) {
        if let Some(column) = column {
            builder.put(column, if value.is_empty() { Cell::Nothing } else { Cell::Text(value) });
        }
    }
    FoundRow { line: Some(line), backend: builder.finish(|| format!("line {line}")) }
}

/// Values of one row, and the line it begins on.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    line: usize,
    values: Vec<String>,
}

impl Record {
    fn is_blank(&self) -> bool {
        matches!(self.values.as_slice(), [only] if only.trim().is_empty())
    }
}

struct Records<'a> {
    rest: &'a str,
    line: usize,
}

impl Iterator for Records<'_> {
    type Item = Result<Record, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let mut record = Record { line: self.line, values: Vec::new() };
        loop {
            match self.value() {
                Ok(value) => record.values.push(value),
                Err(reason) => {
                    // What follows cannot be told apart any more.
                    self.rest = "";
                    return Some(Err(reason));
                }
            }
            if let Some(rest) = self.rest.strip_prefix(',') {
                self.rest = rest;
                continue;
            }
            self.rest = self.rest.strip_prefix('\r').unwrap_or(self.rest);
            self.rest = self.rest.strip_prefix('\n').unwrap_or(self.rest);
            self.line += 1;
            return Some(Ok(record));
        }
    }
}

impl Records<'_> {
    fn value(&mut self) -> Result<String, String> {
        let Some(mut rest) = self.rest.strip_prefix('"') else {
            let end = self.rest.find([',', '\n']).unwrap_or(self.rest.len());
            let (value, rest) = self.rest.split_at(end);
            self.rest = rest;
            return Ok(value.trim_end_matches('\r').to_owned());
        };
        let opened = self.line;
        let mut value = String::new();
        loop {
            let Some(quote) = rest.find('"') else {
                return Err(format!("line {opened}: a quote is opened and never closed"));
            };
            value.push_str(&rest[..quote]);
            self.line += rest[..quote].matches('\n').count();
            rest = &rest[quote + 1..];
            match rest.strip_prefix('"') {
                Some(after) => {
                    value.push('"');
                    rest = after;
                }
                None if rest.is_empty() || rest.starts_with([',', '\n']) || rest.starts_with("\r\n") => {
                    self.rest = rest;
                    return Ok(value);
                }
                None => return Err(format!("line {}: text follows a closing quote", self.line)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &str) -> Vec<(usize, Vec<String>)> {
        Records { rest: text, line: 1 }.map(|record| record.unwrap()).map(|r| (r.line, r.values)).collect()
    }

    fn values(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn quotes_hold_commas_quotes_and_line_breaks() {
        assert_eq!(
            records("a,\"b,\"\"c\"\"\",\r\n\"two\nlines\",x\n\nlast"),
            [
                (1, values(&["a", "b,\"c\"", ""])),
                (2, values(&["two\nlines", "x"])),
                (4, values(&[""])),
                (5, values(&["last"])),
            ]
        );
        assert_eq!(records("a\n"), [(1, values(&["a"]))]);
        assert_eq!(records("a,\r\n"), [(1, values(&["a", ""]))]);
    }

    #[test]
    fn what_cannot_be_told_apart_is_refused() {
        let broken = |text| Records { rest: text, line: 1 }.find_map(Result::err).unwrap();
        assert_eq!(broken("a\n\"b"), "line 2: a quote is opened and never closed");
        assert_eq!(broken("\"a\"b"), "line 1: text follows a closing quote");
    }

    #[test]
    fn rows_follow_the_header() {
        let rows = rows("\nPort, id ,healthy,country\n80,b1,true,\n\n80,b2\nhttp,b3,1,DE\n1,,1,DE\n").unwrap();
        assert_eq!(rows.iter().map(|row| row.line.unwrap()).collect::<Vec<_>>(), [3, 5, 6, 7]);
        let first = rows[0].backend.as_ref().unwrap().as_ref().unwrap();
        assert_eq!((first.port, first.healthy, &first.country), (Some(80), Some(1), &None));
        let broken: Vec<_> = rows[1..].iter().map(|row| row.backend.as_ref().unwrap_err().to_string()).collect();
        assert_eq!(
            broken,
            [
                "backend \"b2\": row has 2 values, the header has 4",
                "backend \"b3\": port is the text \"http\"; it must be a whole number",
                "backend \"line 7\": id is empty; it must be a name",
            ]
        );
    }

    #[test]
    fn a_header_of_strangers_is_refused() {
        let error = |text| rows(text).err().unwrap();
        assert!(error("id,prot\n").starts_with("line 1: there is no column \"prot\"; rename or remove it"));
        assert_eq!(error("id,ID\n"), "line 1: column \"id\" stands there twice");
        assert!(error("\n\n").starts_with("is empty"));
    }
}
