//! One data-plane thread: its share of every listener, its connections, and the loop that serves them.
//!
//! Everything here belongs to the one thread, so nothing is locked. Other threads leave orders in the mailbox.

mod mailbox;
mod sources;
mod timers;
mod token;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edgeproxy_overlay::{Acceptor, Stream};
use ipnet::IpNet;
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::Errno;
use slab::Slab;

use crate::close::{Close, Refusal};
use crate::connection::{Connection, Step};
use crate::connection_log::{Lines, Refused};
use crate::drain::Phase;
use crate::listener::{BACKLOG, Door, Listener};
use crate::pop::Pop;
use crate::record::LiveConnection;
use crate::relay::Workbench;
use crate::socket::Socket;
use sources::Sources;
use timers::Timers;
use token::Serials;

pub(crate) use mailbox::{Concerns, Mailbox, Order};
pub(crate) use token::{End, Source, Subject, Token};

/// Events taken from the kernel at once.
const EVENTS: usize = 256;
/// Clients taken at once before those that are there get their turn (docs/decisions/0008).
const ACCEPTED_AT_ONCE: i32 = 4;
/// The loop looks at its timers at least this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// What a core lends to the connection it is working on.
pub(crate) struct Desk {
    pub(crate) pop: Arc<Pop>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) timers: Timers,
    pub(crate) bench: Workbench,
    /// Lines of the connection log.
    pub(crate) lines: Lines,
    /// When the loop last woke.
    pub(crate) now: Instant,
    epoll: OwnedFd,
}

/// The state of one data-plane thread.
struct Core {
    desk: Desk,
    doors: Vec<Door>,
    connections: Slab<Connection>,
    /// Of published services.
    sources: Sources,
    serials: Serials,
    /// Connections that have more to do.
    busy: Vec<Token>,
}

/// Starts a data-plane thread that takes clients in by these. It ends when a drain is over.
pub(crate) fn start(
    pop: Arc<Pop>,
    number: usize,
    acceptors: Vec<(Arc<Listener>, Acceptor)>,
) -> io::Result<JoinHandle<()>> {
    let mailbox = Arc::clone(&pop.cores[number]);
    let now = Instant::now();
    let desk = Desk {
        pop,
        mailbox,
        timers: Timers::new(now),
        bench: Workbench::new(),
        lines: Lines::default(),
        now,
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
    };
    desk.watch_for(&*desk.mailbox, Subject::Mailbox, EventFlags::IN)?;
    let mut doors = Vec::new();
    for (door, (listener, acceptor)) in (0..).zip(acceptors) {
        desk.watch_for(&acceptor, Subject::Door(door), EventFlags::IN)?;
        doors.push(Door::new(listener, acceptor));
    }
    let mut core = Core {
        desk,
        doors,
        connections: Slab::new(),
        sources: Sources::default(),
        serials: Serials::new(),
        busy: Vec::new(),
    };
    std::thread::Builder::new().name(format!("core-{number}")).spawn(move || {
        let _last = Last { pop: Arc::clone(&core.desk.pop), mailbox: Arc::clone(&core.desk.mailbox) };
        // A panic has told of itself; those it did not concern are left in order all the same.
        if let Ok(Err(error)) = catch_unwind(AssertUnwindSafe(|| core.run())) {
            tracing::error!(%error, core = number, "data-plane thread failed");
        }
        core.leave();
    })
}

/// What a core does last, even if it panics: nobody may wait for it any longer, and if it was not told to end, the
/// process has to, as nobody else would take its clients.
struct Last {
    pop: Arc<Pop>,
    mailbox: Arc<Mailbox>,
}

impl Drop for Last {
    fn drop(&mut self) {
        self.mailbox.close();
        if self.pop.drain.phase() < Phase::Over {
            self.pop.core_failed.notify_one();
        }
    }
}

impl Desk {
    /// Has epoll tell of a socket's news. (Closing the socket ends that.)
    pub(crate) fn watch(&self, socket: &impl AsFd, subject: Subject) -> Result<(), Errno> {
        self.watch_for(socket, subject, Socket::NEWS)
    }

    fn watch_for(&self, socket: &impl AsFd, subject: Subject, news: EventFlags) -> Result<(), Errno> {
        epoll::add(&self.epoll, socket, EventData::new_u64(subject.encode()), news)
    }
}

impl Core {
    fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        let mut due = Vec::new();
        while self.desk.pop.drain.phase() < Phase::Over {
            self.wait(&mut events)?;
            let mut orders = false;
            for event in events.drain(..) {
                let Event { flags, data } = event;
                match Subject::decode(data.u64()) {
                    Subject::Connection(token, source) => self.serve(token, |connection, desk| {
                        connection.note(source, flags);
                        // One that waits for its turn gets no other for having news.
                        if connection.busy { Step::Wait } else { connection.advance(desk) }
                    }),
                    Subject::Door(number) => self.accept(number as usize, ACCEPTED_AT_ONCE)?,
                    Subject::Mailbox => orders = true,
                }
            }
            for token in std::mem::take(&mut self.busy) {
                self.serve(token, |connection, desk| {
                    connection.busy = false;
                    connection.advance(desk)
                });
            }
            self.desk.timers.take_due(self.desk.now, &mut due);
            for token in due.drain(..) {
                self.serve(token, Connection::look);
            }
            let connections = &self.connections;
            self.desk.timers.sweep(connections.len(), |token| {
                connections.get(token.index as usize).is_some_and(|connection| connection.token() == token)
            });
            if orders {
                self.obey()?;
            }
            self.reopen_doors()?;
            self.report();
        }
        Ok(())
    }

    /// Nobody is left with a part that passes for the whole, or without a line in the log (where it keeps up).
    fn leave(&mut self) {
        for connection in self.connections.drain() {
            match connection.record() {
                Some(_) => connection.close(Close::DrainDeadline, &mut self.desk),
                None => connection.refuse(Refusal::Draining, &mut self.desk),
            }
        }
        self.desk.pop.log.flush(&mut self.desk.lines);
    }

    /// Sleeps until a socket has news or something is due.
    fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let until = [self.desk.timers.first(), self.desk.lines.due()]
            .into_iter()
            .chain(self.doors.iter().map(Door::closed_until))
            .flatten()
            .min();
        let timeout = match until {
            _ if !self.busy.is_empty() => Some(Duration::ZERO),
            // Beyond 24 days the wrapper takes a call that older kernels do not have.
            Some(until) => Some(until.saturating_duration_since(Instant::now()).min(LONGEST_SLEEP)),
            None => None,
        };
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match epoll::wait(&self.desk.epoll, rustix::buffer::spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.desk.now = Instant::now();
        Ok(())
    }

    /// Works on a connection, unless it has ended since it was named.
    fn serve(&mut self, token: Token, work: impl FnOnce(&mut Connection, &mut Desk) -> Step) {
        let key = token.index as usize;
        let Some(connection) = self.connections.get_mut(key).filter(|connection| connection.token() == token) else {
            return;
        };
        match work(connection, &mut self.desk) {
            Step::Wait => {}
            Step::GoOn if connection.busy => {}
            Step::GoOn => {
                connection.busy = true;
                self.busy.push(token);
            }
            Step::Close(close) => self.remove(key).close(close, &mut self.desk),
            Step::Refuse(refusal) => self.remove(key).refuse(refusal, &mut self.desk),
        }
    }

    fn remove(&mut self, key: usize) -> Connection {
        let connection = self.connections.remove(key);
        if let Some(from) = connection.published_to() {
            self.sources.forget(from, key);
        }
        connection
    }

    /// Takes in so many of those who wait at a door, at most.
    fn accept(&mut self, number: usize, most: i32) -> io::Result<()> {
        for _ in 0..most {
            let is_watched = self.doors[number].closed_until().is_none();
            match self.doors[number].accept(self.desk.now) {
                Ok(Some((client, peer))) => self.arrive(number, client, peer),
                Ok(None) => break,
                Err(_) => {
                    // Clients go on waiting; watched, the loop would be told of them again and again.
                    if let Some(acceptor) = self.doors[number].acceptor().filter(|_| is_watched) {
                        epoll::delete(&self.desk.epoll, acceptor)?;
                    }
                    break;
                }
            }
        }
        Ok(())
    }

    /// A client has come in.
    fn arrive(&mut self, door: usize, client: Stream, peer: SocketAddr) {
        let listener = &self.doors[door].listener;
        listener.accepted.inc();
        let vacant = self.connections.vacant_entry();
        let index = u32::try_from(vacant.key()).expect("descriptors bound the connections far below this");
        let token = Token { index, serial: self.serials.take() };
        let refusal = match self.desk.pop.open_connection(listener) {
            None => Refusal::TooManyConnections,
            Some(_) if self.desk.watch(&client, Subject::Connection(token, Source::Client)).is_err() => {
                Refusal::DescriptorsExhausted
            }
            Some(open) => {
                let key = vacant.key();
                let connection = vacant.insert(Connection::new(token, client, peer, open, &self.desk));
                if let Some(from) = connection.published_to() {
                    self.sources.note(from, key);
                }
                return self.serve(token, Connection::advance);
            }
        };
        let socket = Socket::of(client);
        socket.reset_on_close();
        // Counted before it is closed: whoever was turned away finds himself in the figures.
        listener.count_refusal(refusal);
        let line = Refused::at_accept(&listener.name, peer, refusal, self.desk.now);
        self.desk.pop.log.refused(&mut self.desk.lines, &line);
    }

    /// Opens again what was closed for want of descriptors or memory.
    fn reopen_doors(&mut self) -> io::Result<()> {
        for number in 0..self.doors.len() {
            let door = &mut self.doors[number];
            if door.reopen(self.desk.now)
                && let Some(acceptor) = door.acceptor()
            {
                let subject = Subject::Door(u32::try_from(number).unwrap_or(u32::MAX));
                self.desk.watch_for(acceptor, subject, EventFlags::IN)?;
            }
        }
        Ok(())
    }

    fn obey(&mut self) -> io::Result<()> {
        for order in self.desk.mailbox.take() {
            // Whoever asked may have stopped waiting for the reply.
            match order {
                Order::Turn(token) => self.serve(token, Connection::advance),
                Order::Drain => self.drain()?,
                Order::List { after, limit, reply } => drop(reply.send(self.list(after, limit))),
                Order::End { concerns, close, reply } => drop(reply.send(self.end(&concerns, close))),
                Order::EndSources { from, reply } => drop(reply.send(self.end_sources(&from)?)),
            }
        }
        Ok(())
    }

    /// Turns waiting clients away; once it is time, takes in those whom the kernel had already completed (they would be
    /// reset otherwise) and closes the doors.
    fn drain(&mut self) -> io::Result<()> {
        for token in self.tokens(|connection| connection.record().is_none()) {
            self.serve(token, Connection::advance);
        }
        if self.desk.pop.drain.phase() >= Phase::Draining {
            for number in 0..self.doors.len() {
                self.accept(number, BACKLOG)?;
                self.doors[number].close();
            }
        }
        Ok(())
    }

    fn end(&mut self, concerns: &Concerns, close: Close) -> usize {
        let concerned = self.tokens(|connection| connection.record().is_some_and(|record| concerns(record)));
        for token in &concerned {
            self.serve(*token, |_, _| Step::Close(close));
        }
        concerned.len()
    }

    /// Ends what peers have or begin at published services: also what the kernel has completed and is not yet taken in.
    fn end_sources(&mut self, from: &[IpNet]) -> io::Result<usize> {
        for number in 0..self.doors.len() {
            if self.doors[number].listener.is_published {
                self.accept(number, BACKLOG)?;
            }
        }
        let concerned = self.sources.of(from);
        for key in &concerned {
            let Some(connection) = self.connections.get(*key) else { continue };
            let step = match connection.record() {
                Some(_) => Step::Close(Close::Cut),
                None => Step::Refuse(Refusal::ClientGone),
            };
            self.serve(connection.token(), |_, _| step);
        }
        Ok(concerned.len())
    }

    fn tokens(&self, concerned: impl Fn(&Connection) -> bool) -> Vec<Token> {
        self.connections.iter().filter(|(_, one)| concerned(one)).map(|(_, one)| one.token()).collect()
    }

    /// The oldest connections with ids above `after`.
    fn list(&self, after: u64, limit: usize) -> Vec<LiveConnection> {
        let id = |connection: &Connection| connection.record().map(|record| record.id);
        let mut ids: Vec<(u64, usize)> = self
            .connections
            .iter()
            .filter_map(|(key, one)| Some((id(one)?, key)))
            .filter(|(id, _)| *id > after)
            .collect();
        if ids.len() > limit {
            // A page out of a million does not need a million in order.
            ids.select_nth_unstable(limit);
            ids.truncate(limit);
        }
        let region = &self.desk.pop.settings.region;
        ids.into_iter().filter_map(|(_, key)| self.connections[key].show(region)).collect()
    }

    /// Tells the metrics what was moved, and the log what ended: often enough for a graph, not once a segment.
    fn report(&mut self) {
        let desk = &mut self.desk;
        let moved = std::mem::take(&mut desk.bench.moved);
        for (counter, bytes) in [
            (&desk.pop.metrics.bytes_in, moved.inbound),
            (&desk.pop.metrics.bytes_out, moved.outbound),
            (&desk.pop.metrics.spliced_bytes, moved.spliced),
        ] {
            if bytes > 0 {
                counter.inc_by(bytes);
            }
        }
        if desk.lines.due().is_some_and(|due| due <= desk.now) {
            desk.pop.log.flush(&mut desk.lines);
        }
    }
}

#[cfg(test)]
mod tests;
