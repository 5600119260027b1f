//! What is wrong with a file, and where.

use std::fmt;

/// One mistake. Says what to do about it, and shows nothing that could be a secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// The file, as it was named.
    pub file: String,
    /// Counted from 1; `None`: it is about the file as a whole.
    pub line: Option<usize>,
    /// The rule that is broken, in one line of text.
    pub text: String,
}

impl Mistake {
    pub(super) fn of_file(file: &str, text: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, text: text.into() }
    }

    pub(super) fn of_line(file: &str, line: usize, text: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: Some(line), text: text.into() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.text),
            None => write!(f, "{}: {}", self.file, self.text),
        }
    }
}

impl std::error::Error for Mistake {}
