//! The object is read again, over as many streams as sent it, and every byte is compared with what was sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::Method;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connection::{cut, millis};
use super::failure::{Failure, Reason, Step};
use super::line::Line;
use super::outcome::ReadBack;
use super::plan::{MB, Shape};
use super::request::Call;
use super::upload::{Run, joined};

pub(super) async fn read_back(run: &Run, shape: Shape, lines: Vec<Line>) -> Result<ReadBack, Failure> {
    let (count, bytes) = match shape {
        Shape::Single { bytes } => (1, bytes),
        Shape::Parts { count, bytes, .. } => (count, bytes),
    };
    let began = Instant::now();
    let next = Arc::new(AtomicU32::new(1));
    let mut streams = JoinSet::new();
    for mut line in lines {
        let (next, run) = (next.clone(), run.share());
        streams.spawn(async move {
            let mut first_byte = None;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number > count {
                    return Ok(first_byte);
                }
                let fail = |reason| Failure::new(Step::ReadBack, reason);
                let after = part(&run, &mut line, number, bytes, began).await.map_err(fail)?;
                first_byte = first_byte.or(Some(after));
            }
        });
    }
    let mut first_byte: Option<Duration> = None;
    while let Some(stream) = streams.join_next().await {
        first_byte = [first_byte, joined(stream)??].into_iter().flatten().min();
    }
    let seconds = began.elapsed().as_secs_f64();
    let bytes = shape.bytes();
    Ok(ReadBack {
        bytes,
        seconds,
        mb_per_second: bytes as f64 / seconds / MB as f64,
        first_byte_ms: first_byte.map_or(0.0, millis),
    })
}

/// Reads what was sent as one part, and gives the time of its first byte. It may take as long as sending it.
async fn part(run: &Run, line: &mut Line, number: u32, bytes: u64, began: Instant) -> Result<Duration, Reason> {
    let limit = run.store.patience.for_bytes(bytes);
    let read = timeout(limit, read(run, line, number, bytes, began)).await;
    read.unwrap_or(Err(Reason::Late(limit.as_secs())))
}

async fn read(run: &Run, line: &mut Line, number: u32, bytes: u64, began: Instant) -> Result<Duration, Reason> {
    let from = u64::from(number - 1) * bytes;
    let range = format!("bytes={from}-{}", from + bytes - 1);
    let response = line.open(Call::new(Method::GET, Some(&run.key)).header("range", range)).await?;
    let mut body = response.into_body();
    let mut check = run.data.check(number);
    let mut first_byte = None;
    let stall = run.store.patience.stall;
    while check.offset() < bytes {
        let frame = timeout(stall, body.frame()).await.map_err(|_| Reason::Stalled(stall.as_secs()))?;
        let Some(frame) = frame else {
            return Err(Reason::Odd(format!("{} bytes came back of {bytes}", check.offset())));
        };
        first_byte.get_or_insert_with(|| began.elapsed());
        if let Some(data) = frame.map_err(|error| cut(&error))?.data_ref() {
            let rest = usize::try_from(bytes - check.offset()).unwrap_or(usize::MAX);
            if data.len() > rest {
                return Err(Reason::Odd("more bytes came back than were asked for".to_owned()));
            }
            check.next(data).map_err(|offset| Reason::Corrupted { part: number, offset })?;
            run.meter.add_back(data.len() as u64);
        }
    }
    // The end of the body, so that the connection may be used again.
    match timeout(stall, body.frame()).await {
        Ok(None) => line.read_to_end(),
        _ => line.cut(),
    }
    Ok(first_byte.unwrap_or_default())
}
