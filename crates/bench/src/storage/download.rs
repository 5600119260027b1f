//! `/generate`: test data for whoever measures the way down.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body as Answered;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::data::{Data, PartBody};
use super::meter::Meter;
use super::plan::Plan;
use crate::turn::Turn;

/// The data of this plan. The turn is over when all has gone out, when nobody wants it any more, or after `limit`; who takes
/// nothing at all is cut off before, as every client of the service is.
pub(super) fn answer(plan: &Plan, meter: &Meter, turn: Turn, limit: Duration) -> Response {
    let body = PartBody::new(&Data::new(plan.seed), 1, plan.shape.bytes(), meter.attempt(), None);
    let (wanted, gone) = oneshot::channel();
    tokio::spawn(attend(turn, limit, gone));
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"test-data.bin\""),
    ];
    (headers, Answered::new(Attended { body, wanted })).into_response()
}

/// Beside the body and not in it: while a client reads little, the body is seldom asked for more.
async fn attend(turn: Turn, limit: Duration, gone: oneshot::Receiver<Infallible>) {
    tokio::select! {
        // Whichever way the body went.
        _ = gone => {}
        () = turn.stopped() => {}
        () = sleep(limit) => tracing::warn!(?limit, "a download is cut off: its client takes too long"),
    }
}

/// A body that ends when nobody attends to it any more.
struct Attended {
    body: PartBody,
    /// Its being dropped tells that the body is.
    wanted: oneshot::Sender<Infallible>,
}

impl Body for Attended {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.wanted.is_closed() {
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        Pin::new(&mut self.body).poll_frame(context).map_err(|never| match never {})
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::Router;
    use axum::routing::get;
    use parking_lot::Mutex;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;
    use crate::service::{Connections, serve};
    use crate::storage::Shape;
    use crate::storage::plan::GB;
    use crate::turn::{Activity, Turns};

    const LONG: Duration = Duration::from_secs(20);

    struct Download;

    impl Activity for Download {
        fn told(&self, _: std::time::SystemTime) -> serde_json::Value {
            "a download".into()
        }
    }

    /// A client of a download of 1 GB that has read a little of it, and whose turn it is.
    async fn begun(limit: Duration, stall: Duration) -> (TcpStream, Turns) {
        let turns = Turns::new();
        let turn = Arc::new(Mutex::new(turns.begin(Arc::new(Download)).ok()));
        let plan = Plan { shape: Shape::Single { bytes: GB }, ..Plan::default() };
        let router = Router::new()
            .route("/", get(async move || answer(&plan, &Meter::new(), turn.lock().take().unwrap(), limit)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tokio::spawn(serve(listener, Connections::patient(router, stall)));
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        timeout(LONG, client.read_exact(&mut [0; 1000])).await.unwrap().unwrap();
        (client, turns)
    }

    /// Waits until somebody else can have the turn.
    async fn free(turns: &Turns) {
        let free = async {
            while turns.begin(Arc::new(Download)).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, free).await.expect("the turn is free");
    }

    #[tokio::test]
    async fn a_client_that_stops_reading_keeps_nobody_out_and_is_cut_off() {
        let (mut client, turns) = begun(LONG, Duration::from_millis(300)).await;
        free(&turns).await;
        let mut rest = 0;
        let mut buffer = vec![0; 1 << 20];
        while let Ok(length @ 1..) = timeout(LONG, client.read(&mut buffer)).await.unwrap() {
            rest += length as u64;
        }
        assert!(rest < GB / 2, "{rest} bytes came");
    }

    #[tokio::test]
    async fn a_client_that_reads_a_trickle_keeps_nobody_out_for_ever() {
        let (mut client, turns) = begun(Duration::from_millis(400), LONG).await;
        let trickle = async {
            while client.read_exact(&mut [0; 100]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = free(&turns) => {}
            () = trickle => panic!("it was cut off, and its turn not over"),
        }
    }

    #[tokio::test]
    async fn who_hangs_up_and_who_has_it_all_gives_up_the_turn() {
        let (client, turns) = begun(LONG, LONG).await;
        drop(client);
        free(&turns).await;
        let (mut client, turns) = begun(LONG * 5, LONG).await;
        let mut buffer = vec![0; 1 << 20];
        let read = async { while client.read(&mut buffer).await.unwrap() > 0 {} };
        tokio::select! {
            () = free(&turns) => {}
            () = read => {}
        }
    }

    #[tokio::test]
    async fn a_process_that_ends_does_not_wait_for_a_client_that_reads_nothing() {
        let (_client, turns) = begun(LONG * 5, LONG * 5).await;
        assert!(turns.settle(LONG).await);
    }
}
