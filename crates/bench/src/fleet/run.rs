//! The run: connect to all, begin at the same moment, gather what comes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edgeproxy_postgres::Reach;
use futures_util::future::join_all;

use super::admission::{admitted, plain};
use super::http::{AskError, Asker, Origin};
use super::outcome::{Measured, Outcome, Row, Run};
use super::{Fleet, PORT, Site};
use crate::db::Plan;
use crate::service::Answer;

/// Version of the saved form.
pub(crate) const VERSION: u32 = 1;
/// Sites that are asked at once, where nobody says.
pub const PARALLEL: usize = 10;
/// For a connection to a service, as published.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// What a round trip takes at most, for how long an answer may take. The farthest regions are 0.3 s from each other.
const ROUND_TRIP_MOST: Duration = Duration::from_millis(1000);
/// Round trips of an iteration: probe, read, insert as lib/pq does it.
const TRIPS_OF_ITERATION: u32 = 4;
/// Of all that is measured beside, the connect, the warm-up and the removal.
const TRIPS_BESIDE: u32 = 90;

/// How the sites are asked.
#[derive(Clone, Debug)]
pub struct Course {
    /// What is asked for.
    pub plan: Plan,
    /// Requests to each site, one after another.
    pub requests: usize,
    /// Sites that are asked at once. All of these begin at the same moment.
    pub parallel: usize,
}

/// What happens meanwhile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News<'a> {
    /// The site is reached.
    Connected(&'a Site),
    /// One of its requests is answered.
    Answered(&'a Site),
    /// Nothing more comes of it, and why, if this is not the end of all its requests.
    Over(&'a Site, Option<&'a AskError>),
}

/// Asks all sites. One that does not answer is a row as well. Sites are asked in groups of `parallel`, each of which begins
/// once all of it is connected or given up.
pub async fn run(fleet: &Fleet, course: &Course, reach: Arc<dyn Reach>, tell: impl Fn(News<'_>)) -> Run {
    let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let mut rows = Vec::with_capacity(fleet.sites.len());
    for group in fleet.sites.chunks(course.parallel.max(1)) {
        let connected = join_all(group.iter().map(|site| connect(site, &*reach, &tell))).await;
        let asked = group.iter().zip(connected).map(|(site, asker)| ask(site, course, asker, &tell));
        rows.extend(join_all(asked).await);
    }
    let count = fleet.sites.len();
    let source = fleet.source.clone();
    let database =
        fleet.database.clone().or_else(|| rows.iter().find_map(Row::measured).map(|measured| measured.db_host.clone()));
    Run {
        version: VERSION,
        started,
        asked: course.plan.query(),
        requests: course.requests,
        source: source.unwrap_or_else(|| if count == 1 { "1 region".to_owned() } else { format!("{count} regions") }),
        database: database.unwrap_or_else(|| "database".to_owned()),
        rows,
    }
}

async fn connect(site: &Site, reach: &dyn Reach, tell: &impl Fn(News<'_>)) -> Result<Asker, AskError> {
    let origin = Origin::at(&site.address, PORT).map_err(|error| AskError::Unreachable(error.to_string()))?;
    let asker = Asker::connect(reach, &origin, CONNECT_WITHIN).await?;
    tell(News::Connected(site));
    Ok(asker)
}

async fn ask(site: &Site, course: &Course, asker: Result<Asker, AskError>, tell: &impl Fn(News<'_>)) -> Row {
    let mut measured = Measured::default();
    let mut failed = None;
    match asker {
        Ok(mut asker) => {
            for _ in 0..course.requests {
                match request(&mut asker, &course.plan).await {
                    Ok(answer) => measured.add(answer),
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
                tell(News::Answered(site));
            }
        }
        Err(error) => failed = Some(error),
    }
    tell(News::Over(site, failed.as_ref()));
    let outcome = match failed {
        // What was measured before counts.
        Some(error) if measured.samples.is_empty() => Outcome::Failed(error),
        Some(error) => {
            measured.notes.push(error.to_string());
            Outcome::Measured(Box::new(measured))
        }
        None => Outcome::Measured(Box::new(measured)),
    };
    Row { site: site.clone(), outcome }
}

async fn request(asker: &mut Asker, plan: &Plan) -> Result<Answer, AskError> {
    let path = format!("/api/rds/benchmark?{}", plan.query());
    let (status, body) = asker.get(&path, patience(plan)).await?;
    let answer: Answer = serde_json::from_slice(&body).map_err(|error| {
        AskError::Broken(plain(&format!("status {status}, and what came is no answer of a backend: {error}")))
    })?;
    let answer = admitted(answer)?;
    match (&answer.error, &answer.message) {
        (Some(error), Some(message)) => Err(AskError::Refused(format!("{error}: {message}"))),
        (Some(error), None) if answer.errors.is_empty() => Err(AskError::Refused(error.clone())),
        (Some(error), None) => {
            let kinds: Vec<_> = answer.errors.iter().map(|(kind, count)| format!("{count} x {kind}")).collect();
            Err(AskError::Refused(format!("{error}: {}", kinds.join(", "))))
        }
        (None, _) => Ok(answer),
    }
}

/// A service that measures takes its time; one that has gone away must not keep the others.
fn patience(plan: &Plan) -> Duration {
    let iterations = u32::try_from(plan.iterations).unwrap_or(u32::MAX);
    ROUND_TRIP_MOST * (iterations.saturating_mul(TRIPS_OF_ITERATION)).saturating_add(TRIPS_BESIDE)
}
