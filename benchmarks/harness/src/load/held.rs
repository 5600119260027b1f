//! Kept connections: small exchanges in a closed loop over each of them, or one exchange and then silence.

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::io::Errno;

use super::{Patience, TICK, Tally, payload};
use crate::backend::ECHO;
use crate::failure::{Context, Failure};
use crate::poll::{EXCHANGE, Poll, Ready};
use crate::socket::{self, Moved};

/// How many connections are being made at any time, so that no backlog overflows.
const OPENING: usize = 64;

pub(crate) struct Plan {
    pub(crate) target: SocketAddrV4,
    pub(crate) connections: usize,
    pub(crate) bytes: usize,
    pub(crate) patience: Patience,
}

/// Open connections, each past its first exchange.
pub(crate) struct Held<'a> {
    plan: &'a Plan,
    poll: Poll,
    request: Vec<u8>,
    scratch: Vec<u8>,
    clients: Vec<Option<Client>>,
    found: Vec<(usize, Ready)>,
    /// Exchanges under way.
    busy: usize,
    /// Exchanges still to be started.
    left: u64,
    tally: Tally,
}

struct Client {
    socket: OwnedFd,
    began: Instant,
    state: State,
    received: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Connecting,
    Waiting,
    Resting,
}

impl<'a> Held<'a> {
    /// Opens all connections and makes one exchange on each; the tally says how many of them succeeded.
    pub(crate) fn open(plan: &'a Plan) -> Result<(Self, Tally), Failure> {
        let mut held = Self {
            plan,
            poll: Poll::new().context("load generator epoll")?,
            request: payload(ECHO, plan.bytes),
            scratch: vec![0; plan.bytes + 1],
            clients: Vec::with_capacity(plan.connections),
            found: Vec::new(),
            busy: 0,
            left: 0,
            tally: Tally::default(),
        };
        let began = Instant::now();
        while held.clients.len() < plan.connections || held.busy > 0 {
            while held.busy < OPENING && held.clients.len() < plan.connections {
                held.connect();
            }
            held.turn(began)?;
        }
        let tally = held.finish(began);
        Ok((held, tally))
    }

    /// Makes `operations` exchanges, one at a time on each connection.
    pub(crate) fn exchange(&mut self, operations: u64) -> Result<Tally, Failure> {
        let began = Instant::now();
        self.left = operations;
        for slot in 0..self.clients.len() {
            self.ask(slot);
        }
        while self.busy > 0 {
            self.turn(began)?;
        }
        for _ in 0..std::mem::take(&mut self.left) {
            self.tally.error("not started: no connection left");
        }
        Ok(self.finish(began))
    }

    /// How many connections are open and silent.
    pub(crate) fn idle(&self) -> usize {
        let idle = |client: &&Client| socket::is_idle(&client.socket);
        self.clients.iter().flatten().filter(idle).count()
    }

    fn finish(&mut self, began: Instant) -> Tally {
        let mut tally = std::mem::take(&mut self.tally);
        tally.elapsed = began.elapsed();
        tally
    }

    fn connect(&mut self) {
        let slot = self.clients.len();
        let started = socket::start_connection(self.plan.target).and_then(|socket| {
            socket::no_delay(&socket)?;
            self.poll.add(&socket, slot, EXCHANGE)?;
            Ok(socket)
        });
        match started {
            Ok(socket) => {
                let began = Instant::now();
                let state = State::Connecting;
                self.clients.push(Some(Client { socket, began, state, received: 0 }));
                self.busy += 1;
            }
            Err(error) => {
                self.tally.system_error("connect", error);
                self.clients.push(None);
            }
        }
    }

    fn turn(&mut self, began: Instant) -> Result<(), Failure> {
        let mut found = std::mem::take(&mut self.found);
        self.poll.wait(&mut found, TICK).context("load generator epoll")?;
        for &(slot, ready) in &found {
            self.advance(slot, ready);
        }
        if found.is_empty() || self.plan.patience.is_over(began) {
            self.sweep(self.plan.patience.is_over(began));
        }
        self.found = found;
        Ok(())
    }

    fn advance(&mut self, slot: usize, ready: Ready) {
        let Some(client) = self.clients[slot].as_mut() else {
            return;
        };
        match client.advance(ready, &self.request, &mut self.scratch) {
            Ok(false) => {}
            Ok(true) => {
                let nanos = u64::try_from(client.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
                self.tally.latencies.push(nanos);
                self.tally.operations += 1;
                self.busy -= 1;
                self.ask(slot);
            }
            Err(kind) => self.lose(slot, kind),
        }
    }

    /// Starts the next exchange of a resting connection, if any is left to do.
    fn ask(&mut self, slot: usize) {
        let Some(client) = self.clients[slot].as_mut() else {
            return;
        };
        if self.left == 0 || client.state != State::Resting {
            return;
        }
        self.left -= 1;
        self.busy += 1;
        client.began = Instant::now();
        if let Err(kind) = client.ask(&self.request) {
            self.lose(slot, kind);
        }
    }

    /// Drops a connection; one that was resting (closed on us) has no exchange to account for.
    fn lose(&mut self, slot: usize, kind: String) {
        if let Some(client) = self.clients[slot].take()
            && client.state != State::Resting
        {
            self.busy -= 1;
        }
        self.tally.error(kind);
    }

    fn sweep(&mut self, over: bool) {
        if over {
            for _ in 0..std::mem::take(&mut self.left) {
                self.tally.error("not started in time");
            }
        }
        for slot in 0..self.clients.len() {
            let patience = self.plan.patience.operation;
            let late = |client: &Client| client.state != State::Resting && (over || client.began.elapsed() > patience);
            if self.clients[slot].as_ref().is_some_and(late) {
                self.lose(slot, "timeout".to_owned());
            }
        }
    }
}

impl Client {
    /// Whether the exchange under way is complete.
    fn advance(&mut self, ready: Ready, request: &[u8], scratch: &mut [u8]) -> Result<bool, String> {
        if self.state == State::Connecting {
            if !ready.intersects(Ready::OUT | Ready::ERR | Ready::HUP) {
                return Ok(false);
            }
            self.ask(request)?;
        }
        if !ready.intersects(Ready::IN | Ready::RDHUP | Ready::ERR | Ready::HUP) {
            return Ok(false);
        }
        match socket::read(&self.socket, scratch) {
            Ok(Moved::Bytes(bytes)) => {
                if request.get(self.received..self.received + bytes) != Some(&scratch[..bytes]) {
                    return Err("wrong answer".to_owned());
                }
                self.received += bytes;
            }
            Ok(Moved::End) => return Err("closed by the other side".to_owned()),
            Ok(Moved::Blocked) => return Ok(false),
            Err(error) => return Err(system("receive", error)),
        }
        let complete = self.received == request.len();
        if complete {
            self.state = State::Resting;
        }
        Ok(complete)
    }

    fn ask(&mut self, request: &[u8]) -> Result<(), String> {
        self.received = 0;
        self.state = State::Waiting;
        match socket::write(&self.socket, request) {
            Ok(Moved::Bytes(bytes)) if bytes == request.len() => Ok(()),
            Ok(_) => Err("request not taken whole".to_owned()),
            Err(error) => Err(system("send", error)),
        }
    }
}

fn system(during: &str, error: Errno) -> String {
    format!("{during}: {error}")
}
