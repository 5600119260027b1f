//! What went wrong: on which side, in which phase, and whether it may be tried again.

use std::time::Duration;
use std::{error, fmt, io};

use tokio_postgres::error::{DbError, Severity, SqlState};

/// A failure. One line of text, in which nothing is secret.
pub struct Error(Box<Inner>);

struct Inner {
    server: Option<String>,
    phase: Phase,
    cause: Cause,
}

/// Who could have done otherwise.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// Whoever called: the settings, the statement, or more asked for than there is.
    Us,
    /// The way between.
    Network,
    /// The server, or all of them.
    Server,
}

/// What was being done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Reading what the operator wrote.
    Settings,
    /// Opening a stream, the name included.
    Dial,
    /// The TLS handshake, and the question for it.
    Tls,
    /// From the startup message to the first prompt.
    Login,
    /// Waiting for a connection of a pool.
    Checkout,
    /// Looking for a server that may be asked this.
    Choice,
    /// A statement, or several in one flight.
    Statement,
}

/// Whether it may be tried again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Retry {
    /// It would fail again.
    No,
    /// Nothing was done; another server, or this one later, may do it.
    Elsewhere,
    /// Nobody can say from here whether it was done. Look, or do it in a way that bears being done twice.
    MayHaveCommitted,
}

#[derive(Debug)]
enum Cause {
    /// With what should have been there.
    Settings(String),
    Io(io::Error),
    Deadline(Duration),
    Database(tokio_postgres::Error),
    /// Every connection of the pool is taken.
    Exhausted(Duration),
    /// There is no server for this, and why.
    Nowhere(Nowhere),
    /// The connection or the time ended while a write was on its way.
    MayHaveCommitted(Error),
}

/// Why no server may be asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Nowhere {
    /// None is known to be the primary.
    NoPrimary,
    /// Two say that they are the primary of the same timeline.
    Disputed,
    /// None has what the token asks for: it is of a timeline that nobody is on.
    NotReached,
    /// None answers at all.
    NoServer,
}

impl Error {
    pub(crate) fn settings(phase: Phase, what: impl Into<String>) -> Self {
        Self::new(phase, Cause::Settings(what.into()))
    }

    pub(crate) fn io(phase: Phase, error: io::Error) -> Self {
        Self::new(phase, Cause::Io(error))
    }

    pub(crate) fn deadline(phase: Phase, after: Duration) -> Self {
        Self::new(phase, Cause::Deadline(after))
    }

    pub(crate) fn database(phase: Phase, error: tokio_postgres::Error) -> Self {
        Self::new(phase, Cause::Database(error))
    }

    pub(crate) fn exhausted(after: Duration) -> Self {
        Self::new(Phase::Checkout, Cause::Exhausted(after))
    }

    pub(crate) fn nowhere(why: Nowhere) -> Self {
        Self::new(Phase::Choice, Cause::Nowhere(why))
    }

    /// `self` ended a write whose fate it does not tell.
    pub(crate) fn may_have_committed(self) -> Self {
        if self.retry() == Retry::MayHaveCommitted {
            return self;
        }
        Self(Box::new(Inner { server: None, phase: self.0.phase, cause: Cause::MayHaveCommitted(self) }))
    }

    /// The same, said of this server.
    pub(crate) fn at(mut self, server: &impl fmt::Display) -> Self {
        self.0.server.get_or_insert_with(|| server.to_string());
        self
    }

    fn new(phase: Phase, cause: Cause) -> Self {
        Self(Box::new(Inner { server: None, phase, cause }))
    }

    /// Which server it was, if it was one.
    #[must_use]
    pub fn server(&self) -> Option<&str> {
        match &self.0.cause {
            Cause::MayHaveCommitted(error) => error.server(),
            _ => self.0.server.as_deref(),
        }
    }

    /// What was being done.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.0.phase
    }

    /// Who could have done otherwise.
    #[must_use]
    pub fn side(&self) -> Side {
        match &self.0.cause {
            Cause::Settings(_) | Cause::Exhausted(_) => Side::Us,
            Cause::Io(_) | Cause::Deadline(_) => Side::Network,
            Cause::Nowhere(_) => Side::Server,
            Cause::MayHaveCommitted(error) => error.side(),
            Cause::Database(error) => match error.code() {
                Some(code) if is_about_the_server(code) => Side::Server,
                Some(_) => Side::Us,
                None if is_lost(error) => Side::Network,
                None => Side::Us,
            },
        }
    }

    /// Whether it may be tried again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match &self.0.cause {
            Cause::MayHaveCommitted(_) => Retry::MayHaveCommitted,
            Cause::Settings(_) => Retry::No,
            Cause::Io(_) | Cause::Deadline(_) | Cause::Exhausted(_) | Cause::Nowhere(_) => Retry::Elsewhere,
            Cause::Database(error) => match error.code() {
                Some(code) if is_about_the_server(code) || *code == SqlState::READ_ONLY_SQL_TRANSACTION => {
                    Retry::Elsewhere
                }
                None if is_lost(error) => Retry::Elsewhere,
                _ => Retry::No,
            },
        }
    }

    /// One word for a label or a counter.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.0.cause {
            Cause::Settings(_) => "settings",
            Cause::Io(_) if self.0.phase == Phase::Dial => "unreachable",
            Cause::Io(_) if self.0.phase == Phase::Tls => "tls",
            Cause::Io(_) => "connection_lost",
            Cause::Deadline(_) => "timeout",
            Cause::Exhausted(_) => "pool_timeout",
            Cause::Nowhere(Nowhere::NoPrimary) => "no_primary",
            Cause::Nowhere(Nowhere::Disputed) => "disputed",
            Cause::Nowhere(Nowhere::NotReached) => "not_reached",
            Cause::Nowhere(Nowhere::NoServer) => "no_server",
            Cause::MayHaveCommitted(_) => "may_have_committed",
            Cause::Database(error) if is_lost(error) => "connection_lost",
            Cause::Database(_) if self.0.phase == Phase::Login => "refused",
            Cause::Database(_) => "statement",
        }
    }

    /// What the server calls it: five characters, such as `25006`.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        self.database_error().map(|error| error.code().code())
    }

    /// All that the server said of it.
    #[must_use]
    pub fn database_error(&self) -> Option<&DbError> {
        match &self.0.cause {
            Cause::Database(error) => error.as_db_error(),
            Cause::MayHaveCommitted(error) => error.database_error(),
            _ => None,
        }
    }

    /// The statement would have written, and the session may not: a replica, or one told to be read-only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.has_code(&SqlState::READ_ONLY_SQL_TRANSACTION)
    }

    /// It was on its way to a server, and took longer than a statement may.
    pub(crate) fn is_deadline_of_a_statement(&self) -> bool {
        self.0.phase == Phase::Statement && matches!(self.0.cause, Cause::Deadline(_))
    }

    /// Nothing more will come of this connection.
    pub(crate) fn ended_the_connection(&self) -> bool {
        match &self.0.cause {
            Cause::Io(_) | Cause::Deadline(_) => true,
            Cause::Database(error) => is_lost(error) || error.as_db_error().is_some_and(is_fatal),
            Cause::MayHaveCommitted(error) => error.ended_the_connection(),
            _ => false,
        }
    }

    fn has_code(&self, code: &SqlState) -> bool {
        self.database_error().is_some_and(|error| error.code() == code)
    }
}

/// The session is over for the server too; before that it may have done anything.
pub(crate) fn is_fatal(error: &DbError) -> bool {
    matches!(error.parsed_severity(), Some(Severity::Fatal | Severity::Panic))
}

/// No answer of the server's, but the end of the stream.
fn is_lost(error: &tokio_postgres::Error) -> bool {
    let of_the_stream = |source: &(dyn error::Error + 'static)| source.downcast_ref::<io::Error>().is_some();
    error.is_closed() || error::Error::source(error).is_some_and(of_the_stream)
}

/// It would not have happened on another server, or on this one at another time.
fn is_about_the_server(code: &SqlState) -> bool {
    // 08 connection, 53 resources, 57P shutdown and startup, 58 the system, XX damage; and what replay takes away.
    let class = |prefix: &str| code.code().starts_with(prefix);
    class("08")
        || class("53")
        || class("57P")
        || class("58")
        || class("XX")
        || *code == SqlState::T_R_SERIALIZATION_FAILURE
        || *code == SqlState::T_R_DEADLOCK_DETECTED
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(server) = &self.0.server {
            write!(formatter, "{server}: ")?;
        }
        let during = match self.0.phase {
            Phase::Settings => "settings",
            Phase::Dial => "connect",
            Phase::Tls => "TLS",
            Phase::Login => "login",
            Phase::Checkout => "pool",
            Phase::Choice => "servers",
            Phase::Statement => "statement",
        };
        match &self.0.cause {
            Cause::Settings(what) => write!(formatter, "{}", one_line(what)),
            Cause::Io(error) => write!(formatter, "{during}: {}", one_line(&error.to_string())),
            Cause::Deadline(after) => write!(formatter, "{during}: no answer within {after:?}"),
            Cause::Database(error) => match error.as_db_error() {
                Some(said) => {
                    write!(formatter, "{during}: {} ({})", one_line(said.message()), said.code().code())
                }
                None => {
                    write!(formatter, "{during}: {error}")?;
                    let mut source = error::Error::source(error);
                    while let Some(deeper) = source {
                        write!(formatter, ": {}", one_line(&deeper.to_string()))?;
                        source = deeper.source();
                    }
                    Ok(())
                }
            },
            Cause::Exhausted(after) => write!(formatter, "{during}: all connections were in use for {after:?}"),
            Cause::Nowhere(Nowhere::NoPrimary) => formatter.write_str("no primary is known"),
            Cause::Nowhere(Nowhere::Disputed) => {
                formatter.write_str("two servers say that they are the primary; neither is asked")
            }
            Cause::Nowhere(Nowhere::NotReached) => formatter.write_str("no server has what the token asks for"),
            Cause::Nowhere(Nowhere::NoServer) => formatter.write_str("no server answers"),
            Cause::MayHaveCommitted(error) => write!(formatter, "the write may have been committed: {error}"),
        }
    }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = formatter.debug_struct("Error");
        fields.field("server", &self.0.server).field("phase", &self.0.phase).field("cause", &self.0.cause).finish()
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match &self.0.cause {
            Cause::Io(error) => Some(error),
            Cause::Database(error) => Some(error),
            Cause::MayHaveCommitted(error) => Some(error),
            _ => None,
        }
    }
}
