//! One user's reads and writes, so that what he reads is never older than what he wrote.

use std::mem;

use crate::error::{Error, Retry};
use crate::lsn::Token;
use crate::region_pool::{Read, ReadPolicy, RegionPool, Written};
use crate::statement::{Answer, Statement};

/// Carries the token of the last write from one statement to the next. Between requests it travels as text
/// ([`Token`] in a cookie or a header).
#[derive(Clone, Debug)]
pub struct Session {
    pool: RegionPool,
    token: Option<Token>,
    /// A write may have been done of which there is no token: only the primary knows.
    uncertain: bool,
}

impl Session {
    /// Goes on where `token` was given; from the beginning without one.
    #[must_use]
    pub fn new(pool: RegionPool, token: Option<Token>) -> Self {
        Self { pool, token, uncertain: false }
    }

    /// What the next request of this user is to bring along.
    #[must_use]
    pub fn token(&self) -> Option<Token> {
        self.token
    }

    /// Reads what is at least as new as the last write, from the nearest server that has it.
    ///
    /// # Errors
    ///
    /// As [`RegionPool::read`].
    pub async fn read(&self, statement: impl Into<Statement<'_>>) -> Result<Read, Error> {
        let policy = match self.token {
            _ if self.uncertain => ReadPolicy::Primary,
            Some(token) => ReadPolicy::AtLeast(token),
            None => ReadPolicy::Any,
        };
        self.pool.read(policy, statement).await
    }

    /// Writes, and remembers that.
    ///
    /// # Errors
    ///
    /// As [`RegionPool::write`].
    pub async fn write(&mut self, statement: impl Into<Statement<'_>>) -> Result<Answer, Error> {
        // Whoever drops this in the middle does not learn whether it was done, either.
        let before = mem::replace(&mut self.uncertain, true);
        let written = self.pool.write(statement).await;
        self.remember(written, before)
    }

    /// Writes several together, and remembers that.
    ///
    /// # Errors
    ///
    /// As [`RegionPool::transaction`].
    pub async fn transaction(&mut self, statements: &[Statement<'_>]) -> Result<Vec<Answer>, Error> {
        let before = mem::replace(&mut self.uncertain, true);
        let written = self.pool.transaction(statements).await;
        self.remember(written, before)
    }

    /// What came of a write; `uncertain_before` is what was so without it.
    fn remember<T>(&mut self, written: Result<Written<T>, Error>, uncertain_before: bool) -> Result<T, Error> {
        match written {
            Ok(Written { answer, token }) => {
                // A later token covers what may have been written before it.
                self.uncertain = token.is_none();
                self.token = token.or(self.token);
                Ok(answer)
            }
            Err(error) => {
                self.uncertain = uncertain_before || error.retry() == Retry::MayHaveCommitted;
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;
    use crate::reach::{Direct, Reach};
    use crate::server::Server;
    use crate::settings::RegionSettings;

    #[tokio::test]
    async fn a_write_that_is_dropped_leaves_the_session_with_the_primary_and_one_that_was_not_sent_does_not() {
        // Nobody is there.
        let mut settings = RegionSettings::new(vec![Server::new("127.0.0.1", 1)]);
        settings.patience = Duration::from_millis(10);
        let reach: Arc<dyn Reach> = Arc::new(Direct);
        let mut session = Session::new(RegionPool::new(settings, &reach), None);
        assert_eq!(session.write("INSERT").await.unwrap_err().retry(), Retry::Elsewhere);
        assert!(session.transaction(&["INSERT".into()]).await.is_err());
        assert!(!session.uncertain);

        assert!(session.write("INSERT").now_or_never().is_none());
        assert!(session.uncertain);
        // Nothing that is certain of a later one says anything of that.
        assert!(session.write("INSERT").await.is_err());
        assert!(session.uncertain);
    }
}
