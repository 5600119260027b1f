//! Names for the connections of a core.

/// A side of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Client,
    Backend,
}

/// A socket of a connection. Each backend that was dialled has its own number, so that late news of one that failed are
/// not taken for news of the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    Client,
    Backend { attempt: u8 },
}

/// One connection of a core. Its place is given to others later; the serial tells them apart, so that news which come
/// late (an event fetched before its socket was closed, a timer nobody took back) never reach a stranger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Token {
    pub(crate) index: u32,
    pub(crate) serial: u32,
}

/// Room for the client and fifteen attempts; 28 bits are left for the index.
const SOURCE_BITS: u32 = 4;
/// Numbers for attempts.
const ATTEMPTS: u8 = (1 << SOURCE_BITS) - 1;

impl Source {
    /// The backend of a client's `count`th attempt, from 1. Numbers come again long after the sockets that had them were
    /// closed.
    pub(crate) fn of_attempt(count: u8) -> Self {
        Self::Backend { attempt: count.saturating_sub(1) % ATTEMPTS + 1 }
    }
}

/// What an epoll event is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Subject {
    Connection(Token, Source),
    /// A listening socket, by its number in this core.
    Door(u32),
    /// Another thread has left orders.
    Mailbox,
}

impl Subject {
    /// Serial of what is no connection.
    const RESERVED: u32 = 0;
    const MAILBOX: u32 = u32::MAX >> SOURCE_BITS;

    /// As the number that epoll keeps: serial, index, source.
    pub(crate) fn encode(self) -> u64 {
        let (serial, index, source) = match self {
            Self::Connection(token, Source::Client) => (token.serial, token.index, 0),
            Self::Connection(token, Source::Backend { attempt }) => (token.serial, token.index, attempt),
            Self::Door(number) => (Self::RESERVED, number, 0),
            Self::Mailbox => (Self::RESERVED, Self::MAILBOX, 0),
        };
        u64::from(serial) << 32 | u64::from(index) << SOURCE_BITS | u64::from(source)
    }

    #[allow(clippy::cast_possible_truncation, reason = "takes the number apart")]
    pub(crate) fn decode(data: u64) -> Self {
        let (serial, index) = ((data >> 32) as u32, (data as u32) >> SOURCE_BITS);
        let source = match (data as u8) & ((1 << SOURCE_BITS) - 1) {
            0 => Source::Client,
            attempt => Source::Backend { attempt },
        };
        match (serial, index) {
            (Self::RESERVED, Self::MAILBOX) => Self::Mailbox,
            (Self::RESERVED, number) => Self::Door(number),
            _ => Self::Connection(Token { index, serial }, source),
        }
    }
}

/// Hands out serials; skips the reserved one when they start over.
pub(crate) struct Serials(u32);

impl Serials {
    pub(crate) fn new() -> Self {
        Self(Subject::RESERVED)
    }

    pub(crate) fn take(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(1).max(Subject::RESERVED + 1);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_survives_the_kernel() {
        let token = Token { index: 70_000, serial: u32::MAX };
        for subject in [
            Subject::Connection(token, Source::Client),
            Subject::Connection(token, Source::Backend { attempt: 1 }),
            Subject::Connection(token, Source::Backend { attempt: 8 }),
            Subject::Door(3),
            Subject::Mailbox,
        ] {
            assert_eq!(Subject::decode(subject.encode()), subject);
        }
    }

    #[test]
    fn serials_start_over_without_the_reserved_one() {
        let mut serials = Serials(u32::MAX - 1);
        assert_eq!((serials.take(), serials.take()), (u32::MAX, 1));
    }
}
