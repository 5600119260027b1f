//! One connection to a store: dialled, used for one request after the other, and cut when anything was odd.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout_at;
use tokio_rustls::TlsConnector;

use super::data::PartBody;
use super::failure::Reason;
use super::socket_facts::{SocketFacts, forget_unsent};
use super::store::Store;

/// What connecting cost, in ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConnectTimes {
    /// Name look-up.
    pub name_ms: f64,
    /// TCP.
    pub tcp_ms: f64,
    /// TLS, 0 without it.
    pub tls_ms: f64,
}

pub(super) struct Connection {
    sender: SendRequest<Outgoing>,
    driver: JoinHandle<()>,
    /// The same socket again, to ask the kernel about it.
    socket: OwnedFd,
    /// A request is under way: what is left of it is not to be sent.
    busy: bool,
    pub(super) peer: SocketAddr,
    pub(super) times: ConnectTimes,
}

impl Connection {
    /// Sends a request; resolves when the head of the answer is there.
    pub(super) async fn send(&mut self, request: Request<Outgoing>) -> Result<Response<Incoming>, Reason> {
        self.busy = true;
        self.sender.ready().await.map_err(|error| cut(&error))?;
        self.sender.send_request(request).await.map_err(|error| cut(&error))
    }

    /// The answer was read to its end, and the request had gone out: the next may follow.
    pub(super) fn done(&mut self) {
        self.busy = false;
    }

    pub(super) fn facts(&self) -> Option<SocketFacts> {
        SocketFacts::read(self.socket.as_fd())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.busy {
            forget_unsent(&self.socket);
        }
        self.driver.abort();
    }
}

/// Name look-up, TCP, TLS; all of it within one time.
pub(super) async fn dial(store: &Store) -> Result<Connection, Reason> {
    let began = Instant::now();
    let limit = store.patience.connect;
    let deadline = tokio::time::Instant::now() + limit;
    let late = |what: &str| format!("{}: no {what} within {} s", store.authority(), limit.as_secs_f64());
    let host = store.host();
    let addresses = timeout_at(deadline, tokio::net::lookup_host((host.as_str(), store.endpoint.port))).await;
    let addresses = addresses.map_err(|_| Reason::Name(late("answer to the look-up")))?;
    let addresses: Vec<SocketAddr> = addresses.map_err(|error| Reason::Name(format!("{host}: {error}")))?.collect();
    let named = began.elapsed();
    let stream = timeout_at(deadline, any_of(&host, &addresses, store.congestion.as_deref())).await;
    let stream = stream.map_err(|_| Reason::Refused(late("connection")))??;
    let connected = began.elapsed();
    stream.set_nodelay(true).map_err(|error| Reason::Refused(error.to_string()))?;
    let peer = stream.peer_addr().map_err(|error| Reason::Refused(error.to_string()))?;
    let socket = stream.as_fd().try_clone_to_owned().map_err(|error| Reason::Refused(error.to_string()))?;
    let (sender, driver) = match &store.tls {
        None => speak(stream).await?,
        Some(config) => {
            let name = ServerName::try_from(host.clone()).map_err(|error| Reason::Tls(format!("{host}: {error}")))?;
            let stream = timeout_at(deadline, TlsConnector::from(config.clone()).connect(name, stream)).await;
            let stream = stream.map_err(|_| Reason::Tls(late("answer to the handshake")))?;
            speak(stream.map_err(|error| Reason::Tls(format!("{host}: {error}")))?).await?
        }
    };
    let tls = began.elapsed().saturating_sub(connected);
    let times = ConnectTimes {
        name_ms: millis(named),
        tcp_ms: millis(connected - named),
        tls_ms: if store.tls.is_some() { millis(tls) } else { 0.0 },
    };
    Ok(Connection { sender, driver, socket, busy: false, peer, times })
}

/// The first address that answers; the last one's failure when none does.
async fn any_of(host: &str, addresses: &[SocketAddr], congestion: Option<&str>) -> Result<TcpStream, Reason> {
    let mut failure = Reason::Name(format!("{host}: no address"));
    for address in addresses {
        match reach(*address, congestion).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = Reason::Refused(format!("{address}: {error}")),
        }
    }
    Err(failure)
}

async fn reach(address: SocketAddr, congestion: Option<&str>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(name) = congestion {
        rustix::net::sockopt::set_tcp_congestion(&socket, name)?;
    }
    socket.connect(address).await
}

async fn speak<S>(stream: S) -> Result<(SendRequest<Outgoing>, JoinHandle<()>), Reason>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| cut(&error))?;
    let driver = tokio::spawn(async move {
        // Whoever waits for an answer is told of the end.
        let _ = connection.await;
    });
    Ok((sender, driver))
}

/// hyper says little itself; what it wraps says the rest.
pub(super) fn cut(error: &hyper::Error) -> Reason {
    let mut text = error.to_string();
    let mut inner = error.source();
    while let Some(error) = inner {
        text = format!("{text}: {error}");
        inner = error.source();
    }
    match error.is_parse() {
        true => Reason::Odd(text),
        false => Reason::Cut(text),
    }
}

pub(super) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Body of a request.
pub(super) enum Outgoing {
    Whole(Full<Bytes>),
    Part(PartBody),
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context),
            Self::Part(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Part(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Part(body) => body.size_hint(),
        }
    }
}
