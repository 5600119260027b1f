//! The thread that holds things back and lets them go in time.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::process::setpriority_process;
use rustix::thread::set_current_timer_slack;

/// For so long before something is to be released the thread does not sleep: it would wake later than that at times.
pub const WATCHED: Duration = Duration::from_micros(200);

/// Events taken at once.
const EVENTS: usize = 64;
/// The nice value of who comes first.
const FIRST: i32 = -20;
const NO_TIME: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// Path number of the mailbox.
const MAILBOX: u32 = u32::MAX;

/// A path as the engine drives it.
pub(super) trait Station: Send {
    /// Something happened to the descriptor that was added under this key.
    fn ready(&mut self, poll: &Poll<'_>, key: u32, flags: EventFlags, now: Instant);
    /// When the next thing is to be released.
    fn due(&self) -> Option<Instant>;
    /// Releases what is due.
    fn release(&mut self, poll: &Poll<'_>, now: Instant);
}

/// The descriptors of one path.
pub(super) struct Poll<'a> {
    epoll: &'a OwnedFd,
    path: u32,
}

impl Poll<'_> {
    pub(super) fn add(&self, fd: impl AsFd, key: u32, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(self.epoll, fd, self.data(key), flags)?)
    }

    pub(super) fn modify(&self, fd: impl AsFd, key: u32, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(self.epoll, fd, self.data(key), flags)?)
    }

    fn data(&self, key: u32) -> EventData {
        EventData::new_u64(u64::from(self.path) << 32 | u64::from(key))
    }
}

type Begin = Box<dyn FnOnce(&Poll<'_>) -> io::Result<Box<dyn Station>> + Send>;

enum Order {
    /// A path begins; the answer says whether it could.
    Lay(u32, Begin, Sender<io::Result<()>>),
    /// A path ends.
    Lift(u32),
    /// A link has changed: look at all of them again.
    Look,
    End,
}

/// The thread, seen from outside.
#[derive(Debug)]
pub(super) struct Engine {
    mailbox: Mailbox,
    paths: AtomicU32,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Mailbox {
    orders: Sender<Order>,
    bell: Arc<OwnedFd>,
}

impl Mailbox {
    fn send(&self, order: Order) {
        // The thread may have failed; then whoever waits for an answer gets none.
        let _ = self.orders.send(order);
        let _ = rustix::io::write(&*self.bell, &1_u64.to_ne_bytes());
    }
}

impl Engine {
    pub(super) fn start() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        epoll::add(&epoll, &*bell, EventData::new_u64(u64::from(MAILBOX) << 32), EventFlags::IN)?;
        let (orders, incoming) = channel();
        let circuit = Circuit { epoll, bell: Arc::clone(&bell), orders: incoming, stations: HashMap::new() };
        let thread = std::thread::Builder::new().name("wan".to_owned()).spawn(move || circuit.run())?;
        let mailbox = Mailbox { orders, bell };
        Ok(Self { mailbox, paths: AtomicU32::new(0), thread: Mutex::new(Some(thread)) })
    }

    /// Begins a path and waits until it is there.
    pub(super) fn lay<S: Station + 'static>(
        self: &Arc<Self>,
        begin: impl FnOnce(&Poll<'_>) -> io::Result<S> + Send + 'static,
    ) -> io::Result<Laid> {
        let path = self.paths.fetch_add(1, Relaxed);
        let (answer, answered) = channel();
        let begin = move |poll: &Poll<'_>| -> io::Result<Box<dyn Station>> { Ok(Box::new(begin(poll)?)) };
        self.mailbox.send(Order::Lay(path, Box::new(begin), answer));
        answered.recv().map_err(|_| io::Error::other("the thread of the virtual WAN is gone"))??;
        Ok(Laid { engine: Arc::clone(self), path })
    }

    /// The number that the next path gets: its lane of chance.
    pub(super) fn next_lane(&self) -> u64 {
        u64::from(self.paths.load(Relaxed))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.mailbox.send(Order::End);
        if let Some(thread) = self.thread.lock().take() {
            // It has said why it failed, if it did.
            let _ = thread.join();
        }
    }
}

/// A path of an engine; it is taken up when this is dropped.
#[derive(Debug)]
pub(super) struct Laid {
    engine: Arc<Engine>,
    path: u32,
}

impl Laid {
    pub(super) fn look(&self) {
        self.engine.mailbox.send(Order::Look);
    }
}

impl Drop for Laid {
    fn drop(&mut self) {
        self.engine.mailbox.send(Order::Lift(self.path));
    }
}

/// The thread, seen from inside.
struct Circuit {
    epoll: OwnedFd,
    bell: Arc<OwnedFd>,
    orders: Receiver<Order>,
    stations: HashMap<u32, Box<dyn Station>>,
}

impl Circuit {
    fn run(mut self) {
        // Without it the kernel may be 50 us late on purpose. Where it cannot be had, it is.
        let _ = set_current_timer_slack(std::num::NonZeroU64::new(1));
        // Before others that wait for a core, where that is allowed (to root): else a busy machine is part of the delay.
        let _ = setpriority_process(None, FIRST);
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let next = self.release();
            let timeout = next.map(|due| {
                let left = due.saturating_duration_since(Instant::now()).saturating_sub(WATCHED);
                Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() }
            });
            // It is poll that sleeps: the timeout of epoll has milliseconds.
            let slept = poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], timeout.as_ref());
            let told = slept.and_then(|_| epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&NO_TIME)));
            if told.is_err_and(|error| error != Errno::INTR) {
                return;
            }
            let now = Instant::now();
            let mut orders = false;
            for Event { flags, data } in events.drain(..) {
                #[expect(clippy::cast_possible_truncation, reason = "two halves")]
                let (path, key) = ((data.u64() >> 32) as u32, data.u64() as u32);
                if path == MAILBOX {
                    orders = true;
                } else if let Some(station) = self.stations.get_mut(&path) {
                    station.ready(&Poll { epoll: &self.epoll, path }, key, flags, now);
                }
            }
            if orders && self.obey() {
                return;
            }
        }
    }

    /// Releases what is due; when the next thing will be.
    fn release(&mut self) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for (&path, station) in &mut self.stations {
            let Some(mut due) = station.due() else { continue };
            let now = Instant::now();
            if due <= now {
                station.release(&Poll { epoll: &self.epoll, path }, now);
                match station.due() {
                    Some(later) => due = later,
                    None => continue,
                }
            }
            next = Some(next.map_or(due, |next| next.min(due)));
        }
        next
    }

    /// Whether it is to end.
    fn obey(&mut self) -> bool {
        let mut rung = [0; 8];
        let _ = rustix::io::read(&*self.bell, &mut rung);
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Lay(path, begin, answer) => {
                    let begun = begin(&Poll { epoll: &self.epoll, path });
                    // Whoever asked may have given up; then it is lifted at once.
                    let _ = answer.send(begun.map(|station| drop(self.stations.insert(path, station))));
                }
                Order::Lift(path) => drop(self.stations.remove(&path)),
                Order::Look => {}
                Order::End => return true,
            }
        }
        false
    }
}
