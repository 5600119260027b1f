//! An object in parts: begin, parts over all streams, complete.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use hyper::Method;
use tokio::task::JoinSet;

use super::answer::escaped;
use super::failure::{Failure, Reason, Step};
use super::janitor::Left;
use super::line::{Line, Reply};
use super::outcome::Outcome;
use super::request::{Call, Payload};
use super::seconds::Seconds;
use super::upload::{Done, Run, joined, server};

impl Run {
    pub(super) async fn parts(
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

        let (mut lines, done) = seconds.during(self.in_parallel(&id, count, bytes, lines, began)).await?;
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
                let mut parts = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number > count {
                        return Ok((line, parts));
                    }
                    let (done, _) = run.put(&mut line, Some(&id), number, bytes, stream + 1, began).await?;
                    parts.push(done);
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
}

fn is_refusal(failure: &Failure) -> bool {
    matches!(failure.reason, Reason::Answered { status: 300.., .. })
}
