//! Statements that cost one round trip: their parameters' types are given, so that the server need not be asked for them.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;
use std::{fmt, iter};

use futures_util::TryStreamExt;
use futures_util::future::{Either, MaybeDone, join, join_all, join3, maybe_done, select};
use tokio::time::timeout;
use tokio_postgres::types::{PgLsn, ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::error::is_fatal;
use crate::lsn::{Lsn, Token};
use crate::observation::timeline_of_file;

/// A statement, and its parameters with their types.
#[derive(Clone, Copy)]
pub struct Statement<'a> {
    /// With `$1` and so on for the parameters.
    pub sql: &'a str,
    /// In that order.
    pub parameters: &'a [(&'a (dyn ToSql + Sync), Type)],
}

/// What a statement gave.
#[derive(Debug, Default)]
pub struct Answer {
    /// What it returned.
    pub rows: Vec<Row>,
    /// How many rows it wrote or returned.
    pub affected: u64,
}

/// What a flight of writes gave.
pub(crate) enum Flight {
    /// They are done. `None` in place of a token that could not be had: they are committed all the same.
    Done(Vec<Answer>, Option<Token>),
    /// BEGIN alone failed, for this reason, and what was sent behind it ran without a transaction around it.
    NotBegun(tokio_postgres::Error),
}

/// The timeline, and the token's position by either rule; and which rule is for what was committed before, on a primary.
///
/// It is what is on disk. The position where the next record will go, which looks like the same, is ahead of that while any
/// other transaction is open, and no replica gets there before that one ends. Only where commits do not wait for the disk
/// is it the one that covers them.
const TOKEN: &str = "\
    SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8), pg_current_wal_flush_lsn(), \
      pg_current_wal_insert_lsn(), current_setting('synchronous_commit') = 'off'";

/// Whether the commit to come does not wait for the disk: a transaction may have said so for itself alone.
const UNWAITED: &str = "SELECT current_setting('synchronous_commit') = 'off'";

/// What a server is, and whether its readers see what is at position `$1`.
const FENCE: &str = "\
    SELECT recovering, \
      CASE WHEN recovering THEN NULL ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END, \
      greatest((SELECT received_tli FROM pg_stat_wal_receiver), (SELECT timeline_id FROM pg_control_checkpoint()), \
        (SELECT min_recovery_end_timeline FROM pg_control_recovery())), \
      NOT recovering OR coalesce(pg_last_wal_replay_lsn() >= $1, false) \
    FROM (SELECT pg_is_in_recovery() AS recovering OFFSET 0) AS server";

/// What a server must be for its answer to count.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fence {
    /// Nothing that is not known already.
    None,
    /// A replica that has replayed this, or the primary of its timeline or of a later one.
    Reached(Token),
    /// The primary of this timeline or of a later one.
    Primary(u32),
}

impl<'a> Statement<'a> {
    /// A statement with parameters, each with its type.
    #[must_use]
    pub fn new(sql: &'a str, parameters: &'a [(&'a (dyn ToSql + Sync), Type)]) -> Self {
        Self { sql, parameters }
    }
}

impl<'a> From<&'a str> for Statement<'a> {
    fn from(sql: &'a str) -> Self {
        Self { sql, parameters: &[] }
    }
}

/// Runs `statement`. It is on its way as soon as this was polled once.
async fn run(client: &Client, statement: Statement<'_>) -> Result<Answer, tokio_postgres::Error> {
    let parameters = statement.parameters.iter().map(|(value, of_type)| (*value, of_type.clone()));
    let mut stream = pin!(client.query_typed_raw(statement.sql, parameters).await?);
    let mut rows = Vec::new();
    // To the end: it is only then that a statement on its own is committed.
    while let Some(row) = stream.try_next().await? {
        rows.push(row);
    }
    Ok(Answer { rows, affected: stream.rows_affected().unwrap_or(0) })
}

/// Runs `statement` and asks for the token of it in the same flight.
pub(crate) async fn run_with_token(client: &Client, statement: Statement<'_>) -> Result<Flight, tokio_postgres::Error> {
    // What is polled together goes out together, in this order.
    let (answer, positions) = join(run(client, statement), positions(client)).await;
    Ok(Flight::Done(vec![answer?], positions.ok().map(|positions| positions.token(false))))
}

/// BEGIN, all statements, COMMIT and the question for the token in one flight.
///
/// If one fails, those after it fail as well, and COMMIT ends it without a trace.
pub(crate) async fn run_transaction(
    client: &Client,
    statements: &[Statement<'_>],
) -> Result<Flight, tokio_postgres::Error> {
    let bare = |sql| run(client, Statement { sql, parameters: &[] });
    let all = iter::once(Statement::from("BEGIN")).chain(statements.iter().copied());
    let all = all.chain(iter::once(Statement::from(UNWAITED)));
    let mut flight: Vec<_> = all.map(|statement| maybe_done(Box::pin(run(client, statement)))).collect();
    // On their way, but for those whose parameters are not of the types given: of these the server knows nothing, and it
    // would commit the others.
    let unsent = poll_fn(|context| {
        let polled = flight.iter_mut().map(|statement| {
            let _ = Pin::new(&mut *statement).poll(context);
            matches!(statement, MaybeDone::Done(Err(_)))
        });
        Poll::Ready(polled.fold(false, |any, failed| any | failed))
    })
    .await;
    let end = bare(if unsent { "ROLLBACK" } else { "COMMIT" });
    let (_, end, positions) = join3(join_all(&mut flight), end, positions(client)).await;
    let mut answers = flight.iter_mut().filter_map(|statement| Pin::new(statement).take_output());
    // Over a session that has ended nothing ran behind it.
    if let Some(Err(error)) = answers.next() {
        let went_on = error.as_db_error().is_some_and(|error| !is_fatal(error));
        return if went_on { Ok(Flight::NotBegun(error)) } else { Err(error) };
    }
    let mut answers = answers.collect::<Result<Vec<_>, _>>()?;
    end?;
    let unwaited = answers.pop().and_then(|answer| answer.rows.first()?.try_get(0).ok());
    // Without an answer to that, the later position covers both.
    let token = positions.ok().map(|positions| positions.token(unwaited.unwrap_or(true)));
    Ok(Flight::Done(answers, token))
}

/// Runs `statement` after the question whether this server may answer it, in one flight. `None` if it may not: then the
/// answer is thrown away, and waited for no longer than `linger`; it may be on its way still.
///
/// They are two statements, the question first: a snapshot taken for both could be older than what the question sees.
pub(crate) async fn run_fenced(
    client: &Client,
    fence: Fence,
    statement: Statement<'_>,
    linger: Duration,
) -> Result<Option<Answer>, tokio_postgres::Error> {
    let holds = async {
        let lsn = match fence {
            Fence::None => return Ok(true),
            Fence::Reached(token) => token.lsn,
            Fence::Primary(_) => Lsn::default(),
        };
        let row = client.query_typed_one(FENCE, &[(&PgLsn::from(lsn.0), Type::PG_LSN)]).await?;
        let recovering: bool = row.try_get(0)?;
        let timeline = match row.try_get::<_, Option<&str>>(1)? {
            Some(digits) => timeline_of_file(digits),
            None => u32::try_from(row.try_get::<_, i32>(2)?).unwrap_or(0),
        };
        let reached: bool = row.try_get(3)?;
        Ok::<_, tokio_postgres::Error>(match fence {
            Fence::None => true,
            Fence::Reached(token) if recovering => reached && timeline == token.timeline,
            Fence::Reached(token) => timeline >= token.timeline,
            Fence::Primary(of) => !recovering && timeline >= of,
        })
    };
    let (holds, answer) = (pin!(holds), pin!(run(client, statement)));
    // Both are polled, the question first. Where it may not answer, an error of its is none either.
    match select(holds, answer).await {
        Either::Left((Ok(true), answer)) => answer.await.map(Some),
        Either::Left((Ok(false), answer)) => {
            let _ = timeout(linger, answer).await;
            Ok(None)
        }
        Either::Left((Err(error), _)) => Err(error),
        Either::Right((answer, holds)) => match holds.await? {
            true => answer.map(Some),
            false => Ok(None),
        },
    }
}

/// What a token is made of.
struct Positions {
    timeline: u32,
    /// What is on disk.
    flush: Lsn,
    /// Where the next record goes.
    insert: Lsn,
    /// Commits of this session do not wait for the disk.
    unwaited: bool,
}

impl Positions {
    /// Of a commit, that did not wait for the disk if it was `unwaited` or the session is.
    fn token(&self, unwaited: bool) -> Token {
        let lsn = if unwaited || self.unwaited { self.insert } else { self.flush };
        Token { timeline: self.timeline, lsn }
    }
}

async fn positions(client: &Client) -> Result<Positions, tokio_postgres::Error> {
    let row = client.query_typed_one(TOKEN, &[]).await?;
    let lsn = |column| row.try_get::<_, PgLsn>(column).map(|lsn| Lsn(lsn.into()));
    let timeline = timeline_of_file(row.try_get(0)?);
    Ok(Positions { timeline, flush: lsn(1)?, insert: lsn(2)?, unwaited: row.try_get(3)? })
}

/// The values may be secret.
impl fmt::Debug for Statement<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types: Vec<&Type> = self.parameters.iter().map(|(_, of_type)| of_type).collect();
        formatter.debug_struct("Statement").field("sql", &self.sql).field("parameters", &types).finish()
    }
}

#[cfg(test)]
mod tests;
