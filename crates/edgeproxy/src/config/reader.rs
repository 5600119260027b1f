//! Reads keys one by one from flag, environment, file and default, and keeps every mistake on the way.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use edgeproxy_overlay::Endpoint;
use edgeproxy_route::Country;
use ipnet::IpNet;
use serde::Serialize;

use super::document::{Document, Entry};
use super::environment::Environment;
use super::flags::ProxyFlags;
use super::keys::{Fallback, KEYS, Key};
use super::kind::Kind;
use super::problem::{Origin, Problem};
use super::value::{self, Raw};

/// What applies for one key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Setting {
    /// In full, such as `listener[0].bind`.
    pub(crate) key: String,
    /// `None`: not set, which stands for [`Self::meaning`].
    pub(crate) value: Option<String>,
    /// What applies instead of a value.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) meaning: &'static str,
    /// Who set it.
    pub(crate) origin: Origin,
}

/// The sources, and what was found in them.
pub(super) struct Reader<'a> {
    pub(super) flags: &'a ProxyFlags,
    pub(super) environment: &'a Environment,
    pub(super) document: Option<&'a Document<'a>>,
    pub(super) settings: Vec<Setting>,
    pub(super) problems: Vec<Problem>,
    pub(super) notices: Vec<String>,
}

/// One table: the section as a whole, or one of several.
pub(super) struct Section<'r, 'a> {
    pub(super) reader: &'r mut Reader<'a>,
    section: &'static str,
    /// Its name in messages, with its number where there can be several.
    shown: String,
    entry: Option<Entry<'a>>,
    /// Flags and variables apply.
    outside: bool,
    /// Keys that have another default beside the others of this table.
    fallbacks: Vec<(&'static str, &'static str)>,
}

impl<'a> Reader<'a> {
    /// The section of which there is one.
    pub(super) fn section(&mut self, section: &'static str) -> Section<'_, 'a> {
        let entry = self.tables(section).first().copied();
        Section { reader: self, section, shown: section.to_owned(), entry, outside: true, fallbacks: Vec::new() }
    }

    /// How many tables of this section the file has.
    pub(super) fn count(&self, section: &str) -> usize {
        self.tables(section).len()
    }

    /// One of several tables; the first also without a file.
    pub(super) fn nth(&mut self, section: &'static str, index: usize) -> Section<'_, 'a> {
        let tables = self.tables(section);
        let (entry, outside) = (tables.get(index).copied(), tables.len() < 2);
        Section { reader: self, section, shown: format!("{section}[{index}]"), entry, outside, fallbacks: Vec::new() }
    }

    /// Flags and variables of a section say nothing when there are several of it.
    pub(super) fn refuse_outside(&mut self, section: &str) {
        let tables = self.count(section);
        for key in KEYS.iter().filter(|key| key.section == section) {
            if let Some((_, origin)) = self.outside(key) {
                let message =
                    format!("sets the {section}'s {}, but the file has {tables} of them; set it there", key.name);
                self.problems.push(Problem { origin, key: None, message });
            }
        }
    }

    fn tables(&self, section: &str) -> Vec<Entry<'a>> {
        self.document.map(|document| document.tables(section)).unwrap_or_default()
    }

    fn outside(&self, key: &Key) -> Option<(Raw<'a>, Origin)> {
        let flag = key.flag.and_then(|flag| Some((Raw::Text(self.flags.value(flag)?), Origin::Flag(flag))));
        flag.or_else(|| self.environment.get(&key.path()))
    }
}

impl<'a> Section<'_, 'a> {
    pub(super) fn duration(&mut self, name: &str) -> Duration {
        self.get(name, value::duration).unwrap_or_default()
    }

    /// A duration whose zero stands for "not at all".
    pub(super) fn duration_or_never(&mut self, name: &str) -> Option<Duration> {
        Some(self.duration(name)).filter(|duration| !duration.is_zero())
    }

    pub(super) fn count<T: TryFrom<u64> + Default>(&mut self, name: &str) -> T {
        self.maybe_count(name).unwrap_or_default()
    }

    pub(super) fn maybe_count<T: TryFrom<u64>>(&mut self, name: &str) -> Option<T> {
        let fits = |value: u64| T::try_from(value).map_err(|_| format!("{value} is more than this machine can count"));
        self.get(name, |raw, kind| value::count(raw, kind).and_then(fits))
    }

    pub(super) fn number(&mut self, name: &str) -> f32 {
        self.get(name, value::number).unwrap_or_default()
    }

    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.get(name, value::text)
    }

    /// A word, as what it stands for.
    pub(super) fn word<T: Default>(&mut self, name: &str, meaning: impl Fn(&str) -> Option<T>) -> T {
        self.text(name).and_then(|word| meaning(&word)).unwrap_or_default()
    }

    pub(super) fn path(&mut self, name: &str) -> Option<PathBuf> {
        self.text(name).map(|path| self.resolve(name, &path))
    }

    pub(super) fn address(&mut self, name: &str) -> SocketAddr {
        self.get(name, value::address).unwrap_or(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)))
    }

    pub(super) fn endpoint(&mut self, name: &str) -> Option<Endpoint> {
        self.get(name, value::endpoint)
    }

    pub(super) fn networks(&mut self, name: &str) -> Vec<IpNet> {
        self.get(name, value::networks).unwrap_or_default()
    }

    pub(super) fn country(&mut self, name: &str) -> Option<Country> {
        self.get(name, value::country)
    }

    pub(super) fn statuses(&mut self, name: &str) -> Option<RangeInclusive<u16>> {
        self.get(name, value::statuses)
    }

    pub(super) fn bytes(&mut self, name: &str) -> Option<Vec<u8>> {
        self.get(name, value::bytes)
    }

    /// A path as it is meant: the file's are relative to the file's folder, others to the working directory.
    pub(super) fn resolve(&self, name: &str, path: &str) -> PathBuf {
        match (self.origin(name), self.reader.document) {
            (Origin::File { .. }, Some(document)) => document.folder().join(path),
            _ => PathBuf::from(path),
        }
    }

    /// What applies for a key that nobody sets, in place of its own default.
    pub(super) fn falls_back(&mut self, name: &'static str, text: &'static str) {
        self.fallbacks.push((name, text));
    }

    /// Who set the key.
    pub(super) fn origin(&self, name: &str) -> Origin {
        self.find(self.key(name)).map_or(Origin::Default, |(_, origin)| origin)
    }

    /// Whether anybody set the key.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.find(self.key(name)).is_some()
    }

    /// A mistake that shows only beside other values.
    pub(super) fn complain(&mut self, name: &str, message: String) {
        let origin = match self.origin(name) {
            Origin::Default => self.origin_of_table(),
            origin => origin,
        };
        let key = Some(self.shown(name));
        self.reader.problems.push(Problem { origin, key, message });
    }

    /// The key in full.
    pub(super) fn shown(&self, name: &str) -> String {
        super::keys::join(&self.shown, name)
    }

    fn get<T>(&mut self, name: &str, read: impl Fn(Raw<'_>, Kind) -> Result<T, String>) -> Option<T> {
        let key = self.key(name);
        let found = self.find(key);
        if let Some((other, word)) = key.only_with.filter(|(other, word)| !self.holds(other, word)) {
            if found.is_some() {
                self.complain(name, format!("means something with {other} = \"{word}\" only"));
            }
            return None;
        }
        let (raw, origin) = match (found, key.fallback) {
            (Some(found), _) => found,
            (None, Fallback::Value(text)) => {
                let other = self.fallbacks.iter().find(|(other, _)| *other == name);
                (Raw::Text(other.map_or(text, |(_, text)| text)), Origin::Default)
            }
            (None, Fallback::Unset(meaning)) => {
                let setting = Setting { key: self.shown(name), value: None, meaning, origin: Origin::Default };
                self.reader.settings.push(setting);
                return None;
            }
            (None, Fallback::Required(what)) => {
                self.miss(key, what);
                return None;
            }
        };
        let shown = self.shown(name);
        match read(raw, key.kind) {
            Ok(value) => {
                self.reader.settings.push(Setting { key: shown, value: Some(raw.shown()), meaning: "", origin });
                Some(value)
            }
            Err(message) => {
                self.reader.problems.push(Problem { origin, key: Some(shown), message });
                None
            }
        }
    }

    fn find(&self, key: &Key) -> Option<(Raw<'a>, Origin)> {
        let outside = if self.outside { self.reader.outside(key) } else { None };
        outside.or_else(|| {
            let value = self.entry?.table.get(key.name)?;
            Some((Raw::Toml(value.get_ref()), self.reader.document?.origin_of(value)))
        })
    }

    /// Whether another key of the table holds this word.
    fn holds(&self, name: &str, word: &str) -> bool {
        let key = self.key(name);
        match (self.find(key), key.fallback) {
            (Some((raw, _)), _) => raw.shown() == word,
            (None, Fallback::Value(text)) => text == word,
            (None, _) => false,
        }
    }

    fn miss(&mut self, key: &Key, what: &str) {
        let origin = self.origin_of_table();
        let mut ways: Vec<String> = key.flag.map(|flag| format!("--{flag}")).into_iter().collect();
        ways.extend(key.variable());
        ways.push(format!("{} in the configuration file", key.name));
        let ways = if ways.len() > 1 { format!(": give it by {}", ways.join(" or ")) } else { String::new() };
        let message = format!("is not set ({what}){ways}");
        self.reader.problems.push(Problem { origin, key: Some(self.shown(key.name)), message });
    }

    /// The line where the file has this table.
    fn origin_of_table(&self) -> Origin {
        match (self.entry, self.reader.document) {
            (Some(entry), Some(document)) if !self.section.is_empty() => document.at(entry.line),
            _ => Origin::Default,
        }
    }

    fn key(&self, name: &str) -> &'static Key {
        KEYS.iter()
            .find(|key| key.section == self.section && key.name == name)
            .expect("every key that is read is in the table of keys, as the tests show")
    }
}
