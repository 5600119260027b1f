//! The addresses at which connections are taken in, and those that wait to be accepted.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::EPHEMERAL;
use crate::stream::Stream;

/// Connections to one address that may be on their way or wait to be accepted: a quarter of all flows, so that whoever
/// floods a port leaves room for others.
const BACKLOG_MOST: usize = 1024;

/// Who takes connections in, by address; shared by the stack and those who listen.
#[derive(Debug, Default)]
pub(super) struct Ports(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    by_address: HashMap<SocketAddr, Shares>,
    /// Counts the ports given to those who do not listen.
    dialled: u16,
    /// The stack has ended.
    ended: bool,
}

/// Those who share an address, and whose turn it is.
#[derive(Debug)]
struct Shares {
    backlogs: Vec<Arc<Backlog>>,
    next: usize,
}

/// What is on its way to one who listens.
#[derive(Debug)]
struct Backlog {
    most: usize,
    state: Mutex<State>,
    /// Rings while a connection waits, and for ever once the stack has ended.
    bell: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    /// Connections that do not stand yet.
    coming: usize,
    /// Connections that stand, and who they are from.
    waiting: VecDeque<(Stream, SocketAddr)>,
    /// Nobody listens any more.
    closed: bool,
    ended: bool,
}

/// One who listens.
#[derive(Debug)]
pub(crate) struct Intake {
    ports: Arc<Ports>,
    address: SocketAddr,
    backlog: Arc<Backlog>,
}

/// A place in a backlog, for a connection that does not stand yet.
pub(super) struct Seat(Arc<Backlog>);

/// What is said to somebody who knocks.
pub(super) enum Answer {
    Come(Seat),
    /// All places are taken.
    Full,
    Nobody,
}

impl Ports {
    /// Listens by so many at one address. Port 0 stands for a free one.
    ///
    /// # Errors
    /// Somebody listens there already; descriptors are short; the stack has ended.
    pub(super) fn listen(
        self: &Arc<Self>,
        address: SocketAddr,
        shares: usize,
        backlog: usize,
    ) -> Result<(SocketAddr, Vec<Intake>), Errno> {
        let shares = shares.max(1);
        let most = backlog.min(BACKLOG_MOST / shares).max(1);
        let backlogs = (0..shares).map(|_| Backlog::new(most).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        let mut table = self.0.lock();
        if table.ended {
            return Err(Errno::NETDOWN);
        }
        let address = table.free(address).ok_or(Errno::ADDRINUSE)?;
        table.by_address.insert(address, Shares { backlogs: backlogs.clone(), next: 0 });
        let intake = |backlog| Intake { ports: Arc::clone(self), address, backlog };
        Ok((address, backlogs.into_iter().map(intake).collect()))
    }

    /// A place for a connection to this address.
    pub(super) fn knock(&self, address: SocketAddr) -> Answer {
        let mut table = self.0.lock();
        let Some(Shares { backlogs, next }) = table.by_address.get_mut(&address) else { return Answer::Nobody };
        let first = std::mem::replace(next, next.wrapping_add(1));
        let count = backlogs.len();
        let mut in_turn = (0..count).filter_map(|step| backlogs.get(first.wrapping_add(step) % count));
        in_turn.find_map(Seat::take).map_or(Answer::Full, Answer::Come)
    }

    /// A port for somebody who does not listen.
    pub(super) fn any_port(&self) -> u16 {
        let (first, last) = EPHEMERAL;
        let mut table = self.0.lock();
        table.dialled = table.dialled.wrapping_add(1) % (last - first + 1);
        first + table.dialled
    }

    /// Tells all who listen that nobody comes any more.
    pub(super) fn end(&self) {
        let mut table = self.0.lock();
        table.ended = true;
        for (_, shares) in table.by_address.drain() {
            for backlog in shares.backlogs {
                backlog.state.lock().ended = true;
                backlog.ring();
            }
        }
    }

    fn leave(&self, address: SocketAddr, backlog: &Arc<Backlog>) {
        let mut table = self.0.lock();
        if let Some(shares) = table.by_address.get_mut(&address) {
            shares.backlogs.retain(|other| !Arc::ptr_eq(other, backlog));
            if shares.backlogs.is_empty() {
                table.by_address.remove(&address);
            }
        }
    }
}

impl Table {
    fn free(&self, wanted: SocketAddr) -> Option<SocketAddr> {
        let (first, last) = if wanted.port() == 0 { EPHEMERAL } else { (wanted.port(), wanted.port()) };
        let mut addresses = (first..=last).map(|port| SocketAddr::new(wanted.ip(), port));
        addresses.find(|address| !self.by_address.contains_key(address))
    }
}

impl Backlog {
    fn new(most: usize) -> Result<Self, Errno> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { most, state: Mutex::default(), bell })
    }

    fn ring(&self) {
        // Fails only when the counter is full: then it rings already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

impl Intake {
    /// The next connection that stands.
    ///
    /// # Errors
    /// AGAIN: none waits. NETDOWN: and none will.
    pub(crate) fn accept(&self) -> Result<(Stream, SocketAddr), Errno> {
        let mut state = self.backlog.state.lock();
        let none = if state.ended { Errno::NETDOWN } else { Errno::AGAIN };
        let next = state.waiting.pop_front().ok_or(none)?;
        if state.waiting.is_empty() && !state.ended {
            let _ = rustix::io::read(&self.backlog.bell, &mut [0; 8]);
        }
        Ok(next)
    }
}

impl AsFd for Intake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.backlog.bell.as_fd()
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.ports.leave(self.address, &self.backlog);
        let mut state = self.backlog.state.lock();
        state.closed = true;
        for (stream, _) in state.waiting.drain(..) {
            if let Some(line) = &stream.line {
                line.reset_on_close();
            }
        }
    }
}

impl Seat {
    fn take(backlog: &Arc<Backlog>) -> Option<Self> {
        let mut state = backlog.state.lock();
        if state.closed || state.coming + state.waiting.len() >= backlog.most {
            return None;
        }
        state.coming += 1;
        Some(Self(Arc::clone(backlog)))
    }

    /// The connection stands. Returns whether somebody will take it.
    pub(super) fn hand(self, stream: Stream, from: SocketAddr) -> bool {
        let mut state = self.0.state.lock();
        if !state.closed {
            state.waiting.push_back((stream, from));
            if state.waiting.len() == 1 {
                self.0.ring();
            }
        }
        !state.closed
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.state.lock().coming -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;
    use crate::stream::Line;

    const FROM: &str = "10.50.0.9:40000";

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 50, 0, 1], port))
    }

    fn seat(ports: &Ports, port: u16) -> Option<Seat> {
        match ports.knock(at(port)) {
            Answer::Come(seat) => Some(seat),
            Answer::Full | Answer::Nobody => None,
        }
    }

    fn stream() -> (Stream, Line) {
        let line = Line::default();
        let fd: OwnedFd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        (Stream { fd, line: Some(line.clone()) }, line)
    }

    fn rings(intake: &Intake) -> bool {
        poll(&mut [PollFd::new(intake, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn a_backlog_is_full_with_those_that_come_and_those_that_wait() {
        let ports = Arc::new(Ports::default());
        let (_, intakes) = ports.listen(at(80), 1, 2).unwrap();
        let (first, second) = (seat(&ports, 80).unwrap(), seat(&ports, 80).unwrap());
        assert!(matches!(ports.knock(at(80)), Answer::Full));
        assert!(matches!(ports.knock(at(81)), Answer::Nobody));
        assert!(!rings(&intakes[0]));
        assert!(first.hand(stream().0, FROM.parse().unwrap()));
        assert!(rings(&intakes[0]));
        assert!(matches!(ports.knock(at(80)), Answer::Full));
        // One that never came to stand leaves its place.
        drop(second);
        drop(seat(&ports, 80).unwrap());
        assert_eq!(intakes[0].accept().unwrap().1, FROM.parse().unwrap());
        assert!(!rings(&intakes[0]));
        assert_eq!(intakes[0].accept().unwrap_err(), Errno::AGAIN);
        assert!(seat(&ports, 80).is_some() && seat(&ports, 80).is_some());
    }

    #[test]
    fn those_who_share_an_address_have_their_turn() {
        let ports = Arc::new(Ports::default());
        let (_, mut intakes) = ports.listen(at(80), 3, 65_535).unwrap();
        for _ in 0..6 {
            assert!(seat(&ports, 80).unwrap().hand(stream().0, FROM.parse().unwrap()));
        }
        let waiting = |intake: &Intake| intake.backlog.state.lock().waiting.len();
        assert!(intakes.iter().all(|intake| waiting(intake) == 2));
        // Whoever leaves gets no more, and what waited for it is reset.
        intakes.pop();
        for _ in 0..4 {
            assert!(seat(&ports, 80).unwrap().hand(stream().0, FROM.parse().unwrap()));
        }
        assert!(intakes.iter().all(|intake| waiting(intake) == 4));
        // The last place of the one is taken while the other has room.
        let seats: Vec<_> = std::iter::from_fn(|| seat(&ports, 80)).collect();
        assert_eq!(seats.len() + 8, 2 * (BACKLOG_MOST / 3));
        drop(intakes);
        assert!(matches!(ports.knock(at(80)), Answer::Nobody));
        let (late, line) = stream();
        assert!(!seats.into_iter().next().unwrap().hand(late, FROM.parse().unwrap()));
        assert!(!line.is_reset());
    }

    #[test]
    fn an_address_is_taken_until_the_last_has_left() {
        let ports = Arc::new(Ports::default());
        let (_, mut intakes) = ports.listen(at(80), 2, 1).unwrap();
        let (waits, line) = stream();
        assert!(seat(&ports, 80).unwrap().hand(waits, FROM.parse().unwrap()));
        for _ in 0..2 {
            assert_eq!(ports.listen(at(80), 1, 1).unwrap_err(), Errno::ADDRINUSE);
            intakes.pop();
        }
        assert!(line.is_reset());
        ports.listen(at(80), 1, 1).unwrap();
        let (first, _one) = ports.listen(at(0), 1, 1).unwrap();
        let (second, _other) = ports.listen(at(0), 1, 1).unwrap();
        assert!(first.port() >= EPHEMERAL.0 && second.port() > first.port());
    }

    #[test]
    fn once_the_stack_has_ended_whoever_waits_is_told() {
        let ports = Arc::new(Ports::default());
        let (_, intakes) = ports.listen(at(80), 1, 2).unwrap();
        assert!(seat(&ports, 80).unwrap().hand(stream().0, FROM.parse().unwrap()));
        ports.end();
        assert!(intakes[0].accept().is_ok());
        assert!(rings(&intakes[0]));
        assert_eq!(intakes[0].accept().unwrap_err(), Errno::NETDOWN);
        assert_eq!(ports.listen(at(81), 1, 1).unwrap_err(), Errno::NETDOWN);
    }
}
