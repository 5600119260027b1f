//! One value of a row, put where it belongs.

use edgeproxy_route::{BackendError, RawBackend};

/// What a row may say.
pub(super) const COLUMNS: [&str; 13] = [
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
    "deleted",
    "drained",
    "heartbeat_secs",
];
/// What `list --json` adds, and an import has no use for.
const IGNORED: &str = "state";

/// A value as CSV or JSON has it.
pub(super) enum Cell {
    /// Nothing is said: as it is, or as usual.
    Nothing,
    /// Said to be empty, which a country and a heartbeat may be.
    Null,
    Text(String),
    Number(i64),
    /// Of no use for any column, in the file's own words.
    Odd(String),
}

/// A row under construction.
#[derive(Default)]
pub(super) struct RowBuilder {
    raw: RawBackend,
    deleted: bool,
    /// The first mistake.
    broken: Option<(&'static str, String)>,
}

/// The column of this name; for a stranger, what to do.
pub(super) fn column(name: &str) -> Result<Option<&'static str>, String> {
    let name = name.trim().to_ascii_lowercase();
    if name == IGNORED {
        return Ok(None);
    }
    COLUMNS.into_iter().find(|column| *column == name).map(Some).ok_or_else(|| {
        format!("there is no column {name:?}; rename or remove it (the columns are {})", COLUMNS.join(", "))
    })
}

impl RowBuilder {
    pub(super) fn put(&mut self, column: &'static str, cell: Cell) {
        if let Err(rule) = self.try_put(column, cell) {
            self.refuse(column, rule);
        }
    }

    pub(super) fn refuse(&mut self, column: &'static str, rule: String) {
        self.broken.get_or_insert((column, rule));
    }

    fn try_put(&mut self, column: &'static str, cell: Cell) -> Result<(), String> {
        let raw = &mut self.raw;
        match column {
            "id" => raw.id = text(cell)?,
            "app" => raw.app = text(cell)?,
            "region" => raw.region = text(cell)?,
            "country" if matches!(cell, Cell::Null) => raw.country = Some(String::new()),
            "heartbeat_secs" if matches!(cell, Cell::Null) => raw.heartbeat_secs = Some(0),
            "country" => raw.country = text(cell)?,
            "wg_ip" => raw.wg_ip = text(cell)?,
            "port" => raw.port = number(cell)?,
            "healthy" => raw.healthy = number(cell)?,
            "weight" => raw.weight = number(cell)?,
            "soft_limit" => raw.soft_limit = number(cell)?,
            "hard_limit" => raw.hard_limit = number(cell)?,
            "drained" => raw.drained = number(cell)?,
            "heartbeat_secs" => raw.heartbeat_secs = number(cell)?,
            _ => {
                self.deleted = match number(cell)? {
                    None | Some(0) => false,
                    Some(1) => true,
                    Some(other) => return Err(format!("{other} is not in 0 to 1")),
                }
            }
        }
        Ok(())
    }

    /// `Ok(None)`: the row is marked as deleted. `label` names a row without an id.
    pub(super) fn finish(self, label: impl FnOnce() -> String) -> Result<Option<RawBackend>, BackendError> {
        let id = || self.raw.id.clone().filter(|id| !id.is_empty());
        match (self.broken, id()) {
            (Some((field, rule)), id) => Err(BackendError { id: id.unwrap_or_else(label), field, rule }),
            (None, _) if self.deleted => Ok(None),
            (None, Some(_)) => Ok(Some(self.raw)),
            (None, None) => {
                Err(BackendError { id: label(), field: "id", rule: "is empty; it must be a name".to_owned() })
            }
        }
    }
}

fn text(cell: Cell) -> Result<Option<String>, String> {
    match cell {
        Cell::Nothing | Cell::Null => Ok(None),
        Cell::Text(text) => Ok(Some(text)),
        Cell::Number(number) => Err(format!("is the number {number}; it must be text")),
        Cell::Odd(odd) => Err(format!("is {odd}; it must be text")),
    }
}

/// Flags are numbers too.
fn number(cell: Cell) -> Result<Option<i64>, String> {
    match cell {
        Cell::Nothing | Cell::Null => Ok(None),
        Cell::Number(number) => Ok(Some(number)),
        Cell::Text(text) => match text.trim() {
            "true" => Ok(Some(1)),
            "false" => Ok(Some(0)),
            digits => digits.parse().map(Some).map_err(|_| format!("is the text {text:?}; it must be a whole number")),
        },
        Cell::Odd(odd) => Err(format!("is {odd}; it must be a whole number")),
    }
}
