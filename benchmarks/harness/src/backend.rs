//! The backend behind every peer: one thread, one epoll, in a process of its own so that its CPU is counted apart.
//!
//! The first byte of a connection says what it is for: [`ECHO`] sends everything back; [`DOWNLOAD`] and [`UPLOAD`]
//! are followed by eight bytes of length (little endian). A download answers with that many bytes and FIN. An upload
//! is read to that length and answered with the eight bytes of what was counted.

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;

use crate::failure::{Context, Failure};
use crate::poll::{EXCHANGE, Poll, Ready};
use crate::socket::{self, Moved};

pub(crate) const ECHO: u8 = b'E';
pub(crate) const DOWNLOAD: u8 = b'D';
pub(crate) const UPLOAD: u8 = b'U';
/// Mode byte and length.
pub(crate) const HEADER: usize = 9;
/// Bytes moved by one call in the bulk cases, at both ends of the load.
pub(crate) const CHUNK: usize = 256 * 1024;

const LISTENER: usize = usize::MAX;

/// Serves until the process is ended.
pub(crate) fn serve(at: SocketAddrV4) -> Result<(), Failure> {
    serve_on(socket::listener(at).context(format!("backend cannot listen on {at}"))?)
}

pub(crate) fn serve_on(listener: OwnedFd) -> Result<(), Failure> {
    let mut backend = Backend::new(listener).context("backend epoll")?;
    loop {
        backend.turn().context("backend epoll")?;
    }
}

struct Backend {
    listener: OwnedFd,
    poll: Poll,
    sessions: Vec<Option<Session>>,
    free: Vec<usize>,
    found: Vec<(usize, Ready)>,
    scratch: Vec<u8>,
    zeros: Vec<u8>,
}

struct Session {
    socket: OwnedFd,
    work: Work,
}

enum Work {
    /// Header bytes read so far.
    Opening(Vec<u8>),
    /// What was read and not yet written back; reading pauses while it is not empty.
    Echo(Vec<u8>),
    Download {
        left: u64,
    },
    Upload {
        left: u64,
        counted: u64,
    },
    /// All is said; waiting for the FIN of the other side.
    Closing,
}

enum Next {
    Keep,
    Close,
}

impl Backend {
    fn new(listener: OwnedFd) -> Result<Self, Errno> {
        let poll = Poll::new()?;
        poll.add(&listener, LISTENER, Ready::IN)?;
        Ok(Self {
            listener,
            poll,
            sessions: Vec::new(),
            free: Vec::new(),
            found: Vec::new(),
            scratch: vec![0; CHUNK],
            zeros: vec![0; CHUNK],
        })
    }

    fn turn(&mut self) -> Result<(), Errno> {
        let mut found = std::mem::take(&mut self.found);
        self.poll.wait(&mut found, Duration::from_secs(60))?;
        for &(token, ready) in &found {
            if token == LISTENER {
                self.accept();
            } else {
                self.advance(token, ready);
            }
        }
        self.found = found;
        Ok(())
    }

    /// An error (descriptors used up) leaves the rest in the backlog; the level-triggered listener asks again.
    fn accept(&mut self) {
        while let Ok(Some(socket)) = socket::accept(&self.listener) {
            let token = self.free.pop().unwrap_or_else(|| {
                self.sessions.push(None);
                self.sessions.len() - 1
            });
            if self.poll.add(&socket, token, EXCHANGE).is_ok() {
                let work = Work::Opening(Vec::new());
                self.sessions[token] = Some(Session { socket, work });
            } else {
                self.free.push(token);
            }
        }
    }

    fn advance(&mut self, token: usize, ready: Ready) {
        let Some(session) = self.sessions.get_mut(token).and_then(Option::as_mut) else {
            return;
        };
        let event = Event { poll: &self.poll, token, ready };
        let next = session.advance(&event, &mut self.scratch, &self.zeros);
        if !matches!(next, Ok(Next::Keep)) {
            self.sessions[token] = None;
            self.free.push(token);
        }
    }
}

struct Event<'a> {
    poll: &'a Poll,
    token: usize,
    ready: Ready,
}

impl Session {
    fn advance(&mut self, event: &Event, scratch: &mut [u8], zeros: &[u8]) -> Result<Next, Errno> {
        match &mut self.work {
            Work::Opening(_) => self.open(event, scratch),
            Work::Echo(_) => self.echo(event, scratch, 0),
            Work::Download { left } => {
                let chunk = usize::try_from(*left).unwrap_or(usize::MAX).min(zeros.len());
                if let Moved::Bytes(bytes) = socket::write(&self.socket, &zeros[..chunk])? {
                    *left -= bytes as u64;
                }
                if *left == 0 {
                    self.close(event)?;
                }
                Ok(Next::Keep)
            }
            Work::Upload { left, counted } => {
                match socket::read(&self.socket, scratch)? {
                    Moved::Bytes(bytes) => {
                        *counted += bytes as u64;
                        *left = left.saturating_sub(bytes as u64);
                    }
                    Moved::End => *left = 0,
                    Moved::Blocked => {}
                }
                if *left == 0 {
                    socket::write(&self.socket, &counted.to_le_bytes())?;
                    self.close(event)?;
                }
                Ok(Next::Keep)
            }
            Work::Closing => match socket::read(&self.socket, scratch)? {
                Moved::End => Ok(Next::Close),
                Moved::Bytes(_) | Moved::Blocked => Ok(Next::Keep),
            },
        }
    }

    /// Reads the header; the first bytes of an echo are part of what comes back.
    fn open(&mut self, event: &Event, scratch: &mut [u8]) -> Result<Next, Errno> {
        let Work::Opening(header) = &mut self.work else {
            return Ok(Next::Keep);
        };
        let bytes = match socket::read(&self.socket, scratch)? {
            Moved::Bytes(bytes) => bytes,
            Moved::End => return Ok(Next::Close),
            Moved::Blocked => return Ok(Next::Keep),
        };
        if header.is_empty() && scratch[0] == ECHO {
            self.work = Work::Echo(Vec::new());
            return self.echo(event, scratch, bytes);
        }
        header.extend_from_slice(&scratch[..bytes]);
        if header.len() < HEADER {
            return Ok(Next::Keep);
        }
        let mut length = [0; 8];
        length.copy_from_slice(&header[1..HEADER]);
        let length = u64::from_le_bytes(length);
        let extra = (header.len() - HEADER) as u64;
        // Bulk work is level-triggered: one chunk per event keeps several streams even.
        match header[0] {
            DOWNLOAD => {
                self.work = Work::Download { left: length };
                event.poll.modify(&self.socket, event.token, Ready::OUT)?;
            }
            UPLOAD => {
                let left = length.saturating_sub(extra);
                self.work = Work::Upload { left, counted: extra };
                event.poll.modify(&self.socket, event.token, Ready::IN)?;
            }
            _ => return Ok(Next::Close),
        }
        Ok(Next::Keep)
    }

    /// Sends back the `held` bytes at the start of `scratch`, then whatever else there is to read.
    ///
    /// A read that leaves room in the buffer has emptied the socket. Only a FIN seen in the same event asks for one
    /// read more; a later one is a new edge.
    fn echo(&mut self, event: &Event, scratch: &mut [u8], held: usize) -> Result<Next, Errno> {
        let Work::Echo(pending) = &mut self.work else {
            return Ok(Next::Keep);
        };
        let mut held = held;
        loop {
            if held == 0 {
                if !flush(&self.socket, pending)? {
                    return Ok(Next::Keep);
                }
                held = match socket::read(&self.socket, scratch)? {
                    Moved::Bytes(bytes) => bytes,
                    Moved::End => return Ok(Next::Close),
                    Moved::Blocked => return Ok(Next::Keep),
                };
            }
            let written = match socket::write(&self.socket, &scratch[..held])? {
                Moved::Bytes(written) => written,
                Moved::End | Moved::Blocked => 0,
            };
            pending.extend_from_slice(&scratch[written..held]);
            let emptied = held < scratch.len() && !event.ready.contains(Ready::RDHUP);
            if emptied && pending.is_empty() {
                return Ok(Next::Keep);
            }
            held = 0;
        }
    }

    fn close(&mut self, event: &Event) -> Result<(), Errno> {
        socket::finish(&self.socket)?;
        self.work = Work::Closing;
        event.poll.modify(&self.socket, event.token, Ready::IN | Ready::RDHUP)
    }
}

/// Whether nothing is left to write.
fn flush(socket: &OwnedFd, pending: &mut Vec<u8>) -> Result<bool, Errno> {
    if !pending.is_empty()
        && let Moved::Bytes(bytes) = socket::write(socket, pending)?
    {
        pending.drain(..bytes);
    }
    Ok(pending.is_empty())
}
