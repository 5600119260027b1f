//! The file, with the line of everything in it.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, SECTIONS, join};
use super::nearest::nearest;
use super::problem::{Origin, Problem};

/// TOML gives a name one meaning, and `region` is this machine's.
const REGIONS: &str = "this machine's region is region = \"...\", further ones are [[routing.region]]";

/// A parsed file.
pub(super) struct Document<'a> {
    path: PathBuf,
    text: &'a str,
    root: DeTable<'a>,
}

/// A table and the line it begins on.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) table: &'a DeTable<'a>,
    pub(super) line: usize,
}

impl<'a> Document<'a> {
    /// Parses a file's text.
    ///
    /// # Errors
    /// Every place that is not TOML.
    pub(super) fn parse(path: &Path, text: &'a str) -> Result<Self, Vec<Problem>> {
        let (root, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(Self { path: path.to_owned(), text, root: root.into_inner() });
        }
        let problem = |error: toml::de::Error| {
            let line = error.span().map(|span| line_at(text, span.start));
            let origin = Origin::File { name: path.display().to_string(), line };
            let is_region =
                line.and_then(|line| text.lines().nth(line - 1)).is_some_and(|line| line.trim() == "[[region]]");
            let hint = if is_region { format!("; {REGIONS}") } else { String::new() };
            Problem { origin, key: None, message: format!("not TOML: {}{hint}", error.message()) }
        };
        Err(errors.into_iter().map(problem).collect())
    }

    /// The place of a value or key.
    pub(super) fn origin_of<T>(&self, value: &Spanned<T>) -> Origin {
        self.at(line_at(self.text, value.span().start))
    }

    pub(super) fn at(&self, line: usize) -> Origin {
        Origin::File { name: self.path.display().to_string(), line: Some(line) }
    }

    /// What relative paths in the file are relative to.
    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// Every table of a section. Those of the wrong shape are left to [`Self::strangers`].
    pub(super) fn tables(&'a self, section: &str) -> Vec<Entry<'a>> {
        let mut found = vec![Entry { table: &self.root, line: 1 }];
        for step in section.split('.').filter(|step| !step.is_empty()) {
            let values = found.iter().filter_map(|entry| entry.table.get(step));
            found = values.flat_map(|value| self.tables_in(value)).collect();
        }
        found
    }

    fn tables_in(&'a self, value: &'a Spanned<DeValue<'a>>) -> Vec<Entry<'a>> {
        let entry = |value: &'a Spanned<DeValue<'a>>| {
            let table = value.get_ref().as_table()?;
            Some(Entry { table, line: line_at(self.text, value.span().start) })
        };
        match value.get_ref() {
            DeValue::Table(_) => entry(value).into_iter().collect(),
            DeValue::Array(items) => items.iter().filter_map(entry).collect(),
            _ => Vec::new(),
        }
    }

    /// Everything in the file that no key or section is called, and sections written in the wrong way.
    pub(super) fn strangers(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.strangers_in(&self.root, "", "", &mut problems);
        problems
    }

    fn strangers_in(&self, table: &DeTable<'_>, section: &str, shown: &str, problems: &mut Vec<Problem>) {
        for (key, value) in table {
            let name: &str = key.get_ref();
            let path = join(section, name);
            // Quoted keys may hold anything.
            let shown = join(shown, &name.escape_debug().to_string());
            if name.contains('.') {
                // One name, which no key has; joined to its section's it would pass for another key.
                let message = "unknown key: in quotes a dot is part of the name; write it without them".to_owned();
                problems.push(Problem { origin: self.origin_of(key), key: Some(shown), message });
                continue;
            }
            if path == "region" && !value.get_ref().is_str() {
                let message = format!("is not a text; {REGIONS}");
                problems.push(Problem { origin: self.origin_of(key), key: Some(shown), message });
                continue;
            }
            if KEYS.iter().any(|known| known.path() == path) {
                continue;
            }
            let broken = match SECTIONS.iter().find(|known| known.path == path && !name.is_empty()) {
                None => Some(stranger(section, name)),
                Some(known) => match (value.get_ref(), known.several) {
                    (DeValue::Table(table), false) => {
                        self.strangers_in(table, &path, &shown, problems);
                        None
                    }
                    (DeValue::Array(items), true) if items.iter().all(|item| item.get_ref().is_table()) => {
                        for (index, table) in items.iter().filter_map(|item| item.get_ref().as_table()).enumerate() {
                            self.strangers_in(table, &path, &format!("{shown}[{index}]"), problems);
                        }
                        None
                    }
                    (_, true) => Some(format!("must be written [[{path}]], as there can be several")),
                    (_, false) => Some(format!("must be written [{path}], as there is one")),
                },
            };
            if let Some(message) = broken {
                problems.push(Problem { origin: self.origin_of(key), key: Some(shown), message });
            }
        }
    }
}

fn stranger(section: &str, name: &str) -> String {
    let here = KEYS.iter().filter(|key| key.section == section).map(|key| key.name);
    let tables = SECTIONS.iter().filter_map(|known| match known.path.rsplit_once('.') {
        Some((parent, table)) => (parent == section).then_some(table),
        None => (section.is_empty() && !known.path.is_empty()).then_some(known.path),
    });
    let meant = nearest(name, here.chain(tables)).map(str::to_owned);
    // The right key in the wrong table, or the wrong level.
    let elsewhere = || KEYS.iter().find(|key| key.name == name).map(|key| key.path());
    match meant.or_else(elsewhere) {
        Some(meant) => format!("unknown key; did you mean {meant}?"),
        None => "unknown key".to_owned(),
    }
}

/// Line of a byte offset, counted from 1.
fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}
