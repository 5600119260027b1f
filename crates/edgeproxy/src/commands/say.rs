//! The one place where commands write: answers to standard output, mistakes to standard error.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

/// Part of an answer was lost.
static FAILED: AtomicBool = AtomicBool::new(false);

/// Whether an answer could not be written: who stored it has half of one.
pub(crate) fn has_failed() -> bool {
    FAILED.load(Ordering::Relaxed)
}

/// Writes a line of a command's answer. A reader that has gone away (`| head`) is no mistake.
pub(crate) fn line(text: impl Display) {
    if write_to(io::stdout(), text).is_err() {
        FAILED.store(true, Ordering::Relaxed);
    }
}

/// Writes a line about what went wrong.
pub(crate) fn mistake(text: impl Display) {
    // Nothing is left to tell it to.
    let _ = write_to(io::stderr(), text);
}

/// Writes a line beside the answer, for people who watch: progress.
pub(crate) fn aside(text: impl Display) {
    mistake(text);
}

/// Writes over the line that standard error is in, for people at a terminal. Nothing clears it.
pub(crate) fn progress(text: impl Display) {
    // Nothing is left to tell it to.
    let _ = write!(io::stderr(), "\r\x1b[K{text}").and_then(|()| io::stderr().flush());
}

/// Writes what stops nothing and should be known.
pub(crate) fn note(text: impl Display) {
    aside(format_args!("note: {text}"));
}

/// Writes an answer for programs, as one line of JSON.
pub(crate) fn json(answer: &impl Serialize) {
    match serde_json::to_string(answer) {
        Ok(text) => line(text),
        Err(error) => {
            FAILED.store(true, Ordering::Relaxed);
            mistake(format_args!("edgeproxy: this answer has no JSON form: {error}"));
        }
    }
}

/// Writes rows in columns, below their names; nothing when there are no rows.
pub(crate) fn table<const N: usize>(names: [&str; N], rows: &[[String; N]]) {
    if rows.is_empty() {
        return;
    }
    let names = names.map(str::to_owned);
    let width = |column: usize| rows.iter().chain([&names]).map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in [&names].into_iter().chain(rows) {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        line(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

fn write_to(mut stream: impl Write, text: impl Display) -> io::Result<()> {
    match writeln!(stream, "{text}").and_then(|()| stream.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            // Nothing is left to tell it to.
            let _ = writeln!(io::stderr(), "edgeproxy: cannot write: {error}");
            Err(error)
        }
        _ => Ok(()),
    }
}
