//! Lists of peers, a page at a time.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, ToSql};

use super::error::PeersError;
use super::record::{PeerId, PeerRecord};
use super::schema::{MORE_COLUMNS, ROW_COLUMNS, VERSION, record_of};

/// Which peers are listed: those for which all that is named holds.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct PeerFilter {
    /// Of this name.
    pub name: Option<String>,
    /// Of this region.
    pub region: Option<String>,
    /// With this tag.
    pub tag: Option<String>,
}

/// Reads beside the one who writes. Calls block for as long as the disk takes.
pub struct PeerPages {
    conn: Connection,
    path: PathBuf,
}

impl PeerPages {
    /// Of a file that is there.
    ///
    /// # Errors
    /// [`PeersError`].
    pub fn open(path: &Path) -> Result<Self, PeersError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || {
            let conn = Connection::open_with_flags(path, flags)?;
            conn.pragma_update(None, "query_only", true)?;
            Ok(conn)
        };
        Ok(Self { conn: open().map_err(PeersError::at(path))?, path: path.to_owned() })
    }

    /// How many there are. `None`: there is no file yet.
    ///
    /// # Errors
    /// [`PeersError`].
    pub fn count(path: &Path) -> Result<Option<u64>, PeersError> {
        if !path.exists() {
            return Ok(None);
        }
        let Self { conn, .. } = Self::open(path)?;
        let failed = PeersError::at(path);
        let version: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
        match (version, tables) {
            (VERSION, _) => {
                conn.query_row("SELECT count(*) FROM peers", [], |row| row.get(0)).map(Some).map_err(failed)
            }
            (0, 0) => Ok(Some(0)),
            _ => Err(PeersError::Foreign { path: path.display().to_string(), version, ours: VERSION }),
        }
    }

    /// Up to `limit` peers whose number is above `after`, by number.
    ///
    /// # Errors
    /// [`PeersError`].
    pub fn page(&self, after: PeerId, limit: usize, filter: &PeerFilter) -> Result<Vec<PeerRecord>, PeersError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        // In the order of the tag's peers, so that nothing is sorted, however many have it.
        let (tables, mut rules) = match filter.tag {
            Some(_) => ("peer_tags CROSS JOIN peers ON id = peer", vec!["peer > ?", "tag = ?"]),
            None => ("peers", vec!["id > ?"]),
        };
        let order = if filter.tag.is_some() { "peer" } else { "id" };
        let mut values: Vec<&dyn ToSql> = vec![&after];
        values.extend(filter.tag.iter().map(|tag| tag as &dyn ToSql));
        for (rule, value) in [("name = ?", &filter.name), ("region = ?", &filter.region)] {
            if let Some(value) = value {
                rules.push(rule);
                values.push(value);
            }
        }
        values.push(&limit);
        let rules = rules.join(" AND ");
        let query =
            format!("SELECT {ROW_COLUMNS}, {MORE_COLUMNS} FROM {tables} WHERE {rules} ORDER BY {order} LIMIT ?");
        self.read(&query, &values)
    }

    /// One of them.
    ///
    /// # Errors
    /// [`PeersError`].
    pub fn get(&self, id: PeerId) -> Result<Option<PeerRecord>, PeersError> {
        let query = format!("SELECT {ROW_COLUMNS}, {MORE_COLUMNS} FROM peers WHERE id = ?");
        Ok(self.read(&query, &[&id])?.pop())
    }

    fn read(&self, query: &str, values: &[&dyn ToSql]) -> Result<Vec<PeerRecord>, PeersError> {
        let failed = PeersError::at(&self.path);
        let mut statement = self.conn.prepare_cached(query).map_err(failed)?;
        let mut rows = statement.query(values).map_err(failed)?;
        let mut records = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            records.push(record_of(row, &self.path)?);
        }
        Ok(records)
    }
}
