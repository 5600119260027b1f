//! The same upload from many regions: each service is asked, all at once.

use std::time::Duration;

use edgeproxy_postgres::Reach;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes as Empties;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::timeout;

use super::outcome::Outcome;
use super::plan::{MB, MIB, Plan, Shape};
use super::report::Setting;
use crate::fleet::{Origin, PORT, Site};

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// More than a report of ten thousand parts.
const ANSWER_MOST: usize = 8 << 20;

/// What is asked of each region.
pub struct Question<'a> {
    /// How to upload; what goes beyond a shape is the service's own.
    pub plan: &'a Plan,
    /// The service's bearer token.
    pub token: Option<&'a str>,
    /// How long an answer may take.
    pub within: Duration,
    /// Times, one after the other.
    pub repeat: u32,
}

/// One setting a site; of a site that does not answer it has only the failure.
pub async fn ask(sites: &[Site], question: &Question<'_>, reach: &dyn Reach, tell: impl Fn(&Site)) -> Vec<Setting> {
    let tell = &tell;
    let asked = sites.iter().map(|site| async move {
        let (mut runs, mut failures) = (Vec::new(), Vec::new());
        for _ in 0..question.repeat {
            match once(site, question, reach).await {
                Ok(outcome) => runs.push(outcome),
                Err(failure) => {
                    failures.push(failure);
                    break;
                }
            }
            tell(site);
        }
        Setting::new(&site.name, question.plan.shape, runs, failures)
    });
    join_all(asked).await
}

async fn once(site: &Site, question: &Question<'_>, reach: &dyn Reach) -> Result<Outcome, String> {
    let origin = Origin::at(&site.address, PORT).map_err(|error| error.to_string())?;
    let dialled = timeout(CONNECT_WITHIN, reach.dial(&origin.host, origin.port)).await;
    let stream = dialled.map_err(|_| "TIMEOUT".to_owned())?.map_err(|error| format!("not reached: {error}"))?.bytes;
    let broken = |error: hyper::Error| format!("no answer: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends when the sender is dropped; what went wrong, the sender is told.
    tokio::spawn(connection);
    let mut request = Request::post(path(question.plan)).header(HOST, origin.to_string()).header(CONTENT_LENGTH, 0);
    if let Some(token) = question.token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Empty::<Empties>::new()).map_err(|error| error.to_string())?;
    let answered = timeout(question.within, async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        let body = Limited::new(answer.into_body(), ANSWER_MOST).collect().await;
        Ok::<_, String>(body.map_err(|error| format!("no answer: {error}"))?.to_bytes())
    });
    let body = answered.await.map_err(|_| format!("no answer within {} s", question.within.as_secs()))??;
    read(&body, question.plan.shape)
}

fn path(plan: &Plan) -> String {
    let beside = format!("read_back={}&keep={}&seed={}", plan.read_back, plan.keep, plan.seed);
    match plan.shape {
        // As published, so that any service of that kind can be asked.
        Shape::PARTS if *plan == Plan::default() => "/upload".to_owned(),
        Shape::SINGLE if (Plan { shape: Shape::PARTS, ..plan.clone() }) == Plan::default() => {
            "/upload-single".to_owned()
        }
        Shape::Parts { count, bytes, streams } => {
            format!("/upload?parts={count}&part_size={bytes}&streams={streams}&{beside}")
        }
        Shape::Single { bytes } => format!("/upload-single?size={bytes}&{beside}"),
    }
}

/// Also of a service that knows the published fields alone.
fn read(body: &[u8], shape: Shape) -> Result<Outcome, String> {
    let answer: Value = serde_json::from_slice(body).map_err(|error| format!("the answer is no JSON: {error}"))?;
    if answer["success"] != true {
        let error = answer["error"].as_str().unwrap_or("no success, and no reason");
        let advice = answer["advice"].as_str().map(|advice| format!(". {advice}"));
        return Err(format!("{error}{}", advice.unwrap_or_default()));
    }
    if let Ok(outcome) = serde_json::from_value(answer["details"].clone()) {
        return Ok(outcome);
    }
    let millis = answer["uploadTime"].as_f64().filter(|millis| *millis > 0.0).ok_or("the answer has no uploadTime")?;
    let (bytes, seconds) = (shape.bytes(), millis / 1000.0);
    let rate = |unit: u64| bytes as f64 / seconds / unit as f64;
    Ok(Outcome {
        plan: Plan { shape, ..Plan::default() },
        key: answer["fileKey"].as_str().unwrap_or_default().to_owned(),
        bytes,
        seconds,
        data_seconds: seconds,
        mb_per_second: rate(MB),
        mib_per_second: rate(MIB),
        goodput_mb_per_second: rate(MB),
        ..Outcome::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_answers_and_refusals_are_understood() {
        let published = br#"{"success":true,"uploadTime":11353,"uploadSpeed":"90.20 MB/s","fileKey":"speed-test/x","timestamp":"t"}"#;
        let outcome = read(published, Shape::PARTS).unwrap();
        assert!((outcome.mb_per_second - 88.08).abs() < 0.01);
        let refused = br#"{"success":false,"error":"Upload failed: 403 - Access Denied","errorName":"Error"}"#;
        assert_eq!(read(refused, Shape::PARTS).unwrap_err(), "Upload failed: 403 - Access Denied");
        assert!(read(b"<html>", Shape::PARTS).is_err());
    }

    #[test]
    fn the_published_upload_is_asked_for_without_parameters() {
        assert_eq!(path(&Plan::default()), "/upload");
        assert_eq!(path(&Plan { shape: Shape::SINGLE, ..Plan::default() }), "/upload-single");
        let other = Plan { shape: Shape::Single { bytes: 5 }, ..Plan::default() };
        assert_eq!(path(&other), "/upload-single?size=5&read_back=false&keep=false&seed=1");
    }
}
