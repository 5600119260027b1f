//! One direction of a relay: from a source to a destination.

use std::io;
use std::task::Poll;

use super::Workbench;
use super::pipe::{Pipe, SPLICE_AT, SPLICE_WHILE};
use crate::core::End;
use crate::proxy_header::{self, Start};
use crate::socket::Socket;

/// Rounds before a busy connection lets the others of its core go first: 1 MiB of copies, or 16 pipes full.
const ROUNDS: u32 = 16;

/// One end of a direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Source,
    Destination,
}

/// An error, and the side it came from.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) side: Side,
    pub(super) error: io::Error,
}

impl Broken {
    fn source(error: io::Error) -> Self {
        Self { side: Side::Source, error }
    }

    fn destination(error: io::Error) -> Self {
        Self { side: Side::Destination, error }
    }

    /// Whose error it is, in the direction that comes from this end.
    pub(super) fn culprit(&self, from: End) -> End {
        match (from, self.side) {
            (End::Client, Side::Source) | (End::Backend, Side::Destination) => End::Client,
            (End::Backend, Side::Source) | (End::Client, Side::Destination) => End::Backend,
        }
    }
}

/// How it goes on with a direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flow {
    /// Nothing more can be moved until a socket has news.
    Blocked,
    /// More can be moved, after the others had their turn.
    Busy,
    /// The source has finished, and the destination was told.
    Finished,
}

/// Bytes taken from the source that the destination has not taken yet.
enum Held {
    Bytes { bytes: Vec<u8>, sent: usize },
    InPipe(Pipe),
}

/// How far one direction has got.
pub(super) struct Direction {
    /// Boxed, as most connections hold nothing most of the time.
    held: Option<Box<Held>>,
    /// Bytes the destination has taken.
    moved: u64,
    /// The source has finished.
    finished: bool,
    /// Moves through a pipe.
    bulk: bool,
    /// The destination sends small writes at once (TCP_NODELAY).
    prompt: bool,
    header: HeaderCheck,
}

/// Whether the first bytes are a PROXY header from somebody not trusted to send one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HeaderCheck {
    Open,
    Passed,
    Failed,
}

impl Direction {
    /// With `unchecked`, the first bytes must not be a PROXY header; without `prompt`, the destination still collects
    /// small writes.
    pub(super) fn new(unchecked: bool, prompt: bool) -> Self {
        let header = if unchecked { HeaderCheck::Open } else { HeaderCheck::Passed };
        Self { held: None, moved: 0, finished: false, bulk: false, prompt, header }
    }

    /// Bytes the destination has taken.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    pub(super) fn is_untrusted_header(&self) -> bool {
        self.header == HeaderCheck::Failed
    }

    /// Moves what can be moved.
    ///
    /// With `last`, the other direction has ended already: both sockets are about to be closed, which tells the
    /// destination by itself.
    pub(super) fn advance(
        &mut self,
        bench: &mut Workbench,
        source: &mut Socket,
        destination: &mut Socket,
        last: bool,
    ) -> Result<Flow, Broken> {
        for _ in 0..ROUNDS {
            if self.header != HeaderCheck::Open && self.flush(bench, destination)?.is_pending() {
                return Ok(Flow::Blocked);
            }
            if self.finished {
                if !last {
                    destination.finish().map_err(Broken::destination)?;
                }
                return Ok(Flow::Finished);
            }
            let more = match self.bulk && !source.is_urgent() {
                true => self.fill_pipe(bench, source, destination)?,
                false => self.copy(bench, source, destination)?,
            };
            if more.is_pending() || self.is_untrusted_header() {
                return Ok(Flow::Blocked);
            }
        }
        Ok(Flow::Busy)
    }

    /// Hands the destination what is held for it.
    fn flush(&mut self, bench: &mut Workbench, destination: &mut Socket) -> Result<Poll<()>, Broken> {
        let Some(held) = &mut self.held else { return Ok(Poll::Ready(())) };
        make_prompt(&mut self.prompt, self.moved, destination);
        match &mut **held {
            Held::Bytes { bytes, sent } => {
                while *sent < bytes.len() {
                    let Poll::Ready(count) = destination.write(&bytes[*sent..]) else { return Ok(Poll::Pending) };
                    let count = count.map_err(Broken::destination)?;
                    *sent += count;
                    self.moved += count as u64;
                }
            }
            Held::InPipe(pipe) => {
                while !pipe.is_empty() {
                    let Poll::Ready(count) = pipe.drain(destination) else { return Ok(Poll::Pending) };
                    let count = count.map_err(Broken::destination)? as u64;
                    self.moved += count;
                    bench.moved.spliced += count;
                }
            }
        }
        if let Some(Held::InPipe(pipe)) = self.held.take().map(|held| *held) {
            bench.pipes.give_back(pipe);
        }
        Ok(Poll::Ready(()))
    }

    /// One read into the scratch buffer, one write out of it.
    fn copy(
        &mut self,
        bench: &mut Workbench,
        source: &mut Socket,
        destination: &mut Socket,
    ) -> Result<Poll<()>, Broken> {
        let Poll::Ready(count) = source.read(&mut bench.scratch) else { return Ok(Poll::Pending) };
        let bytes = &bench.scratch[..count.map_err(Broken::source)?];
        if bytes.is_empty() {
            self.finished = true;
            self.settle_header();
            return Ok(Poll::Ready(()));
        }
        if self.header == HeaderCheck::Open {
            self.check_header(bytes);
            return Ok(Poll::Ready(()));
        }
        self.bulk = bytes.len() >= SPLICE_AT;
        let mut sent = 0;
        while sent < bytes.len() {
            make_prompt(&mut self.prompt, self.moved, destination);
            match destination.write(&bytes[sent..]) {
                Poll::Ready(count) => {
                    let count = count.map_err(Broken::destination)?;
                    sent += count;
                    self.moved += count as u64;
                }
                Poll::Pending => {
                    self.held = Some(Box::new(Held::Bytes { bytes: bytes[sent..].to_vec(), sent: 0 }));
                    return Ok(Poll::Pending);
                }
            }
        }
        Ok(Poll::Ready(()))
    }

    /// Moves what the source has into a pipe, or goes back to copying when it is too little to be worth two calls.
    fn fill_pipe(
        &mut self,
        bench: &mut Workbench,
        source: &mut Socket,
        destination: &mut Socket,
    ) -> Result<Poll<()>, Broken> {
        source.keep_urgent_in_place();
        destination.limit_unsent();
        let Some(mut pipe) = bench.pipes.take() else {
            self.bulk = false;
            return Ok(Poll::Ready(()));
        };
        let filled = pipe.fill(source);
        let Poll::Ready(Ok(count @ 1..)) = filled else {
            bench.pipes.give_back(pipe);
            let Poll::Ready(nothing) = filled else { return Ok(Poll::Pending) };
            nothing.map_err(Broken::source)?;
            // Only a read tells the end from urgent data.
            self.bulk = false;
            return Ok(Poll::Ready(()));
        };
        self.bulk = count >= SPLICE_WHILE;
        self.held = Some(Box::new(Held::InPipe(pipe)));
        Ok(Poll::Ready(()))
    }

    /// Adds to the bytes held back until they are seen not to be a PROXY header.
    fn check_header(&mut self, bytes: &[u8]) {
        let mut first = match self.held.take().map(|held| *held) {
            Some(Held::Bytes { bytes, .. }) => bytes,
            Some(Held::InPipe(_)) | None => Vec::new(),
        };
        first.extend_from_slice(bytes);
        self.header = match proxy_header::parse(&first) {
            Start::Other => HeaderCheck::Passed,
            Start::Incomplete => HeaderCheck::Open,
            Start::Header(..) | Start::Malformed => HeaderCheck::Failed,
        };
        self.held = Some(Box::new(Held::Bytes { bytes: first, sent: 0 }));
    }

    /// Bytes are held back because they may be the beginning of a header.
    pub(super) fn is_undecided(&self) -> bool {
        self.header == HeaderCheck::Open && self.held.is_some()
    }

    /// The source finished within what could have become a header: it is none.
    fn settle_header(&mut self) {
        if self.header == HeaderCheck::Open {
            self.header = HeaderCheck::Passed;
        }
    }
}

/// A first write leaves at once in any case; from the second on it must be said. So a connection of one request is
/// spared the call.
fn make_prompt(prompt: &mut bool, moved: u64, destination: &Socket) {
    if moved > 0 && !*prompt {
        *prompt = true;
        destination.send_promptly();
    }
}
