//! Reading the whole table in one consistent look.

use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edgeproxy_route::{Backend, BackendError, RawBackend};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::{Access, access};

use crate::error::StoreError;
use crate::row;
use crate::schema::Shape;
use crate::stamp::{FileStamp, beside};

/// How long a load waits for a writer's lock.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// What the table holds at one moment, rows marked as deleted left out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Loaded {
    /// Rows that passed every check, in the file's order.
    pub backends: Vec<Backend>,
    /// The others, each with its first broken field.
    pub rejected: Vec<BackendError>,
    /// Whether the table has a `country` column.
    pub has_country: bool,
}

/// The file, opened for one or a few loads.
#[derive(Debug)]
pub struct RoutingDb {
    path: PathBuf,
    conn: Connection,
    /// Set when the file is read without SQLite's locks: what it looked like before.
    unlocked: Option<FileStamp>,
}

impl RoutingDb {
    /// Opens an existing file, waiting up to 1 s for locks. A user who may only read can use it too.
    ///
    /// # Errors
    /// [`StoreError`]; no file is ever created.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_within(path, PATIENCE)
    }

    pub(crate) fn open_within(path: &Path, patience: Duration) -> Result<Self, StoreError> {
        let unreadable = |reason: String| StoreError::Unreadable { path: path.display().to_string(), reason };
        match fs::metadata(path) {
            Ok(meta) if meta.is_file() => {}
            Ok(_) => return Err(unreadable("it is not a regular file".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Missing { path: path.display().to_string() });
            }
            Err(error) => return Err(unreadable(error.to_string())),
        }
        // SQLite would only say that it cannot.
        access(path, Access::READ_OK).map_err(|error| unreadable(io::Error::from(error).to_string()))?;
        Self::with_locks(path, patience).or_else(|error| {
            let is_refused = matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly));
            if is_refused && !has_wal(path) {
                Self::without_locks(path).map_err(StoreError::at(path))
            } else if is_refused {
                Err(unreadable(error.to_string()))
            } else {
                Err(StoreError::at(path)(error))
            }
        })
    }

    /// Opened for writing where allowed, so that SQLite can roll back what a crashed writer left, and takes its `-wal`
    /// and `-shm` away when we are the last to close; `query_only` keeps us from changing anything else.
    fn with_locks(path: &Path, patience: Duration) -> rusqlite::Result<Self> {
        let conn =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        conn.busy_timeout(patience)?;
        conn.pragma_update(None, "query_only", true)?;
        // Opening reads nothing yet; this does, and so meets all that is wrong with the file.
        conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(Self { path: path.to_owned(), conn, unlocked: None })
    }

    /// For a file in WAL mode in a directory we may not write: SQLite cannot make its `-shm` there. Without a `-wal`
    /// nobody is writing, so reading the bare file is sound as long as it stays as it is.
    fn without_locks(path: &Path) -> rusqlite::Result<Self> {
        let unlocked = FileStamp::of(path);
        let mut uri = b"file:".to_vec();
        for byte in path.as_os_str().as_bytes() {
            match byte {
                b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => uri.push(*byte),
                other => uri.extend(format!("%{other:02x}").bytes()),
            }
        }
        uri.extend(b"?immutable=1");
        let uri = String::from_utf8(uri).expect("every byte pushed is ASCII");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        Ok(Self { path: path.to_owned(), conn: Connection::open_with_flags(uri, flags)?, unlocked })
    }

    /// Reads all rows as of one commit.
    ///
    /// # Errors
    /// [`StoreError`] when the file as a whole is of no use; a bad row is no error but in [`Loaded::rejected`].
    pub fn load(&self) -> Result<Loaded, StoreError> {
        self.load_with_digest().map(|(loaded, _)| loaded)
    }

    /// Also a digest of all values read, rejected rows included.
    pub(crate) fn load_with_digest(&self) -> Result<(Loaded, u64), StoreError> {
        // One transaction: the columns and the rows are of the same commit. It ends, reading only, with the drop.
        let _snapshot = self.conn.unchecked_transaction().map_err(StoreError::at(&self.path))?;
        let shape = Shape::read(&self.conn, &self.path)?;
        let read = self.rows(shape).map_err(StoreError::at(&self.path))?;
        if self.unlocked.is_some() && self.unlocked != FileStamp::of(&self.path) {
            return Err(StoreError::Locked { path: self.path.display().to_string() });
        }
        Ok(read)
    }

    fn rows(&self, shape: Shape) -> rusqlite::Result<(Loaded, u64)> {
        let mut loaded = Loaded { has_country: shape.country, ..Loaded::default() };
        let mut digest = DefaultHasher::new();
        digest.write_u8(shape.country.into());
        let mut ids = HashSet::new();
        let mut statement = self.conn.prepare(&shape.select(""))?;
        let mut rows = statement.query([])?;
        let mut number = 0;
        while let Some(row) = rows.next()? {
            number += 1;
            row::digest(row, &mut digest);
            match checked(row, number) {
                Ok(None) => {}
                // Only a table without our primary key can hold this.
                Ok(Some(twin)) if ids.contains(&twin.id) => {
                    let rule = "is that of an earlier row".to_owned();
                    loaded.rejected.push(BackendError { id: twin.id, field: "id", rule });
                }
                Ok(Some(backend)) => {
                    ids.insert(backend.id.clone());
                    loaded.backends.push(backend);
                }
                Err(error) => loaded.rejected.push(error),
            }
        }
        Ok((loaded, digest.finish()))
    }
}

fn checked(row: &rusqlite::Row<'_>, number: usize) -> Result<Option<Backend>, BackendError> {
    let Some(raw) = row::read(row, number, RawBackend::default())? else { return Ok(None) };
    match raw.check() {
        Ok(backend) => Ok(Some(backend)),
        Err(error) if error.id.is_empty() => Err(BackendError { id: row::label(row, number), ..error }),
        Err(error) => Err(error),
    }
}

fn has_wal(path: &Path) -> bool {
    fs::metadata(beside(path, "-wal")).is_ok_and(|wal| wal.len() > 0)
}
