//! The first bytes of a client of PostgreSQL, and the one answer that a proxy gives itself.
//!
//! Nothing here does I/O, keeps state or looks at more than [`LOOKED_AT`] bytes. The formats are those of the documentation
//! of PostgreSQL 18, section 54.7.

/// No client may send more before it has logged in (`MAX_STARTUP_PACKET_LENGTH` in the server's source): what is longer
/// speaks something else.
pub const LOOKED_AT: usize = 10_000;

/// What a connection begins with. Lengths are in bytes, and never more than there were.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum First {
    /// Too few bytes to tell; as many as there can be are never too few.
    Incomplete,
    /// "Is there TLS?" The client waits for one byte: `S` and then TLS, or `N`. It may then ask for the other kind.
    SslRequest(usize),
    /// "Is there encryption by GSSAPI?" Likewise: `G` or `N`.
    GssEncRequest(usize),
    /// "Stop what that session is doing." Nothing is answered.
    Cancel {
        /// Of the whole message.
        length: usize,
        /// Which session.
        process: u32,
    },
    /// Who logs in, and where. The server's answer is next.
    Startup(usize),
    /// TLS from the first byte; what is said, is said inside.
    DirectTls,
    /// No client of PostgreSQL, or none of this century.
    Other,
}

/// In place of a version: `1234` and one of these.
const SPECIAL: u16 = 1234;
const CANCEL: u16 = 5678;
const SSL: u16 = 5679;
const GSS: u16 = 5680;
/// The major version since 2003.
const VERSION: u16 = 3;
/// A key that cancels has 4 bytes up to protocol 3.0, and no more than this in 3.2.
const LONGEST_KEY: usize = 256;
/// First byte of a TLS record that holds a handshake, and of its version.
const TLS: [u8; 2] = [0x16, 0x03];
/// A message that a proxy makes up says what is the case and what to do; more of it is cut.
const LONGEST_TEXT: usize = 1000;

/// What `bytes`, the beginning of a connection, are the beginning of.
#[must_use]
pub fn first(bytes: &[u8]) -> First {
    if bytes.first() == Some(&TLS[0]) {
        return match bytes.get(1) {
            None => First::Incomplete,
            Some(version) if *version == TLS[1] => First::DirectTls,
            Some(_) => First::Other,
        };
    }
    let Some((head, _)) = bytes.split_first_chunk::<4>() else {
        // A length of more than 64 KiB is none.
        return if bytes.iter().take(2).all(|byte| *byte == 0) { First::Incomplete } else { First::Other };
    };
    let length = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
    if !(8..=LOOKED_AT).contains(&length) {
        return First::Other;
    }
    let Some(&[_, _, _, _, a, b, c, d]) = bytes.first_chunk::<8>() else { return First::Incomplete };
    let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let well_formed = match (major, minor) {
        (SPECIAL, SSL | GSS) => length == 8,
        (SPECIAL, CANCEL) => (16..=12 + LONGEST_KEY).contains(&length),
        // At least the end of the list of parameters.
        (VERSION, _) => length > 8,
        _ => false,
    };
    if !well_formed {
        return First::Other;
    }
    let Some(message) = bytes.get(..length) else { return First::Incomplete };
    match (major, minor) {
        (SPECIAL, SSL) => First::SslRequest(length),
        (SPECIAL, GSS) => First::GssEncRequest(length),
        (SPECIAL, _) => match message.get(8..12).and_then(|process| process.try_into().ok()) {
            Some(process) => First::Cancel { length, process: u32::from_be_bytes(process) },
            None => First::Other,
        },
        _ if are_parameters(&message[8..]) => First::Startup(length),
        _ => First::Other,
    }
}

/// Whether these are names and values, each ended by a zero, a `user` among them, and a zero after all.
fn are_parameters(bytes: &[u8]) -> bool {
    let Some((0, list)) = bytes.split_last().map(|(last, list)| (*last, list)) else { return false };
    let mut rest = list;
    let mut user = false;
    while !rest.is_empty() {
        let Some((name, after)) = string(rest) else { return false };
        let Some((_, after)) = string(after) else { return false };
        if name.is_empty() {
            return false;
        }
        user |= name == b"user";
        rest = after;
    }
    user
}

fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// An `ErrorResponse` that ends the session: what every client shows to its user. `sqlstate` has five characters, `57P03`
/// for instance.
///
/// A zero, which would end a text, becomes a space, and what is longer than 1000 bytes is cut.
#[must_use]
pub fn error_response(sqlstate: &str, message: &str) -> Vec<u8> {
    let mut bytes = vec![b'E', 0, 0, 0, 0];
    // Severity twice: for the reader in his language, and for programs.
    for (field, text) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', sqlstate), (b'M', message)] {
        bytes.push(field);
        let end = text.floor_char_boundary(LONGEST_TEXT);
        bytes.extend(text[..end].bytes().map(|byte| if byte == 0 { b' ' } else { byte }));
        bytes.push(0);
    }
    bytes.push(0);
    let length = u32::try_from(bytes.len() - 1).unwrap_or(u32::MAX);
    bytes[1..5].copy_from_slice(&length.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests;
