//! Section `log`: what is logged, and where to.

use std::path::PathBuf;

use super::reader::Reader;

/// Both logs.
#[derive(Clone, Debug)]
pub(crate) struct LogSettings {
    /// Filter of the operational log, checked.
    pub(crate) level: String,
    /// Form of the operational log.
    pub(crate) format: LogFormat,
    /// Where the connection log goes.
    pub(crate) connections: ConnectionLog,
    /// Refused clients logged at most each second.
    pub(crate) refusals_per_second: u32,
}

/// Form of the operational log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum LogFormat {
    /// Text on a terminal, otherwise JSON.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Where the connection log goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ConnectionLog {
    /// Standard output.
    Stdout,
    /// Standard error, between the operational log's lines.
    Stderr,
    /// Nowhere.
    Off,
    /// Appended to this file.
    File(PathBuf),
}

pub(super) fn read(reader: &mut Reader<'_>) -> LogSettings {
    let mut section = reader.section("log");
    let level = section.text("level").unwrap_or_default();
    let format = section.word("format", |word| match word {
        "auto" => Some(LogFormat::Auto),
        "json" => Some(LogFormat::Json),
        "text" => Some(LogFormat::Text),
        _ => None,
    });
    let connections = match section.text("connections").as_deref() {
        Some("stdout") => ConnectionLog::Stdout,
        Some("stderr") => ConnectionLog::Stderr,
        Some("off") | None => ConnectionLog::Off,
        Some(path) => ConnectionLog::File(section.resolve("connections", path)),
    };
    LogSettings { level, format, connections, refusals_per_second: section.count("refusals_per_second") }
}
