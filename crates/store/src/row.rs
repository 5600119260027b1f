//! One row as SQLite holds it. Any column may hold any type there, whatever the table declares.

use std::hash::{Hash, Hasher};

use edgeproxy_route::{BackendError, RawBackend};
use rusqlite::Row;
use rusqlite::types::ValueRef;

/// Columns of [`Shape::select`](crate::schema::Shape::select), in its order. The first is the row's number.
const COLUMNS: [&str; 14] = [
    "rowid",
    "id",
    "app",
    "region",
    "country",
    "wg_ip",
    "port",
    "healthy",
    "weight",
    "soft_limit",
    "hard_limit",
    "drained",
    "heartbeat_secs",
    "deleted",
];
const DELETED: usize = 13;

/// Reads a row; fields of `instead` win over what the row holds, and what they replace is not looked at.
/// `Ok(None)` for a row marked as deleted.
pub(crate) fn read(row: &Row<'_>, number: usize, instead: RawBackend) -> Result<Option<RawBackend>, BackendError> {
    let fields = Fields { row, number };
    match fields.integer(DELETED)? {
        None | Some(0) => {}
        Some(1) => return Ok(None),
        Some(other) => return Err(fields.broken(DELETED, format!("{other} is not in 0 to 1"))),
    }
    Ok(Some(RawBackend {
        id: fields.text(1)?,
        app: fields.text_unless(instead.app, 2)?,
        region: fields.text_unless(instead.region, 3)?,
        country: fields.text_unless(instead.country, 4)?,
        wg_ip: fields.text_unless(instead.wg_ip, 5)?,
        port: fields.integer_unless(instead.port, 6)?,
        healthy: fields.integer_unless(instead.healthy, 7)?,
        weight: fields.integer_unless(instead.weight, 8)?,
        soft_limit: fields.integer_unless(instead.soft_limit, 9)?,
        hard_limit: fields.integer_unless(instead.hard_limit, 10)?,
        drained: fields.integer_unless(instead.drained, 11)?,
        heartbeat_secs: fields.integer_unless(instead.heartbeat_secs, 12)?,
    }))
}

/// What to call the row in messages: its `id`, or its number where that says nothing.
pub(crate) fn label(row: &Row<'_>, number: usize) -> String {
    match row.get_ref(1) {
        Ok(ValueRef::Text(id)) if !id.is_empty() => String::from_utf8_lossy(id).into_owned(),
        _ => match row.get_ref(0) {
            Ok(ValueRef::Integer(rowid)) => format!("row {rowid}"),
            _ => format!("row {number}"),
        },
    }
}

/// Mixes all values of the row into `state`: equal digests, equal tables.
pub(crate) fn digest(row: &Row<'_>, state: &mut impl Hasher) {
    for column in 1..COLUMNS.len() {
        match row.get_ref(column) {
            Ok(ValueRef::Null) | Err(_) => 0_u8.hash(state),
            Ok(ValueRef::Integer(value)) => (1_u8, value).hash(state),
            Ok(ValueRef::Real(value)) => (2_u8, value.to_bits()).hash(state),
            Ok(ValueRef::Text(value)) => (3_u8, value).hash(state),
            Ok(ValueRef::Blob(value)) => (4_u8, value).hash(state),
        }
    }
}

struct Fields<'a> {
    row: &'a Row<'a>,
    number: usize,
}

impl Fields<'_> {
    fn text_unless(&self, instead: Option<String>, column: usize) -> Result<Option<String>, BackendError> {
        instead.map_or_else(|| self.text(column), |value| Ok(Some(value)))
    }

    fn integer_unless(&self, instead: Option<i64>, column: usize) -> Result<Option<i64>, BackendError> {
        instead.map_or_else(|| self.integer(column), |value| Ok(Some(value)))
    }

    fn text(&self, column: usize) -> Result<Option<String>, BackendError> {
        match self.value(column) {
            ValueRef::Null => Ok(None),
            ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Some(text.to_owned())),
                Err(_) => Err(self.broken(column, format!("{:?} is not UTF-8", String::from_utf8_lossy(bytes)))),
            },
            other => Err(self.broken(column, format!("is {}; it must be text", described(other)))),
        }
    }

    /// Integers, and what other programs make of them: their digits as text, or a whole floating-point number.
    fn integer(&self, column: usize) -> Result<Option<i64>, BackendError> {
        let found = match self.value(column) {
            ValueRef::Null => return Ok(None),
            ValueRef::Integer(value) => Some(value),
            ValueRef::Text(bytes) => std::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok()),
            #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small")]
            ValueRef::Real(value) if value.fract() == 0.0 && value.abs() < 1e15 => Some(value as i64),
            ValueRef::Real(_) | ValueRef::Blob(_) => None,
        };
        found.map(Some).ok_or_else(|| {
            self.broken(column, format!("is {}; it must be a whole number", described(self.value(column))))
        })
    }

    fn value(&self, column: usize) -> ValueRef<'_> {
        self.row.get_ref(column).expect("the SELECT names as many columns as COLUMNS")
    }

    fn broken(&self, column: usize, rule: String) -> BackendError {
        BackendError { id: label(self.row, self.number), field: COLUMNS[column], rule }
    }
}

fn described(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(value) => format!("the number {value}"),
        ValueRef::Real(value) => format!("the number {value}"),
        ValueRef::Text(bytes) => format!("the text {:?}", String::from_utf8_lossy(bytes)),
        ValueRef::Blob(bytes) => format!("a blob of {} bytes", bytes.len()),
    }
}
