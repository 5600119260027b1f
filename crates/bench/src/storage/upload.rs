//! The story of a run: sweep, connect, begin, parts, complete, read back, delete; and abort wherever that ends early.

use std::sync::Arc;
use std::time::Instant;

use hyper::Method;
use tokio::task::JoinSet;

use super::data::{Data, PartBody};
use super::failure::{Failure, Reason, Step};
use super::janitor::{Janitor, Left, key, sweep};
use super::line::{Line, Reply};
use super::meter::Meter;
use super::outcome::{Outcome, PartTimes, Process, Server};
use super::plan::{MB, MIB, Plan, Shape};
use super::request::{Call, Payload};
use super::seconds::Seconds;
use super::store::Store;
use super::troubles::Troubles;
use super::{process, read_back};

/// Uploads as planned. Dropped in the middle, it cuts its connections and leaves abort or delete to the janitor.
///
/// # Errors
///
/// The failure that no further attempt was allowed to make good; nothing of the run stays in the store, unless that too
/// failed, which the janitor tells.
pub async fn upload(store: &Arc<Store>, plan: &Plan, meter: &Meter, janitor: &Janitor) -> Result<Outcome, Failure> {
    let mut outcome = Outcome { plan: plan.clone(), bytes: plan.shape.bytes(), ..Outcome::default() };
    if plan.sweep {
        let (swept, failures) = sweep(store).await;
        outcome.swept = Some(swept);
        // Told now, and not after a gigabyte that nobody reads.
        if let Some(decisive) = failures.iter().find(|failure| failure.is_decisive()) {
            return Err(Failure::new(Step::Object, decisive.reason.clone()));
        }
        let notes = failures.iter().map(|failure| format!("what earlier runs left was not removed: {failure}"));
        outcome.notes.extend(notes);
    }
    let key = key(plan.keep);
    let run = Run {
        store: store.clone(),
        data: Data::new(plan.seed),
        meter: meter.clone(),
        troubles: Troubles::default(),
        key: key.clone(),
    };
    let mut left = Left::new(store, janitor, &key);
    let lines = run.connect(plan.shape.streams()).await?;
    outcome.connect = lines.iter().filter_map(|line| line.connection()).map(|connection| connection.times).collect();

    let cpu = process::cpu();
    let sent = run.send(plan.shape, lines, &mut left, &mut outcome).await;
    let mut lines = match sent {
        Ok(lines) => lines,
        Err(failure) => {
            // What stays is told by the janitor, and the failure is what the run is about.
            let _ = left.remove().await;
            return Err(failure);
        }
    };
    outcome.process.cpu_seconds = process::cpu().saturating_sub(cpu).as_secs_f64();
    outcome.sockets = lines.iter().filter_map(|line| line.connection()?.facts()).collect();
    (outcome.troubles, outcome.trouble_texts) = run.troubles.all();
    outcome.attempts = meter.attempts();
    outcome.resent_bytes = meter.repeated();

    if plan.read_back {
        let result = read_back::read_back(&run, plan.shape, lines).await;
        outcome.read_back = Some(result?);
    } else {
        lines.clear();
    }
    let cleared = if plan.keep { left.keep().await } else { left.remove().await };
    match cleared {
        Ok(()) => outcome.deleted = !plan.keep,
        Err(stays) => outcome.notes.push(stays),
    }
    outcome.key = key;
    outcome.process = Process { peak_resident_bytes: process::peak_resident(), ..outcome.process };
    Ok(outcome)
}

/// What all streams of a run share.
pub(super) struct Run {
    pub(super) store: Arc<Store>,
    pub(super) data: Data,
    pub(super) meter: Meter,
    pub(super) troubles: Troubles,
    pub(super) key: String,
}

impl Run {
    /// So many connections, all at once.
    async fn connect(&self, streams: usize) -> Result<Vec<Line>, Failure> {
        let mut dialling = JoinSet::new();
        for _ in 0..streams {
            let mut line = Line::new(&self.store, &self.troubles);
            dialling.spawn(async move { line.warm().await.map(|()| line) });
        }
        let mut lines = Vec::with_capacity(streams);
        while let Some(line) = dialling.join_next().await {
            lines.push(joined(line)??);
        }
        Ok(lines)
    }

    /// The measured part. Gives the connections back.
    async fn send(
        &self,
        shape: Shape,
        lines: Vec<Line>,
        left: &mut Left,
        outcome: &mut Outcome,
    ) -> Result<Vec<Line>, Failure> {
        if let Some(connection) = lines.first().and_then(Line::connection) {
            outcome.server.address = connection.peer.to_string();
        }
        let began = Instant::now();
        let mut seconds = Seconds::start(self.meter.clone());
        let result = match shape {
            Shape::Single { bytes } => self.single(bytes, lines, left, outcome, &mut seconds).await,
            Shape::Parts { count, bytes, .. } => self.parts(count, bytes, lines, left, outcome, &mut seconds).await,
        };
        let took = began.elapsed().as_secs_f64();
        outcome.series = seconds.series;
        outcome.seconds = took;
        let bytes = outcome.bytes as f64;
        outcome.mb_per_second = bytes / took / MB as f64;
        outcome.mib_per_second = bytes / took / MIB as f64;
        outcome.goodput_mb_per_second = bytes / outcome.data_seconds.max(1e-9) / MB as f64;
        result
    }

    async fn single(
        &self,
        bytes: u64,
        mut lines: Vec<Line>,
        left: &mut Left,
        outcome: &mut Outcome,
        seconds: &mut Seconds,
    ) -> Result<Vec<Line>, Failure> {
        let began = Instant::now();
        // Whether or not the answer comes, the object may be there.
        left.object();
        let Some(line) = lines.first_mut() else { return Ok(lines) };
        let (done, reply) = seconds.during(self.put(line, None, 1, bytes, 1, began)).await?;
        outcome.server = server(&outcome.server, &reply);
        outcome.data_seconds = began.elapsed().as_secs_f64();
        outcome.parts = vec![done.times];
        Ok(lines)
    }

    /// Sends part `number` of `upload`, or the object as a whole, by a body that is counted and made again for every
    /// attempt.
    pub(super) async fn put(
        &self,
        line: &mut Line,
        upload: Option<&str>,
        number: u32,
        bytes: u64,
        stream: usize,
        began: Instant,
    ) -> Result<(Done, Reply), Failure> {
        let taken = Instant::now();
        let step = if upload.is_some() { Step::Part(number) } else { Step::Object };
        let make = || {
            let sent = self.meter.attempt();
            let body = PartBody::new(&self.data, number, bytes, sent.clone(), self.store.checksum);
            let call = Call::new(Method::PUT, Some(&self.key)).with_trailer(self.store.checksum, bytes);
            let call = match upload {
                Some(id) => call.query("partNumber", number.to_string()).query("uploadId", id),
                None => call,
            };
            (call.payload(Payload::Part(body)), Some(sent))
        };
        let reply = line.ask(step.clone(), bytes, make).await?;
        // What has no mark of what it took may have taken nothing.
        let Some(tag) = reply.header("etag") else {
            return Err(Failure::new(step, Reason::Odd("it has no ETag".to_owned())));
        };
        let checksum = self.store.checksum.and_then(|checksum| reply.header(checksum.header()));
        Ok((Done { times: times(number, stream, began, taken, &reply), tag, checksum }, reply))
    }

    pub(super) fn share(&self) -> Self {
        Self {
            store: self.store.clone(),
            data: self.data.clone(),
            meter: self.meter.clone(),
            troubles: self.troubles.clone(),
            key: self.key.clone(),
        }
    }
}

/// One part that the store has.
pub(super) struct Done {
    pub(super) times: PartTimes,
    pub(super) tag: String,
    pub(super) checksum: Option<String>,
}

fn times(number: u32, stream: usize, began: Instant, taken: Instant, reply: &Reply) -> PartTimes {
    let since = |at: Instant| at.saturating_duration_since(began).as_secs_f64();
    PartTimes {
        number,
        stream,
        began: since(taken),
        attempt_began: since(reply.began),
        answered: since(reply.began + reply.head_after),
        ended: since(Instant::now()),
        attempts: reply.attempts,
    }
}

pub(super) fn server(known: &Server, reply: &Reply) -> Server {
    let region = ["x-tigris-served-from", "x-amz-bucket-region"].into_iter().find_map(|name| reply.header(name));
    Server { address: known.address.clone(), software: reply.header("server"), region }
}

/// A task that panicked is a bug of ours; it is told like a failure, so that the run is cleared away.
pub(super) fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, Failure> {
    result.map_err(|error| Failure::new(Step::Object, Reason::Odd(format!("a stream ended: {error}"))))
}
