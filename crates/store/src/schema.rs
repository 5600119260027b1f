//! The shape of the table, ours and as found.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use crate::error::StoreError;

/// A new file's table. Other programs' tables differ; [`Shape`] says how.
pub(crate) const CREATE_TABLE: &str = "CREATE TABLE IF NOT EXISTS backends (
    id             TEXT PRIMARY KEY,
    app            TEXT NOT NULL DEFAULT 'default',
    region         TEXT NOT NULL,
    country        TEXT,
    wg_ip          TEXT NOT NULL,
    port           INTEGER NOT NULL,
    healthy        INTEGER NOT NULL DEFAULT 1,
    weight         INTEGER NOT NULL DEFAULT 1,
    soft_limit     INTEGER NOT NULL DEFAULT 100,
    hard_limit     INTEGER NOT NULL DEFAULT 150,
    deleted        INTEGER NOT NULL DEFAULT 0,
    drained        INTEGER NOT NULL DEFAULT 0,
    heartbeat_secs INTEGER
)";

const REQUIRED: [&str; 10] =
    ["id", "app", "region", "wg_ip", "port", "healthy", "weight", "soft_limit", "hard_limit", "deleted"];

/// What can differ between tables we can read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) country: bool,
    pub(crate) drained: bool,
    pub(crate) heartbeat_secs: bool,
    /// Views and WITHOUT ROWID tables have none.
    rowid: bool,
}

impl Shape {
    pub(crate) fn read(conn: &Connection, path: &Path) -> Result<Self, StoreError> {
        let failed = StoreError::at(path);
        let kind: Option<(String, bool)> = conn
            .query_row(
                "SELECT type, wr FROM pragma_table_list WHERE schema = 'main' AND name = 'backends' COLLATE NOCASE",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()
            .map_err(failed)?;
        let Some((kind, without_rowid)) = kind else {
            return Err(StoreError::NoTable { path: path.display().to_string() });
        };
        let columns: Vec<String> = conn
            .prepare("SELECT lower(name) FROM pragma_table_info('backends')")
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .map_err(failed)?;
        let has = |name: &str| columns.iter().any(|column| column == name);
        let missing: Vec<_> = REQUIRED.into_iter().filter(|name| !has(name)).collect();
        if !missing.is_empty() {
            return Err(StoreError::MissingColumns { path: path.display().to_string(), columns: missing });
        }
        Ok(Self {
            country: has("country"),
            drained: has("drained"),
            heartbeat_secs: has("heartbeat_secs"),
            rowid: kind == "table" && !without_rowid,
        })
    }

    /// SELECT of all rows in the order of [`crate::row`]'s columns, absent ones as NULL; `filter` may be empty.
    pub(crate) fn select(self, filter: &str) -> String {
        let or_null = |present: bool, name: &'static str| if present { name } else { "NULL" };
        format!(
            "SELECT {rowid}, id, app, region, {country}, wg_ip, port, healthy, weight, soft_limit, hard_limit, \
             {drained}, {heartbeat_secs}, deleted FROM backends {filter} ORDER BY {order}",
            rowid = or_null(self.rowid, "rowid"),
            country = or_null(self.country, "country"),
            drained = or_null(self.drained, "drained"),
            heartbeat_secs = or_null(self.heartbeat_secs, "heartbeat_secs"),
            order = if self.rowid { "rowid" } else { "id" },
        )
    }
}
