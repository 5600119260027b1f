//! The tables, and rows as records.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use edgeproxy_tunnel::{PresharedKey, PublicKey, Tai64N};
use rusqlite::{Connection, Row};

use super::error::PeersError;
use super::record::{FormerKey, PeerId, PeerRecord, PeerRow, parted};

/// Which tables a file has.
pub(super) const VERSION: i64 = 1;

/// Keys have no index: whoever looks one up has them all in memory. AUTOINCREMENT gives no number twice.
const CREATE: &str = "
CREATE TABLE peers (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    public_key    BLOB NOT NULL,
    preshared_key BLOB,
    name          TEXT,
    region        TEXT,
    tags          TEXT,
    owner         TEXT,
    v4            INTEGER,
    v6            BLOB,
    prefixes      TEXT,
    created       INTEGER NOT NULL,
    expires       INTEGER,
    idle          INTEGER,
    keep          INTEGER NOT NULL,
    handshake     INTEGER,
    greatest      BLOB,
    former_key      BLOB,
    former_until    INTEGER,
    former_greatest BLOB,
    endpoint      TEXT,
    received      INTEGER NOT NULL DEFAULT 0,
    sent          INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX peers_by_name ON peers (name) WHERE name IS NOT NULL;
CREATE INDEX peers_by_region ON peers (region) WHERE region IS NOT NULL;
CREATE TABLE peer_tags (tag TEXT NOT NULL, peer INTEGER NOT NULL, PRIMARY KEY (tag, peer)) WITHOUT ROWID;
CREATE TABLE released (address TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
";

/// In the order in which [`row_of`] reads them.
pub(super) const ROW_COLUMNS: &str = "id, public_key, preshared_key, v4, v6, prefixes, created, expires, idle, keep, \
                                      handshake, greatest, former_key, former_until, former_greatest";
/// What follows them in [`record_of`].
pub(super) const MORE_COLUMNS: &str = "name, region, tags, endpoint, received, sent, owner";

/// Makes the tables in a new file, and refuses files that are not ours.
pub(super) fn prepare(conn: &Connection, path: &Path) -> Result<(), PeersError> {
    let failed = PeersError::at(path);
    let version: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    match (version, tables) {
        (VERSION, _) => Ok(()),
        (0, 0) => conn
            .execute_batch(&format!("BEGIN IMMEDIATE; {CREATE} PRAGMA user_version = {VERSION}; COMMIT"))
            .map_err(failed),
        _ => Err(PeersError::Foreign { path: path.display().to_string(), version, ours: VERSION }),
    }
}

/// A row that was selected by [`ROW_COLUMNS`].
pub(super) fn row_of(row: &Row<'_>, path: &Path) -> Result<PeerRow, PeersError> {
    let number = row.get(0).unwrap_or(-1);
    let wrong = |reason: String| PeersError::Row { path: path.display().to_string(), id: number, reason };
    read_row(row).map_err(|error| wrong(error.to_string()))?.map_err(wrong)
}

/// A row that was selected by [`ROW_COLUMNS`] and [`MORE_COLUMNS`].
pub(super) fn record_of(row: &Row<'_>, path: &Path) -> Result<PeerRecord, PeersError> {
    let wrong = |id: PeerId, reason: String| PeersError::Row {
        path: path.display().to_string(),
        id: i64::try_from(id.0).unwrap_or(i64::MAX),
        reason,
    };
    let first = row_of(row, path)?;
    let id = first.id;
    let more = || -> rusqlite::Result<PeerRecord> {
        let (tags, endpoint): (Option<String>, Option<String>) = (row.get(17)?, row.get(18)?);
        Ok(PeerRecord {
            row: first,
            name: row.get(15)?,
            region: row.get(16)?,
            tags: tags.iter().flat_map(|tags| tags.split_whitespace().map(str::to_owned)).collect(),
            endpoint: endpoint.and_then(|endpoint| endpoint.parse().ok()),
            received: row.get(19)?,
            sent: row.get(20)?,
            owner: row.get(21)?,
        })
    };
    more().map_err(|error| wrong(id, error.to_string()))
}

/// Faults of SQLite's types outside, of their content inside.
fn read_row(row: &Row<'_>) -> rusqlite::Result<Result<PeerRow, String>> {
    let preshared: Option<[u8; 32]> = row.get(2)?;
    let v4: Option<u32> = row.get(3)?;
    let v6: Option<[u8; 16]> = row.get(4)?;
    let prefixes = match row.get_ref(5)?.as_str_or_null()? {
        None => Vec::new(),
        some => match parted(some) {
            Ok(prefixes) => prefixes,
            Err(error) => return Ok(Err(format!("prefixes: {error}"))),
        },
    };
    let greatest: Option<[u8; 12]> = row.get(11)?;
    let former: Option<[u8; 32]> = row.get(12)?;
    let former = former.map(|former| -> rusqlite::Result<FormerKey> {
        Ok(FormerKey { public: PublicKey(former), until: row.get(13)?, greatest: Tai64N(row.get(14)?) })
    });
    Ok(Ok(PeerRow {
        id: row.get(0)?,
        public: PublicKey(row.get(1)?),
        preshared: preshared.map(PresharedKey::from_bytes).unwrap_or_default(),
        v4: v4.map(Ipv4Addr::from_bits),
        v6: v6.map(Ipv6Addr::from),
        prefixes,
        created: row.get(6)?,
        expires: row.get(7)?,
        idle: row.get(8)?,
        keep: row.get(9)?,
        handshake: row.get(10)?,
        greatest: greatest.map(Tai64N).unwrap_or_default(),
        former: former.transpose()?,
    }))
}
