//! The operational log, and where the connection log goes.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use crate::config::{ConnectionLog, LogFormat, LogSettings};

/// For processes without a configuration: this level, in the form that suits standard error, and no connection log.
pub(crate) fn of_level(level: String) -> LogSettings {
    LogSettings { level, format: LogFormat::Auto, connections: ConnectionLog::Off, refusals_per_second: 0 }
}

/// Starts the operational log on standard error. Once per process.
pub(crate) fn start_log(settings: &LogSettings) {
    // The configuration has refused filters that do not parse.
    let filter = EnvFilter::try_new(&settings.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_timer(SystemTime);
    let as_text = match settings.format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => io::stderr().is_terminal(),
    };
    if as_text {
        log.with_target(false).init();
    } else {
        log.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
    }
}

/// Opens what the connection log is written to; `None`: it is off.
///
/// # Errors
/// A file that cannot be opened for appending.
pub(crate) fn open_connection_log(settings: &LogSettings) -> io::Result<Option<Box<dyn Write + Send>>> {
    Ok(match &settings.connections {
        ConnectionLog::Off => None,
        ConnectionLog::Stdout => Some(Box::new(io::stdout())),
        ConnectionLog::Stderr => Some(Box::new(io::stderr())),
        // It tells who was here: nobody's business but the owner's and the group's.
        ConnectionLog::File(path) => {
            Some(Box::new(OpenOptions::new().create(true).append(true).mode(0o640).open(path)?))
        }
    })
}
