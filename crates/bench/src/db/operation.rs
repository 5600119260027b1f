//! The operations that are measured, each as it goes over the wire.

use edgeproxy_postgres::tokio_postgres::types::{ToSql, Type};
use edgeproxy_postgres::tokio_postgres::{Client, SimpleQueryMessage, Statement};
use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::plan::{Mode, ReadKind};
use super::rows::Row;

const COUNT: &str = "SELECT COUNT(*) FROM contacts";
const ONE: &str = "SELECT 1";
const INSERT: &str = "INSERT INTO contacts (name, email, notes) VALUES ($1, $2, $3)";
const TYPES: [Type; 3] = [Type::VARCHAR, Type::VARCHAR, Type::TEXT];

/// What is done and timed. The flights are those of the mode that sends each statement in one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// A bare Sync: one flight, nothing for the server to do. The measure of a round trip.
    Probe,
    /// The read: one flight.
    Read,
    /// A row, committed by itself: one flight, or two as lib/pq does it.
    Insert,
    /// The same by a statement prepared before: one flight.
    Prepared,
    /// BEGIN, a row, COMMIT, each awaited: three flights.
    TransactionAwaited,
    /// The three sent together: one flight.
    Transaction,
}

impl Operation {
    /// What is measured beside reads and inserts.
    pub(super) const BESIDE: &[Self] = &[Self::Prepared, Self::TransactionAwaited, Self::Transaction];

    /// As JSON and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Read => "read",
            Self::Insert => "insert",
            Self::Prepared => "prepared",
            Self::TransactionAwaited => "transaction_awaited",
            Self::Transaction => "transaction",
        }
    }
}

/// Reads, once.
pub(super) async fn read(client: &Client, kind: ReadKind) -> Result<(), Fault> {
    let sql = if kind == ReadKind::One { ONE } else { COUNT };
    let answer = client.simple_query(sql).await?;
    let value = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse::<u64>().ok(),
        _ => None,
    });
    value.map(drop).ok_or(Fault::WrongAnswer)
}

/// Writes the row, once.
pub(super) async fn insert(client: &Client, mode: Mode, row: &Row) -> Result<(), Fault> {
    let written = match mode {
        Mode::One => typed_insert(client, row).await?,
        // Prepares by a flight of its own, as the types are not told.
        Mode::Pq => client.execute(INSERT, &row.parameters()).await?,
    };
    one_row(written)
}

/// What [`insert_prepared`] needs, once for a connection.
pub(super) async fn prepare(client: &Client) -> Result<Statement, Fault> {
    Ok(client.prepare_typed(INSERT, &TYPES).await?)
}

pub(super) async fn insert_prepared(client: &Client, statement: &Statement, row: &Row) -> Result<(), Fault> {
    one_row(client.execute(statement, &row.parameters()).await?)
}

pub(super) async fn transaction_awaited(client: &Client, row: &Row) -> Result<(), Fault> {
    client.batch_execute("BEGIN").await?;
    let written = typed_insert(client, row).await;
    client.batch_execute("COMMIT").await?;
    one_row(written?)
}

/// A connection sends in the order in which it is asked, and need not have the answer first.
pub(super) async fn transaction(client: &Client, row: &Row) -> Result<(), Fault> {
    let (begun, written, committed) = tokio::join!(
        biased;
        client.batch_execute("BEGIN"),
        typed_insert(client, row),
        client.batch_execute("COMMIT")
    );
    begun?;
    let written = written?;
    committed?;
    one_row(written)
}

async fn typed_insert(client: &Client, row: &Row) -> Result<u64, Fault> {
    let [name, email, notes] = row.parameters();
    let [name_type, email_type, notes_type] = TYPES;
    Ok(client.execute_typed(INSERT, &[(name, name_type), (email, email_type), (notes, notes_type)]).await?)
}

/// A row is a result only if it is there.
fn one_row(written: u64) -> Result<(), Fault> {
    if written == 1 { Ok(()) } else { Err(Fault::WrongAnswer) }
}

impl Row {
    fn parameters(&self) -> [&(dyn ToSql + Sync); 3] {
        [&self.name, &self.email, &self.notes]
    }
}
