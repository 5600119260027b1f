//! Short connections in a closed loop: connect, ask, answer, FIN from both sides.

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::io::Errno;

use super::{Patience, TICK, Tally, payload};
use crate::backend::ECHO;
use crate::failure::{Context, Failure};
use crate::poll::{EXCHANGE, Poll, Ready};
use crate::socket::{self, Moved};

pub(crate) struct Plan {
    pub(crate) target: SocketAddrV4,
    pub(crate) clients: usize,
    pub(crate) bytes: usize,
    pub(crate) patience: Patience,
}

/// Makes `operations` connections, `clients` at a time.
pub(crate) fn run(plan: &Plan, operations: u64) -> Result<Tally, Failure> {
    let mut load = Load::new(plan, operations).context("load generator epoll")?;
    let began = Instant::now();
    let mut swept = began;
    let mut found = Vec::new();
    for slot in 0..plan.clients {
        load.start(slot);
    }
    while load.active > 0 {
        load.poll.wait(&mut found, TICK).context("load generator epoll")?;
        for &(slot, ready) in &found {
            load.advance(slot, ready);
        }
        if swept.elapsed() > TICK {
            load.sweep(plan.patience.is_over(began));
            swept = Instant::now();
        }
    }
    load.tally.elapsed = began.elapsed();
    Ok(load.tally)
}

struct Load<'a> {
    plan: &'a Plan,
    poll: Poll,
    request: Vec<u8>,
    scratch: Vec<u8>,
    clients: Vec<Option<Client>>,
    active: usize,
    /// Connections still to be started.
    left: u64,
    tally: Tally,
}

struct Client {
    socket: OwnedFd,
    began: Instant,
    phase: Phase,
    received: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Connecting,
    Waiting,
    /// The answer is complete and our FIN is sent.
    Ending,
}

/// Why a client is done.
enum Done {
    Well,
    Failed(&'static str),
    System(&'static str, Errno),
}

impl<'a> Load<'a> {
    fn new(plan: &'a Plan, operations: u64) -> Result<Self, Errno> {
        Ok(Self {
            plan,
            poll: Poll::new()?,
            request: payload(ECHO, plan.bytes),
            scratch: vec![0; plan.bytes + 1],
            clients: (0..plan.clients).map(|_| None).collect(),
            active: 0,
            left: operations,
            tally: Tally::default(),
        })
    }

    /// Fills a slot with the next connection; one that cannot even start is an error and used up.
    fn start(&mut self, slot: usize) {
        while self.left > 0 {
            self.left -= 1;
            let began = Instant::now();
            let started = socket::start_connection(self.plan.target)
                .and_then(|socket| self.poll.add(&socket, slot, EXCHANGE).map(|()| socket));
            match started {
                Ok(socket) => {
                    let phase = Phase::Connecting;
                    self.clients[slot] = Some(Client { socket, began, phase, received: 0 });
                    self.active += 1;
                    return;
                }
                Err(error) => self.tally.system_error("connect", error),
            }
        }
    }

    fn advance(&mut self, slot: usize, ready: Ready) {
        let Some(client) = self.clients[slot].as_mut() else {
            return;
        };
        let before = client.phase;
        let done = client.advance(ready, &self.request, &mut self.scratch);
        if before != Phase::Ending && client.phase == Phase::Ending {
            let nanos = u64::try_from(client.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.tally.latencies.push(nanos);
        }
        if let Some(done) = done {
            self.retire(slot, done);
        }
    }

    fn retire(&mut self, slot: usize, done: Done) {
        match done {
            Done::Well => self.tally.operations += 1,
            Done::Failed(kind) => self.tally.error(kind),
            Done::System(during, error) => self.tally.system_error(during, error),
        }
        self.clients[slot] = None;
        self.active -= 1;
        self.start(slot);
    }

    /// Gives up on connections that take too long, or on all of them once the time of the load is over.
    fn sweep(&mut self, over: bool) {
        if over {
            for _ in 0..std::mem::take(&mut self.left) {
                self.tally.error("not started in time");
            }
        }
        for slot in 0..self.clients.len() {
            let patience = self.plan.patience.operation;
            let late = |client: &Client| over || client.began.elapsed() > patience;
            if self.clients[slot].as_ref().is_some_and(late) {
                self.retire(slot, Done::Failed("timeout"));
            }
        }
    }
}

impl Client {
    fn advance(&mut self, ready: Ready, request: &[u8], scratch: &mut [u8]) -> Option<Done> {
        if self.phase == Phase::Connecting {
            if !ready.intersects(Ready::OUT | Ready::ERR | Ready::HUP) {
                return None;
            }
            match socket::write(&self.socket, request) {
                Ok(Moved::Bytes(bytes)) if bytes == request.len() => self.phase = Phase::Waiting,
                Ok(Moved::Blocked) => return None,
                Ok(_) => return Some(Done::Failed("request not taken whole")),
                Err(error) => return Some(Done::System("connect", error)),
            }
        }
        if !ready.intersects(Ready::IN | Ready::RDHUP | Ready::ERR | Ready::HUP) {
            return None;
        }
        self.receive(ready, request, scratch)
    }

    fn receive(&mut self, ready: Ready, request: &[u8], scratch: &mut [u8]) -> Option<Done> {
        loop {
            match socket::read(&self.socket, scratch) {
                Ok(Moved::Bytes(bytes)) => {
                    let expected = request.get(self.received..self.received + bytes);
                    if expected != Some(&scratch[..bytes]) {
                        return Some(Done::Failed("wrong answer"));
                    }
                    self.received += bytes;
                }
                Ok(Moved::End) if self.phase == Phase::Ending => return Some(Done::Well),
                Ok(Moved::End) => return Some(Done::Failed("answer truncated")),
                Ok(Moved::Blocked) => return None,
                Err(error) => return Some(Done::System("receive", error)),
            }
            if self.received == request.len() && self.phase == Phase::Waiting {
                if let Err(error) = socket::finish(&self.socket) {
                    return Some(Done::System("finish", error));
                }
                self.phase = Phase::Ending;
            }
            // The buffer is larger than the answer, so it is empty now; a later FIN is a new event.
            if !ready.contains(Ready::RDHUP) {
                return None;
            }
        }
    }
}
