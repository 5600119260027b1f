//! What can go wrong with the file as a whole, each with what to do about it.

use std::path::Path;

use edgeproxy_route::BackendError;
use rusqlite::ErrorCode;

/// Why the routing table could not be read or written. The set read before stays good.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing at the path.
    #[error("{path}: no such file; create it with `edgeproxy route add`, or name the right one with --db")]
    Missing {
        /// The path as it was given.
        path: String,
    },
    /// The operating system refuses.
    #[error(
        "{path}: cannot be read: {reason}; this user must be able to read the file, and to write its directory while \
         it is in WAL mode"
    )]
    Unreadable {
        /// The path as it was given.
        path: String,
        /// What the system or SQLite said.
        reason: String,
    },
    /// Another format, cut off, or overwritten half-way.
    #[error("{path}: not a sound SQLite database: {reason}; put back a copy, or move it away and import the backends")]
    Damaged {
        /// The path as it was given.
        path: String,
        /// What SQLite said.
        reason: String,
    },
    /// A database about something else, or a new one.
    #[error("{path}: has no table `backends`; create it with `edgeproxy route add`, or name the right file with --db")]
    NoTable {
        /// The path as it was given.
        path: String,
    },
    /// The table of another program, or of a very old version.
    #[error("{path}: table `backends` lacks the column{} {}; add with ALTER TABLE backends ADD COLUMN",
        if columns.len() == 1 { "" } else { "s" }, columns.join(", "))]
    MissingColumns {
        /// The path as it was given.
        path: String,
        /// All that are missing.
        columns: Vec<&'static str>,
    },
    /// Somebody's transaction kept us out for as long as we wait.
    #[error("{path}: locked by another program for too long; end its transaction")]
    Locked {
        /// The path as it was given.
        path: String,
    },
    /// Reading works, writing does not.
    #[error("{path}: cannot be written: {reason}; this user must be able to write the file and its directory")]
    Unwritable {
        /// The path as it was given.
        path: String,
        /// What the system or SQLite said.
        reason: String,
    },
    /// All the rest: disk full, I/O errors, constraints of another program's table.
    #[error("{path}: {reason}")]
    Failed {
        /// The path as it was given.
        path: String,
        /// What the system or SQLite said.
        reason: String,
    },
}

impl StoreError {
    /// For `map_err`: puts SQLite's error into our words.
    pub(crate) fn at(path: &Path) -> impl Fn(rusqlite::Error) -> Self + Copy + '_ {
        move |error| Self::from_sqlite(path, &error)
    }

    fn from_sqlite(path: &Path, error: &rusqlite::Error) -> Self {
        let (path, reason) = (path.display().to_string(), error.to_string());
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::Damaged { path, reason },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
                Self::Locked { path }
            }
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => Self::Unreadable { path, reason },
            Some(ErrorCode::ReadOnly) => Self::Unwritable { path, reason },
            _ => Self::Failed { path, reason },
        }
    }
}

/// Why a change to the table was not made. The file is as it was.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EditError {
    /// A backend is added that is there.
    #[error("backend {id:?} exists in {path}; change it with `edgeproxy route set`")]
    Exists {
        /// Which.
        id: String,
        /// The file.
        path: String,
    },
    /// A backend is changed that is not there.
    #[error("no backend {id:?} in {path}; `edgeproxy route list` shows those there are")]
    Unknown {
        /// Which.
        id: String,
        /// The file.
        path: String,
    },
    /// The row as it would be breaks a rule.
    #[error(transparent)]
    Rejected(#[from] BackendError),
    /// The file as a whole.
    #[error(transparent)]
    Store(#[from] StoreError),
}
