//! Connections of the admin address: few, and none for ever.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
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
            Ok((stream, _)) => {
                tokio::spawn(serve_client(stream, router.clone(), permit));
            }
            Err(error) => {
                tracing::warn!(%error, "the admin API cannot accept; pausing");
                tokio::time::sleep(SHORTAGE_PAUSE).await;
            }
        }
    }
}

async fn serve_client(stream: TcpStream, router: Router, permit: OwnedSemaphorePermit) {
    let open = MAX_CONNECTIONS - permit.semaphore().available_permits();
    // Without these two a connection works as well; only slower, or it is given up later.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNREAD_MS);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .keep_alive(open < MAX_KEPT_ALIVE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of the admin API ended early");
    }
    drop(permit);
}
