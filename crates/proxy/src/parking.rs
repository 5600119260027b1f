//! Where idle connections wait: two descriptors in a bare epoll set instead of a task, two registrations and a timer.
//!
//! A relay that has moved nothing for a while gives itself up and leaves its sockets here; the first event on either
//! makes it a task again. An idle connection then costs the entry below and its record, about a quarter of a kilobyte.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;

use parking_lot::Mutex;
use rustix::event::epoll;
use slab::Slab;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::close::Close;
use crate::relay::{Pair, Progress};

/// Events taken from the kernel at once.
const EVENTS: usize = 128;

/// The parked connections of one core; `T` is what a connection carries besides its sockets.
pub(crate) struct Lot<T> {
    epoll: AsyncFd<OwnedFd>,
    parked: Mutex<Parked<T>>,
    /// There is a new earliest deadline, or the operator wants some connections to end.
    changed: Notify,
}

struct Parked<T> {
    entries: Slab<Entry<T>>,
    deadlines: BTreeSet<(Instant, usize)>,
}

struct Entry<T> {
    client: OwnedFd,
    backend: OwnedFd,
    progress: Progress,
    deadline: Option<(Instant, Close)>,
    load: T,
}

/// A connection that leaves the lot.
pub(crate) struct Woken<T> {
    pub(crate) pair: Pair,
    pub(crate) load: T,
    /// Its deadline passed; otherwise a socket has news.
    pub(crate) overdue: Option<Close>,
}

impl<T> Lot<T> {
    /// Must be made within the runtime that will wait on it.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // SAFETY: an `OwnedFd` stays open, and stays the same descriptor, for as long as the `AsyncFd` owns it; nothing
        // here takes it out.
        #[allow(unsafe_code, reason = "the runtime asks for this promise")]
        let epoll = unsafe { AsyncFd::register(epoll) }?;
        let parked = Mutex::new(Parked { entries: Slab::new(), deadlines: BTreeSet::new() });
        Ok(Self { epoll, parked, changed: Notify::new() })
    }

    /// Parks a connection until a socket has news, or until the deadline. Gives it back if the kernel will not watch
    /// its sockets (a per-user limit), and then it can go on as it was.
    ///
    /// # Errors
    /// The sockets cannot be handed over; the connection is lost.
    pub(crate) fn park(
        &self,
        pair: Pair,
        load: T,
        deadline: Option<(Instant, Close)>,
    ) -> io::Result<Option<(Pair, T)>> {
        let progress = pair.progress;
        let client: OwnedFd = pair.client.into_std()?.into();
        let backend: OwnedFd = pair.backend.into_std()?.into();
        let mut parked = self.parked.lock();
        let key = parked.entries.insert(Entry { client, backend, progress, deadline, load });
        if let Some((at, _)) = deadline {
            parked.deadlines.insert((at, key));
            self.changed.notify_one();
        }
        // Bytes that came in the last instant are reported at once: none is missed in between.
        let entry = &parked.entries[key];
        let watched = self
            .watch(&entry.client, key, progress.client_done)
            .and_then(|()| self.watch(&entry.backend, key, progress.backend_done));
        match watched {
            Ok(()) => Ok(None),
            Err(_) => match parked.remove(key) {
                Some(entry) => self.unwatch(entry, Instant::now()).map(|woken| Some((woken.pair, woken.load))),
                None => Ok(None),
            },
        }
    }

    /// A side that has finished sending stays readable for ever; of that one only errors are news.
    fn watch(&self, socket: &OwnedFd, key: usize, finished: bool) -> io::Result<()> {
        let news = match finished {
            true => epoll::EventFlags::ET,
            false => epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET,
        };
        Ok(epoll::add(self.epoll.get_ref(), socket, epoll::EventData::new_u64(key as u64), news)?)
    }

    /// Waits for connections that have to leave, and takes them out.
    ///
    /// # Errors
    /// The epoll set itself failed, which it never does in a healthy process.
    pub(crate) async fn woken(&self, must_leave: impl Fn(&T) -> Option<Close>) -> io::Result<Vec<Woken<T>>> {
        let first_deadline = self.parked.lock().deadlines.first().map(|(at, _)| *at);
        let deadline = async {
            match first_deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let mut keys = Vec::new();
        tokio::select! {
            ready = self.epoll.readable() => self.collect_events(ready?, &mut keys)?,
            () = deadline => {}
            () = self.changed.notified() => {
                let parked = self.parked.lock();
                keys.extend(parked.entries.iter().filter(|(_, e)| must_leave(&e.load).is_some()).map(|(key, _)| key));
            }
        }
        let mut parked = self.parked.lock();
        let now = Instant::now();
        keys.extend(parked.deadlines.iter().take_while(|(at, _)| *at <= now).map(|(_, key)| *key));
        keys.sort_unstable();
        keys.dedup();
        let mut woken = Vec::with_capacity(keys.len());
        for key in keys {
            // Both sockets of a pair may have had news.
            if let Some(entry) = parked.remove(key) {
                woken.push(self.unwatch(entry, now)?);
            }
        }
        Ok(woken)
    }

    fn collect_events(
        &self,
        mut ready: tokio::io::unix::AsyncFdReadyGuard<'_, OwnedFd>,
        keys: &mut Vec<usize>,
    ) -> io::Result<()> {
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; EVENTS];
        let zero = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = epoll::wait(self.epoll.get_ref(), &mut events[..], Some(&zero))?;
        if count < EVENTS {
            ready.clear_ready();
        }
        keys.extend(events[..count].iter().filter_map(|event| usize::try_from(event.data.u64()).ok()));
        Ok(())
    }

    fn unwatch(&self, entry: Entry<T>, now: Instant) -> io::Result<Woken<T>> {
        for socket in [&entry.client, &entry.backend] {
            // Absent only where watching it had failed.
            let _ = epoll::delete(self.epoll.get_ref(), socket);
        }
        let client = TcpStream::from_std(entry.client.into())?;
        let backend = TcpStream::from_std(entry.backend.into())?;
        Ok(Woken {
            pair: Pair { client, backend, progress: entry.progress },
            load: entry.load,
            overdue: entry.deadline.filter(|(at, _)| *at <= now).map(|(_, close)| close),
        })
    }

    /// Somebody has ordered connections to end: lets [`Self::woken`] look for them.
    pub(crate) fn orders_given(&self) {
        self.changed.notify_one();
    }
}

impl<T> Parked<T> {
    fn remove(&mut self, key: usize) -> Option<Entry<T>> {
        let entry = self.entries.try_remove(key)?;
        if let Some((at, _)) = entry.deadline {
            self.deadlines.remove(&(at, key));
        }
        Some(entry)
    }
}
