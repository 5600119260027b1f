//! The connection that is measured: made anew when it broke, so that what comes after a failure is measured as well.

use std::time::{Duration, Instant};

use edgeproxy_postgres::tokio_postgres::Statement;
use edgeproxy_postgres::{ConnectPhases, Connection, Server, connect};
use tokio::time::timeout;

use super::fault::Fault;
use super::operation::{self, Operation};
use super::plan::{Mode, Plan};
use super::rows::{self, Cleanup, Row, RunId};
use super::{Subject, tell};

/// For the removal of rows, which reads the whole table.
const CLEAN_UP_WITHIN: Duration = Duration::from_secs(60);

/// See [the module](self).
pub(super) struct Line<'a> {
    subject: &'a Subject<'a>,
    server: &'a Server,
    plan: &'a Plan,
    run: &'a RunId,
    connection: Option<Connection>,
    statement: Option<Statement>,
    /// Rows named so far.
    rows: usize,
    connects: usize,
}

impl<'a> Line<'a> {
    pub(super) fn new(subject: &'a Subject<'a>, server: &'a Server, plan: &'a Plan, run: &'a RunId) -> Self {
        Self { subject, server, plan, run, connection: None, statement: None, rows: 0, connects: 0 }
    }

    /// Connections after the first.
    pub(super) fn reconnects(&self) -> usize {
        self.connects.saturating_sub(1)
    }

    /// Connects; on failure, how long that took.
    pub(super) async fn connect(&mut self) -> Result<ConnectPhases, (Fault, Duration)> {
        let begun = Instant::now();
        self.statement = None;
        match connect(self.server, self.subject.reach).await {
            Ok((connection, phases)) => {
                self.connection = Some(connection);
                self.connects += 1;
                Ok(phases)
            }
            Err(error) => Err((error.into(), begun.elapsed())),
        }
    }

    /// Sees to it that there is a connection, and on it what the operation needs.
    pub(super) async fn ready(&mut self, operation: Operation) -> Result<(), (Fault, Duration)> {
        if self.connection.as_ref().is_none_or(|connection| connection.is_closed()) {
            self.connection = None;
            self.connect().await?;
        }
        if let (Operation::Prepared, Some(client), None) = (operation, &self.connection, &self.statement) {
            let prepared = timeout(self.plan.patience, operation::prepare(client)).await;
            self.statement = prepared.ok().and_then(Result::ok);
        }
        Ok(())
    }

    /// Does it once, within the plan's patience.
    pub(super) async fn perform(&mut self, operation: Operation) -> Result<(), Fault> {
        let done = match timeout(self.plan.patience, self.try_perform(operation)).await {
            Ok(done) => done,
            Err(_) => Err(Fault::Timeout),
        };
        if done.as_ref().is_err_and(Fault::spoils) {
            self.connection = None;
        }
        done
    }

    async fn try_perform(&mut self, operation: Operation) -> Result<(), Fault> {
        let Some(client) = &self.connection else { return Err(Fault::Broken("there is none".to_owned())) };
        let row = Row::new(self.run, self.rows);
        self.rows += 1;
        match operation {
            Operation::Probe => return Ok(client.check_connection().await?),
            Operation::Read => return operation::read(client, self.plan.read).await,
            Operation::Insert => operation::insert(client, self.plan.mode, &row).await,
            Operation::TransactionAwaited => operation::transaction_awaited(client, &row).await,
            Operation::Transaction => operation::transaction(client, &row).await,
            Operation::Prepared => match &self.statement {
                Some(statement) => operation::insert_prepared(client, statement, &row).await,
                // It could not be prepared; why, the inserts beside tell.
                None => operation::insert(client, Mode::Pq, &row).await,
            },
        }
    }

    pub(super) fn tell_done(&self, rounds: usize) {
        tell(self.subject.done, rounds);
    }

    /// Removes what was written, also after failures.
    pub(super) async fn clean_up(&mut self, owed: &[RunId]) -> Cleanup {
        if let Err((fault, _)) = self.ready(Operation::Probe).await {
            return Cleanup { error: Some(fault.to_string()), ..Cleanup::default() };
        }
        let Some(client) = &self.connection else { return Cleanup::default() };
        let mut cleanup = Cleanup::default();
        let runs: Vec<&RunId> = owed.iter().chain([self.run]).collect();
        let removed = timeout(CLEAN_UP_WITHIN, async {
            cleanup.deleted = rows::remove(client, &runs).await?;
            cleanup.leftovers = rows::remove_leftovers(client).await?;
            Ok::<_, Fault>(())
        });
        let removed = removed.await.unwrap_or(Err(Fault::Timeout));
        cleanup.error = removed.err().map(|fault| fault.to_string());
        cleanup
    }
}
