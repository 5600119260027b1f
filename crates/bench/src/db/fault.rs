//! Why an operation failed, in one word for counting.

use edgeproxy_postgres::tokio_postgres;

/// SQLSTATE of a statement that the server has ended, for its statement_timeout.
const QUERY_CANCELED: &str = "57014";

/// A failure.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The server says so, by its five characters.
    #[error("{message} (SQLSTATE {code})")]
    Sql {
        /// SQLSTATE.
        code: String,
        /// The server's words.
        message: String,
    },
    /// No connection could be had.
    #[error("{message}")]
    Connect {
        /// SQLSTATE, or a word.
        kind: String,
        /// Where, at which phase, and why.
        message: String,
    },
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// It succeeded and did not do what was asked: no row came, or none was written.
    #[error("the answer is not what was asked for")]
    WrongAnswer,
}

impl Fault {
    /// As it is counted: an SQLSTATE, or a word.
    pub fn label(&self) -> String {
        match self {
            Self::Timeout => "timeout",
            Self::Sql { code, .. } => code,
            Self::Connect { kind, .. } => kind,
            Self::Broken(_) => "broken",
            Self::WrongAnswer => "wrong_answer",
        }
        .to_owned()
    }

    /// Whether there was no result in time: we waited no longer, or the server was quicker to say so.
    pub(super) fn is_timeout(&self) -> bool {
        match self {
            Self::Timeout => true,
            Self::Sql { code, .. } => code == QUERY_CANCELED,
            _ => false,
        }
    }

    /// Whether the connection cannot be used any more: an answer may still be on its way, or none will come.
    pub(super) fn spoils(&self) -> bool {
        matches!(self, Self::Timeout | Self::Connect { .. } | Self::Broken(_))
    }
}

impl From<edgeproxy_postgres::Error> for Fault {
    fn from(error: edgeproxy_postgres::Error) -> Self {
        let kind = error.sqlstate().unwrap_or_else(|| error.kind()).to_owned();
        Self::Connect { kind, message: error.to_string() }
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(said) => Self::Sql { code: said.code().code().to_owned(), message: said.message().to_owned() },
            None => Self::Broken(error.to_string()),
        }
    }
}
