//! Environment variables: ours, those of the older tool, and those that mean nothing to us.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::keys::KEYS;
use super::nearest::nearest;
use super::problem::{Origin, Problem};
use super::value::Raw;

const PREFIX: &str = "EDGEPROXY_";
/// Names the configuration file.
const FILE: &str = "EDGEPROXY_CONFIG";
/// The older tool's switch for more log.
const DEBUG: &str = "DEBUG";
/// Variables of the older tool that had a purpose there, and what is so here.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("EDGEPROXY_BINDING_GC_INTERVAL_SECS", "expired bindings leave as new ones come"),
    ("EDGEPROXY_API_ENABLED", "the API is part of the admin address, EDGEPROXY_ADMIN_ADDR"),
    ("EDGEPROXY_API_LISTEN_ADDR", "the API is part of the admin address, EDGEPROXY_ADMIN_ADDR"),
];
/// What the older tool could do and this one cannot yet, by prefix.
const NOT_SUPPORTED: &[(&str, &str)] = &[
    ("EDGEPROXY_TLS_", "TLS termination"),
    ("EDGEPROXY_DNS_", "the DNS server"),
    ("EDGEPROXY_REPLICATION_", "replication between machines"),
];

/// The variables that set something.
#[derive(Default)]
pub(super) struct Environment {
    /// By the path of the key they set.
    values: BTreeMap<String, Variable>,
    /// The configuration file.
    pub(super) file: Option<String>,
    pub(super) notices: Vec<String>,
    pub(super) problems: Vec<Problem>,
}

struct Variable {
    name: String,
    value: String,
    seconds: bool,
}

impl Environment {
    /// Sorts the process's variables. One that is set to nothing counts as not set.
    pub(super) fn collect(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut found = Self::default();
        let mut debug = None;
        // Sorted, so that the same mistakes always read the same.
        for (name, value) in variables.into_iter().collect::<BTreeMap<_, _>>() {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX) || *name == DEBUG) else { continue };
            if name.chars().any(char::is_control) {
                // Shown as it is, it could move the cursor of whoever reads the message.
                found.complain(&name.escape_debug().to_string(), "has control characters in its name".to_owned());
                continue;
            }
            match value.to_str() {
                Some("") => {}
                Some(value) if name == DEBUG => debug = Some(value.to_owned()),
                Some(value) => found.take(name, value),
                None if name == DEBUG => {}
                None => found.complain(name, "is not UTF-8".to_owned()),
            }
        }
        // Our own variable says more than the switch.
        if let Some(value) = debug.filter(|_| !found.values.contains_key("log.level")) {
            match value.to_ascii_lowercase().as_str() {
                "1" | "true" => found.set("log.level", DEBUG, "debug", false),
                "0" | "false" => {}
                _ => found.notices.push(format!("DEBUG={value:?} has no effect here; EDGEPROXY_LOG=debug logs more")),
            }
        }
        found
    }

    /// The value for a key, and which variable it is of.
    pub(super) fn get(&self, path: &str) -> Option<(Raw<'_>, Origin)> {
        let Variable { name, value, seconds } = self.values.get(path)?;
        let raw = if *seconds { Raw::Seconds(value) } else { Raw::Text(value) };
        Some((raw, Origin::Variable(name.clone())))
    }

    fn take(&mut self, name: &str, value: &str) {
        if name == FILE {
            self.file = Some(value.to_owned());
        } else if let Some(key) = KEYS.iter().find(|key| key.variable().as_deref() == Some(name)) {
            self.set(&key.path(), name, value, false);
        } else if let Some(key) = KEYS.iter().find(|key| key.older == Some(name)) {
            self.set(&key.path(), name, value, true);
        } else if let Some((_, instead)) = WITHOUT_EFFECT.iter().find(|(known, _)| *known == name) {
            self.notices.push(format!("{name} has no effect: {instead}"));
        } else if let Some((prefix, what)) = NOT_SUPPORTED.iter().find(|(prefix, _)| name.starts_with(prefix)) {
            self.older_feature(name, value, &name[prefix.len()..], what);
        } else if !is_service_link(name, value) {
            self.complain(name, unknown(name));
        }
    }

    fn set(&mut self, path: &str, name: &str, value: &str, seconds: bool) {
        if let Some(other) = self.values.get(path) {
            let message = format!("is set, and so is {}, which means the same; keep one", other.name);
            return self.complain(name, message);
        }
        let variable = Variable { name: name.to_owned(), value: value.to_owned(), seconds };
        self.values.insert(path.to_owned(), variable);
    }

    /// Starting without a feature that was switched on would leave its users without it in silence.
    fn older_feature(&mut self, name: &str, value: &str, rest: &str, what: &str) {
        if rest != "ENABLED" {
            return self.notices.push(format!("{name} has no effect: {what} is not supported yet"));
        }
        match value.trim().to_ascii_lowercase().as_str() {
            "0" | "false" | "no" | "off" => {}
            _ => self.complain(name, format!("{value:?} asks for {what}, which is not supported yet; unset it")),
        }
    }

    fn complain(&mut self, name: &str, message: String) {
        self.problems.push(Problem { origin: Origin::Variable(name.to_owned()), key: None, message });
    }
}

fn unknown(name: &str) -> String {
    if name.starts_with("EDGEPROXY_CHECK_") || name.starts_with("EDGEPROXY_ROUTING_REGION_") {
        return "unknown variable; checks and regions are set in the configuration file only".to_owned();
    }
    // Where a key has a shorter variable, its long name is a good guess all the same.
    let by_rule = KEYS.iter().find_map(|key| {
        let long = format!("{PREFIX}{}", key.path().replace('.', "_").to_ascii_uppercase());
        key.variable().filter(|_| long == name)
    });
    let known: Vec<String> = KEYS.iter().filter_map(|key| key.variable()).chain([FILE.to_owned()]).collect();
    let near = || {
        // The common beginning says nothing about nearness.
        let rest = known.iter().filter_map(|known| known.strip_prefix(PREFIX));
        nearest(&name[PREFIX.len()..], rest).map(|rest| format!("{PREFIX}{rest}"))
    };
    match by_rule.or_else(near) {
        Some(meant) => format!("unknown variable; did you mean {meant}?"),
        None => "unknown variable; docs/config.md lists all".to_owned(),
    }
}

/// Kubernetes and Docker put the addresses of a service called `edgeproxy` into variables of this form.
fn is_service_link(name: &str, value: &str) -> bool {
    let rest = &name[PREFIX.len()..];
    let is_url = value.starts_with("tcp://") || value.starts_with("udp://");
    rest == "SERVICE_HOST"
        || rest == "SERVICE_PORT"
        || rest.starts_with("SERVICE_PORT_")
        || (rest == "PORT" && is_url)
        || rest.strip_prefix("PORT_").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}
