//! Connections of the admin address: few, and none for ever.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at once; further ones wait in the kernel. Well within the descriptors the data plane leaves free.
const MAX_CONNECTIONS: usize = 160;
/// From so many on, a connection ends with its first answer: idle ones must not keep a heartbeat waiting.
const MAX_KEPT_ALIVE: usize = 128;
/// How long a request's head may take, and how long a connection may idle between two requests.
const HEAD_WITHIN: Duration = Duration::from_secs(15);
/// How long a client may leave what we send it unread, in ms.
const UNREAD_MS: u32 = 30_000;
/// Pause after an accept that failed, as it does when descriptors run out.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);

/// Serves until the process ends.
pub(super) async fn serve(socket: TcpListener, router: Router) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
        match socket.accept().await {
            Ok((stream, from)) => {
                tokio::spawn(serve_client(stream, From(from), router.clone(), permit));
            }
            Err(error) => {
                tracing::warn!(%error, "the admin API cannot accept; pausing");
                tokio::time::sleep(SHORTAGE_PAUSE).await;
            }
        }
    }
}

/// Where a request comes from.
#[derive(Clone, Copy)]
pub(super) struct From(pub(super) SocketAddr);

async fn serve_client(stream: TcpStream, from: From, router: Router, permit: OwnedSemaphorePermit) {
    let open = MAX_CONNECTIONS - permit.semaphore().available_permits();
    // Without these two a connection works as well; only slower, or it is given up later.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNREAD_MS);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(from);
        router.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .keep_alive(open < MAX_KEPT_ALIVE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of the admin API ended early");
    }
    drop(permit);
}
