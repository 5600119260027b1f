//! What a peer has to know, as a wg-quick file.

use std::fmt::Write;

use edgeproxy_store::peers::PeerRow;
use edgeproxy_tunnel::{PrivateKey, PublicKey};
use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::addresses::Pair;

/// What peers are told of a gateway.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GatewayBearings {
    /// Who it is.
    pub public: PublicKey,
    /// Where it is.
    pub endpoint: Option<String>,
    /// What is reached through it.
    pub networks: Vec<IpNet>,
}

/// A whole file, as `wg-quick` and `edgeproxy --overlay` read it. A private key that is not known here is left to be put
/// in.
pub fn wg_quick(peer: &PeerRow, private: Option<&PrivateKey>, gateway: &GatewayBearings) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(512));
    let pair = Pair { v4: peer.v4, v6: peer.v6 };
    let addresses: Vec<_> = pair.iter().map(|address| IpNet::from(address).to_string()).collect();
    let networks: Vec<_> = gateway.networks.iter().map(ToString::to_string).collect();
    let mut line = |line: &str, value: &str| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{line}{value}");
    };
    line("[Interface]", "");
    match private {
        Some(private) => line("PrivateKey = ", &private.to_base64()),
        None => line("# PrivateKey = the private key of ", &peer.public.to_string()),
    }
    line("Address = ", &addresses.join(", "));
    line("", "");
    line("[Peer]", "");
    line("PublicKey = ", &gateway.public.to_string());
    if peer.preshared.is_set() {
        line("PresharedKey = ", &peer.preshared.to_base64());
    }
    match &gateway.endpoint {
        Some(endpoint) => line("Endpoint = ", endpoint),
        None => line("# Endpoint = where the gateway is (gateway.endpoint is not set there)", ""),
    }
    line("AllowedIPs = ", &networks.join(", "));
    text
}
