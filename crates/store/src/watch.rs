//! Waiting for the routing table to change.
//!
//! What is asked, cheapest first: did the kernel report anything about the file (nothing runs until it does)? Does the
//! file look different (a few `stat` calls)? Do the rows differ from those reported last? Only then the caller wakes.

use std::fs::File;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::WatchFlags;
use tokio::time::{self, Instant};

use crate::error::StoreError;
use crate::notices::{Interest, Notices, Touch, Wake};
use crate::routing::{Loaded, PATIENCE, RoutingDb};
use crate::stamp::{FileStamp, beside};

/// After a notice, so that the several writes of one commit, and of a burst of commits, are one load.
const COALESCE: Duration = Duration::from_millis(5);
/// From one load to the next while commits follow one another. Each load keeps writers out for about a millisecond in
/// rollback-journal mode, and the `sqlite3` tool does not wait for a lock.
const LOAD_GAP: Duration = Duration::from_millis(10);
/// Longest pause between two looks at a file that is being written to.
const LONGEST_PAUSE: Duration = Duration::from_millis(1280);

const INTEREST: Interest = Interest {
    companions: &["-wal", "-journal", "-shm"],
    in_directory: WatchFlags::empty(),
    on_files: WatchFlags::MODIFY,
};

/// Reads the routing table whenever its committed content has changed.
#[derive(Debug)]
pub struct RoutingWatch {
    path: PathBuf,
    notices: Notices,
    index: WalIndex,
    /// The next look at the file, if one is due.
    due: Option<Look>,
    /// Looks to come without a notice.
    pauses: Pauses,
    /// How the file looked at the last load; `None`: it failed.
    seen: Option<Appearance>,
    /// Digest of the rows reported last.
    reported: Option<u64>,
    /// The error reported last, until a load succeeds.
    failure: Option<StoreError>,
    locked_since: Option<Instant>,
    loads: u64,
    /// No load before this.
    rested: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    /// Load without asking whether the file looks different.
    load: bool,
}

/// What differs whenever committed content may differ.
#[derive(Clone, Copy, Debug)]
struct Appearance {
    /// Written to by every commit, in WAL mode only by checkpoints.
    file: Option<FileStamp>,
    /// In WAL mode.
    index: Option<IndexHeader>,
    /// Whether the stamp was certain to show later writes.
    settled: bool,
}

impl RoutingWatch {
    /// Watches from now on; the file need not exist. `poll` is how often to look where the kernel says nothing, as on
    /// network file systems or when its inotify instances are used up.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time.
    pub fn new(path: &Path, poll: Duration) -> Self {
        Self {
            path: path.to_owned(),
            notices: Notices::new(path, INTEREST, poll),
            index: WalIndex::default(),
            due: Some(Look { at: Instant::now(), load: true }),
            pauses: Pauses::default(),
            seen: None,
            reported: None,
            failure: None,
            locked_since: None,
            loads: 0,
            rested: Instant::now(),
        }
    }

    /// The table: at the first call as it is, then whenever rows have changed. After an error the table is reported
    /// again when it can be read, changed or not. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`StoreError`], once: the same error is not repeated until a load succeeds or fails otherwise.
    pub async fn next(&mut self) -> Result<Loaded, StoreError> {
        loop {
            let look = self.until_due().await;
            let appearance = Appearance::of(&self.path, &mut self.index);
            if !look.load && self.seen.is_some_and(|seen| seen.equals(&appearance)) {
                self.due = None;
                continue;
            }
            // Taken before the load: what is committed in between makes one look too many, never one too few.
            if let Some(outcome) = self.load(appearance) {
                return outcome;
            }
        }
    }

    /// How many times the file has been read.
    pub fn loads(&self) -> u64 {
        self.loads
    }

    /// Whether the kernel gives no notices, so that changes are seen at the next poll only.
    pub fn is_poll_only(&self) -> bool {
        self.notices.is_poll_only()
    }

    async fn until_due(&mut self) -> Look {
        loop {
            match self.due {
                None => {
                    let wake = self.notices.wait(self.pauses.next()).await;
                    self.due = Some(self.look_after(wake));
                }
                Some(look) if look.at > Instant::now() => time::sleep_until(look.at).await,
                Some(look) => {
                    let touch = self.notices.take();
                    self.note(touch);
                    return Look { load: look.load || touch.main, ..look };
                }
            }
        }
    }

    fn look_after(&mut self, wake: Wake) -> Look {
        let now = Instant::now();
        match wake {
            Wake::Touched(touch) => {
                self.note(touch);
                Look { at: (now + COALESCE).max(self.rested), load: touch.main }
            }
            Wake::Deadline => {
                self.pauses.advance(now);
                Look { at: now, load: false }
            }
            Wake::Poll => Look { at: now, load: self.seen.is_some_and(|seen| !seen.settled) },
        }
    }

    /// Whenever a notice is taken, also while a look is due already: that look may come before the commit is visible.
    fn note(&mut self, touch: Touch) {
        if touch.companion {
            // The commit is written to the `-wal`, then flushed, and only then becomes visible, in memory that gives no
            // notice. How long the flush takes nobody knows: look again after ever longer pauses.
            self.pauses.begin(Instant::now() + COALESCE);
        }
    }

    fn load(&mut self, appearance: Appearance) -> Option<Result<Loaded, StoreError>> {
        let now = Instant::now();
        self.loads += 1;
        // Locks are waited for out here, not in SQLite: the thread stays free.
        let read = RoutingDb::open_within(&self.path, Duration::ZERO).and_then(|db| db.load_with_digest());
        if let Err(StoreError::Locked { .. }) = read {
            let since = *self.locked_since.get_or_insert(now);
            // Also after a lock was reported: its end gives no notice, and what did may be a commit's last write.
            if now - since < PATIENCE {
                let pause = (now - since).clamp(COALESCE, Duration::from_millis(50));
                self.due = Some(Look { at: now + pause, load: true });
                return None;
            }
        }
        self.locked_since = None;
        self.due = None;
        self.rested = Instant::now() + LOAD_GAP;
        match read {
            Ok((loaded, digest)) => {
                self.seen = Some(appearance);
                let is_news = self.failure.take().is_some() || self.reported != Some(digest);
                self.reported = Some(digest);
                is_news.then_some(Ok(loaded))
            }
            Err(error) => {
                self.seen = None;
                let is_news = self.failure.as_ref() != Some(&error);
                self.failure = Some(error.clone());
                is_news.then_some(Err(error))
            }
        }
    }
}

impl Appearance {
    fn of(path: &Path, index: &mut WalIndex) -> Self {
        let file = FileStamp::of(path);
        Self { file, index: index.header(path), settled: file.is_none_or(|file| file.is_settled()) }
    }

    fn equals(&self, other: &Self) -> bool {
        self.file == other.file && self.index == other.index
    }
}

/// Both copies of the header of the `-shm` file, which every commit in WAL mode changes when it becomes visible
/// (<https://sqlite.org/walformat.html>, section 2.1). Compared only, never interpreted; a copy torn by a commit under
/// way differs, as it should.
type IndexHeader = [u8; 96];

/// The `-shm` file, kept open: closing it would drop the locks that an editor in this process holds on it.
#[derive(Default, Debug)]
struct WalIndex(Option<File>);

impl WalIndex {
    /// `None` when no program has the file open in WAL mode.
    fn header(&mut self, database: &Path) -> Option<IndexHeader> {
        let path = beside(database, "-shm");
        let inode = std::fs::metadata(&path).ok().map(|meta| (meta.dev(), meta.ino()));
        let kept = self.0.as_ref().and_then(|file| file.metadata().ok()).map(|meta| (meta.dev(), meta.ino()));
        if inode != kept {
            self.let_go();
            self.0 = File::open(&path).ok();
        }
        let mut header = [0; 96];
        self.0.as_ref()?.read_exact_at(&mut header, 0).ok()?;
        Some(header)
    }

    /// A file without a name left is nobody's any more and can be closed. Any other descriptor is given up unclosed.
    fn let_go(&mut self) {
        if let Some(file) = self.0.take()
            && file.metadata().is_ok_and(|meta| meta.nlink() > 0)
        {
            let _ = file.into_raw_fd();
        }
    }
}

impl Drop for WalIndex {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Looks after ever longer pauses, then none.
#[derive(Default, Debug)]
struct Pauses {
    next: Option<(Instant, Duration)>,
}

impl Pauses {
    fn begin(&mut self, first_look: Instant) {
        self.next = Some((first_look + COALESCE, COALESCE));
    }

    fn next(&self) -> Option<Instant> {
        self.next.map(|(at, _)| at)
    }

    fn advance(&mut self, now: Instant) {
        self.next = self
            .next
            .map(|(_, pause)| pause * 2)
            .filter(|pause| *pause <= LONGEST_PAUSE)
            .map(|pause| (now + pause, pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reported_lock_is_soon_looked_at_again_after_a_notice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routing.db");
        let writer = rusqlite::Connection::open(&path).unwrap();
        writer.execute_batch("PRAGMA journal_mode = MEMORY; CREATE TABLE t (x); BEGIN EXCLUSIVE;").unwrap();
        let mut watch = RoutingWatch::new(&path, Duration::from_secs(600));
        assert!(matches!(watch.next().await, Err(StoreError::Locked { .. })));
        assert!(watch.due.is_none(), "reported, and nothing to be seen before something happens");
        let appearance = Appearance::of(&path, &mut watch.index);
        assert!(watch.load(appearance).is_none(), "the same error is no news");
        let look = watch.due.expect("the lock may end without a further notice");
        assert!(look.load && look.at <= Instant::now() + Duration::from_millis(50));
    }

    #[tokio::test]
    async fn a_commit_that_begins_while_a_look_is_due_is_looked_for_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routing.db");
        for name in [path.clone(), beside(&path, "-wal")] {
            std::fs::write(name, "").unwrap();
        }
        let mut watch = RoutingWatch::new(&path, Duration::from_secs(600));
        let due = Look { at: Instant::now() + Duration::from_millis(50), load: true };
        watch.due = Some(due);
        // Its first bytes are in the `-wal`, and nothing of it can be seen before it is flushed.
        std::fs::write(beside(&path, "-wal"), "half a commit").unwrap();
        watch.until_due().await;
        assert!(watch.pauses.next().is_some());
    }
}
