//! The kernel's notices (inotify) about one file, with a clock beside them for where there are none.
//!
//! The directory is watched for the coming and going of names, which a watch on the file would not survive. Writes are
//! watched on the files themselves: a log in the same directory that grows all day wakes nobody.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::future;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::time::{self, Instant};

/// Enough for 15 events with the longest names, or some 100 of ours, a read.
const EVENT_BUFFER_BYTES: usize = 4096;

/// What to listen for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interest {
    /// Names of files that belong to the watched one, by what they add to its name.
    pub(crate) companions: &'static [&'static str],
    /// Beside the coming and going of names.
    pub(crate) in_directory: WatchFlags,
    /// On the file and its companions; empty: they are not watched themselves.
    pub(crate) on_files: WatchFlags,
}

/// Why [`Notices::wait`] returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wake {
    /// Something happened to the files.
    Touched(Touch),
    /// The caller's time has come.
    Deadline,
    /// It is time to look whether a notice was missed.
    Poll,
}

/// What happened, over all notices taken together.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Touch {
    /// The file itself was written to, or closed by a writer, or moved into place.
    pub(crate) main: bool,
    /// A companion was.
    pub(crate) companion: bool,
    /// A name came or went.
    pub(crate) names: bool,
}

impl Touch {
    const EVERYTHING: Self = Self { main: true, companion: true, names: true };

    pub(crate) fn is_any(self) -> bool {
        self.main || self.companion || self.names
    }

    fn add(&mut self, other: Self) {
        self.main |= other.main;
        self.companion |= other.companion;
        self.names |= other.names;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Directory,
    Main,
    Companion,
}

pub(crate) struct Notices {
    path: PathBuf,
    interest: Interest,
    poll: Duration,
    next_poll: Instant,
    /// `None` where the kernel gives no instance (fs.inotify.max_user_instances): asked for again at each poll.
    inotify: Option<AsyncFd<OwnedFd>>,
    watches: Vec<(i32, Source)>,
    /// The file's own name, and that of what it links to.
    names: Vec<OsString>,
}

impl Notices {
    /// Listens from now on. `poll` is how often to look without a notice.
    pub(crate) fn new(path: &Path, interest: Interest, poll: Duration) -> Self {
        let poll = poll.max(Duration::from_millis(1));
        let mut notices = Self {
            path: path.to_owned(),
            interest,
            poll,
            next_poll: Instant::now() + poll,
            inotify: None,
            watches: Vec::new(),
            names: Vec::new(),
        };
        notices.arm();
        notices
    }

    /// Whether there is nothing but the poll.
    pub(crate) fn is_poll_only(&self) -> bool {
        !self.watches.iter().any(|(_, source)| *source == Source::Directory)
    }

    /// Waits for a notice, the next poll or `until`. Dropping the future loses nothing.
    pub(crate) async fn wait(&mut self, until: Option<Instant>) -> Wake {
        loop {
            let limit = until.map_or(self.next_poll, |until| until.min(self.next_poll));
            match time::timeout_at(limit, self.readable()).await {
                Ok(()) => {
                    let touch = self.take();
                    if touch.is_any() {
                        return Wake::Touched(touch);
                    }
                }
                Err(_) if Instant::now() >= self.next_poll => {
                    self.next_poll = Instant::now() + self.poll;
                    self.arm();
                    return Wake::Poll;
                }
                Err(_) => return Wake::Deadline,
            }
        }
    }

    async fn readable(&self) {
        match &self.inotify {
            Some(inotify) => match inotify.readable().await {
                // The caller now reads until nothing is left, so what comes from here on makes it readable again.
                Ok(mut guard) => guard.clear_ready(),
                Err(_) => future::pending().await,
            },
            None => future::pending().await,
        }
    }

    /// All notices that are there now.
    pub(crate) fn take(&mut self) -> Touch {
        let Some(inotify) = &self.inotify else { return Touch::default() };
        let mut buffer = [MaybeUninit::uninit(); EVENT_BUFFER_BYTES];
        let mut reader = inotify::Reader::new(inotify.get_ref(), &mut buffer);
        let mut touch = Touch::default();
        // Ends with WOULDBLOCK: none left. Any other error leaves the poll.
        while let Ok(event) = reader.next() {
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                touch = Touch::EVERYTHING;
                continue;
            }
            let Some((_, source)) = self.watches.iter().find(|(watch, _)| *watch == event.wd()) else { continue };
            touch.add(match source {
                Source::Directory => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    self.of_directory(event.events(), name)
                }
                _ if event.events().contains(ReadFlags::IGNORED) => Touch { names: true, ..Touch::default() },
                Source::Main => Touch { main: true, ..Touch::default() },
                Source::Companion => Touch { companion: true, ..Touch::default() },
            });
        }
        if touch.names {
            // Before the caller looks at the files: what is written after that look is seen.
            self.arm();
        }
        touch
    }

    fn of_directory(&self, events: ReadFlags, name: Option<&OsStr>) -> Touch {
        let Some(name) = name else {
            // The directory itself: gone, moved, or no longer watched.
            return Touch { names: true, ..Touch::default() };
        };
        let names =
            events.intersects(ReadFlags::CREATE | ReadFlags::DELETE | ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO);
        if self.names.iter().any(|own| own == name) {
            let main = events.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO | ReadFlags::MODIFY);
            return Touch { main, names, companion: false };
        }
        let is_companion = self.names.iter().any(|own| {
            let rest = name.as_bytes().strip_prefix(own.as_bytes());
            rest.is_some_and(|rest| self.interest.companions.iter().any(|suffix| suffix.as_bytes() == rest))
        });
        Touch { companion: is_companion, names: is_companion && names, main: false }
    }

    /// Sets the watches on whatever is there now; those on what is no longer there are given up.
    fn arm(&mut self) {
        if self.inotify.is_none() {
            self.inotify = open_inotify();
        }
        let Some(inotify) = &self.inotify else { return };
        let real = self.path.canonicalize().ok();
        let places: Vec<&Path> = [Some(self.path.as_path()), real.as_deref()].into_iter().flatten().collect();
        self.names = places.iter().filter_map(|place| place.file_name().map(OsStr::to_owned)).collect();

        let mut watches = Vec::new();
        let mut add = |path: &Path, source, flags| {
            if let Ok(watch) = inotify::add_watch(inotify.get_ref(), path, flags)
                && !watches.contains(&(watch, source))
            {
                watches.push((watch, source));
            }
        };
        for place in places {
            let directory = place.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let names = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE;
            let itself = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
            add(directory, Source::Directory, names | itself | self.interest.in_directory);
        }
        if let (Some(real), false) = (&real, self.interest.on_files.is_empty()) {
            add(real, Source::Main, self.interest.on_files);
            for suffix in self.interest.companions {
                add(&crate::stamp::beside(real, suffix), Source::Companion, self.interest.on_files);
            }
        }
        for (old, _) in std::mem::replace(&mut self.watches, watches) {
            if !self.watches.iter().any(|(watch, _)| *watch == old) {
                // Fails where the kernel has already given it up with the file.
                let _ = inotify::remove_watch(inotify.get_ref(), old);
            }
        }
    }
}

fn open_inotify() -> Option<AsyncFd<OwnedFd>> {
    let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
    // SAFETY: an `OwnedFd` is open and stays the same descriptor until it is dropped, and the `AsyncFd` owns it.
    #[expect(unsafe_code, reason = "registering with epoll")]
    unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) }.ok()
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notices").field("path", &self.path).field("names", &self.names).finish_non_exhaustive()
    }
}
