//! The connection that is measured: made anew when it broke, so that what comes after a failure is measured as well.

use std::time::{Duration, Instant};

use edgeproxy_postgres::tokio_postgres::Statement;
use edgeproxy_postgres::{ConnectPhases, Connection, Server, connect};
use tokio::time::timeout;

use super::fault::Fault;
use super::operation::{self, Operation};
use super::plan::Plan;
use super::rows::{self, Cleanup, Row, RunId};
use super::{Subject, tell};

/// For the removal of rows, which reads the whole table; in the server as well.
const CLEAN_UP_WITHIN: Duration = Duration::from_secs(60);

/// See [the module](self).
pub(super) struct Line<'a> {
    subject: &'a Subject<'a>,
    server: Server,
    plan: &'a Plan,
    run: &'a RunId,
    connection: Option<Connection>,
    statement: Option<Statement>,
    /// An operation is on its way: it stays so if nobody waits for it any more.
    performing: bool,
    /// Rows named so far.
    rows: usize,
    connects: usize,
}

impl<'a> Line<'a> {
    pub(super) fn new(subject: &'a Subject<'a>, server: &Server, plan: &'a Plan, run: &'a RunId) -> Self {
        // A statement that nobody waits for any more must not wait on in the server, for a lock say: with each connection
        // made anew there would be one more of them.
        let server = server.clone().options(format!("-c statement_timeout={}", plan.patience.as_millis()));
        Self { subject, server, plan, run, connection: None, statement: None, performing: false, rows: 0, connects: 0 }
    }

    /// Connections after the first.
    pub(super) fn reconnects(&self) -> usize {
        self.connects.saturating_sub(1)
    }

    /// Connects; on failure, how long that took.
    pub(super) async fn connect(&mut self) -> Result<ConnectPhases, (Fault, Duration)> {
        let begun = Instant::now();
        self.statement = None;
        match connect(&self.server, self.subject.reach).await {
            Ok((connection, phases)) => {
                self.connection = Some(connection);
                self.connects += 1;
                Ok(phases)
            }
            Err(error) => Err((error.into(), begun.elapsed())),
        }
    }

    /// Sees to it that there is a connection.
    pub(super) async fn ready(&mut self) -> Result<(), (Fault, Duration)> {
        if self.connection.as_ref().is_none_or(|connection| connection.is_closed()) {
            self.connection = None;
            self.connect().await?;
        }
        Ok(())
    }

    /// Sees to it that the connection has what the operation needs, which is not part of its time.
    pub(super) async fn prepare(&mut self, operation: Operation) -> Result<(), Fault> {
        if let (Operation::Prepared, Some(client), None) = (operation, &self.connection, &self.statement) {
            let prepared = timeout(self.plan.patience, operation::prepare(client)).await.unwrap_or(Err(Fault::Timeout));
            self.statement = Some(self.judged(prepared)?);
        }
        Ok(())
    }

    /// Does it once, within the plan's patience.
    pub(super) async fn perform(&mut self, operation: Operation) -> Result<(), Fault> {
        self.performing = true;
        let done = timeout(self.plan.patience, self.try_perform(operation)).await.unwrap_or(Err(Fault::Timeout));
        self.performing = false;
        self.judged(done)
    }

    /// Lets go of the connection if it cannot be used any more.
    fn judged<T>(&mut self, done: Result<T, Fault>) -> Result<T, Fault> {
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
                None => Err(Fault::WrongAnswer),
            },
        }
    }

    pub(super) fn tell_done(&self, rounds: usize) {
        tell(self.subject.done, rounds);
    }

    /// Removes what was written, also after failures.
    pub(super) async fn clean_up(&mut self, owed: &[RunId]) -> Cleanup {
        if let Err((fault, _)) = self.ready().await {
            return Cleanup { error: Some(fault.to_string()), ..Cleanup::default() };
        }
        let Some(client) = &self.connection else { return Cleanup::default() };
        let mut cleanup = Cleanup::default();
        let runs: Vec<&RunId> = owed.iter().chain([self.run]).collect();
        let removed = timeout(CLEAN_UP_WITHIN, async {
            rows::begin_removal(client, self.performing, CLEAN_UP_WITHIN).await?;
            cleanup.deleted = rows::remove(client, &runs).await?;
            cleanup.leftovers = rows::remove_leftovers(client).await?;
            Ok::<_, Fault>(())
        });
        let removed = removed.await.unwrap_or(Err(Fault::Timeout));
        cleanup.error = removed.err().map(|fault| fault.to_string());
        cleanup
    }
}
