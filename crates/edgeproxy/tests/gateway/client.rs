//! An HTTP client that keeps its connection.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::hub::LONG;

/// Asks one gateway.
pub(crate) struct Client {
    address: SocketAddr,
    token: Option<String>,
    stream: Option<BufReader<TcpStream>>,
}

/// What the API answered.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    head: Vec<String>,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.iter().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body, where this is the status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        if self.text.is_empty() { Value::Null } else { serde_json::from_str(&self.text).unwrap() }
    }
}

impl Client {
    pub(crate) fn of(address: SocketAddr) -> Self {
        Self { address, token: None, stream: None }
    }

    /// One with this token.
    pub(crate) fn with(address: SocketAddr, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..Self::of(address) }
    }

    pub(crate) fn get(&mut self, path: &str) -> Reply {
        self.ask("GET", path, &[], "").unwrap()
    }

    pub(crate) fn delete(&mut self, path: &str) -> Reply {
        self.ask("DELETE", path, &[], "").unwrap()
    }

    pub(crate) fn post(&mut self, path: &str, body: &Value) -> Reply {
        self.ask("POST", path, &[], &body.to_string()).unwrap()
    }

    /// # Errors
    /// The connection ended before the answer was whole.
    pub(crate) fn ask(&mut self, method: &str, path: &str, headers: &[&str], body: &str) -> io::Result<Reply> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect_timeout(&self.address, LONG)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(LONG))?;
                BufReader::new(stream)
            }
        };
        let token = self.token.iter().map(|token| format!("Authorization: Bearer {token}\r\n"));
        let more = headers.iter().map(|header| format!("{header}\r\n"));
        let more: String = token.chain(more).collect();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let (host, length) = (self.address, body.len());
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{kind}{more}Content-Length: {length}\r\n\r\n{body}");
        stream.get_mut().write_all(request.as_bytes())?;
        let reply = read(&mut stream)?;
        if reply.header("connection") != Some("close") {
            self.stream = Some(stream);
        }
        Ok(reply)
    }
}

fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Reply> {
    let cut = || io::Error::from(ErrorKind::UnexpectedEof);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        match line.strip_suffix("\r\n").ok_or_else(cut)? {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let status = head[0].split(' ').nth(1).unwrap().parse().unwrap();
    let mut reply = Reply { status, head, text: String::new() };
    let length: usize = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    reply.text = String::from_utf8(body).unwrap();
    Ok(reply)
}
