//! A line to a store: one request after the other, each with its deadline, and again after what may pass.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Response, StatusCode};

use super::answer::Answer;
use super::connection::{Connection, cut, dial};
use super::failure::{Failure, Reason, Step};
use super::meter::Sent;
use super::request::Call;
use super::store::Store;
use super::troubles::Troubles;

/// More than any answer with a thousand keys.
const ANSWER_MOST: usize = 4 << 20;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What came back, with a status of success.
pub(super) struct Reply {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// From the beginning of the attempt that succeeded.
    pub(super) head_after: Duration,
    pub(super) began: Instant,
    pub(super) attempts: u32,
}

impl Reply {
    pub(super) fn answer(&self) -> Answer {
        Answer::read(&self.body)
    }

    pub(super) fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    }
}

/// How long a request may take, and what shows that it moves.
struct Watch<'a> {
    sent: Option<&'a Sent>,
    stall: Duration,
    limit: Duration,
}

pub(super) struct Line {
    store: Arc<Store>,
    connection: Option<Connection>,
    troubles: Troubles,
}

impl Line {
    /// Without a connection yet.
    pub(super) fn new(store: &Arc<Store>, troubles: &Troubles) -> Self {
        Self { store: store.clone(), connection: None, troubles: troubles.clone() }
    }

    /// Connects before there is something to ask.
    pub(super) async fn warm(&mut self) -> Result<(), Failure> {
        for attempt in 0.. {
            match dial(&self.store).await {
                Ok(connection) => {
                    self.connection = Some(connection);
                    break;
                }
                Err(reason) => self.pause_or_fail(Failure::new(Step::Connect, reason), attempt).await?,
            }
        }
        Ok(())
    }

    pub(super) fn connection(&self) -> Option<&Connection> {
        self.connection.as_ref()
    }

    /// Asks until it succeeds, or fails for good. `make` is called for every attempt; a `Sent` counts its body.
    pub(super) async fn ask(
        &mut self,
        step: Step,
        bytes: u64,
        make: impl Fn() -> (Call, Option<Sent>),
    ) -> Result<Reply, Failure> {
        for attempt in 0.. {
            let (call, sent) = make();
            let result = self.attempt(&step, bytes, call, sent.as_ref()).await;
            match result {
                Ok(mut reply) => {
                    reply.attempts = attempt + 1;
                    return Ok(reply);
                }
                Err(reason) => {
                    if let Some(sent) = sent {
                        sent.failed();
                    }
                    self.pause_or_fail(Failure::new(step.clone(), reason), attempt).await?;
                }
            }
        }
        Err(Failure::new(step, Reason::Odd("no attempt".to_owned())))
    }

    /// Asks once and leaves the body of the answer to the caller, who says by [`Line::read_to_end`] that it was read.
    pub(super) async fn open(&mut self, call: Call) -> Result<Response<Incoming>, Reason> {
        let request = call.sign(&self.store)?;
        let patience = self.store.patience;
        let connection = self.connected().await?;
        let watch = Watch { sent: None, stall: patience.stall, limit: patience.request };
        let response = watch.over(connection.send(request)).await??;
        if response.status().is_success() {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_MOST).collect();
        let body = watch.over(body).await?.map_err(|error| Reason::Cut(error.to_string()))?.to_bytes();
        Err(refusal(parts.status, &body))
    }

    pub(super) fn read_to_end(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.done();
        }
    }

    /// Gives the connection up.
    pub(super) fn cut(&mut self) {
        self.connection = None;
    }

    async fn attempt(&mut self, step: &Step, bytes: u64, call: Call, sent: Option<&Sent>) -> Result<Reply, Reason> {
        let request = call.sign(&self.store)?;
        let patience = self.store.patience;
        let began = Instant::now();
        let limit = patience.for_bytes(bytes);
        // Joining parts takes stores a while in which nothing moves.
        let stall = if *step == Step::Complete { limit } else { patience.stall };
        let watch = Watch { sent, stall, limit };
        let connection = self.connected().await?;
        let result = watch.over(exchange(connection, request, began)).await;
        let gone_out = sent.is_none_or(|sent| sent.bytes() == bytes);
        match result {
            // After an early answer the rest of the body would be taken for the next request.
            Ok(Ok(reply)) if gone_out => {
                connection.done();
                reply
            }
            Ok(Ok(reply)) => {
                self.connection = None;
                reply.and(Err(Reason::Odd("it answered before all had gone out".to_owned())))
            }
            Ok(Err(reason)) | Err(reason) => {
                self.connection = None;
                Err(reason)
            }
        }
    }

    async fn connected(&mut self) -> Result<&mut Connection, Reason> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => dial(&self.store).await?,
        };
        Ok(self.connection.insert(connection))
    }

    async fn pause_or_fail(&self, failure: Failure, attempt: u32) -> Result<(), Failure> {
        if attempt >= self.store.retries || !failure.is_passing() {
            return Err(failure);
        }
        self.troubles.note(failure);
        tokio::time::sleep(pause(attempt)).await;
        Ok(())
    }
}

/// Full jitter: between nothing and twice as long as last time.
fn pause(attempt: u32) -> Duration {
    let most = FIRST_PAUSE.saturating_mul(1 << attempt.min(10)).min(LONGEST_PAUSE);
    most.mul_f64(super::random::fraction())
}

async fn exchange(
    connection: &mut Connection,
    request: hyper::Request<super::connection::Outgoing>,
    began: Instant,
) -> Result<Result<Reply, Reason>, Reason> {
    let response = connection.send(request).await?;
    let head_after = began.elapsed();
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_MOST).collect().await;
    let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
        Ok(error) => cut(&error),
        Err(error) => Reason::Odd(error.to_string()),
    })?;
    let body = body.to_bytes();
    if !parts.status.is_success() || Answer::read(&body).error().is_some() {
        return Ok(Err(refusal(parts.status, &body)));
    }
    Ok(Ok(Reply { headers: parts.headers, body, head_after, began, attempts: 1 }))
}

/// A success with an error in its body is one as well.
fn refusal(status: StatusCode, body: &[u8]) -> Reason {
    let answer = Answer::read(body);
    let reason = status.canonical_reason().unwrap_or("unknown status");
    let (code, message) = answer.error().unwrap_or((reason, reason));
    let message = if message.is_empty() { code } else { message };
    Reason::Answered { status: status.as_u16(), code: code.to_owned(), message: message.to_owned() }
}

impl Watch<'_> {
    async fn over<T>(&self, future: impl Future<Output = T>) -> Result<T, Reason> {
        let mut future = std::pin::pin!(future);
        let began = Instant::now();
        let look = (self.stall / 8).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let (mut last, mut since) = (self.moved(), began);
        loop {
            if let Ok(result) = tokio::time::timeout(look, &mut future).await {
                return Ok(result);
            }
            let moved = self.moved();
            if moved != last {
                (last, since) = (moved, Instant::now());
            }
            // First: where both are the same, it is the request that took too long, and it is not begun again.
            if began.elapsed() >= self.limit {
                return Err(Reason::Late(self.limit.as_secs()));
            }
            if since.elapsed() >= self.stall {
                return Err(Reason::Stalled(self.stall.as_secs()));
            }
        }
    }

    fn moved(&self) -> u64 {
        self.sent.map_or(0, Sent::bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound() {
        for attempt in 0..40 {
            assert!(pause(attempt) <= FIRST_PAUSE.saturating_mul(1 << attempt.min(20)).min(LONGEST_PAUSE));
        }
    }

    #[test]
    fn an_answer_without_a_document_is_told_by_its_status() {
        let reason = |status, code: &str, message: &str| Reason::Answered {
            status,
            code: code.to_owned(),
            message: message.to_owned(),
        };
        assert_eq!(refusal(StatusCode::BAD_GATEWAY, b"<html>"), reason(502, "Bad Gateway", "Bad Gateway"));
        let document = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
        assert_eq!(refusal(StatusCode::FORBIDDEN, document), reason(403, "AccessDenied", "Access Denied"));
    }
}
