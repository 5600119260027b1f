//! What the harness is doing, on standard error when a person watches.
#![allow(clippy::print_stderr, reason = "progress is for the terminal of the person who started the run")]

use std::io::{IsTerminal, Write};

pub(crate) struct Progress {
    shown: bool,
    done: usize,
    steps: usize,
}

impl Progress {
    pub(crate) fn new(steps: usize) -> Self {
        Self { shown: std::io::stderr().is_terminal(), done: 0, steps }
    }

    /// Names the step that begins now.
    pub(crate) fn step(&mut self, what: &str) {
        self.done += 1;
        if self.shown {
            eprint!("\r\x1b[K[{}/{}] {what}", self.done, self.steps);
            // A line that is not shown harms nothing.
            let _ = std::io::stderr().flush();
        }
    }

    pub(crate) fn finish(&mut self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}

/// A remark that matters also when nobody watches.
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}
