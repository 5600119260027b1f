//! Turning a Postgres client away in its own language: it asks for encryption, is told that there is none here, sends
//! its startup message, and gets the reason as an error that every driver shows.
//!
//! Only who is refused is answered here. The first bytes of everybody else go to the server as they came, its TLS
//! included; a client that begins with TLS itself cannot be told anything, and is closed.

use std::task::Poll;
use std::time::{Duration, Instant};

use edgeproxy_postgres::wire::{self, First};
use edgeproxy_route::NoRoute;

use crate::close::Refusal;
use crate::socket::Socket;

/// How long a client that is turned away may take to listen.
const PATIENCE: Duration = Duration::from_secs(3);
/// Requests for encryption answered, at most: a client asks for each kind once.
const MOST_REQUESTS: u8 = 4;
/// What a client may send after the error and still be listened to: more than any does, and soon read.
const MOST_HEARD: usize = 64 << 10;
/// Not now: the server cannot be connected to (`cannot_connect_now`).
const CANNOT_CONNECT_NOW: &str = "57P03";
/// Not so many (`too_many_connections`).
const TOO_MANY_CONNECTIONS: &str = "53300";
/// The answer to a request for encryption: go on without, or not at all.
const NOT_ENCRYPTED: &[u8] = b"N";

/// The last words to a client.
pub(crate) struct Farewell {
    /// Why it is turned away.
    pub(crate) refusal: Refusal,
    /// It is closed at this time, whatever it has heard.
    pub(crate) until: Instant,
    /// What it gets to know; `None` once that was sent.
    error: Option<Vec<u8>>,
    requests: u8,
    /// Bytes that came after the error.
    heard: usize,
}

impl Farewell {
    /// For a client that waits for a server of this app. `None`: there is nobody to tell, or nothing that would help.
    pub(crate) fn of(refusal: Refusal, app: &str, waited: Duration, now: Instant) -> Option<Self> {
        let (code, text) = reason(refusal, app, waited)?;
        let error = Some(wire::error_response(code, &text));
        Some(Self { refusal, until: now + PATIENCE, error, requests: 0, heard: 0 })
    }

    /// Goes as far as it gets; ready when all is said, or nobody listens.
    pub(crate) fn advance(&mut self, socket: &mut Socket, now: Instant) -> Poll<()> {
        loop {
            if now >= self.until || socket.is_broken() {
                return Poll::Ready(());
            }
            let heard = if self.error.is_some() { self.listen(socket) } else { self.drain(socket) };
            match heard {
                Heard::More => {}
                Heard::Nothing => return Poll::Pending,
                Heard::End => return Poll::Ready(()),
            }
        }
    }

    fn listen(&mut self, socket: &mut Socket) -> Heard {
        let mut bytes = [0; wire::LOOKED_AT];
        let count = match socket.peek(&mut bytes) {
            Poll::Pending => return Heard::Nothing,
            Poll::Ready(Err(_) | Ok(0)) => return Heard::End,
            Poll::Ready(Ok(count)) => count,
        };
        let (length, answer) = match wire::first(&bytes[..count]) {
            First::Incomplete if socket.is_finished() => return Heard::End,
            First::Incomplete => {
                socket.seen();
                return Heard::Nothing;
            }
            First::SslRequest(length) | First::GssEncRequest(length) if self.requests < MOST_REQUESTS => {
                self.requests += 1;
                (length, None)
            }
            First::Startup(length) => (length, self.error.take()),
            // A cancellation has no answer, TLS could not be spoken, and the rest is none of ours.
            First::SslRequest(_) | First::GssEncRequest(_) | First::Cancel { .. } | First::DirectTls | First::Other => {
                return Heard::End;
            }
        };
        // All of it was seen in the socket a moment ago, and a socket that nobody wrote to has room for this.
        let taken = socket.read(&mut bytes[..length]);
        let written = socket.write(answer.as_deref().unwrap_or(NOT_ENCRYPTED));
        if !matches!((taken, written), (Poll::Ready(Ok(_)), Poll::Ready(Ok(_)))) {
            return Heard::End;
        }
        if answer.is_some() && socket.finish().is_err() {
            return Heard::End;
        }
        Heard::More
    }

    /// What comes after the error is of no interest, but a socket that is closed with bytes unread resets the connection,
    /// and takes the error away from the client. Whoever sends without end does not mind.
    fn drain(&mut self, socket: &mut Socket) -> Heard {
        match socket.read(&mut [0; 4096]) {
            Poll::Pending => Heard::Nothing,
            Poll::Ready(Err(_) | Ok(0)) => Heard::End,
            Poll::Ready(Ok(count)) => {
                self.heard += count;
                if self.heard < MOST_HEARD { Heard::More } else { Heard::End }
            }
        }
    }
}

enum Heard {
    More,
    Nothing,
    End,
}

/// The SQLSTATE and the text, which says what is missing.
fn reason(refusal: Refusal, app: &str, waited: Duration) -> Option<(&'static str, String)> {
    let waited = match waited.as_secs() {
        0 => String::new(),
        seconds => format!(" (waited {seconds} s)"),
    };
    let text = match refusal {
        Refusal::NoRoute(no_route) => match no_route {
            NoRoute::NoPrimary => format!("no server of app \"{app}\" is known to be the primary{waited}"),
            NoRoute::Disputed => {
                format!("several servers of app \"{app}\" claim to be the primary, so none is served{waited}")
            }
            NoRoute::NoReplica => format!("no replica of app \"{app}\" is fresh enough{waited}"),
            NoRoute::AllDown => format!("every server of app \"{app}\" is out of service{waited}"),
            NoRoute::AllTried => format!("no server of app \"{app}\" could be reached{waited}"),
            NoRoute::NoBackend => format!("app \"{app}\" has no server that takes clients"),
            NoRoute::AllFull => return Some((TOO_MANY_CONNECTIONS, full(app))),
        },
        Refusal::QueueFull | Refusal::QueueTimeout => return Some((TOO_MANY_CONNECTIONS, full(app))),
        Refusal::HoldFull => format!("too many clients wait for a server of app \"{app}\""),
        Refusal::Draining => "this proxy is shutting down; connect again".to_owned(),
        Refusal::HeaderMissing
        | Refusal::HeaderMalformed
        | Refusal::HeaderTimeout
        | Refusal::HeaderUntrusted
        | Refusal::TooManyConnections
        | Refusal::DescriptorsExhausted
        | Refusal::ClientGone => return None,
    };
    Some((CANNOT_CONNECT_NOW, text))
}

fn full(app: &str) -> String {
    format!("every server of app \"{app}\" is at its connection limit")
}
