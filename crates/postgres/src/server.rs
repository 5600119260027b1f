//! A server: where it is, who asks there, and how the way to it is secured.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, Phase};

mod url;

/// One address that speaks PostgreSQL's protocol.
///
/// ```
/// use edgeproxy_postgres::Server;
///
/// let server = Server::from_url("postgres://app:secret@10.50.0.1:5433/contacts?sslmode=disable")?;
/// assert_eq!(server.to_string(), "10.50.0.1:5433");
/// # Ok::<(), edgeproxy_postgres::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Server {
    /// A name or an address; a directory (`/run/postgresql`) for the Unix socket in it; empty for the socket in the
    /// usual place.
    pub host: String,
    /// 5432 unless said otherwise.
    pub port: u16,
    /// `None`: the operating system's name for who runs this.
    pub user: Option<String>,
    /// What the server asks for, if it does.
    pub password: Option<Password>,
    /// `None`: as the user is called.
    pub database: Option<String>,
    /// How the way there is secured.
    pub tls: TlsMode,
    /// Where it is, as far as anyone has said.
    pub region: Option<String>,
    /// What the server shows in its list of sessions.
    pub application: String,
    /// What the startup packet asks of the session, as `-c statement_timeout=10s`: costs no round trip. A pooler in
    /// between may refuse it.
    pub options: Option<String>,
    /// Longest time for all of a connect, from the name to the end of the login.
    pub connect_timeout: Duration,
}

/// A secret: shown nowhere.
#[derive(Clone, Eq, PartialEq)]
pub struct Password(String);

/// How the way to a server is secured. Unix sockets never are.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum TlsMode {
    /// In clear: for a way that is encrypted already. Saves two round trips of each connect.
    #[default]
    Disable,
    /// Encrypted to whoever is there; the login binds the password to their certificate where the server can do that.
    Require(Negotiation),
    /// Encrypted, and the certificate is for this host and from an authority in this file (PEM).
    VerifyFull(Negotiation, PathBuf),
}

/// How TLS begins.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Negotiation {
    /// The client asks whether there is TLS: a round trip, understood by every server.
    #[default]
    Classic,
    /// TLS from the first byte: PostgreSQL 17 and newer.
    Direct,
}

/// PostgreSQL's own port.
pub const PORT: u16 = 5432;
/// The port of a region's own replica, by the convention that clusters of one primary and many regions follow.
pub const REPLICA_PORT: u16 = 5433;
/// Longest time for a connect: that of the published benchmark's clients.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What servers show of us unless told otherwise.
const APPLICATION: &str = "edgeproxy";

impl Server {
    /// A server of which nothing but the address is known.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            user: None,
            password: None,
            database: None,
            tls: TlsMode::Disable,
            region: None,
            application: APPLICATION.to_owned(),
            options: None,
            connect_timeout: CONNECT_TIMEOUT,
        }
    }

    /// From `postgres://user:password@host:port/database?key=value`.
    ///
    /// Keys: `sslmode` (`disable`, which is the default, `require`, `verify-full`), `sslnegotiation` (`postgres`,
    /// `direct`), `sslrootcert`, `application_name`, `connect_timeout` (seconds), and `user`, `password`, `dbname`,
    /// `host`, `port` again. One host.
    ///
    /// # Errors
    ///
    /// It is no such URL, or it asks for something that would not be kept; the message names the key, never a value
    /// that could hold the password.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        url::parse(url).map_err(|why| Error::settings(Phase::Settings, why))
    }

    /// Who logs in.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// What the server asks for.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(Password(password.into()));
        self
    }

    /// Which database.
    #[must_use]
    pub fn database(mut self, database: impl Into<String>) -> Self {
        self.database = Some(database.into());
        self
    }

    /// How the way there is secured.
    #[must_use]
    pub fn tls(mut self, tls: TlsMode) -> Self {
        self.tls = tls;
        self
    }

    /// Where it is.
    #[must_use]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// What the server shows in its list of sessions.
    #[must_use]
    pub fn application(mut self, application: impl Into<String>) -> Self {
        self.application = application.into();
        self
    }

    /// What the startup packet asks of the session.
    #[must_use]
    pub fn options(mut self, options: impl Into<String>) -> Self {
        self.options = Some(options.into());
        self
    }

    /// The same, at another port.
    #[must_use]
    pub fn at_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }
}

/// Where it is, which is what a log may hold of it.
impl fmt::Display for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.as_str() {
            "" => write!(formatter, "local:{}", self.port),
            host if host.contains(':') => write!(formatter, "[{host}]:{}", self.port),
            host => write!(formatter, "{host}:{}", self.port),
        }
    }
}

impl FromStr for Server {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self, Error> {
        Self::from_url(url)
    }
}

impl Password {
    /// For the login and nothing else.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Password(***)")
    }
}

#[cfg(test)]
mod tests;
