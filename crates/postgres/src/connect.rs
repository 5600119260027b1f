//! From an address to a session: name, stream, TLS, login, each with its time.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{timeout, timeout_at};
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, Statement};
use tracing::debug;

use crate::error::{Error, Phase};
use crate::line::{Line, LineState, Middle, Ready};
use crate::reach::{Reach, is_local};
use crate::server::{Server, TlsMode};
use crate::tls;

/// A session with a server. All that the client library offers is offered by this; whatever is polled together goes out
/// in one flight, in order.
pub struct Connection {
    client: Client,
    state: Arc<LineState>,
    driver: mpsc::UnboundedSender<oneshot::Sender<()>>,
    /// Statements that were prepared, by their text and the types given with it.
    statements: Mutex<HashMap<String, HashMap<Vec<Type>, Statement>>>,
}

/// How long each part of a connect took.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ConnectPhases {
    /// From name to address.
    pub dns: Duration,
    /// To an open stream.
    pub tcp: Duration,
    /// The question for TLS, if it is asked, and the handshake.
    pub tls: Duration,
    /// Startup and authentication, up to the first prompt.
    pub login: Duration,
}

/// A server whose session ends in order has this long to finish what it was asked before.
const GOODBYE: Duration = Duration::from_secs(2);
/// Statements that a connection keeps prepared. A program has a few dozen; one that makes up its texts would fill the
/// server's memory without this.
const STATEMENTS: usize = 256;

/// Opens a session with `server`.
///
/// # Errors
///
/// With the phase it happened in. Nothing was asked of the server yet, so it may be tried again.
pub async fn connect(server: &Server, reach: &dyn Reach) -> Result<(Connection, ConnectPhases), Error> {
    let began = Instant::now();
    let deadline = tokio::time::Instant::now() + server.connect_timeout;
    let late = |phase| move |_| Error::deadline(phase, server.connect_timeout).at(server);
    let failed = |phase| move |error| Error::io(phase, error).at(server);

    let dialled = timeout_at(deadline, reach.dial(&server.host, server.port)).await.map_err(late(Phase::Dial))?;
    let dialled = dialled.map_err(failed(Phase::Dial))?;
    let open = Instant::now();

    let mode = if is_local(&server.host) { &TlsMode::Disable } else { &server.tls };
    let securing = tls::secure(mode, &server.host, dialled.bytes);
    let stream = timeout_at(deadline, securing).await.map_err(late(Phase::Tls))?.map_err(failed(Phase::Tls))?;
    let secured = Instant::now();

    let (line, state) = Line::new(stream);
    let config = startup(server);
    let logging_in = config.connect_raw(line, Ready);
    let (client, session) = timeout_at(deadline, logging_in)
        .await
        .map_err(late(Phase::Login))?
        .map_err(|error| Error::database(Phase::Login, error).at(server))?;

    let (driver, orders) = mpsc::unbounded_channel();
    let name = server.to_string();
    tokio::spawn(async move {
        if let Err(error) = drive(session, orders).await {
            debug!(server = name, "connection ended: {}", Error::database(Phase::Statement, error));
        }
    });
    let phases = ConnectPhases {
        dns: dialled.lookup,
        tcp: (open - began).saturating_sub(dialled.lookup),
        tls: secured - open,
        login: secured.elapsed(),
    };
    let statements = Mutex::default();
    Ok((Connection { client, state, driver, statements }, phases))
}

fn startup(server: &Server) -> Config {
    let mut config = Config::new();
    // TLS is there already, or is not wanted; for the library the line is ready as it is.
    config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
    config.application_name(&server.application);
    if let Some(options) = &server.options {
        config.options(options);
    }
    if let Some(user) = &server.user {
        config.user(user);
    }
    if let Some(password) = &server.password {
        config.password(password.reveal());
    }
    if let Some(database) = &server.database {
        config.dbname(database);
    }
    config
}

/// Carries what the session says and is told, until one of both ends is gone. Who orders is answered once all that was
/// asked before the order is on the line.
async fn drive(
    session: impl Future<Output = Result<(), tokio_postgres::Error>>,
    mut orders: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
) -> Result<(), tokio_postgres::Error> {
    let mut session = pin!(session);
    let ended = poll_fn(|context| {
        let mut given = Vec::new();
        let abandoned = loop {
            match orders.poll_recv(context) {
                Poll::Ready(Some(order)) => given.push(order),
                Poll::Ready(None) => break true,
                Poll::Pending => break false,
            }
        };
        let polled = session.as_mut().poll(context);
        for order in given {
            let _ = order.send(());
        }
        match polled {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if abandoned => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    match ended.await {
        Some(ended) => ended,
        None => timeout(GOODBYE, session).await.unwrap_or(Ok(())),
    }
}

impl Connection {
    /// `sql` as a prepared statement: one round trip the first time, none afterwards. Execute it in one.
    ///
    /// `types` are those of the first parameters, as far as the server is not to find them out.
    ///
    /// # Errors
    ///
    /// The server does not understand it, or the connection is lost.
    pub async fn prepared(&self, sql: &str, types: &[Type]) -> Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.statements.lock().get(sql).and_then(|by_types| by_types.get(types)) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare_typed(sql, types).await?;
        let mut statements = self.statements.lock();
        if statements.values().map(HashMap::len).sum::<usize>() < STATEMENTS {
            statements.entry(sql.to_owned()).or_default().insert(types.to_vec(), statement.clone());
        }
        Ok(statement)
    }

    /// Waits until the connection is lost.
    pub async fn lost(&self) {
        self.driver.closed().await;
    }

    /// Bytes handed over for sending so far. While the connection is lost and this has not grown, nothing of what was
    /// asked since has reached the server.
    pub(crate) fn written(&self) -> u64 {
        self.state.written()
    }

    /// What the session is in the middle of, once all that was asked of it so far is on its way.
    pub(crate) async fn middle(&self) -> Middle {
        let (order, carried_out) = oneshot::channel();
        let _ = self.driver.send(order);
        match carried_out.await {
            Ok(()) => self.state.middle(),
            Err(_) => Middle::Statement,
        }
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connection").field("state", &self.state).finish_non_exhaustive()
    }
}

impl ConnectPhases {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.dns + self.tcp + self.tls + self.login
    }
}
