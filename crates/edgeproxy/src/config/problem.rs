//! What is wrong with a configuration, and where.

use std::fmt;

use serde::{Serialize, Serializer};

/// Where a value comes from, by precedence.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Origin {
    /// This flag, without its dashes.
    Flag(&'static str),
    /// This environment variable.
    Variable(String),
    /// The file, and the line if a line is meant.
    File {
        /// As the operator named it.
        name: String,
        /// Counted from 1.
        line: Option<usize>,
    },
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "--{flag}"),
            Self::Variable(name) => f.write_str(name),
            Self::File { name, line: Some(line) } => write!(f, "{name}:{line}"),
            Self::File { name, line: None } => f.write_str(name),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One mistake.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Problem {
    /// What set the value.
    #[serde(rename = "where")]
    pub(crate) origin: Origin,
    /// The key in full, such as `listener[0].bind`.
    pub(crate) key: Option<String>,
    /// The value and the rule it breaks.
    pub(crate) message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A flag or a variable has one meaning; a line of the file needs the key.
        match (&self.origin, &self.key) {
            (Origin::Flag(_) | Origin::Variable(_), _) | (Origin::File { .. }, None) => {
                write!(f, "{}: {}", self.origin, self.message)
            }
            (Origin::File { .. }, Some(key)) => write!(f, "{}: {key}: {}", self.origin, self.message),
            (Origin::Default, Some(key)) => write!(f, "{key}: {}", self.message),
            (Origin::Default, None) => f.write_str(&self.message),
        }
    }
}
