//! SQL as the superuser.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::{PASSWORD, SUPERUSER};
use crate::deadline::{LONG, within};

/// A connection as the superuser. It ends when this is dropped.
#[derive(Debug)]
pub struct Session {
    client: Client,
    connection: JoinHandle<()>,
}

impl Session {
    pub(super) async fn open(address: SocketAddr, database: &str) -> io::Result<Self> {
        let mut config = Config::new();
        config.user(SUPERUSER).password(PASSWORD).dbname(database);
        within("a connection to PostgreSQL", LONG, async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(told)?;
            // What it has to say is said to the query as well.
            let connection = tokio::spawn(async move { drop(connection.await) });
            Ok(Self { client, connection })
        })
        .await
    }

    /// Runs SQL, one flight however many statements it is: the rows as text.
    ///
    /// # Errors
    /// The connection is gone, or the server does not like the SQL.
    pub async fn sql(&self, sql: &str) -> io::Result<Vec<Vec<Option<String>>>> {
        let messages = within(sql, LONG, async { self.client.simple_query(sql).await.map_err(told) }).await?;
        Ok(messages.iter().filter_map(columns).collect())
    }

    /// The first column of the first row; empty where there is none, or NULL.
    ///
    /// # Errors
    /// As [`sql`](Self::sql).
    pub async fn value(&self, sql: &str) -> io::Result<String> {
        let row = self.sql(sql).await?.into_iter().next();
        Ok(row.and_then(|row| row.into_iter().next()).flatten().unwrap_or_default())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn columns(message: &SimpleQueryMessage) -> Option<Vec<Option<String>>> {
    let SimpleQueryMessage::Row(row) = message else { return None };
    Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
}

/// With what the server said, which its own text leaves out.
fn told(error: tokio_postgres::Error) -> io::Error {
    match error.as_db_error() {
        Some(said) => io::Error::other(format!("{} ({})", said.message(), said.code().code())),
        None => io::Error::other(error),
    }
}
