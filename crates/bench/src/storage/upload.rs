//! The story of a run: sweep, connect, begin, parts, complete, read back, delete; and abort wherever that ends early.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hyper::Method;
use tokio::task::JoinSet;

use super::answer::escaped;
use super::data::{Data, PartBody};
use super::failure::{Failure, Reason, Step};
use super::janitor::{Janitor, Left, PREFIX, sweep};
use super::line::{Line, Reply};
use super::meter::Meter;
use super::outcome::{Outcome, PartTimes, Process, Server};
use super::plan::{MB, MIB, Plan, Shape};
use super::request::{Call, Payload};
use super::store::Store;
use super::troubles::Troubles;
use super::{process, random, read_back};

/// Uploads as planned. Dropped in the middle, it cuts its connections and leaves abort or delete to the janitor.
///
/// # Errors
///
/// The failure that no further attempt was allowed to make good; nothing of the run stays in the store, unless that too
/// failed, which is logged.
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
    let key = format!("{PREFIX}{}", random::uuid());
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
            if let Err(of_abort) = left.remove().await {
                tracing::warn!(failure = %of_abort, key, "storage: left behind; a later run removes it after a day");
            }
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
        Err(failure) => outcome.notes.push(format!("{key} was not cleared away: {failure}")),
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
        let reply = seconds.during(line.ask(Step::Object, bytes, || self.put(1, bytes, &[]))).await?;
        outcome.server = server(&outcome.server, &reply);
        outcome.data_seconds = began.elapsed().as_secs_f64();
        outcome.parts = vec![times(1, 1, began, began, &reply)];
        Ok(lines)
    }

    async fn parts(
        &self,
        count: u32,
        bytes: u64,
        mut lines: Vec<Line>,
        left: &mut Left,
        outcome: &mut Outcome,
        seconds: &mut Seconds,
    ) -> Result<Vec<Line>, Failure> {
        let began = Instant::now();
        let Some(first) = lines.first_mut() else { return Ok(lines) };
        left.beginning();
        let created = self.create(first).await;
        // A refusal began nothing, and the first answer named what it began; after anything else there may be more.
        if created.as_ref().map_or_else(is_refusal, |(_, reply)| reply.attempts == 1) {
            left.all_named();
        }
        let (id, reply) = created?;
        left.upload(&id);
        outcome.server = server(&outcome.server, &reply);
        let created = Instant::now();

        let (lines, done) = seconds.during(self.in_parallel(&id, count, bytes, lines, began)).await?;
        let mut lines = lines;
        let joined = Instant::now();
        outcome.parts = done.iter().map(|done| done.times).collect();

        let Some(first) = lines.first_mut() else { return Ok(lines) };
        // Whether or not the answer comes, the parts may be joined.
        left.completing(&id);
        self.complete(first, &id, &done).await?;
        left.object();
        outcome.create_seconds = (created - began).as_secs_f64();
        outcome.data_seconds = (joined - created).as_secs_f64();
        outcome.complete_seconds = joined.elapsed().as_secs_f64();
        Ok(lines)
    }

    async fn create(&self, line: &mut Line) -> Result<(String, Reply), Failure> {
        let make = || {
            let call = Call::new(Method::POST, Some(&self.key)).query("uploads", "");
            let call = match self.store.checksum {
                Some(checksum) => call
                    .header("x-amz-checksum-algorithm", checksum.name())
                    .header("x-amz-checksum-type", checksum.kind()),
                None => call,
            };
            (call, None)
        };
        let reply = line.ask(Step::Create, 0, make).await?;
        match reply.answer().field("UploadId") {
            Some(id) => Ok((id.to_owned(), reply)),
            None => Err(Failure::new(Step::Create, Reason::Odd("it names no UploadId".to_owned()))),
        }
    }

    /// Every line takes the next part that nobody has, until there is none. The first failure ends them all.
    async fn in_parallel(
        &self,
        id: &str,
        count: u32,
        bytes: u64,
        lines: Vec<Line>,
        began: Instant,
    ) -> Result<(Vec<Line>, Vec<Done>), Failure> {
        let next = Arc::new(AtomicU32::new(1));
        let mut streams = JoinSet::new();
        for (stream, mut line) in lines.into_iter().enumerate() {
            let (next, id, run) = (next.clone(), id.to_owned(), self.share());
            streams.spawn(async move {
                let mut done = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number > count {
                        return Ok((line, done));
                    }
                    done.push(run.part(&mut line, &id, number, bytes, stream + 1, began).await?);
                }
            });
        }
        let (mut lines, mut parts) = (Vec::new(), Vec::new());
        while let Some(stream) = streams.join_next().await {
            let (line, done) = joined(stream)??;
            lines.push(line);
            parts.extend(done);
        }
        parts.sort_unstable_by_key(|done: &Done| done.times.number);
        Ok((lines, parts))
    }

    async fn part(
        &self,
        line: &mut Line,
        id: &str,
        number: u32,
        bytes: u64,
        stream: usize,
        began: Instant,
    ) -> Result<Done, Failure> {
        let taken = Instant::now();
        let query = [("partNumber", number.to_string()), ("uploadId", id.to_owned())];
        let reply = line.ask(Step::Part(number), bytes, || self.put(number, bytes, &query)).await?;
        let Some(tag) = reply.header("etag") else {
            return Err(Failure::new(Step::Part(number), Reason::Odd("it has no ETag".to_owned())));
        };
        let checksum = self.store.checksum.and_then(|checksum| reply.header(checksum.header()));
        Ok(Done { times: times(number, stream, began, taken, &reply), tag, checksum })
    }

    /// A body that is counted, and made again for every attempt.
    fn put(&self, part: u32, bytes: u64, query: &[(&'static str, String)]) -> (Call, Option<super::meter::Sent>) {
        let sent = self.meter.attempt();
        let body = PartBody::new(&self.data, part, bytes, sent.clone(), self.store.checksum);
        let call = Call::new(Method::PUT, Some(&self.key)).with_trailer(self.store.checksum, bytes);
        let call = query.iter().fold(call, |call, (name, value)| call.query(name, value));
        (call.payload(Payload::Part(body)), Some(sent))
    }

    async fn complete(&self, line: &mut Line, id: &str, parts: &[Done]) -> Result<(), Failure> {
        let mut text = String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
        for part in parts {
            let tag = escaped(&part.tag);
            text.push_str(&format!("<Part><PartNumber>{}</PartNumber><ETag>{tag}</ETag>", part.times.number));
            if let Some((checksum, value)) = self.store.checksum.zip(part.checksum.as_deref()) {
                let name = format!("Checksum{}", checksum.name());
                text.push_str(&format!("<{name}>{}</{name}>", escaped(value)));
            }
            text.push_str("</Part>");
        }
        text.push_str("</CompleteMultipartUpload>");
        let make = || {
            let call = Call::new(Method::POST, Some(&self.key)).query("uploadId", id);
            (call.header("content-type", "application/xml").payload(Payload::Xml(text.clone())), None)
        };
        line.ask(Step::Complete, 0, make).await.map(drop)
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
struct Done {
    times: PartTimes,
    tag: String,
    checksum: Option<String>,
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

fn is_refusal(failure: &Failure) -> bool {
    matches!(failure.reason, Reason::Answered { status: 300.., .. })
}

fn server(known: &Server, reply: &Reply) -> Server {
    let region = ["x-tigris-served-from", "x-amz-bucket-region"].into_iter().find_map(|name| reply.header(name));
    Server { address: known.address.clone(), software: reply.header("server"), region }
}

/// A task that panicked is a bug of ours; it is told like a failure, so that the run is cleared away.
pub(super) fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, Failure> {
    result.map_err(|error| Failure::new(Step::Object, Reason::Odd(format!("a stream ended: {error}"))))
}

/// What went out in each second of the run.
struct Seconds {
    meter: Meter,
    ticks: tokio::time::Interval,
    before: u64,
    series: Vec<u64>,
}

impl Seconds {
    fn start(meter: Meter) -> Self {
        let second = Duration::from_secs(1);
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + second, second);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self { before: meter.out(), meter, ticks, series: Vec::new() }
    }

    async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let result = loop {
            tokio::select! {
                result = &mut work => break result,
                _ = self.ticks.tick() => self.note(),
            }
        };
        self.note();
        result
    }

    fn note(&mut self) {
        let now = self.meter.out();
        self.series.push(now - self.before);
        self.before = now;
    }
}
