//! A JSON array of objects, or the object that `list --json` prints.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::FoundRow;
use super::cell::{Cell, RowBuilder, column};

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

/// The rows; an `Err` where the file as a whole makes no sense.
pub(super) fn rows(text: &str) -> Result<Vec<FoundRow>, String> {
    // Raw values are slices of the text, which tell the line of each row.
    let items = if text.trim_start().starts_with('[') {
        serde_json::from_str::<Vec<&RawValue>>(text)
    } else {
        serde_json::from_str::<Answer<'_>>(text).map(|answer| answer.items)
    };
    let items = items.map_err(|error| format!("not an array of backends in JSON: {error}"))?;
    let mut lines = Lines { text, offset: 0, line: 1 };
    Ok(items.into_iter().map(|item| row(lines.line_of(item.get()), item)).collect())
}

/// Counts lines as it goes: from the start each time would take as long as rows times their number.
struct Lines<'a> {
    text: &'a str,
    offset: usize,
    /// Of the offset.
    line: usize,
}

impl Lines<'_> {
    /// `part` is a slice of the text, behind the one before.
    fn line_of(&mut self, part: &str) -> usize {
        let offset = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let passed = self.text.as_bytes().get(self.offset..offset).unwrap_or_default();
        self.line += passed.iter().filter(|byte| **byte == b'\n').count();
        self.offset = offset;
        self.line
    }
}

fn row(line: usize, item: &RawValue) -> FoundRow {
    let mut builder = RowBuilder::default();
    match serde_json::from_str::<BTreeMap<String, Value>>(item.get()) {
        Ok(fields) => {
            for (name, value) in fields {
                match column(&name) {
                    Ok(Some(column)) => builder.put(column, cell(value)),
                    Ok(None) => {}
                    Err(rule) => builder.refuse("row", format!("has a stranger: {rule}")),
                }
            }
        }
        Err(_) => builder.refuse("row", "is not an object of column names and values".to_owned()),
    }
    FoundRow { line: Some(line), backend: builder.finish(|| format!("line {line}")) }
}

fn cell(value: Value) -> Cell {
    match value {
        Value::Null => Cell::Null,
        Value::Bool(flag) => Cell::Number(flag.into()),
        Value::String(text) => Cell::Text(text),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Cell::Number(number),
            None => Cell::Odd(format!("the number {number}")),
        },
        Value::Array(_) => Cell::Odd("an array".to_owned()),
        Value::Object(_) => Cell::Odd("an object".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_know_their_line() {
        let rows = rows(
            "[\n  {\"id\": \"b1\", \"port\": \"80\", \"healthy\": true, \"country\": null},\n  7, {\"id\": \"b3\", \"port\": \
             1.5},\n\n {\"id\": \"b4\",\n \"prot\": 1}, {\"id\": \"b5\", \"deleted\": 1}]",
        )
        .unwrap();
        assert_eq!(rows.iter().map(|row| row.line.unwrap()).collect::<Vec<_>>(), [2, 3, 3, 5, 6]);
        let first = rows[0].backend.as_ref().unwrap().as_ref().unwrap();
        assert_eq!((first.port, first.healthy, &first.country), (Some(80), Some(1), &Some(String::new())));
        let broken: Vec<_> = rows[1..4].iter().map(|row| row.backend.as_ref().unwrap_err().to_string()).collect();
        assert_eq!(broken[0], "backend \"line 3\": row is not an object of column names and values");
        assert_eq!(broken[1], "backend \"b3\": port is the number 1.5; it must be a whole number");
        assert!(broken[2].starts_with("backend \"b4\": row has a stranger: there is no column \"prot\""));
        assert!(rows[4].backend.as_ref().unwrap().is_none());
    }

    #[test]
    fn what_list_prints_is_taken() {
        let rows = rows("{\"items\":[{\"id\":\"b1\",\"state\":\"in service\"}],\"rejected\":[]}").unwrap();
        assert!(rows[0].backend.is_ok());
        assert!(super::rows("{\"id\":1}").err().unwrap().contains("missing field `items`"));
        assert!(super::rows("[1,").err().unwrap().starts_with("not an array of backends in JSON: EOF"));
    }
}
