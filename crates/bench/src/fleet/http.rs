//! Asking a service: HTTP/1.1 over whatever way there is.

use std::fmt;
use std::time::Duration;

use edgeproxy_postgres::{Bytes, Reach};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes as Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

/// Longest answer taken: a hundred samples of six operations are some 10 KiB.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// Where a service is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Name or address, without brackets.
    pub host: String,
    #[allow(missing_docs)]
    pub port: u16,
}

/// What is no address of a service.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is not HOST, HOST:PORT or http://HOST:PORT")]
pub struct OriginError(String);

impl Origin {
    /// `HOST`, `HOST:PORT`, `[IPv6]:PORT` or `http://...`; what comes after is not looked at.
    ///
    /// # Errors
    /// It is none of these.
    pub fn at(text: &str, default_port: u16) -> Result<Self, OriginError> {
        let odd = || OriginError(text.to_owned());
        let (rest, default_port) = match text.strip_prefix("http://") {
            Some(rest) => (rest.split('/').next().unwrap_or_default(), 80),
            None => (text, default_port),
        };
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(odd)?;
                (host, rest.strip_prefix(':'))
            }
            None if rest.matches(':').count() > 1 => (rest, None),
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| odd())?,
            None => default_port,
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_plain) {
            return Err(odd());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Why a service has not answered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "kind", content = "detail", rename_all = "snake_case")]
pub enum AskError {
    /// No connection: none in time, refused, no way there.
    #[error("not reached: {0}")]
    Unreachable(String),
    /// It took the request and did not answer in time.
    #[error("no answer within {0} s")]
    Late(u64),
    /// The connection broke, or what came is no answer.
    #[error("no answer: {0}")]
    Broken(String),
    /// It says why it cannot.
    #[error("{0}")]
    Refused(String),
}

/// A connection to a service.
pub(super) struct Asker {
    sender: SendRequest<Empty<Body>>,
    host: String,
}

impl Asker {
    /// Connects, within this time.
    pub(super) async fn connect(reach: &dyn Reach, origin: &Origin, within: Duration) -> Result<Self, AskError> {
        let unreachable = |error: String| AskError::Unreachable(error);
        let dialled = timeout(within, reach.dial(&origin.host, origin.port)).await;
        let dialled = dialled.map_err(|_| unreachable(format!("no connection within {} s", within.as_secs())))?;
        let stream: Box<dyn Bytes> = dialled.map_err(|error| unreachable(error.to_string()))?.bytes;
        let made = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(|error| AskError::Broken(error.to_string()))?;
        // Ends when the sender is dropped; what went wrong, the sender is told.
        tokio::spawn(connection);
        Ok(Self { sender, host: origin.to_string() })
    }

    /// The status and body of a GET, within this time.
    pub(super) async fn get(&mut self, path: &str, within: Duration) -> Result<(StatusCode, Body), AskError> {
        let broken = |error: &dyn fmt::Display| AskError::Broken(error.to_string());
        let request = Request::get(path)
            .header(HOST, &self.host)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("edgeproxy/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|error| broken(&error))?;
        let asked = timeout(within, async {
            self.sender.ready().await.map_err(|error| broken(&error))?;
            let answer = self.sender.send_request(request).await.map_err(|error| broken(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_BODY_BYTES).collect().await;
            Ok((status, body.map_err(|error| broken(&error))?.to_bytes()))
        });
        asked.await.unwrap_or(Err(AskError::Late(within.as_secs())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_all_forms() {
        for (text, expected) in [
            ("10.50.1.1", Some("10.50.1.1:8080")),
            ("10.50.1.1:81", Some("10.50.1.1:81")),
            ("edge.example", Some("edge.example:8080")),
            ("[fd50::1]:81", Some("[fd50::1]:81")),
            ("fd50::1", Some("[fd50::1]:8080")),
            ("http://edge.example", Some("edge.example:80")),
            ("http://127.0.0.1:8080/api", Some("127.0.0.1:8080")),
            ("https://edge.example", None),
            ("h:port", None),
            ("", None),
            ("a b", None),
            ("[fd50::1", None),
        ] {
            let origin = Origin::at(text, 8080).ok().map(|origin| origin.to_string());
            assert_eq!(origin.as_deref(), expected, "{text}");
        }
    }
}
