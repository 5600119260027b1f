//! The rows that a run writes: how they are known again, and removed.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edgeproxy_postgres::tokio_postgres::Client;
use edgeproxy_postgres::tokio_postgres::types::Type;
use serde::{Deserialize, Serialize};

use super::fault::Fault;

/// What the last column of all rows says.
const NOTES: &str = "Benchmark";
/// By the beginning of the name, which no two runs share.
const REMOVE: &str = "DELETE FROM contacts WHERE notes = $2 AND left(name, char_length($1)) = $1";
/// Nobody's any more: no run takes a day. Rows of other programs that write the same three columns are among them.
const REMOVE_LEFTOVERS: &str = "DELETE FROM contacts WHERE notes = $1 AND left(name, 6) = 'Bench-' \
                                AND email LIKE 'bench-%@test.local' AND created_at < LOCALTIMESTAMP - interval '1 day'";

/// Names a run: `<region>-<Unix time in ns of its begin>`. Its rows carry it in their names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(String);

impl RunId {
    /// Of a run that begins now.
    pub fn new(region: &str) -> Self {
        Self(format!("{region}-{}", unix_nanos()))
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One row, as it is written.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) email: String,
    pub(super) notes: &'static str,
}

impl Row {
    /// The row of this number in the run.
    pub(super) fn new(run: &RunId, number: usize) -> Self {
        Self {
            name: format!("Bench-{run}-{number}"),
            email: format!("bench-{}@test.local", unix_nanos()),
            notes: NOTES,
        }
    }
}

/// What became of the rows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Cleanup {
    /// Rows of this run, and of runs whose removal had failed, that were removed.
    pub deleted: u64,
    /// Rows older than a day that were removed.
    pub leftovers: u64,
    /// Why rows are left. They are removed by the next run, or once they are a day old.
    pub error: Option<String>,
}

/// Lets statements take so long. What was `interrupted` may be a transaction, in which a removal would come to nothing.
pub(super) async fn begin_removal(client: &Client, interrupted: bool, within: Duration) -> Result<(), Fault> {
    let rollback = if interrupted { "ROLLBACK; " } else { "" };
    Ok(client.batch_execute(&format!("{rollback}SET statement_timeout = {}", within.as_millis())).await?)
}

/// Removes the rows of these runs; how many there were.
pub(super) async fn remove(client: &Client, runs: &[&RunId]) -> Result<u64, Fault> {
    let mut deleted = 0;
    for run in runs {
        let beginning = format!("Bench-{run}-");
        deleted += client.execute_typed(REMOVE, &[(&beginning, Type::TEXT), (&NOTES, Type::TEXT)]).await?;
    }
    Ok(deleted)
}

/// Removes what nobody has removed; how many there were.
pub(super) async fn remove_leftovers(client: &Client) -> Result<u64, Fault> {
    Ok(client.execute_typed(REMOVE_LEFTOVERS, &[(&NOTES, Type::TEXT)]).await?)
}

fn unix_nanos() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}
