//! The way from one end to another: two or three network namespaces, the links between them and the tunnels over those.

use std::net::Ipv4Addr;
use std::path::{Path as FilePath, PathBuf};

use super::implementation::{End, Engine, Implementation, Interface, Key, Remote};
use super::network::Network;
use crate::failure::{Context, Failure};
use crate::site::Site;

const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The second link of a hub, in a documentation range of its own.
const HUB_FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const FAR_OF_HUB: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

const NEAR_INSIDE: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 1);
const FAR_INSIDE: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 2);
const HUB_INSIDE: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 3);
const ALL_INSIDE: &str = "10.50.0.0/24";

/// Programs and keys, the same for the whole run.
pub(super) struct Workshop<'a> {
    pub(super) site: &'a Site,
    /// With the program of each.
    pub(super) implementations: Vec<(Implementation, PathBuf)>,
    near: Key,
    far: Key,
    hub: Key,
}

/// What is measured of an end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Sender,
    Receiver,
    Hub,
}

/// A path that stands. Its ends are listed before the networks: they end first.
pub(super) struct Path {
    pub(super) ends: Vec<(Role, End)>,
    pub(super) near: Network,
    pub(super) far: Network,
    _hub: Option<Network>,
    /// The far end, seen from the near one.
    pub(super) target: Ipv4Addr,
}

impl<'a> Workshop<'a> {
    pub(super) fn new(site: &'a Site, implementations: Vec<(Implementation, PathBuf)>) -> Result<Self, Failure> {
        let (near, far, hub) = (Key::generate()?, Key::generate()?, Key::generate()?);
        Ok(Self { site, implementations, near, far, hub })
    }

    /// Both ends of the same implementation, or the bare link.
    pub(super) fn pair(&self, name: &str, dir: &FilePath) -> Result<Path, Failure> {
        let (near, far) = (Network::make()?, Network::make()?);
        near.link(("va", NEAR), (&far, "vb", FAR))?;
        let one = |key, allowed: Ipv4Addr, endpoint| vec![Remote { key, allowed: format!("{allowed}/32"), endpoint }];
        if self.named(name)?.0.engine == Engine::None {
            return Ok(Path { ends: Vec::new(), near, far, _hub: None, target: FAR });
        }
        let peers = one(&self.far, FAR_INSIDE, FAR);
        let own = Interface { name: "wga", key: &self.near, address: NEAR_INSIDE, peers, forward: false };
        let sender = self.start(name, &near, &own, dir)?;
        let peers = one(&self.near, NEAR_INSIDE, NEAR);
        let other = Interface { name: "wgb", key: &self.far, address: FAR_INSIDE, peers, forward: false };
        let receiver = self.start(name, &far, &other, dir)?;
        let ends = vec![(Role::Sender, sender), (Role::Receiver, receiver)];
        Ok(Path { ends, near, far, _hub: None, target: FAR_INSIDE })
    }

    /// A hub of this implementation between two spokes of edgeproxy, which are the same for every hub.
    pub(super) fn through_hub(&self, name: &str, dir: &FilePath) -> Result<Path, Failure> {
        let spokes = self.implementations.iter().find(|(spoke, _)| spoke.engine == Engine::Edgeproxy);
        let spokes =
            spokes.map(|(spoke, _)| spoke.name.as_str()).context("the spokes are edgeproxy, which is not there")?;
        let (near, far, middle) = (Network::make()?, Network::make()?, Network::make()?);
        near.link(("va", NEAR), (&middle, "vha", FAR))?;
        far.link(("vb", HUB_FAR), (&middle, "vhb", FAR_OF_HUB))?;
        let to_hub = |endpoint| vec![Remote { key: &self.hub, allowed: ALL_INSIDE.to_owned(), endpoint }];
        let peers = vec![
            Remote { key: &self.near, allowed: format!("{NEAR_INSIDE}/32"), endpoint: NEAR },
            Remote { key: &self.far, allowed: format!("{FAR_INSIDE}/32"), endpoint: HUB_FAR },
        ];
        let own = Interface { name: "wgh", key: &self.hub, address: HUB_INSIDE, peers, forward: true };
        let hub = self.start(name, &middle, &own, dir)?;
        let peers = to_hub(FAR);
        let own = Interface { name: "wga", key: &self.near, address: NEAR_INSIDE, peers, forward: false };
        let sender = self.start(spokes, &near, &own, dir)?;
        let peers = to_hub(FAR_OF_HUB);
        let own = Interface { name: "wgb", key: &self.far, address: FAR_INSIDE, peers, forward: false };
        let receiver = self.start(spokes, &far, &own, dir)?;
        let ends = vec![(Role::Hub, hub), (Role::Sender, sender), (Role::Receiver, receiver)];
        Ok(Path { ends, near, far, _hub: Some(middle), target: FAR_INSIDE })
    }

    fn start(&self, name: &str, network: &Network, interface: &Interface, dir: &FilePath) -> Result<End, Failure> {
        let (implementation, program) = self.named(name)?;
        End::start(implementation, program, self.site, network, interface, dir)
    }

    fn named(&self, name: &str) -> Result<&(Implementation, PathBuf), Failure> {
        self.implementations.iter().find(|(one, _)| one.name == name).context(format!("{name} is not there"))
    }
}
