//! Asks the admin API of a running POP, for commands that need what only it knows.
//!
//! One request a connection, blocking: a command has nothing else to do meanwhile.

use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// To connect, and for each single read and write: the API answers from memory.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest header section taken.
const MAX_HEAD_BYTES: u64 = 64 * 1024;
/// Longest answer taken: some 200,000 backends.
const MAX_BODY_BYTES: u64 = 64 * 1024 * 1024;

/// Where the API is, and what opens it.
#[derive(Debug)]
pub(crate) struct AdminClient {
    /// As it was given, without a scheme.
    address: String,
    token: Option<String>,
}

/// Why there is no answer; each with what to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AdminError {
    /// No connection, or it broke.
    Unreachable {
        /// Where.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// The API has answered, with an error.
    Refused {
        /// Where.
        address: String,
        /// HTTP status code.
        status: u16,
        /// The problem document's words, or the status's.
        reason: String,
    },
    /// Something else listens there.
    NotOurs {
        /// Where.
        address: String,
        /// What is odd about the answer.
        reason: String,
    },
    /// The file with the token is of no use.
    Token {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { address, reason } => write!(
                f,
                "{address}: no answer from the admin API: {reason}; is `edgeproxy proxy` or `gateway` running there? Its \
                 address is the setting admin.listen"
            ),
            Self::Refused { address, status: 401, reason } => write!(
                f,
                "{address}: the admin API refuses: {reason}; name the file that admin.token_file names with \
                 --token-file"
            ),
            Self::Refused { address, status, reason } => {
                write!(f, "{address}: the admin API answers {status}: {reason}")
            }
            Self::NotOurs { address, reason } => {
                write!(f, "{address}: this is no admin API of edgeproxy: {reason}; its address is admin.listen")
            }
            Self::Token { path, reason } => write!(f, "{path}: {reason}; its first line must be the token"),
        }
    }
}

impl AdminClient {
    /// `address` is `HOST:PORT`, also behind `http://`.
    ///
    /// # Errors
    /// [`AdminError::Token`].
    pub(crate) fn new(address: &str, token_file: Option<&Path>) -> Result<Self, AdminError> {
        Ok(Self::with_token(address, token_file.map(read_token).transpose()?))
    }

    /// With a token that is known already.
    pub(crate) fn with_token(address: &str, token: Option<String>) -> Self {
        let address = address.trim_end_matches('/');
        let address = address.strip_prefix("http://").unwrap_or(address).to_owned();
        Self { address, token }
    }

    /// Sends one request; `path` begins with a slash and is encoded already, see [`encoded`]. An answer without a body
    /// is [`Value::Null`].
    ///
    /// # Errors
    /// [`AdminError`].
    pub(crate) fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, AdminError> {
        self.send_once(method, path, body, None).map(|(_, answer)| answer)
    }

    /// The same, such that the same request with the same key is done once, however often it is sent. Also tells the
    /// status of the answer, some 2xx.
    ///
    /// # Errors
    /// [`AdminError`].
    pub(crate) fn send_once(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<(u16, Value), AdminError> {
        let unreachable = |error: io::Error| self.unreachable(&error);
        let mut stream = self.connect()?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(unreachable)?;
        stream.set_write_timeout(Some(TIMEOUT)).map_err(unreachable)?;
        let body = body.map(Value::to_string);
        let request = self.request(method, path, body.as_deref(), key);
        // A server that refuses early closes early; what it had to say may still be there to read.
        let written = stream.write_all(request.as_bytes());
        match Answer::read(BufReader::new(stream)) {
            Ok(answer) => self.judge(answer),
            Err(ReadError::Io(error)) => Err(self.unreachable(written.as_ref().err().unwrap_or(&error))),
            Err(ReadError::Odd(reason)) => Err(self.not_ours(reason)),
        }
    }

    fn connect(&self) -> Result<TcpStream, AdminError> {
        let addresses = self.address.to_socket_addrs().map_err(|error| self.unreachable(&error))?;
        let mut last = io::Error::other("the name has no address");
        for address in addresses.map(reachable) {
            match TcpStream::connect_timeout(&address, TIMEOUT) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(self.unreachable(&last))
    }

    fn request(&self, method: &str, path: &str, body: Option<&str>, key: Option<&str>) -> String {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\nConnection: close\r\n",
            self.address
        );
        if let Some(token) = &self.token {
            request.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        if let Some(key) = key {
            request.push_str(&format!("Idempotency-Key: {key}\r\n"));
        }
        if let Some(body) = body {
            request.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        request.push_str(body.unwrap_or_default());
        request
    }

    fn judge(&self, answer: Answer) -> Result<(u16, Value), AdminError> {
        let Answer { status, phrase, body } = answer;
        let value = if body.is_empty() { Ok(Value::Null) } else { serde_json::from_slice::<Value>(&body) };
        if (200..300).contains(&status) {
            return value
                .map(|value| (status, value))
                .map_err(|error| self.not_ours(format!("its answer is not JSON ({error})")));
        }
        let value = value.unwrap_or_default();
        let word = |name: &str| value.get(name).and_then(Value::as_str).filter(|word| !word.is_empty());
        let reason = match (word("title"), word("detail")) {
            (Some(title), Some(detail)) => format!("{title}: {detail}"),
            (Some(only), None) | (None, Some(only)) => only.to_owned(),
            (None, None) => phrase,
        };
        Err(AdminError::Refused { address: self.address.clone(), status, reason })
    }

    fn unreachable(&self, error: &io::Error) -> AdminError {
        let reason = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("none within {} s", TIMEOUT.as_secs()),
            _ => error.to_string(),
        };
        AdminError::Unreachable { address: self.address.clone(), reason }
    }

    fn not_ours(&self, reason: String) -> AdminError {
        AdminError::NotOurs { address: self.address.clone(), reason }
    }
}

/// `text` for a path segment or a query value.
pub(crate) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

fn read_token(path: &Path) -> Result<String, AdminError> {
    let broken = |reason: String| AdminError::Token { path: path.display().to_string(), reason };
    let text = fs::read_to_string(path).map_err(|error| broken(format!("cannot be read: {error}")))?;
    let token = text.lines().next().unwrap_or_default().trim();
    match token {
        "" => Err(broken("is empty".to_owned())),
        token if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(broken("holds characters that no token has".to_owned()))
        }
        token => Ok(token.to_owned()),
    }
}

/// What listens on all addresses is reached by the loopback one.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[derive(Debug)]
struct Answer {
    status: u16,
    /// The words after the status code.
    phrase: String,
    body: Vec<u8>,
}

#[derive(Debug)]
enum ReadError {
    Io(io::Error),
    Odd(String),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Self::Odd("it is not HTTP".to_owned()),
            _ => Self::Io(error),
        }
    }
}

impl Answer {
    /// Reads one HTTP/1.1 response (RFC 9112), after any 1xx.
    fn read(stream: impl BufRead) -> Result<Self, ReadError> {
        let mut head = stream.take(MAX_HEAD_BYTES);
        loop {
            let (status, phrase) = status_line(&line(&mut head)?)?;
            let mut length = None;
            let mut chunked = false;
            loop {
                let line = line(&mut head)?;
                if line.is_empty() {
                    break;
                }
                let (name, value) = line.split_once(':').ok_or_else(|| odd("a header is malformed"))?;
                let value = value.trim();
                if name.eq_ignore_ascii_case("content-length") {
                    length = Some(value.parse::<u64>().map_err(|_| odd("its length is not a number"))?);
                } else if name.eq_ignore_ascii_case("transfer-encoding") {
                    chunked = value.to_ascii_lowercase().ends_with("chunked");
                }
            }
            if (100..200).contains(&status) {
                continue;
            }
            let mut stream = head.into_inner();
            let body = match (status, chunked, length) {
                (204 | 304, _, _) => Vec::new(),
                (_, true, _) => chunks(&mut stream)?,
                (_, false, Some(length)) => exactly(&mut stream, length)?,
                (_, false, None) => {
                    let mut body = Vec::new();
                    stream.take(MAX_BODY_BYTES).read_to_end(&mut body)?;
                    body
                }
            };
            return Ok(Self { status, phrase, body });
        }
    }
}

fn odd(reason: &str) -> ReadError {
    ReadError::Odd(reason.to_owned())
}

fn status_line(line: &str) -> Result<(u16, String), ReadError> {
    let mut words = line.splitn(3, ' ');
    let version = words.next().unwrap_or_default();
    let status = words.next().and_then(|status| status.parse().ok());
    match status {
        Some(status) if version.starts_with("HTTP/1.") => Ok((status, words.next().unwrap_or_default().to_owned())),
        _ => Err(odd("it is not HTTP")),
    }
}

fn line(stream: &mut impl BufRead) -> Result<String, ReadError> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    match line.strip_suffix('\n') {
        Some(line) => Ok(line.strip_suffix('\r').unwrap_or(line).to_owned()),
        None if line.is_empty() => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        None => Err(odd("its answer is cut off")),
    }
}

fn exactly(stream: &mut impl Read, length: u64) -> Result<Vec<u8>, ReadError> {
    if length > MAX_BODY_BYTES {
        return Err(odd("its answer is too long"));
    }
    let mut body = Vec::new();
    stream.take(length).read_to_end(&mut body)?;
    if u64::try_from(body.len()).is_ok_and(|read| read == length) {
        Ok(body)
    } else {
        Err(odd("its answer is cut off"))
    }
}

fn chunks(stream: &mut impl BufRead) -> Result<Vec<u8>, ReadError> {
    let mut body = Vec::new();
    loop {
        let size = line(&mut stream.take(MAX_HEAD_BYTES))?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| odd("a chunk has no size"))?;
        let before = u64::try_from(body.len()).unwrap_or(u64::MAX);
        if size > MAX_BODY_BYTES.saturating_sub(before) {
            return Err(odd("its answer is too long"));
        }
        // Trailers, if any, are nothing to us, and the connection ends here.
        if size == 0 {
            return Ok(body);
        }
        body.extend(exactly(stream, size)?);
        if !line(&mut stream.take(MAX_HEAD_BYTES))?.is_empty() {
            return Err(odd("a chunk is longer than its size"));
        }
    }
}

#[cfg(test)]
mod tests;
