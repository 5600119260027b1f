//! What can go wrong with the file of the peers, each with what to do about it.

use std::path::Path;

use rusqlite::ErrorCode;

/// Why peers could not be read or written. What was acknowledged before is on disk.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeersError {
    /// Another process has it.
    #[error("{path}: another gateway uses this file; stop that one, or name another file by gateway.db")]
    InUse {
        /// The path as it was given.
        path: String,
    },
    /// Made by a later version of us, or about something else.
    #[error(
        "{path}: is not a file of peers that this version can read (its version is {version}, ours {ours}); name another file by gateway.db"
    )]
    Foreign {
        /// The path as it was given.
        path: String,
        /// What the file says.
        version: i64,
        /// What we write.
        ours: i64,
    },
    /// Cut off or overwritten.
    #[error("{path}: not a sound SQLite database: {reason}; put back a copy, or move it away to begin without peers")]
    Damaged {
        /// The path as it was given.
        path: String,
        /// What SQLite said.
        reason: String,
    },
    /// A row that no version of us writes.
    #[error("{path}: peer {id}: {reason}; correct or delete the row with sqlite3 while no gateway runs")]
    Row {
        /// The path as it was given.
        path: String,
        /// Which row.
        id: i64,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no room on the disk.
    #[error("{path}: no room is left on its disk; make some, and ask again")]
    NoRoom {
        /// The path as it was given.
        path: String,
    },
    /// All the rest: no permission, I/O errors.
    #[error("{path}: {reason}")]
    Failed {
        /// The path as it was given.
        path: String,
        /// What the system or SQLite said.
        reason: String,
    },
}

impl PeersError {
    /// For `map_err`: puts SQLite's error into our words.
    pub(super) fn at(path: &Path) -> impl Fn(rusqlite::Error) -> Self + Copy + '_ {
        move |error| {
            let (path, reason) = (path.display().to_string(), error.to_string());
            match error.sqlite_error_code() {
                Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::Damaged { path, reason },
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::InUse { path },
                Some(ErrorCode::DiskFull) => Self::NoRoom { path },
                _ => Self::Failed { path, reason },
            }
        }
    }

    pub(super) fn failed(path: &Path, reason: impl ToString) -> Self {
        Self::Failed { path: path.display().to_string(), reason: reason.to_string() }
    }
}
