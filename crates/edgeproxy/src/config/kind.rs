//! What a key may hold.

use std::fmt;
use std::time::Duration;

use humantime::format_duration;

/// The values a key takes, with their bounds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Name of a region or an app.
    Name,
    /// Code of a declared region.
    Code,
    /// ISO 3166-1 alpha-2 country code.
    Country,
    /// File, relative to the folder of the file that names it.
    Path,
    /// `stdout`, `stderr`, `off`, or a file.
    Output,
    /// IP address and port.
    Address,
    /// IP address or DNS name, and port.
    Endpoint,
    /// IP networks.
    Networks,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Directives of a `tracing` filter.
    Filter,
    /// Whole number.
    Count { least: u64, most: u64 },
    /// Number with a fraction.
    Number { least: f32, most: f32 },
    /// Time span. `zero` says what 0 stands for where it is allowed beside the bounds.
    Duration { least: Duration, most: Duration, zero: Option<&'static str> },
    /// Path and query of a request.
    HttpPath,
    /// `Host` header.
    Host,
    /// DNS name or IP address that a TLS handshake asks for.
    ServerName,
    /// HTTP status or a range of them.
    Statuses,
    /// Text, or a list of byte values.
    Bytes,
}

/// As the reference page names it.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("name, at most 128 bytes"),
            Self::Code => f.write_str("lower-case letters, digits and `-`, at most 32"),
            Self::Country => f.write_str("two-letter country code"),
            Self::Path => f.write_str("file"),
            Self::Output => f.write_str("`stdout`, `stderr`, `off` or a file"),
            Self::Address => f.write_str("IP address and port"),
            Self::Endpoint => f.write_str("IP address or DNS name, and port"),
            Self::Networks => f.write_str("list of networks or addresses"),
            Self::Word(words) => {
                for (i, word) in words.iter().enumerate() {
                    write!(f, "{}`{word}`", if i == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::Filter => f.write_str("level, or `target=level` directives"),
            Self::Count { least, most } => write!(f, "whole number, {least} to {most}"),
            Self::Number { least, most } => write!(f, "number, {least} to {most}"),
            Self::Duration { least, most, zero } => {
                write!(f, "duration, {} to {}", format_duration(*least), format_duration(*most))?;
                zero.map_or(Ok(()), |zero| write!(f, "; `0s`: {zero}"))
            }
            Self::HttpPath => f.write_str("path"),
            Self::Host => f.write_str("host name"),
            Self::ServerName => f.write_str("DNS name or IP address"),
            Self::Statuses => f.write_str("status or range of statuses, 100 to 599"),
            Self::Bytes => f.write_str("text, or list of byte values"),
        }
    }
}
