//! Files for `edgeproxy route import`: CSV and JSON.
//!
//! - A file is refused in one line, or gives rows that know the line they begin on, in order.
//! - Rows that passed, written as CSV or as JSON by the book, are read back as the same rows.

use edgeproxy_route::RawBackend;

use self::binary::{FoundRow, csv, json};

// The binary's own modules, not copies: of a crate that has no library.
#[path = "../../crates/edgeproxy/src/commands/route/import"]
mod binary {
    use edgeproxy_route::{BackendError, RawBackend};

    mod cell;
    mod csv;
    mod json;

    /// As the module above them has it.
    pub(super) struct FoundRow {
        pub(super) line: Option<usize>,
        pub(super) backend: Result<Option<RawBackend>, BackendError>,
    }

    pub(super) fn csv(text: &str) -> Result<Vec<FoundRow>, String> {
        csv::rows(text)
    }

    pub(super) fn json(text: &str) -> Result<Vec<FoundRow>, String> {
        json::rows(text)
    }
}

/// Whatever text: see the head of this module.
pub fn import(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let rows = match text.trim_start().chars().next() {
        Some('[' | '{') => json(text),
        _ => csv(text),
    };
    match rows {
        Err(reason) => crate::assert_one_line(&reason),
        Ok(rows) => check(rows, text),
    }
}

fn check(rows: Vec<FoundRow>, text: &str) {
    let lines = text.matches('\n').count() + 1;
    let mut last = 1;
    let mut good = Vec::new();
    for row in rows {
        let line = row.line.expect("text has lines");
        assert!((last..=lines).contains(&line), "line {line} after {last} of {lines}");
        last = line;
        match row.backend {
            Ok(backend) => good.extend(backend),
            Err(error) => crate::assert_one_line(&error.to_string()),
        }
    }
    if !good.is_empty() {
        assert_same(csv(&as_csv(&good)), &good);
        assert_same(json(&as_json(&good)), &good);
    }
    good.into_iter().for_each(crate::backend_row::check);
}

fn assert_same(rows: Result<Vec<FoundRow>, String>, expected: &[RawBackend]) {
    let rows = rows.map(|rows| rows.into_iter().map(|row| row.backend).collect::<Result<Vec<_>, _>>());
    let rows = rows.expect("a file by the book").expect("rows that were good");
    let told = |row: &RawBackend| format!("{:?}", fields(row));
    let found: Vec<String> = rows.iter().flatten().map(told).collect();
    assert_eq!(found, expected.iter().map(told).collect::<Vec<_>>());
}

/// Columns and values. An empty text says as little as none, in CSV at least.
fn fields(row: &RawBackend) -> [(&'static str, Option<String>); 12] {
    let text = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    let number = |value: Option<i64>| value.map(|value| value.to_string());
    [
        ("id", text(&row.id)),
        ("app", text(&row.app)),
        ("region", text(&row.region)),
        ("country", text(&row.country)),
        ("wg_ip", text(&row.wg_ip)),
        ("port", number(row.port)),
        ("healthy", number(row.healthy)),
        ("weight", number(row.weight)),
        ("soft_limit", number(row.soft_limit)),
        ("hard_limit", number(row.hard_limit)),
        ("drained", number(row.drained)),
        ("heartbeat_secs", number(row.heartbeat_secs)),
    ]
}

fn as_csv(rows: &[RawBackend]) -> String {
    let mut csv = String::new();
    for (number, row) in rows.iter().enumerate() {
        let fields = fields(row);
        if number == 0 {
            csv = fields.iter().map(|(column, _)| *column).collect::<Vec<_>>().join(",") + "\r\n";
        }
        let quote = |(_, value): &(_, Option<String>)| {
            value.as_ref().map_or(String::new(), |value| format!("\"{}\"", value.replace('"', "\"\"")))
        };
        csv += &(fields.iter().map(quote).collect::<Vec<_>>().join(",") + "\r\n");
    }
    csv
}

fn as_json(rows: &[RawBackend]) -> String {
    let object = |row: &RawBackend| -> serde_json::Value {
        // Null would say that a backend has no country or heartbeat.
        fields(row)
            .into_iter()
            .filter_map(|(column, value)| Some((column.to_owned(), value?.into())))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    serde_json::Value::Array(rows.iter().map(object).collect()).to_string()
}
