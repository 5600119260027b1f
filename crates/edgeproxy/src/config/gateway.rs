//! Sections `gateway` and `gateway.pool`: peers that are handed out.

use edgeproxy_gateway::PoolSettings;
use edgeproxy_overlay::{Endpoint, Mode};

use super::Role;
use super::admin::{AdminSettings, Secret};
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
    /// What opens the API of the peers, beside the token that opens everything.
    pub(crate) tokens: Vec<TokenSettings>,
}

/// A token for the API of the peers.
#[derive(Clone, Debug)]
pub(crate) struct TokenSettings {
    /// Who it is for.
    pub(crate) name: String,
    /// The token.
    pub(crate) secret: Secret,
    /// What it opens.
    pub(crate) scope: Scope,
    /// Peers changed by it in a second, at most; 0: any number.
    pub(crate) rate: u32,
}

/// What a token opens; each holds those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(crate) enum Scope {
    /// Peers are listed and shown.
    #[default]
    Read,
    /// Peers are made, and those that it made are removed and rotated.
    Create,
    /// All of it.
    Manage,
}

impl Scope {
    /// As the configuration has it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Create => "create",
            Self::Manage => "manage",
        }
    }
}

/// `None`: this process hands out no peers.
pub(super) fn read(reader: &mut Reader<'_>, role: Role, mode: Mode, admin: &AdminSettings) -> Option<GatewaySettings> {
    let of_regions = read_pools(reader);
    let tokens = read_tokens(reader, role, admin);
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
    if role != Role::Gateway && db.is_some() {
        let notice =
            "section gateway is for `edgeproxy gateway`; `edgeproxy check --gateway` checks it as that reads it";
        section.reader.notices.push(notice.to_owned());
    }
    let db = db.filter(|_| role == Role::Gateway)?;
    if mode == Mode::Kernel {
        let why = "is set, but overlay.mode is \"kernel\", which asks nobody when a peer speaks that it has not been told of: \
                   choose another mode";
        section.complain("db", why.to_owned());
    }
    let peers = edgeproxy_gateway::GatewaySettings { db, pools, quarantine, grace, max_peers };
    Some(GatewaySettings { peers, max_awake, endpoint, tokens })
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

fn read_tokens(reader: &mut Reader<'_>, role: Role, admin: &AdminSettings) -> Vec<TokenSettings> {
    let mut tokens: Vec<TokenSettings> = Vec::new();
    for index in 0..reader.count("gateway.token") {
        let mut section = reader.nth("gateway.token", index);
        let (name, rate) = (section.text("name"), section.count("rate"));
        let scope = section.word("scope", |word| match word {
            "read" => Some(Scope::Read),
            "create" => Some(Scope::Create),
            "manage" => Some(Scope::Manage),
            _ => None,
        });
        // Whoever runs something else of the same file need not be able to read it.
        let secret = match role {
            Role::Gateway => section.token("file"),
            Role::Proxy => section.path("file").and(None),
        };
        if let Some(name) = name.as_ref().filter(|name| tokens.iter().any(|token| token.name == **name)) {
            section.complain("name", format!("{name:?} is the name of another token already"));
        }
        let Some((name, secret)) = name.zip(secret) else { continue };
        let same = tokens.iter().find(|token| token.secret.equals(&secret)).map(|token| format!("{:?}", token.name));
        let of_admin =
            admin.token.as_ref().filter(|token| token.equals(&secret)).map(|_| "admin.token_file".to_owned());
        if let Some(other) = same.or(of_admin) {
            section.complain(
                "file",
                format!("holds the same token as {other}: which of the two a request came with could not be told"),
            );
        }
        tokens.push(TokenSettings { name, secret, scope, rate });
    }
    tokens
}
