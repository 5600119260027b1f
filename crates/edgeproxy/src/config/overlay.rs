//! Sections `overlay`, `tenant` and `publish`: WireGuard inside the process, and services on addresses inside it.

use std::net::SocketAddr;
use std::path::PathBuf;

use edgeproxy_overlay::{Endpoint, Mode};
use ipnet::IpNet;

use super::Role;
use super::reader::{Reader, Section};

/// Whether there is an overlay, and how it is run.
#[derive(Clone, Debug)]
pub(crate) struct OverlaySettings {
    /// A wg-quick file, or a folder with one for each region; `None`: no overlay.
    pub(crate) config: Option<PathBuf>,
    /// How TCP inside is had.
    pub(crate) mode: Mode,
    /// Packets of one peer for another are passed on.
    pub(crate) forward: bool,
    /// Threads that encrypt; 0: one per core.
    pub(crate) threads: usize,
    /// Networks of each tenant.
    pub(crate) tenants: Vec<Vec<IpNet>>,
    /// Services offered inside.
    pub(crate) publish: Vec<PublishSettings>,
}

/// A TCP service offered on an address inside the overlay.
#[derive(Clone, Debug)]
pub(crate) struct PublishSettings {
    /// Where it is offered.
    pub(crate) listen: SocketAddr,
    /// Where it is.
    pub(crate) target: Endpoint,
}

pub(super) fn read(reader: &mut Reader<'_>, role: Role) -> OverlaySettings {
    let (publish, tenants) = (read_publish(reader), read_tenants(reader));
    let mut section = reader.section("overlay");
    if role == Role::Gateway && !section.is_set("config") {
        let ways = "give the hub's wg-quick file by --overlay, EDGEPROXY_OVERLAY or config in the configuration file";
        section.complain("config", format!("is not set, and a gateway is nothing without: {ways}"));
    }
    // To forward is what a hub is for.
    let forwards = role == Role::Gateway && !section.is_set("forward");
    let settings = OverlaySettings {
        config: section.path("config"),
        mode: section.word("mode", Mode::from_word),
        forward: forwards || section.word("forward", |word| Some(word == "on")),
        threads: section.count("threads"),
        publish,
        tenants,
    };
    if settings.mode == Mode::Kernel {
        refuse_what_is_ours(&mut section, &settings);
    }
    settings
}

/// What only our own device can do, and would be believed to be done.
fn refuse_what_is_ours(section: &mut Section<'_, '_>, settings: &OverlaySettings) {
    if settings.forward {
        let why = "is \"kernel\", but packets of one peer for another are passed on by edgeproxy itself only; with this \
                   mode the host does so (sysctl net.ipv4.ip_forward): set forward to \"off\", or choose another mode";
        section.complain("mode", why.to_owned());
    }
    if !settings.tenants.is_empty() {
        let why = "is \"kernel\", which knows no tenants and would let each reach the other: choose another mode, or keep \
                   them apart by the host's firewall and remove the sections tenant";
        section.complain("mode", why.to_owned());
    }
}

fn read_tenants(reader: &mut Reader<'_>) -> Vec<Vec<IpNet>> {
    let tenants = reader.count("tenant");
    let mut read = |index| {
        let mut section = reader.nth("tenant", index);
        section.text("name");
        section.networks("networks")
    };
    (0..tenants).map(&mut read).collect()
}

fn read_publish(reader: &mut Reader<'_>) -> Vec<PublishSettings> {
    let mut published: Vec<PublishSettings> = Vec::new();
    for index in 0..reader.count("publish") {
        let mut section = reader.nth("publish", index);
        let (listen, target) = (section.address("listen"), section.endpoint("target"));
        if let Some(other) = published.iter().position(|other| other.listen == listen) {
            section.complain("listen", format!("{listen} is taken by publish[{other}]"));
        }
        // One that is left out has told why.
        published.extend(target.map(|target| PublishSettings { listen, target }));
    }
    published
}
