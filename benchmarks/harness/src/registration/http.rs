//! As little of HTTP/1.1 as measures a server and not a client: one connection, one request after the other.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

use crate::failure::{Context, Failure};

/// No answer is waited for longer.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Http {
    stream: TcpStream,
    buffer: Vec<u8>,
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

impl Http {
    pub(super) fn connect(to: SocketAddrV4) -> Result<Self, Failure> {
        let stream = TcpStream::connect(to).context(format!("cannot connect to {to}"))?;
        stream
            .set_nodelay(true)
            .and_then(|()| stream.set_read_timeout(Some(PATIENCE)))
            .context("cannot set up a socket")?;
        Ok(Self { stream, buffer: Vec::with_capacity(64 * 1024) })
    }

    pub(super) fn get(&mut self, path: &str) -> Result<Answer, Failure> {
        self.ask("GET", path, "")
    }

    pub(super) fn post(&mut self, path: &str, body: &str) -> Result<Answer, Failure> {
        self.ask("POST", path, body)
    }

    pub(super) fn delete(&mut self, path: &str) -> Result<Answer, Failure> {
        self.ask("DELETE", path, "")
    }

    fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Answer, Failure> {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.stream.write_all(request.as_bytes()).context("cannot send a request")?;
        self.buffer.clear();
        let head = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            self.read()?;
        };
        let text = String::from_utf8_lossy(&self.buffer[..head]).to_ascii_lowercase();
        let status = text.get(9..12).and_then(|status| status.parse().ok()).context("no status line")?;
        let length =
            text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
        while self.buffer.len() < head + length {
            self.read()?;
        }
        Ok(Answer { status, body: String::from_utf8_lossy(&self.buffer[head..head + length]).into_owned() })
    }

    fn read(&mut self) -> Result<(), Failure> {
        let mut part = [0; 16 * 1024];
        match self.stream.read(&mut part).context("cannot read an answer")? {
            0 => Err(Failure::new("the server closed the connection")),
            length => {
                self.buffer.extend_from_slice(&part[..length]);
                Ok(())
            }
        }
    }
}

impl Answer {
    /// The same, if the request was done.
    pub(super) fn done(self) -> Result<Self, Failure> {
        match self.status {
            200..300 => Ok(self),
            status => Err(Failure::new(format!("status {status}: {}", self.body))),
        }
    }
}
