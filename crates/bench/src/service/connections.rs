//! Connections of the service: few, and none for ever.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// Connections at once; further ones wait in the kernel. Each takes some 20 KiB.
const MOST: usize = 256;
/// How long a request's head may take, and how long a connection may idle between two requests.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// How long a client may take nothing of its answer.
const STALL: Duration = Duration::from_secs(30);
/// Pause after an accept that failed, as it does when descriptors run out.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);

/// What all connections share, by whichever address they come.
#[derive(Clone)]
pub struct Connections {
    router: Router,
    permits: Arc<Semaphore>,
    stall: Duration,
}

impl Connections {
    /// For the endpoints of this router.
    pub fn new(router: Router) -> Self {
        Self::patient(router, STALL)
    }

    /// The same, and a client that takes nothing of its answer for `stall` is cut off.
    pub(crate) fn patient(router: Router, stall: Duration) -> Self {
        Self { router, permits: Arc::new(Semaphore::new(MOST)), stall }
    }

    /// Waits until there is room for one more.
    pub async fn room(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Serves one client in the background.
    pub fn take(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, room: OwnedSemaphorePermit) {
        let service = TowerToHyperService::new(self.router.clone());
        let stream = Watched { stream, stall: self.stall, until: None };
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

/// A stream that fails once the other side has taken nothing of what is written to it for a while.
struct Watched<S> {
    stream: S,
    stall: Duration,
    /// Something waits to be taken, and how long it may.
    until: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    fn judge(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.until = None;
            return written;
        }
        let until = self.until.get_or_insert_with(|| Box::pin(sleep(self.stall)));
        ready!(until.as_mut().poll(context));
        tracing::warn!(stall = ?self.stall, "a client is cut off: it takes nothing of its answer");
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}
