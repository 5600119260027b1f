//! A session with a server, as a driver has it.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use edgeproxy_postgres::tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage};
use edgeproxy_world::postgres::{DATABASE, PASSWORD, SUPERUSER};
use edgeproxy_world::{LONG, within};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Where it is, and whether it takes writes.
pub(crate) const WHERE: &str = "SELECT current_setting('cluster_name') || ' ' || \
    CASE WHEN pg_is_in_recovery() THEN 'replica' ELSE 'primary' END";

/// An open session.
pub(crate) struct Session {
    pub(crate) client: Client,
    driver: JoinHandle<Result<(), Error>>,
}

impl Session {
    /// Logs in, by any way that leads there.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Error> {
        let mut config = Config::new();
        config.user(SUPERUSER).password(PASSWORD).dbname(DATABASE);
        let opening = within("a session", LONG, async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(config.connect_raw(stream, NoTls).await)
        });
        let (client, connection) = opening.await.unwrap()?;
        Ok(Self { client, driver: tokio::spawn(connection) })
    }

    /// The first column of the first row.
    pub(crate) async fn value(&self, sql: &str) -> Result<String, Error> {
        let messages = tokio::time::timeout(LONG, self.client.simple_query(sql)).await.unwrap()?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok(row.unwrap_or_default())
    }

    /// Where it has got.
    pub(crate) async fn place(&self) -> Result<String, Error> {
        self.value(WHERE).await
    }

    /// Waits until it is closed from the other side.
    pub(crate) async fn closed(&mut self) -> io::Result<()> {
        // Whatever it ended with.
        within("the end of a session", LONG, async { Ok((&mut self.driver).await.is_ok()) }).await.map(drop)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.driver.is_finished()
    }
}

/// Where a new session gets to.
pub(crate) async fn place(address: SocketAddr) -> String {
    match Session::open(address).await {
        Ok(session) => session.place().await.unwrap_or_else(|error| format!("{error}")),
        Err(error) => match error.as_db_error() {
            Some(said) => format!("{} {}", said.code().code(), said.message()),
            None => format!("{error:?}"),
        },
    }
}

/// Waits until new sessions get there. Returns how long that took.
pub(crate) async fn until_place(address: SocketAddr, wanted: &str) -> Duration {
    let since = Instant::now();
    let mut last = String::new();
    while since.elapsed() < LONG {
        last = place(address).await;
        if last == wanted {
            return since.elapsed();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{last:?} instead of {wanted:?} for {LONG:?}");
}
