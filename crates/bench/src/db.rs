//! Measuring a database from where this process is.
//!
//! ```text
//! connect (phases) -> first query -> warm up -> measure, reads and writes in turn -> remove the rows
//! ```
//!
//! One connection, one operation at a time: what is told is how long an operation takes, not how many there is room for.
//! A failure is counted by its kind and never among the latencies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use edgeproxy_postgres::{ConnectPhases, Reach, Server};
use tokio::sync::watch;

use crate::sample::Sample;

mod fault;
mod line;
mod operation;
mod plan;
mod rows;

pub use fault::Fault;
pub use operation::Operation;
pub use plan::{ITERATIONS_DEFAULT, ITERATIONS_MOST, Mode, Order, Plan, PlanError, ReadKind};
pub use rows::{Cleanup, RunId};

use line::Line;

/// Rounds before the first that counts: the server's caches and ours are filled, and slow start is over.
const WARM_UP_ROUNDS: usize = 3;
/// Samples of what is measured beside reads and inserts, at most: each costs a round trip or three.
const BESIDE_MOST: usize = 10;
/// Timeouts in a row that end a run: what is stuck is not measured, and each costs the patience of one more operation.
const TIMEOUTS_MOST: usize = 3;
/// Why a run ended that was told to.
const STOPPING: &str = "stopping";

/// What a run found.
#[derive(Debug, Default)]
pub struct Record {
    /// How long the parts of the cold connect took; `None`: it failed.
    pub connect: Option<ConnectPhases>,
    /// The first query on the cold connection.
    pub first: Option<Duration>,
    /// What succeeded.
    pub samples: BTreeMap<Operation, Sample>,
    /// What failed, by kind.
    pub errors: BTreeMap<String, usize>,
    /// Those of them that had no answer in time.
    pub timeouts: usize,
    /// How long failures took.
    pub failures: Sample,
    /// Connections after the first.
    pub reconnects: usize,
    /// Why it ended before all was measured.
    pub ended_early: Option<String>,
    /// What became of the rows.
    pub cleanup: Cleanup,
    /// What had no answer in time and has had none since.
    stuck: BTreeSet<Operation>,
    /// How often in a row that was.
    stuck_times: usize,
}

impl Record {
    /// What was measured of an operation; nothing, if nothing was.
    pub fn sample(&self, operation: Operation) -> Sample {
        self.samples.get(&operation).cloned().unwrap_or_default()
    }

    fn fail(&mut self, fault: &Fault, took: Duration) {
        *self.errors.entry(fault.label()).or_default() += 1;
        self.timeouts += usize::from(fault.is_timeout());
        self.failures.push(took);
    }

    /// Counts timeouts in a row, until one of the operations that had one succeeds: that others do tells nothing, as an
    /// empty round trip needs no table. An error means that there were too many.
    fn watch_for_stuck(&mut self, operation: Operation, fault: Option<&Fault>) -> Result<(), String> {
        match fault {
            Some(fault) if fault.is_timeout() => {
                self.stuck.insert(operation);
                self.stuck_times += 1;
            }
            None if self.stuck.contains(&operation) => {
                self.stuck.clear();
                self.stuck_times = 0;
            }
            _ => {}
        }
        match self.stuck_times {
            0..TIMEOUTS_MOST => Ok(()),
            times => Err(format!("no answer in time, {times} times in a row")),
        }
    }
}

/// Who is measured, and how.
pub struct Subject<'a> {
    /// The database.
    pub server: &'a Server,
    /// Where reads go, if elsewhere.
    pub near: Option<&'a Server>,
    /// The way there.
    pub reach: &'a dyn Reach,
    /// Rounds done, for whoever asks meanwhile.
    pub done: &'a AtomicUsize,
    /// True: the run is to end now. Without a sender, it never is.
    pub stop: watch::Receiver<bool>,
}

/// Measures. Rows of `run` are removed afterwards, and those of the runs in `owed`, whose own removal failed.
pub async fn measure(subject: &Subject<'_>, plan: &Plan, run: &RunId, owed: &[RunId]) -> Record {
    let line = |server| Line::new(subject, server, plan, run);
    let mut lines = Lines { main: line(subject.server), near: subject.near.map(line) };
    let mut record = Record::default();
    let ended = tokio::select! {
        ended = all(&mut lines, plan, &mut record) => ended,
        // The removal comes after whatever the connection is in the middle of, so that its row is removed as well.
        () = told_to_stop(subject.stop.clone()) => Err(STOPPING.to_owned()),
    };
    record.ended_early = ended.err();
    record.cleanup = lines.main.clean_up(owed).await;
    record.reconnects = lines.main.reconnects();
    record
}

/// The connection to the database, and the one to where it is read, if that is elsewhere.
struct Lines<'a> {
    main: Line<'a>,
    near: Option<Line<'a>>,
}

impl<'a> Lines<'a> {
    fn of(&mut self, operation: Operation) -> &mut Line<'a> {
        match (operation, &mut self.near) {
            (Operation::Read, Some(near)) => near,
            _ => &mut self.main,
        }
    }
}

/// All but the removal. An error tells why not everything was measured.
async fn all(lines: &mut Lines<'_>, plan: &Plan, record: &mut Record) -> Result<(), String> {
    match lines.main.connect().await {
        Ok(phases) => record.connect = Some(phases),
        Err((fault, took)) => {
            record.fail(&fault, took);
            return Err(fault.to_string());
        }
    }
    first(lines, record).await?;
    if plan.warm_up {
        warm_up(lines, record).await?;
    }
    rounds(lines, plan, record).await
}

async fn told_to_stop(mut stop: watch::Receiver<bool>) {
    if stop.wait_for(|is_told| *is_told).await.is_err() {
        std::future::pending().await
    }
}

async fn first(lines: &mut Lines<'_>, record: &mut Record) -> Result<(), String> {
    let begun = Instant::now();
    let done = lines.main.perform(Operation::Read).await;
    match &done {
        Ok(()) => record.first = Some(begun.elapsed()),
        Err(fault) => record.fail(fault, begun.elapsed()),
    }
    record.watch_for_stuck(Operation::Read, done.err().as_ref())
}

/// Failures here are told once they come again.
async fn warm_up(lines: &mut Lines<'_>, record: &mut Record) -> Result<(), String> {
    for _ in 0..WARM_UP_ROUNDS {
        for operation in [Operation::Probe, Operation::Read, Operation::Insert] {
            let line = lines.of(operation);
            if line.ready().await.is_ok() {
                let done = line.perform(operation).await;
                record.watch_for_stuck(operation, done.err().as_ref())?;
            }
        }
    }
    Ok(())
}

/// Each operation in turn, or all of one after all of another.
async fn rounds(lines: &mut Lines<'_>, plan: &Plan, record: &mut Record) -> Result<(), String> {
    let beside = if plan.phases { Operation::BESIDE } else { &[] };
    let every = plan.iterations.div_ceil(BESIDE_MOST);
    match plan.order {
        Order::Interleaved => {
            for round in 0..plan.iterations {
                for operation in [Operation::Probe, Operation::Read, Operation::Insert] {
                    take(lines.of(operation), record, operation).await?;
                }
                if round % every == 0 {
                    for operation in beside {
                        take(lines.of(*operation), record, *operation).await?;
                    }
                }
                lines.main.tell_done(round + 1);
            }
        }
        Order::Blocks => {
            for operation in [Operation::Read, Operation::Insert, Operation::Probe] {
                for round in 0..plan.iterations {
                    take(lines.of(operation), record, operation).await?;
                    lines.main.tell_done(if operation == Operation::Insert { round + 1 } else { 0 });
                }
            }
            for operation in beside {
                for _ in 0..plan.iterations.min(BESIDE_MOST) {
                    take(lines.of(*operation), record, *operation).await?;
                }
            }
        }
    }
    Ok(())
}

/// Measures one. An error means that there is no connection to be had any more, or no answer on it.
async fn take(line: &mut Line<'_>, record: &mut Record, operation: Operation) -> Result<(), String> {
    if let Err((fault, took)) = line.ready().await {
        record.fail(&fault, took);
        return Err(fault.to_string());
    }
    let mut begun = Instant::now();
    let mut done = line.prepare(operation).await;
    if done.is_ok() {
        begun = Instant::now();
        done = line.perform(operation).await;
    }
    let took = begun.elapsed();
    match &done {
        Ok(()) => record.samples.entry(operation).or_default().push(took),
        Err(fault) => record.fail(fault, took),
    }
    record.watch_for_stuck(operation, done.err().as_ref())
}

/// Where rounds are counted for those who ask.
fn tell(done: &AtomicUsize, rounds: usize) {
    done.fetch_max(rounds, Ordering::Relaxed);
}
