//! `Idempotency-Key`: a request that is sent again, because its answer was lost, is answered again and not done again.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, StatusCode, response};
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use super::secret::HoldsPrivateKey;

/// Answers remembered; the oldest leave first. An answer has about half a KiB.
const MAX_ANSWERS: usize = 10_000;
/// Bytes of all of them: the answer to a batch of peers has more than a MiB.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// How long an answer is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 3600);
/// How long one with a private key: that was made here and is kept nowhere else, so somebody who was cut off may ask for it
/// once more, and nobody may much later.
const PRIVATE_KEYS_FOR: Duration = Duration::from_secs(600);
/// Longest key, in bytes.
const MAX_KEY_BYTES: usize = 255;
const HEADER: &str = "idempotency-key";

/// A mark on answers that tell of a fault of ours although their status is none: nothing was done, and the next time it may
/// be.
#[derive(Clone, Copy)]
pub(super) struct NothingDone;

/// The request's key, if it has one.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=MAX_KEY_BYTES).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(Some(key.to_owned()))
        }
        _ => {
            let rule = format!("is not 1 to {MAX_KEY_BYTES} visible ASCII characters");
            Err(Problem::field("Idempotency-Key", rule))
        }
    }
}

/// Answers to requests with a key. Kept in memory: a restart forgets them, and then ids that exist answer for
/// themselves.
#[derive(Default)]
pub(super) struct KnownAnswers {
    book: Arc<Mutex<Book>>,
    hasher: RandomState,
}

#[derive(Default)]
struct Book {
    entries: HashMap<String, Entry>,
    /// Oldest first; one whose serial number is not that of its entry is out of date.
    order: VecDeque<(Instant, u64, String)>,
    /// The same of answers with a private key, by when they were given.
    private: VecDeque<(Instant, u64, String)>,
    next_serial: u64,
    /// Of the answers' bodies.
    bytes: usize,
}

struct Entry {
    serial: u64,
    /// Digest of the body.
    digest: u64,
    state: State,
}

enum State {
    /// The request is being done.
    Open,
    Answered(Answer),
    /// The answer had a private key.
    Wiped,
}

/// A response that can be given several times.
#[derive(Clone)]
pub(super) struct Answer {
    head: response::Parts,
    body: Bytes,
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        Response::from_parts(self.head, Body::from(self.body))
    }
}

/// What is known of a key.
pub(super) enum Claim {
    /// The request was done.
    Answered(Answer),
    /// It is the caller's to do.
    Open(Ticket),
}

/// The right to do a request. Dropped without an answer, it lets the next one try.
pub(super) struct Ticket {
    book: Arc<Mutex<Book>>,
    key: String,
    serial: u64,
}

impl KnownAnswers {
    /// Looks the key up, and claims it if it is new.
    ///
    /// # Errors
    /// The key came with another body, or its request is still being done.
    pub(super) fn claim(&self, key: &str, body: &[u8]) -> Result<Claim, Problem> {
        self.claim_at(key, body, Instant::now())
    }

    fn claim_at(&self, key: &str, body: &[u8], now: Instant) -> Result<Claim, Problem> {
        let digest = self.hasher.hash_one(body);
        let mut book = lock(&self.book);
        book.forget_old(now, 1);
        match book.entries.get(key) {
            Some(entry) if entry.digest != digest => {
                Err(Problem::field("Idempotency-Key", "was used with another body; a new request needs a new key"))
            }
            Some(Entry { state: State::Answered(answer), .. }) => Ok(Claim::Answered(answer.clone())),
            Some(Entry { state: State::Open, .. }) => {
                Err(Problem::conflict("the request with this Idempotency-Key is still being done; ask again"))
            }
            Some(Entry { state: State::Wiped, .. }) => Err(Problem::conflict(format!(
                "the request with this Idempotency-Key was done; its answer had a private key and was remembered for {} s: \
                 look for the peer in the list, and give it another key or remove it",
                PRIVATE_KEYS_FOR.as_secs()
            ))),
            None => {
                let serial = book.next_serial;
                book.next_serial += 1;
                book.order.push_back((now, serial, key.to_owned()));
                book.entries.insert(key.to_owned(), Entry { serial, digest, state: State::Open });
                Ok(Claim::Open(Ticket { book: Arc::clone(&self.book), key: key.to_owned(), serial }))
            }
        }
    }

    /// Remembers the answer, unless it is about a fault of ours that may be gone by the next time.
    pub(super) async fn settle(&self, ticket: Ticket, response: Response) -> Response {
        let (head, body) = response.into_parts();
        let body = match to_bytes(body, usize::MAX).await {
            Ok(body) => body,
            Err(error) => return Problem::internal(&error).into_response(),
        };
        let answer = Answer { head, body };
        let is_fault = answer.head.extensions.get::<NothingDone>().is_some();
        if answer.head.status < StatusCode::INTERNAL_SERVER_ERROR && !is_fault {
            lock(&self.book).remember(&ticket, answer.clone(), Instant::now());
        }
        answer.into_response()
    }

    /// Forgets what was remembered for long enough.
    pub(super) fn forget_old(&self, now: Instant) {
        lock(&self.book).forget_old(now, 0);
    }
}

impl Book {
    fn remember(&mut self, ticket: &Ticket, answer: Answer, now: Instant) {
        let Some(entry) = self.entries.get_mut(&ticket.key).filter(|entry| entry.serial == ticket.serial) else {
            return;
        };
        self.bytes += answer.body.len();
        if answer.head.extensions.get::<HoldsPrivateKey>().is_some() {
            self.private.push_back((now, ticket.serial, ticket.key.clone()));
        }
        entry.state = State::Answered(answer);
        self.forget_old(now, 0);
    }

    /// And so many more that there is room for `more` entries.
    fn forget_old(&mut self, now: Instant, more: usize) {
        // Of those whose entry has made room already as many are kept at most as there are entries.
        let is_young = |since: &Instant| now.duration_since(*since) < PRIVATE_KEYS_FOR;
        while let Some((since, ..)) = self.private.front()
            && (self.private.len() > MAX_ANSWERS || !is_young(since))
            && let Some((_, serial, key)) = self.private.pop_front()
        {
            if let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.serial == serial) {
                self.bytes -= entry.state.bytes();
                entry.state = State::Wiped;
            }
        }
        while let Some((since, serial, key)) = self.order.front() {
            let is_young = now.duration_since(*since) < REMEMBERED_FOR;
            if self.order.len() + more <= MAX_ANSWERS && self.bytes <= MAX_BYTES && is_young {
                return;
            }
            if self.entries.get(key).is_some_and(|entry| entry.serial == *serial) {
                self.bytes -= self.entries.remove(key).map_or(0, |entry| entry.state.bytes());
            }
            self.order.pop_front();
        }
    }
}

impl State {
    fn bytes(&self) -> usize {
        match self {
            Self::Answered(answer) => answer.body.len(),
            Self::Open | Self::Wiped => 0,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut book = lock(&self.book);
        let is_open = |entry: &Entry| entry.serial == self.serial && matches!(entry.state, State::Open);
        if book.entries.get(&self.key).is_some_and(is_open) {
            book.entries.remove(&self.key);
        }
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    // Each step leaves the book valid.
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::secret;
    use super::*;

    fn open(claim: Result<Claim, Problem>) -> Ticket {
        match claim {
            Ok(Claim::Open(ticket)) => ticket,
            Ok(Claim::Answered(_)) => panic!("answered already"),
            Err(problem) => panic!("{problem:?}"),
        }
    }

    #[tokio::test]
    async fn an_answer_is_given_again_for_a_day() {
        let known = KnownAnswers::default();
        let start = Instant::now();
        let ticket = open(known.claim_at("k", b"body", start));
        assert!(known.claim_at("k", b"body", start).is_err(), "being done");
        known.settle(ticket, (StatusCode::CREATED, "made").into_response()).await;

        let Ok(Claim::Answered(again)) = known.claim_at("k", b"body", start + REMEMBERED_FOR / 2) else {
            panic!("forgot")
        };
        assert_eq!((again.head.status, &again.body[..]), (StatusCode::CREATED, &b"made"[..]));
        assert!(known.claim_at("k", b"other", start).is_err(), "another body");
        drop(open(known.claim_at("k", b"other", start + REMEMBERED_FOR)));
    }

    #[tokio::test]
    async fn a_private_key_is_wiped_and_its_request_not_done_again() {
        let known = KnownAnswers::default();
        let ticket = open(known.claim("k", b"body"));
        let sent = secret::answer(StatusCode::CREATED, &"private", true);
        let sent = known.settle(ticket, sent).await;
        let start = Instant::now();
        assert!(matches!(known.claim_at("k", b"body", start), Ok(Claim::Answered(_))));
        assert_eq!(lock(&known.book).bytes, 9);
        // Nobody asks; only time passes.
        known.forget_old(start + PRIVATE_KEYS_FOR);
        assert_eq!(lock(&known.book).bytes, 0);
        assert!(matches!(lock(&known.book).entries["k"].state, State::Wiped));
        let Err(again) = known.claim_at("k", b"body", start + PRIVATE_KEYS_FOR) else { panic!("done again") };
        assert_eq!(again.parts().0, 409);
        assert_eq!(to_bytes(sent.into_body(), 9).await.unwrap(), "\"private\"", "what is being sent is whole");
        drop(open(known.claim_at("k", b"body", start + REMEMBERED_FOR)));
    }

    #[tokio::test]
    async fn faults_and_requests_given_up_are_not_remembered() {
        let known = KnownAnswers::default();
        drop(open(known.claim("k", b"body")));
        let ticket = open(known.claim("k", b"body"));
        known.settle(ticket, StatusCode::SERVICE_UNAVAILABLE.into_response()).await;
        let ticket = open(known.claim("k", b"body"));
        let mut answer = StatusCode::OK.into_response();
        answer.extensions_mut().insert(NothingDone);
        known.settle(ticket, answer).await;
        drop(open(known.claim("k", b"body")));
    }

    #[tokio::test]
    async fn long_answers_are_fewer() {
        let known = KnownAnswers::default();
        for number in 0..100 {
            let ticket = open(known.claim(&number.to_string(), b""));
            known.settle(ticket, (StatusCode::CREATED, vec![b'x'; 1024 * 1024]).into_response()).await;
        }
        drop(open(known.claim("new", b"")));
        let book = lock(&known.book);
        let bytes: usize = book.entries.values().map(|entry| entry.state.bytes()).sum();
        assert_eq!((book.bytes, bytes), (MAX_BYTES, MAX_BYTES));
    }

    #[tokio::test]
    async fn the_oldest_answers_make_room() {
        let known = KnownAnswers::default();
        for number in 0..MAX_ANSWERS + 5 {
            let ticket = open(known.claim(&number.to_string(), b""));
            known.settle(ticket, secret::answer(StatusCode::CREATED, &"private", true)).await;
        }
        let kept = lock(&known.book).entries.len();
        assert_eq!((kept, lock(&known.book).order.len()), (MAX_ANSWERS, MAX_ANSWERS));
        assert_eq!(lock(&known.book).private.len(), MAX_ANSWERS);
        assert_eq!(lock(&known.book).bytes, 9 * MAX_ANSWERS);
        assert!(matches!(known.claim("5", b""), Ok(Claim::Open(_))), "the oldest made room");
    }
}
