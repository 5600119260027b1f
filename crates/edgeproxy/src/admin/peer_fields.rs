//! A peer as a request describes it.

use std::time::Duration;

use edgeproxy_gateway::PeerRequest;
use edgeproxy_tunnel::PublicKey;
use serde::Deserialize;

use super::input::given;
use super::problem::Problem;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PeerFields {
    #[serde(deserialize_with = "given")]
    public_key: Option<String>,
    #[serde(deserialize_with = "given")]
    preshared_key: Option<String>,
    /// One is made.
    preshared: bool,
    #[serde(deserialize_with = "given")]
    name: Option<String>,
    #[serde(deserialize_with = "given")]
    region: Option<String>,
    tags: Vec<String>,
    addresses: Vec<String>,
    prefixes: Vec<String>,
    #[serde(deserialize_with = "given")]
    ttl_s: Option<u64>,
    #[serde(deserialize_with = "given")]
    idle_ttl_s: Option<u64>,
    keep: bool,
}

impl PeerFields {
    /// # Errors
    /// The first field that is not what it should be.
    pub(super) fn into_request(self, owner: Option<String>) -> Result<PeerRequest, Problem> {
        let list = |field: &'static str, items: &[String]| -> Result<Vec<_>, Problem> {
            let parse = |item: &String| item.parse().map_err(|_| Problem::field(field, format!("{item:?} is none")));
            items.iter().map(parse).collect()
        };
        let preshared = self
            .preshared_key
            .as_deref()
            .map(|text| text.parse().map_err(|error| Problem::field("preshared_key", format!("is none: {error}"))));
        let prefixes = self
            .prefixes
            .iter()
            .map(|item| item.parse().map_err(|error| Problem::field("prefixes", format!("{item:?} is none: {error}"))));
        Ok(PeerRequest {
            public: self.public_key.as_deref().map(|text| key("public_key", text)).transpose()?,
            preshared: preshared.transpose()?,
            make_preshared: self.preshared,
            name: self.name,
            region: self.region,
            tags: self.tags,
            addresses: list("addresses", &self.addresses)?,
            prefixes: prefixes.collect::<Result<_, _>>()?,
            ttl: self.ttl_s.map(Duration::from_secs),
            idle_ttl: self.idle_ttl_s.map(Duration::from_secs),
            keep: self.keep,
            owner,
        })
    }
}

/// A public key in base64.
pub(super) fn key(field: &str, text: &str) -> Result<PublicKey, Problem> {
    text.parse().map_err(|error| Problem::field(field, format!("is none: {error}")))
}
