//! What became of the peers.

use std::io::{self, IsTerminal};

use edgeproxy_overlay::Mistake;
use serde::Serialize;

use crate::commands::say;

/// Where a peer stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    /// Which of the files.
    pub(super) file: usize,
    pub(super) line: usize,
}

/// Counts and tells. Whatever fails is told at once; with `--json` it is part of the answer instead.
pub(super) struct Tally {
    files: Vec<String>,
    created: usize,
    existing: usize,
    failed: usize,
    failures: Option<Vec<Failed>>,
    on_terminal: bool,
    shows_progress: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Answer<'a> {
    dry_run: bool,
    created: usize,
    existing: usize,
    failed: usize,
    failures: &'a [Failed],
}

#[derive(Serialize)]
struct Failed {
    file: String,
    line: Option<usize>,
    /// Of the API's answer; null where the file is wrong.
    status: Option<u16>,
    detail: String,
}

impl Tally {
    pub(super) fn new(files: Vec<String>, json: bool) -> Self {
        let failures = json.then(Vec::new);
        let on_terminal = io::stderr().is_terminal();
        Self { files, created: 0, existing: 0, failed: 0, failures, on_terminal, shows_progress: false }
    }

    pub(super) fn note_created(&mut self) {
        self.created += 1;
    }

    pub(super) fn note_existing(&mut self) {
        self.existing += 1;
    }

    pub(super) fn note_failed(&mut self, origin: Origin, status: Option<u16>, detail: &str) {
        self.failed += 1;
        let (file, line) = (self.files[origin.file].clone(), Some(origin.line));
        self.tell_failed(Failed { file, line, status, detail: detail.to_owned() });
    }

    /// All that is wrong with one peer.
    pub(super) fn note_mistakes(&mut self, mistakes: &[Mistake]) {
        self.failed += 1;
        for Mistake { file, line, text } in mistakes {
            self.tell_failed(Failed { file: file.clone(), line: *line, status: None, detail: text.clone() });
        }
    }

    fn tell_failed(&mut self, failed: Failed) {
        if let Some(failures) = &mut self.failures {
            return failures.push(failed);
        }
        self.clear_progress();
        let Failed { file, line, detail, .. } = failed;
        match line {
            Some(line) => say::mistake(format_args!("{file}:{line}: {detail}")),
            None => say::mistake(format_args!("{file}: {detail}")),
        }
    }

    pub(super) fn place(&self, origin: Origin) -> String {
        format!("{}:{}", self.files[origin.file], origin.line)
    }

    pub(super) fn failed(&self) -> usize {
        self.failed
    }

    pub(super) fn all(&self) -> usize {
        self.created + self.existing + self.failed
    }

    /// A line that is written over again and again, on a terminal.
    pub(super) fn show_progress(&mut self, bytes: u64, size: Option<u64>) {
        if !self.on_terminal {
            return;
        }
        let part = size.filter(|size| *size > 0).map(|size| format!(" ({} %)", bytes.min(size) * 100 / size));
        say::progress(format_args!("{} peers{}", self.all(), part.unwrap_or_default()));
        self.shows_progress = true;
    }

    fn clear_progress(&mut self) {
        if std::mem::take(&mut self.shows_progress) {
            say::progress("");
        }
    }

    pub(super) fn tell(&mut self, dry_run: bool) {
        self.clear_progress();
        let Self { created, existing, failed, .. } = *self;
        if let Some(failures) = &self.failures {
            return say::json(&Answer { dry_run, created, existing, failed, failures });
        }
        match dry_run {
            true => say::line(format_args!("{created} would be sent, {failed} failed; nothing was done")),
            false => say::line(format_args!("{created} created, {existing} there before, {failed} failed")),
        }
    }
}
