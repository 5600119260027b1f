//! Connections of the service: few, and none for ever.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at once; further ones wait in the kernel. Each takes some 20 KiB.
const MOST: usize = 256;
/// How long a request's head may take, and how long a connection may idle between two requests.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// Pause after an accept that failed, as it does when descriptors run out.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);

/// What all connections share, by whichever address they come.
#[derive(Clone)]
pub struct Connections {
    router: Router,
    permits: Arc<Semaphore>,
}

impl Connections {
    /// For the endpoints of this router.
    pub fn new(router: Router) -> Self {
        Self { router, permits: Arc::new(Semaphore::new(MOST)) }
    }

    /// Waits until there is room for one more.
    pub async fn room(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Serves one client in the background.
    pub fn take(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, room: OwnedSemaphorePermit) {
        let service = TowerToHyperService::new(self.router.clone());
        tokio::spawn(async move {
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(room);
        });
    }
}

/// Serves whoever comes to an address of the host. Does not return.
pub async fn serve(listener: TcpListener, connections: Connections) {
    loop {
        let room = connections.room().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without it a connection works as well; only slower.
                let _ = stream.set_nodelay(true);
                connections.take(stream, room);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept; pausing");
                tokio::time::sleep(SHORTAGE_PAUSE).await;
            }
        }
    }
}
