//! Configuration: everything is read and every mistake told before anything is bound.
//!
//! A setting comes from its flag, else its environment variable, else the file, else its default. What keys there are
//! stands in one table, [`keys::KEYS`]; [`reader`] asks for them one by one and collects what is wrong.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use edgeproxy_proxy::ProxySettings;
use edgeproxy_route::Regions;

mod admin;
mod document;
mod environment;
mod flags;
mod gateway;
mod keys;
mod kind;
mod listener;
mod log;
mod nearest;
mod overlay;
mod problem;
mod proxy;
mod reader;
mod reference;
mod routing;
#[cfg(test)]
mod tests;
mod value;

pub(crate) use admin::{AdminSettings, Digest};
pub(crate) use flags::{GatewayFlags, ProxyFlags};
pub(crate) use gateway::{GatewaySettings, Scope, TokenSettings};
pub(crate) use log::{ConnectionLog, LogFormat, LogSettings};
pub(crate) use overlay::{OverlaySettings, PublishSettings};
pub(crate) use problem::{Origin, Problem};
pub(crate) use reader::Setting;
pub(crate) use reference::reference;
pub(crate) use routing::RoutingSettings;

use document::Document;
use environment::Environment;
use reader::Reader;

/// What a process is, which decides what it has to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// A POP: listeners and a routing table; an overlay if one is configured.
    Proxy,
    /// A hub: an overlay and what is published on it; no routing table.
    Gateway,
}

/// All that a process that runs on needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// What it is.
    pub(crate) role: Role,
    /// The data path. `max_connections` is still 0 when it is to be derived from the descriptor limit.
    pub(crate) proxy: ProxySettings,
    /// Metrics, health and API.
    pub(crate) admin: AdminSettings,
    /// Sources of the routing table.
    pub(crate) routing: RoutingSettings,
    /// WireGuard inside the process.
    pub(crate) overlay: OverlaySettings,
    /// Peers that are handed out; `None`: none are.
    pub(crate) gateway: Option<GatewaySettings>,
    /// Both logs.
    pub(crate) log: LogSettings,
    /// What the operator should know although it stops nothing.
    pub(crate) notices: Vec<String>,
    /// Each key that applies, and who set it.
    pub(crate) settings: Vec<Setting>,
}

impl Config {
    /// Reads flags, environment and the file that one of the two names. Without a name no file is read.
    ///
    /// # Errors
    /// Every mistake there is: flags first, then variables, then the file by line, then what is missing.
    pub(crate) fn load(
        role: Role,
        flags: &ProxyFlags,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Vec<Problem>> {
        let environment = Environment::collect(environment);
        let path = flags.config.clone().or_else(|| environment.file.as_ref().map(PathBuf::from));
        let mut problems = environment.problems.clone();
        let text = path.as_deref().map(read_file).transpose();
        let document = match (&path, &text) {
            (Some(path), Ok(Some(text))) => Document::parse(path, text).map(Some),
            (_, Err(problem)) => Err(vec![problem.clone()]),
            _ => Ok(None),
        };
        let document = document.map_err(|broken| problems.extend(broken));
        let file_is_whole = document.is_ok();
        let document = document.ok().flatten();
        problems.extend(document.iter().flat_map(Document::strangers));

        let notices = environment.notices.clone();
        let mut reader = Reader {
            flags,
            environment: &environment,
            document: document.as_ref(),
            settings: Vec::new(),
            problems,
            notices,
        };
        let proxy = proxy::read(&mut reader, role);
        let admin = admin::read(&mut reader);
        let routing = routing::read(&mut reader);
        let overlay = overlay::read(&mut reader, role);
        let gateway = gateway::read(&mut reader, role, overlay.mode, &admin);
        let log = log::read(&mut reader);
        compare(&mut reader, role, &proxy, &admin, &routing);
        let Reader { settings, mut problems, notices, .. } = reader;
        if !file_is_whole {
            // What seems to be missing may stand in the part that could not be read.
            problems.retain(|problem| problem.origin != Origin::Default);
        }
        if problems.is_empty() {
            return Ok(Self { role, proxy, admin, routing, overlay, gateway, log, notices, settings });
        }
        problems.sort_by(|a, b| a.origin.cmp(&b.origin));
        Err(problems)
    }
}

/// Rules that span sections.
fn compare(
    reader: &mut Reader<'_>,
    role: Role,
    proxy: &ProxySettings,
    admin: &AdminSettings,
    routing: &RoutingSettings,
) {
    let listen = admin.listen;
    let shared = proxy.listeners.iter().position(|listener| listener::overlap(listener.bind, listen));
    if let Some(index) = shared {
        let bind = proxy.listeners[index].bind;
        let message = format!("{listen} is taken by listener[{index}], which binds {bind}");
        reader.section("admin").complain("listen", message);
    }
    let region = &proxy.region;
    let regions = Regions::with(routing.regions.iter().cloned());
    if role == Role::Proxy && !region.is_empty() && regions.get(region).point.is_none() {
        reader.notices.push(format!(
            "nothing is known of region {region:?}: distances from here cannot be told; declare it by \
             [[routing.region]], or use the code of a built-in one"
        ));
    }
}

fn read_file(path: &Path) -> Result<String, Problem> {
    let problem = |message: String| {
        let origin = Origin::File { name: path.display().to_string(), line: None };
        Problem { origin, key: None, message }
    };
    let bytes = fs::read(path).map_err(|error| problem(format!("cannot be read: {error}")))?;
    String::from_utf8(bytes).map_err(|_| problem("is not UTF-8".to_owned()))
}
