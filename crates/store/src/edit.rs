//! Changing the table. Every change is one transaction, checked before it is committed and on disk when acknowledged.

use std::collections::HashSet;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edgeproxy_route::{Backend, BackendError, RawBackend, Regions};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, named_params};

use crate::error::{EditError, StoreError};
use crate::row;
use crate::schema::{CREATE_TABLE, Shape};
use crate::stamp::beside;

/// How long a change waits for other writers. Longer than a read waits: a person or a deployment script is waiting.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of a new backend that does not say.
const DEFAULT_APP: &str = "default";
const DEFAULT_WEIGHT: i64 = 1;
const DEFAULT_SOFT_LIMIT: i64 = 100;
const DEFAULT_HARD_LIMIT: i64 = 150;

/// Rows not marked as deleted; other programs' tables may hold NULL or text. Of a mark that is neither 0 nor 1 a load
/// says that it is wrong: such a row is there, and can be removed.
const LIVE: &str = "coalesce(CAST(deleted AS INTEGER), 0) <> 1";

/// Writes to the routing table, whoever else does.
///
/// Each change opens the file anew, so that it goes to the file that is there now and not to one replaced meanwhile.
/// Calls block for the time of a flush to disk and, while others write, for up to 5 s: in async code they belong on a
/// blocking thread.
#[derive(Clone, Debug)]
pub struct RoutingEditor {
    path: PathBuf,
    regions: Regions,
}

/// What became of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// It is new.
    Added,
    /// It was there and is now different.
    Changed,
    /// It was there and is as it was: nothing has been written.
    Unchanged,
}

/// Whom a drain mark is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DrainTarget<'a> {
    /// The backend with this `id`.
    Backend(&'a str),
    /// All backends of this region.
    Region(&'a str),
}

/// What an import did.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Imported {
    /// New backends.
    pub added: usize,
    /// Backends that are now different.
    pub changed: usize,
    /// Backends that are as they were.
    pub unchanged: usize,
    /// Rows that break a rule, by their place among the rows given, from 0.
    pub bad: Vec<(usize, BackendError)>,
    /// Whether anything was written at all.
    pub committed: bool,
}

impl RoutingEditor {
    /// For an existing file.
    ///
    /// # Errors
    /// [`StoreError::Missing`]; other faults of the file show at the first change.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            return Err(StoreError::Missing { path: path.display().to_string() });
        }
        Ok(Self { path: path.to_owned(), regions: Regions::default() })
    }

    /// Makes the file (in WAL mode) and the table where they are missing.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be made.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            create_file(path)?;
        }
        let editor = Self::open(path)?;
        let conn = editor.connect()?;
        match Shape::read(&conn, path) {
            Err(StoreError::NoTable { .. }) => conn.execute_batch(CREATE_TABLE).map_err(StoreError::at(path))?,
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        Ok(editor)
    }

    /// Regions to take the country of a backend from, where it says none; without this, the built-in ones.
    #[must_use]
    pub fn with_regions(self, regions: Regions) -> Self {
        Self { regions, ..self }
    }

    /// Adds a backend. What is not given is: app `default`, weight 1, soft limit 100, hard limit 150, healthy, and the
    /// country of the region (where the table knows countries; an empty one means none). A table without the column for
    /// a field that is given gets it.
    ///
    /// # Errors
    /// [`EditError::Exists`], a broken rule, or a fault of the file.
    pub fn add(&self, raw: RawBackend) -> Result<Backend, EditError> {
        self.transact(|session| {
            let id = raw.id.clone().unwrap_or_default();
            match session.find(&id, RawBackend::default()) {
                Ok(None) => session.insert(raw),
                Ok(Some(_)) | Err(EditError::Rejected(_)) => Err(EditError::Exists { id, path: self.shown() }),
                Err(error) => Err(error),
            }
        })
    }

    /// Changes the fields that are given; an empty `country` and a `heartbeat_secs` of 0 take the value away. Where only
    /// the region changes and the country was that of the former one, it becomes that of the new one.
    ///
    /// # Errors
    /// [`EditError::Unknown`], a rule broken by the row as it would be, or a fault of the file.
    pub fn set(&self, id: &str, fields: RawBackend) -> Result<Backend, EditError> {
        self.transact(|session| match session.update(id, fields)? {
            Some((backend, _)) => Ok(backend),
            None => Err(EditError::Unknown { id: id.to_owned(), path: self.shown() }),
        })
    }

    /// [`set`](Self::set) where the backend is there, else [`add`](Self::add). Costs no write when nothing differs.
    ///
    /// # Errors
    /// A broken rule, or a fault of the file.
    pub fn upsert(&self, raw: RawBackend) -> Result<(Backend, Change), EditError> {
        self.transact(|session| session.upsert(raw))
    }

    /// Marks backends as deleted: all of these, or none when one of them is not there.
    ///
    /// # Errors
    /// [`EditError::Unknown`], or a fault of the file.
    pub fn remove(&self, ids: &[&str]) -> Result<(), EditError> {
        self.transact(|session| {
            for id in ids {
                let sql = format!("UPDATE backends SET deleted = 1 WHERE id = ?1 AND {LIVE}");
                if session.run(&sql, &[id])? == 0 {
                    return Err(EditError::Unknown { id: (*id).to_owned(), path: self.shown() });
                }
            }
            Ok(())
        })
    }

    /// Sets or takes away the drain mark. Gives the number of backends it is for; in an unknown region there are none.
    ///
    /// # Errors
    /// [`EditError::Unknown`], or a fault of the file.
    pub fn set_drained(&self, target: DrainTarget<'_>, drained: bool) -> Result<usize, EditError> {
        self.transact(|session| {
            let (column, name) = match target {
                DrainTarget::Backend(id) => ("id", id),
                DrainTarget::Region(code) => ("region", code),
            };
            let of_target = format!("{column} = ?1 AND {LIVE}");
            let count = session.count(&format!("SELECT count(*) FROM backends WHERE {of_target}"), name)?;
            match target {
                DrainTarget::Backend(id) if count == 0 => {
                    return Err(EditError::Unknown { id: id.to_owned(), path: self.shown() });
                }
                _ if !drained && !session.shape.drained => return Ok(count),
                _ => session.need_drained()?,
            }
            let mark = u8::from(drained);
            let differs = "coalesce(CAST(drained AS INTEGER), 0) <> ";
            let sql = format!("UPDATE backends SET drained = {mark} WHERE {of_target} AND {differs}{mark}");
            session.run(&sql, &[&name])?;
            Ok(count)
        })
    }

    /// Upserts all rows in one transaction. Rows that break a rule, or have the id of an earlier one, are reported;
    /// where there are any, nothing is written unless `skip_bad`. An `Err` among the rows is reported as it is.
    ///
    /// # Errors
    /// A fault of the file.
    pub fn import(&self, rows: Vec<Result<RawBackend, BackendError>>, skip_bad: bool) -> Result<Imported, EditError> {
        let mut imported = Imported::default();
        let outcome = self.transact(|session| {
            let mut ids = HashSet::new();
            for (index, row) in rows.into_iter().enumerate() {
                let change = row.map_err(EditError::from).and_then(|raw| {
                    let id = raw.id.clone().unwrap_or_default();
                    if !id.is_empty() && !ids.insert(id.clone()) {
                        let rule = "is that of an earlier row of the import".to_owned();
                        return Err(BackendError { id, field: "id", rule }.into());
                    }
                    session.upsert(raw)
                });
                match change {
                    Ok((_, Change::Added)) => imported.added += 1,
                    Ok((_, Change::Changed)) => imported.changed += 1,
                    Ok((_, Change::Unchanged)) => imported.unchanged += 1,
                    Err(EditError::Rejected(error)) => imported.bad.push((index, error)),
                    Err(other) => return Err(Some(other)),
                }
            }
            // Leaving with an error rolls back.
            if imported.bad.is_empty() || skip_bad { Ok(()) } else { Err(None) }
        });
        match outcome {
            Ok(()) => Ok(Imported { committed: true, ..imported }),
            Err(None) => Ok(imported),
            Err(Some(error)) => Err(error),
        }
    }

    /// Runs `work` in one transaction, which an error undoes.
    fn transact<T, E: From<EditError>>(&self, work: impl FnOnce(&mut Session<'_>) -> Result<T, E>) -> Result<T, E> {
        let failed = StoreError::at(&self.path);
        let fault = |error| E::from(EditError::Store(failed(error)));
        let mut conn = self.connect().map_err(|error| E::from(error.into()))?;
        // Immediate: the right to write is ours before the first look, so that nothing read is outdated when written.
        let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fault)?;
        let shape = Shape::read(&transaction, &self.path).map_err(|error| E::from(error.into()))?;
        let mut session = Session { path: &self.path, regions: &self.regions, transaction: &transaction, shape };
        let done = work(&mut session)?;
        transaction.commit().map_err(fault)?;
        Ok(done)
    }

    fn connect(&self) -> Result<Connection, StoreError> {
        if !self.path.exists() {
            return Err(StoreError::Missing { path: self.shown() });
        }
        let open = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let conn = Connection::open_with_flags(&self.path, flags)?;
            conn.busy_timeout(PATIENCE)?;
            make_durable(&conn)?;
            Ok(conn)
        };
        open().map_err(StoreError::at(&self.path))
    }

    fn shown(&self) -> String {
        self.path.display().to_string()
    }
}

/// EXTRA is FULL, and in rollback-journal mode also flushes the removal of the journal, which is the commit.
fn make_durable(conn: &Connection) -> rusqlite::Result<()> {
    conn.pragma_update(None, "synchronous", "EXTRA")
}

/// Makes the file under another name and then gives it its own: no one ever sees it without its table, and of two who
/// make it at once one is first and the other uses that one.
fn create_file(path: &Path) -> Result<(), StoreError> {
    let draft = draft_name(path);
    let unwritable = |reason: String| StoreError::Unwritable { path: path.display().to_string(), reason };
    let named = write_draft(path, &draft).and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(unwritable(error.to_string())),
        Err(_) if !path.exists() => Err(unwritable("it is a symbolic link to nothing".to_owned())),
        _ => Ok(()),
    });
    // Also after a failure; where there is no draft, there is nothing to remove.
    for left in [draft.clone(), beside(&draft, "-wal"), beside(&draft, "-shm")] {
        let _ = fs::remove_file(left);
    }
    named?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| unwritable(error.to_string()))
}

/// By lot: of two containers that share a volume, both may have the same process id.
fn draft_name(path: &Path) -> PathBuf {
    beside(path, &format!(".new-{:016x}", RandomState::new().hash_one(std::process::id())))
}

fn write_draft(path: &Path, draft: &Path) -> Result<(), StoreError> {
    // Tells a missing or unwritable directory in the system's words, which SQLite's do not, and a draft of somebody
    // else is never written over.
    File::create_new(draft)
        .map_err(|error| StoreError::Unwritable { path: path.display().to_string(), reason: error.to_string() })?;
    let fill = || {
        let conn = Connection::open(draft)?;
        make_durable(&conn)?;
        conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        conn.execute_batch(CREATE_TABLE)?;
        // Closing folds the `-wal` into the file and removes it.
        conn.close().map_err(|(_, error)| error)
    };
    fill().map_err(StoreError::at(path))
}

/// A transaction under way.
struct Session<'a> {
    path: &'a Path,
    regions: &'a Regions,
    transaction: &'a Transaction<'a>,
    shape: Shape,
}

impl Session<'_> {
    fn upsert(&mut self, raw: RawBackend) -> Result<(Backend, Change), EditError> {
        let id = raw.id.clone().unwrap_or_default();
        match self.update(&id, raw.clone())? {
            Some(done) => Ok(done),
            None => self.insert(raw).map(|backend| (backend, Change::Added)),
        }
    }

    fn update(&mut self, id: &str, fields: RawBackend) -> Result<Option<(Backend, Change)>, EditError> {
        let before = match self.find(id, RawBackend::default()) {
            Ok(None) => return Ok(None),
            Ok(Some(raw)) => raw.check().ok(),
            // A broken row: these fields may be what mends it.
            Err(EditError::Rejected(_)) => None,
            Err(error) => return Err(error),
        };
        let says_country = fields.country.is_some();
        let Some(mut raw) = self.find(id, fields)? else { return Ok(None) };
        if let Some(before) = before.as_ref().filter(|_| self.shape.country && !says_country) {
            raw.country = self.country_after_move(before, raw.region.as_deref());
        }
        raw.heartbeat_secs = raw.heartbeat_secs.filter(|secs| *secs != 0);
        let backend = raw.check()?;
        if before.as_ref() == Some(&backend) {
            return Ok(Some((backend, Change::Unchanged)));
        }
        self.need_columns(&backend)?;
        let optional = self.optional_columns().map(|column| format!(", {column} = :{column}"));
        let sql = format!(
            "UPDATE backends SET app = :app, region = :region, wg_ip = :wg_ip, port = :port, healthy = :healthy, \
             weight = :weight, soft_limit = :soft_limit, hard_limit = :hard_limit{} WHERE id = :id AND {LIVE}",
            optional.collect::<String>()
        );
        self.write(&sql, &backend)?;
        Ok(Some((backend, Change::Changed)))
    }

    /// A country that was taken from the region follows it, or clients of the country would be sent after the backend
    /// across the world; one that the region had nothing to do with stays.
    fn country_after_move(&self, before: &Backend, region: Option<&str>) -> Option<String> {
        let region = region.filter(|region| *region != before.region);
        let country = match region {
            Some(region) if before.country == self.regions.get(&before.region).country => {
                self.regions.get(region).country
            }
            _ => before.country,
        };
        country.map(|country| country.to_string())
    }

    fn insert(&mut self, mut raw: RawBackend) -> Result<Backend, EditError> {
        raw.app = raw.app.or_else(|| Some(DEFAULT_APP.to_owned()));
        raw.healthy = raw.healthy.or(Some(1));
        raw.weight = raw.weight.or(Some(DEFAULT_WEIGHT));
        raw.soft_limit = raw.soft_limit.or(Some(DEFAULT_SOFT_LIMIT));
        raw.hard_limit = raw.hard_limit.or(Some(DEFAULT_HARD_LIMIT));
        raw.heartbeat_secs = raw.heartbeat_secs.filter(|secs| *secs != 0);
        let says_country = raw.country.is_some();
        let mut backend = raw.check()?;
        if self.shape.country && !says_country {
            backend.country = self.regions.get(&backend.region).country;
        }
        self.need_columns(&backend)?;
        self.run("DELETE FROM backends WHERE id = ?1 AND CAST(deleted AS INTEGER) = 1", &[&backend.id])?;
        let (mut names, mut values) = (String::new(), String::new());
        for column in self.optional_columns() {
            names.push_str(&format!(", {column}"));
            values.push_str(&format!(", :{column}"));
        }
        let sql = format!(
            "INSERT INTO backends (id, app, region, wg_ip, port, healthy, weight, soft_limit, hard_limit, deleted\
             {names}) VALUES (:id, :app, :region, :wg_ip, :port, :healthy, :weight, :soft_limit, :hard_limit, 0\
             {values})"
        );
        self.write(&sql, &backend)?;
        Ok(backend)
    }

    /// The row with this id, if it is there and not marked as deleted.
    fn find(&self, id: &str, instead: RawBackend) -> Result<Option<RawBackend>, EditError> {
        let failed = StoreError::at(self.path);
        let mut statement = self.transaction.prepare_cached(&self.shape.select("WHERE id = ?1")).map_err(failed)?;
        let mut rows = statement.query([id]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            if let Some(raw) = row::read(row, 1, instead.clone())? {
                return Ok(Some(raw));
            }
        }
        Ok(None)
    }

    fn optional_columns(&self) -> impl Iterator<Item = &'static str> + use<> {
        let Shape { country, drained, heartbeat_secs, .. } = self.shape;
        [("country", country), ("drained", drained), ("heartbeat_secs", heartbeat_secs)]
            .into_iter()
            .filter_map(|(column, present)| present.then_some(column))
    }

    /// Adds the optional columns that this backend has a value for.
    fn need_columns(&mut self, backend: &Backend) -> Result<(), EditError> {
        if backend.country.is_some() {
            self.need_country()?;
        }
        if backend.drained {
            self.need_drained()?;
        }
        if backend.heartbeat_secs.is_some() && !self.shape.heartbeat_secs {
            self.run("ALTER TABLE backends ADD COLUMN heartbeat_secs INTEGER", &[])?;
            self.shape.heartbeat_secs = true;
        }
        Ok(())
    }

    fn need_drained(&mut self) -> Result<(), EditError> {
        if !self.shape.drained {
            self.run("ALTER TABLE backends ADD COLUMN drained INTEGER NOT NULL DEFAULT 0", &[])?;
            self.shape.drained = true;
        }
        Ok(())
    }

    /// Without the column every backend serves the country of its region first. The new column says so for the rows
    /// that are there, or they would serve no country any more.
    fn need_country(&mut self) -> Result<(), EditError> {
        if self.shape.country {
            return Ok(());
        }
        self.run("ALTER TABLE backends ADD COLUMN country TEXT", &[])?;
        self.shape.country = true;
        let regions: Vec<String> = self
            .transaction
            .prepare("SELECT DISTINCT CAST(region AS TEXT) FROM backends WHERE region IS NOT NULL")
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .map_err(StoreError::at(self.path))?;
        for region in regions {
            if let Some(country) = self.regions.get(&region).country {
                self.run("UPDATE backends SET country = ?1 WHERE region = ?2", &[&country.as_str(), &region])?;
            }
        }
        Ok(())
    }

    fn write(&self, sql: &str, backend: &Backend) -> Result<(), EditError> {
        let country = backend.country.map(|country| country.to_string());
        let address = backend.addr.0.ip().to_string();
        let all = named_params! {
            ":id": backend.id, ":app": backend.app, ":region": backend.region, ":wg_ip": address,
            ":port": backend.addr.0.port(), ":healthy": backend.healthy, ":weight": backend.limits.weight,
            ":soft_limit": backend.limits.soft, ":hard_limit": backend.limits.hard, ":country": country,
            ":drained": backend.drained, ":heartbeat_secs": backend.heartbeat_secs,
        };
        let run = || {
            let mut statement = self.transaction.prepare_cached(sql)?;
            let mut used = Vec::new();
            for (name, value) in all {
                if statement.parameter_index(name)?.is_some() {
                    used.push((*name, *value));
                }
            }
            statement.execute(used.as_slice())
        };
        run().map_err(StoreError::at(self.path))?;
        Ok(())
    }

    fn run(&self, sql: &str, values: &[&dyn rusqlite::ToSql]) -> Result<usize, EditError> {
        let done = self.transaction.prepare_cached(sql).and_then(|mut statement| statement.execute(values));
        Ok(done.map_err(StoreError::at(self.path))?)
    }

    fn count(&self, sql: &str, name: &str) -> Result<usize, EditError> {
        let count: i64 =
            self.transaction.query_row(sql, [name], |row| row.get(0)).map_err(StoreError::at(self.path))?;
        Ok(usize::try_from(count).expect("count(*) is never negative"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_drafts_share_a_name_and_none_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routing.db");
        let names: HashSet<PathBuf> = (0..100).map(|_| draft_name(&path)).collect();
        assert_eq!(names.len(), 100);
        let draft = draft_name(&path);
        fs::write(&draft, "of somebody else").unwrap();
        assert!(matches!(write_draft(&path, &draft), Err(StoreError::Unwritable { .. })));
        assert_eq!(fs::read(&draft).unwrap(), b"of somebody else");
    }
}
