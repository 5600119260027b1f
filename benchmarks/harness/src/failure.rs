//! Why a benchmark could not be prepared or run, as text for the person who started it.

use std::fmt::{self, Display};

/// A message, with the words of what was being attempted in front of the cause.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Puts what was being attempted in front of an error.
pub(crate) trait Context<T> {
    fn context(self, attempt: impl Display) -> Result<T, Failure>;
}

impl<T, E: Display> Context<T> for Result<T, E> {
    fn context(self, attempt: impl Display) -> Result<T, Failure> {
        self.map_err(|cause| Failure(format!("{attempt}: {cause}")))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, attempt: impl Display) -> Result<T, Failure> {
        self.ok_or_else(|| Failure(attempt.to_string()))
    }
}
