//! What tells one version of a file from another without opening it.
//!
//! Opening is no option for a file SQLite may hold in this process: closing any descriptor of a file drops all POSIX
//! locks the process has on it (<https://sqlite.org/howtocorrupt.html>, section 2.2).

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// File times advance in steps of up to 10 ms (the kernel's tick): a file touched this recently may be touched again
/// without its stamp showing it.
const SETTLED_AFTER: Duration = Duration::from_millis(50);

/// Identity and age of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Of the inode. Unlike the other time, no program can set it back.
    changed: (i64, i64),
}

impl FileStamp {
    /// `None` when there is no such file, or none that can be seen. Follows symbolic links.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    /// Whether both are the same content, as far as can be told: rights and links do not count.
    pub(crate) fn is_version(&self, other: &Self) -> bool {
        Self { changed: other.changed, ..*self } == *other
    }

    /// Whether any later change of the file must change this stamp.
    pub(crate) fn is_settled(&self) -> bool {
        let (seconds, nanos) = self.changed;
        let changed = u64::try_from(seconds)
            .ok()
            .zip(u32::try_from(nanos).ok())
            .map(|(seconds, nanos)| UNIX_EPOCH + Duration::new(seconds, nanos));
        changed.and_then(|at| SystemTime::now().duration_since(at).ok()).is_some_and(|age| age > SETTLED_AFTER)
    }
}

/// The file named `path` plus `suffix`, where SQLite puts it: beside the file itself, not beside a link to it.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.canonicalize().unwrap_or_else(|_| path.to_owned()));
    name.push(suffix);
    PathBuf::from(name)
}
