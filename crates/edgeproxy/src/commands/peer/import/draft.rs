//! From a peer of a file to one that a gateway is asked for.

use std::net::IpAddr;

use edgeproxy_overlay::FoundPeer;
use edgeproxy_tunnel::Prefix;
use ipnet::IpNet;
use serde::Serialize;

/// Bytes of a name, at most, as the API has it.
const NAME_MOST: usize = 63;

/// A peer as the API takes it.
#[derive(Serialize, PartialEq, Debug)]
pub(super) struct Draft {
    public_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    preshared_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    prefixes: Vec<String>,
}

impl Draft {
    /// More bytes than it takes in a request.
    pub(super) fn room(&self) -> usize {
        512 + 64 * (self.prefixes.len() + self.tags.len())
    }
}

pub(super) fn draft(found: &FoundPeer, pools: &[IpNet], tags: &[String]) -> Draft {
    let peer = &found.peer;
    let (mut addresses, mut prefixes): (Vec<IpAddr>, Vec<String>) = (Vec::new(), Vec::new());
    for prefix in &peer.allowed_ips {
        let address = prefix.address();
        let is_first = addresses.iter().all(|other| other.is_ipv4() != address.is_ipv4());
        let is_own = *prefix == Prefix::host(address) && pools.iter().any(|pool| pool.contains(&address));
        if is_own && is_first {
            addresses.push(address);
        } else {
            prefixes.push(prefix.to_string());
        }
    }
    Draft {
        public_key: peer.public_key.to_string(),
        preshared_key: peer.preshared_key.as_ref().map(|key| key.to_base64().to_string()),
        name: found.remark.as_deref().and_then(name),
        tags: tags.to_vec(),
        addresses,
        prefixes,
    }
}

/// What a comment calls a peer, in letters that a name may have.
fn name(remark: &str) -> Option<String> {
    let remark = remark.trim_matches(['#', ' ', '\t']);
    let text = match remark.split_once('=') {
        Some((key, value)) if key.trim().eq_ignore_ascii_case("name") => value,
        // A setting that somebody took out, or a key.
        Some(_) => return None,
        None => remark,
    };
    let mut name = String::new();
    for c in text.trim().chars() {
        let c = if c.is_alphanumeric() || "-_.:/@".contains(c) { c } else { '-' };
        if name.len() + c.len_utf8() > NAME_MOST {
            break;
        }
        if c != '-' || !name.ends_with('-') {
            name.push(c);
        }
    }
    let name = name.trim_matches('-');
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use edgeproxy_overlay::PeersOf;

    use super::*;

    const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    fn of(lines: &str) -> Draft {
        let text = format!("[Peer]\nPublicKey = {KEY}\n{lines}\n");
        let found = PeersOf::new("f", text.as_bytes()).next().unwrap().unwrap();
        let pools = ["10.50.0.0/16", "fd00:50::/64"].map(|pool| pool.parse().unwrap());
        draft(&found, &pools, &["old".to_owned()])
    }

    #[test]
    fn one_address_of_each_kind_is_its_own() {
        let draft = of("AllowedIPs = 192.0.2.1, 10.50.1.0/24, 10.50.0.7/32, 10.50.0.8, fd00:50::7, fd00:51::7/128");
        let own: Vec<IpAddr> = ["10.50.0.7", "fd00:50::7"].map(|ip| ip.parse().unwrap()).into();
        assert_eq!(draft.addresses, own);
        assert_eq!(draft.prefixes, ["192.0.2.1/32", "10.50.1.0/24", "10.50.0.8/32", "fd00:51::7/128"]);
        let text = serde_json::to_string(&of(&format!("PresharedKey = {KEY}"))).unwrap();
        let expected = format!("{{\"public_key\":\"{KEY}\",\"preshared_key\":\"{KEY}\",\"tags\":[\"old\"]}}");
        assert_eq!(text, expected, "nothing is null or empty");
    }

    #[test]
    fn room_is_enough() {
        let networks: Vec<String> = (0..64).map(|n| format!("2001:db8:{n:x}:ffff:ffff:ffff:ffff:ffff/128")).collect();
        let mut draft = of(&format!("PresharedKey = {KEY}\nAllowedIPs = {}", networks.join(", ")));
        draft.name = Some("é".repeat(31));
        draft.tags = vec!["\u{fffd}".repeat(20); 16];
        draft.addresses =
            ["10.50.100.100", "fd00:50:ffff:ffff:ffff:ffff:ffff:ffff"].map(|ip| ip.parse().unwrap()).into();
        assert!(serde_json::to_string(&draft).unwrap().len() < draft.room());
    }

    #[test]
    fn comments_become_names() {
        for (remark, expected) in [
            ("gru", Some("gru")),
            ("Name = Ana's phone", Some("Ana-s-phone")),
            ("## Client zürich-1", Some("Client-zürich-1")),
            ("name=ci/7@main", Some("ci/7@main")),
            ("", None),
            ("!!! ", None),
            ("PersistentKeepalive = 25", None),
            ("yAnz5TFlXXJte14tuTFGVFOTlRl6dOVIbxrdBsCjcAB=", None),
        ] {
            assert_eq!(name(remark).as_deref(), expected, "{remark}");
        }
        assert_eq!(name(&"é".repeat(60)).unwrap().len(), 62);
    }
}
