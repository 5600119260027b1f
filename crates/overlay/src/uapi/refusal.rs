//! Why a request is not done, by the numbers that other devices give.

use std::io;

use rustix::io::Errno;

use crate::change::ChangeError;

/// Why a request is not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// It is not of this protocol, or ends early.
    #[error("a line without \"=\", an operation other than get=1 and set=1, or no blank line at the end")]
    Protocol,
    /// A key or a value is wrong.
    #[error("an unknown key, or a value that its key does not have")]
    Invalid,
    /// Its rest is not read.
    #[error("longer than a request may be")]
    TooLong,
    /// The device cannot have the port.
    #[error("the UDP port cannot be had")]
    PortTaken,
    /// The system refuses the mark.
    #[error("the mark cannot be set: {0}")]
    Mark(Errno),
}

impl Refusal {
    /// What stands behind `errno=`.
    pub fn errno(self) -> i32 {
        let errno = match self {
            Self::Protocol => Errno::PROTO,
            Self::Invalid => Errno::INVAL,
            Self::TooLong => Errno::TOOBIG,
            Self::PortTaken => Errno::ADDRINUSE,
            Self::Mark(errno) => errno,
        };
        errno.raw_os_error()
    }
}

impl From<&ChangeError> for Refusal {
    fn from(error: &ChangeError) -> Self {
        let errno = |error: &io::Error| Errno::from_io_error(error).unwrap_or(Errno::IO);
        match error {
            ChangeError::Port(..) => Self::PortTaken,
            ChangeError::Mark(_, error) => Self::Mark(errno(error)),
        }
    }
}
