//! Sections `gateway` and `gateway.pool`: peers that are handed out.

use edgeproxy_gateway::PoolSettings;
use edgeproxy_overlay::{Endpoint, Mode};

use super::Role;
use super::reader::Reader;

/// What is handed out, and how.
#[derive(Clone, Debug)]
pub(crate) struct GatewaySettings {
    /// File, addresses and limits. Without pools, the networks of the gateway's own addresses are those.
    pub(crate) peers: edgeproxy_gateway::GatewaySettings,
    /// Peers awake at once, at most.
    pub(crate) max_awake: usize,
    /// What peers are told of where this gateway is.
    pub(crate) endpoint: Option<Endpoint>,
}

/// `None`: this process hands out no peers.
pub(super) fn read(reader: &mut Reader<'_>, role: Role, mode: Mode) -> Option<GatewaySettings> {
    let of_regions = read_pools(reader);
    let mut section = reader.section("gateway");
    let db = section.path("db");
    let networks = section.networks("pools");
    let general = networks.into_iter().map(|network| PoolSettings { network, region: None });
    let pools: Vec<_> = general.chain(of_regions).collect();
    let (quarantine, grace) = (section.duration("quarantine"), section.duration("grace"));
    let (max_peers, max_awake) = (section.count("max_peers"), section.count("max_awake"));
    let endpoint = section.endpoint("endpoint");
    if let Some(wide) = pools.iter().find(|pool| pool.network.addr().is_ipv4() && pool.network.prefix_len() < 8) {
        section.complain("pools", format!("{} is wider than a network of 8 bits", wide.network));
    }
    if let Some((at, pool)) =
        pools.iter().enumerate().find(|(at, pool)| pools[..*at].iter().any(|before| before.network == pool.network))
    {
        section.complain("pools", format!("{} is named twice (number {at} of all pools)", pool.network));
    }
    let db = db.filter(|_| role == Role::Gateway)?;
    if mode == Mode::Kernel {
        let why = "is set, but overlay.mode is \"kernel\", which asks nobody when a peer speaks that it has not been told of: \
                   choose another mode";
        section.complain("db", why.to_owned());
    }
    let peers = edgeproxy_gateway::GatewaySettings { db, pools, quarantine, grace, max_peers };
    Some(GatewaySettings { peers, max_awake, endpoint })
}

fn read_pools(reader: &mut Reader<'_>) -> Vec<PoolSettings> {
    let mut pools = Vec::new();
    for index in 0..reader.count("gateway.pool") {
        let mut section = reader.nth("gateway.pool", index);
        let (region, networks) = (section.text("region"), section.networks("networks"));
        pools.extend(networks.into_iter().map(|network| PoolSettings { network, region: region.clone() }));
    }
    pools
}
