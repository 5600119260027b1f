//! Noticing that a file was replaced: a geo table updated by another program.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::WatchFlags;
use tokio::time::{self, Instant};

use crate::notices::{Interest, Notices, Wake};
use crate::stamp::FileStamp;

/// After a notice, so that a burst is one report.
const COALESCE: Duration = Duration::from_millis(5);

/// The writers' close says that a new version is whole; their single writes say nothing of use.
const INTEREST: Interest =
    Interest { companions: &[], in_directory: WatchFlags::CLOSE_WRITE, on_files: WatchFlags::empty() };

/// Watches one file for a new version: moved into place, or rewritten and closed.
#[derive(Debug)]
pub struct FileWatch {
    path: PathBuf,
    notices: Notices,
    /// The version reported last, or the one found at the start.
    known: Option<FileStamp>,
    /// A version a poll has seen and that must look the same at the next one: it may be half-written.
    candidate: Option<FileStamp>,
    due: Option<Instant>,
}

impl FileWatch {
    /// Watches from now on; the file need not exist. `poll` is how often to look where the kernel says nothing.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time.
    pub fn new(path: &Path, poll: Duration) -> Self {
        let notices = Notices::new(path, INTEREST, poll);
        Self { path: path.to_owned(), notices, known: FileStamp::of(path), candidate: None, due: None }
    }

    /// Waits until there is a version other than the one reported last. A file that is gone is no new version. Dropping
    /// the future loses nothing.
    pub async fn changed(&mut self) {
        loop {
            if let Some(due) = self.due {
                time::sleep_until(due).await;
                self.notices.take();
                self.due = None;
                if self.is_new(|_| true) {
                    return;
                }
            }
            match self.notices.wait(None).await {
                Wake::Touched(touch) if touch.main => self.due = Some(Instant::now() + COALESCE),
                // A name appeared: a link is whole at once, a file is announced again when it is closed.
                Wake::Touched(_) if self.path.is_symlink() => self.due = Some(Instant::now() + COALESCE),
                Wake::Touched(_) | Wake::Deadline => {}
                Wake::Poll => {
                    let candidate = self.candidate;
                    if self.is_new(|stamp| candidate == Some(stamp)) {
                        return;
                    }
                }
            }
        }
    }

    /// Whether the file as it is now is a new version, and `is_whole`.
    fn is_new(&mut self, is_whole: impl Fn(FileStamp) -> bool) -> bool {
        let Some(stamp) = FileStamp::of(&self.path) else { return false };
        if self.known.is_some_and(|known| known.is_version(&stamp)) {
            return false;
        }
        self.candidate = Some(stamp);
        let is_new = is_whole(stamp);
        if is_new {
            self.known = Some(stamp);
        }
        is_new
    }
}
