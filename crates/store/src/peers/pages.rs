//! Lists of peers, a page at a time.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, ToSql};

use super::error::PeersError;
use super::record::{PeerId, PeerRecord};
use super::schema::{MORE_COLUMNS, ROW_COLUMNS, VERSION, record_of};

/// Peers looked at for one page, each some microseconds: where a filter lets few of them through, a page has fewer than it
/// may, and other lists have their turn.
const LOOKED_AT_MOST: usize = 10_000;

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

/// A part of a list.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct PeerPage {
    /// Those of it, perhaps none.
    pub records: Vec<PeerRecord>,
    /// The list goes on above this number. `None`: this was its end.
    pub next: Option<PeerId>,
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

    /// Up to `limit` peers whose number is above `after`, by number. Looks at no more than so many, whatever the filter:
    /// what is left is on the next page.
    ///
    /// # Errors
    /// [`PeersError`].
    pub fn page(&self, after: PeerId, limit: usize, filter: &PeerFilter) -> Result<PeerPage, PeersError> {
        let failed = PeersError::at(&self.path);
        // By the index of what few have in common; the others of its words are looked at here. Always in the order of
        // the numbers, so that nothing is sorted.
        let (from, id, word) = match filter {
            PeerFilter { name: Some(name), .. } => ("peers WHERE name = ?2 AND", "id", Some(name)),
            PeerFilter { tag: Some(tag), .. } => {
                ("peer_tags CROSS JOIN peers ON id = peer WHERE tag = ?2 AND", "peer", Some(tag))
            }
            PeerFilter { region: Some(region), .. } => ("peers WHERE region = ?2 AND", "id", Some(region)),
            _ => ("peers WHERE", "id", None),
        };
        let query = format!("SELECT {ROW_COLUMNS}, {MORE_COLUMNS} FROM {from} {id} > ?1 ORDER BY {id}");
        let values: Vec<&dyn ToSql> = std::iter::once(&after as &dyn ToSql).chain(word.map(|word| word as _)).collect();
        let mut statement = self.conn.prepare_cached(&query).map_err(failed)?;
        let mut rows = statement.query(&values[..]).map_err(failed)?;
        let (mut page, mut looked, mut last) = (PeerPage::default(), 0, after);
        while let Some(row) = rows.next().map_err(failed)? {
            if page.records.len() == limit || looked == LOOKED_AT_MOST {
                page.next = Some(last);
                break;
            }
            let record = record_of(row, &self.path)?;
            (looked, last) = (looked + 1, record.row.id);
            page.records.extend(filter.lets_through(&record).then_some(record));
        }
        Ok(page)
    }

    /// One of them.
    ///
    /// # Errors
    /// [`PeersError`].
    pub fn get(&self, id: PeerId) -> Result<Option<PeerRecord>, PeersError> {
        let query = format!("SELECT {ROW_COLUMNS}, {MORE_COLUMNS} FROM peers WHERE id = ?");
        let failed = PeersError::at(&self.path);
        let mut statement = self.conn.prepare_cached(&query).map_err(failed)?;
        let mut rows = statement.query([&id]).map_err(failed)?;
        rows.next().map_err(failed)?.map(|row| record_of(row, &self.path)).transpose()
    }
}

impl PeerFilter {
    fn lets_through(&self, record: &PeerRecord) -> bool {
        let is = |wanted: &Option<String>, has: &Option<String>| wanted.is_none() || wanted == has;
        let has_tag = self.tag.as_ref().is_none_or(|tag| record.tags.contains(tag));
        is(&self.name, &record.name) && is(&self.region, &record.region) && has_tag
    }
}
