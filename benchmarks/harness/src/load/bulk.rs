//! Large streams, from the backend to the client or the other way, lengths checked at the receiving end.

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Patience, TICK, Tally};
use crate::backend::{CHUNK, DOWNLOAD, HEADER, UPLOAD};
use crate::failure::{Context, Failure};
use crate::poll::{Poll, Ready};
use crate::socket::{self, Moved};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    /// Backend to client.
    Down,
    /// Client to backend.
    Up,
}

pub(crate) struct Plan {
    pub(crate) target: SocketAddrV4,
    pub(crate) direction: Direction,
    pub(crate) streams: usize,
    pub(crate) patience: Patience,
}

/// Moves `bytes` in total, in equal parts over all streams at the same time.
pub(crate) fn run(plan: &Plan, bytes: u64) -> Result<Tally, Failure> {
    let mut poll = Poll::new().context("load generator epoll")?;
    let mut tally = Tally::default();
    let mut buffer = vec![0; CHUNK];
    let began = Instant::now();
    let each = bytes / plan.streams.max(1) as u64;
    let mut streams: Vec<Option<Stream>> = Vec::new();
    for slot in 0..plan.streams {
        let stream = Stream::start(plan, each).and_then(|stream| {
            poll.add(&stream.socket, slot, stream.interest())?;
            Ok(stream)
        });
        streams.push(stream.map_err(|error| tally.system_error("connect", error)).ok());
    }
    let mut found = Vec::new();
    let mut moved_at = began;
    while streams.iter().any(Option::is_some) {
        poll.wait(&mut found, TICK).context("load generator epoll")?;
        for &(slot, _) in &found {
            let Some(stream) = streams[slot].as_mut() else {
                continue;
            };
            match stream.advance(&poll, slot, &mut buffer) {
                Ok(Progress::More) => {}
                Ok(Progress::Complete) => {
                    tally.operations += 1;
                    tally.bytes += each;
                    streams[slot] = None;
                }
                Ok(Progress::Wrong(what)) => {
                    tally.error(what);
                    streams[slot] = None;
                }
                Err(error) => {
                    tally.system_error("stream", error);
                    streams[slot] = None;
                }
            }
        }
        if !found.is_empty() {
            moved_at = Instant::now();
        }
        if moved_at.elapsed() > plan.patience.operation || plan.patience.is_over(began) {
            for _ in streams.drain(..).flatten() {
                tally.error("stream stalled or too slow");
            }
        }
    }
    tally.elapsed = began.elapsed();
    Ok(tally)
}

struct Stream {
    socket: OwnedFd,
    length: u64,
    step: Step,
}

enum Step {
    /// The header to send once connected.
    Asking(Direction),
    Receiving {
        counted: u64,
    },
    Sending {
        left: u64,
    },
    /// The count that the backend reports.
    Report(Vec<u8>),
}

enum Progress {
    More,
    Complete,
    Wrong(&'static str),
}

impl Stream {
    fn start(plan: &Plan, length: u64) -> Result<Self, Errno> {
        let socket = socket::start_connection(plan.target)?;
        Ok(Self { socket, length, step: Step::Asking(plan.direction) })
    }

    fn interest(&self) -> Ready {
        match self.step {
            Step::Asking(_) | Step::Sending { .. } => Ready::OUT,
            Step::Receiving { .. } | Step::Report(_) => Ready::IN,
        }
    }

    fn advance(&mut self, poll: &Poll, slot: usize, buffer: &mut [u8]) -> Result<Progress, Errno> {
        match &mut self.step {
            Step::Asking(direction) => {
                let direction = *direction;
                if !matches!(socket::write(&self.socket, &header(direction, self.length))?, Moved::Bytes(HEADER)) {
                    return Ok(Progress::Wrong("header not taken whole"));
                }
                self.step = match direction {
                    Direction::Down => Step::Receiving { counted: 0 },
                    Direction::Up => Step::Sending { left: self.length },
                };
                poll.modify(&self.socket, slot, self.interest())?;
                Ok(Progress::More)
            }
            Step::Receiving { counted } => match socket::read(&self.socket, buffer)? {
                Moved::Bytes(bytes) => {
                    *counted += bytes as u64;
                    Ok(Progress::More)
                }
                Moved::Blocked => Ok(Progress::More),
                Moved::End if *counted == self.length => Ok(Progress::Complete),
                Moved::End => Ok(Progress::Wrong("download truncated")),
            },
            Step::Sending { left } => {
                let chunk = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                if let Moved::Bytes(bytes) = socket::write(&self.socket, &buffer[..chunk])? {
                    *left -= bytes as u64;
                }
                if *left == 0 {
                    self.step = Step::Report(Vec::new());
                    poll.modify(&self.socket, slot, self.interest())?;
                }
                Ok(Progress::More)
            }
            Step::Report(report) => match socket::read(&self.socket, buffer)? {
                Moved::Bytes(bytes) => {
                    report.extend_from_slice(&buffer[..bytes]);
                    Ok(Progress::More)
                }
                Moved::Blocked => Ok(Progress::More),
                Moved::End if *report == self.length.to_le_bytes() => Ok(Progress::Complete),
                Moved::End => Ok(Progress::Wrong("upload counted short")),
            },
        }
    }
}

fn header(direction: Direction, length: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = match direction {
        Direction::Down => DOWNLOAD,
        Direction::Up => UPLOAD,
    };
    header[1..].copy_from_slice(&length.to_le_bytes());
    header
}
