//! `add`: a new peer, and the file it needs.

use std::net::IpAddr;
use std::time::Duration;

use edgeproxy_tunnel::Prefix;
use serde_json::{Map, Value};

use super::handover::{Handover, HandoverFlags};
use super::keys::KeyFlags;
use crate::admin_client::AdminClient;
use crate::commands::{Failure, say};

/// Longest key of idempotency, in bytes, as the API has it.
const LONGEST_KEY: usize = 255;
/// Status of the answer where there was such a peer.
const EXISTED: u16 = 200;

/// Creates a peer and prints its wg-quick file: `edgeproxy peer add > wg0.conf`
///
/// Whoever has the file can connect at once, by any WireGuard or by `edgeproxy proxy --overlay`. The private key is made
/// here and does not leave this machine.
#[derive(clap::Args)]
pub(super) struct Add {
    /// What people know it by; need not be unique
    #[arg(long)]
    name: Option<String>,
    /// Region whose addresses it gets, such as fra
    #[arg(long, value_name = "CODE")]
    region: Option<String>,
    /// A word to find it by; may be given up to 16 times
    #[arg(long, value_name = "WORD")]
    tag: Vec<String>,
    /// Mix a secret into its handshakes as well; the gateway makes it
    #[arg(long)]
    preshared: bool,
    /// An address that it shall have, one of IPv4 and one of IPv6 [default: any that are free]
    #[arg(long, value_name = "IP")]
    address: Vec<IpAddr>,
    /// A network behind it; may be given up to 64 times
    #[arg(long, value_name = "NETWORK")]
    prefix: Vec<Prefix>,
    /// It ends after this time, whatever it does, such as 10m; at least 1s [default: never]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    /// It ends after this time without a handshake, such as 1h; at least 3m [default: never]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    idle_ttl: Option<Duration>,
    /// It never ends for being idle
    #[arg(long)]
    keep: bool,
    /// Run again with the same key within 24 h, the command gets the same peer; with --public-key or --server-key
    #[arg(long, value_name = "KEY", value_parser = idempotency_key)]
    idempotency_key: Option<String>,
    #[command(flatten)]
    keys: KeyFlags,
    #[command(flatten)]
    handover: HandoverFlags,
}

impl Add {
    pub(super) fn run(self, client: &AdminClient) -> Result<(), Failure> {
        if self.idempotency_key.is_some() && !self.keys.are_the_same_again() {
            let message = "--idempotency-key does not go with a key pair that is made here, as it is another one each \
                           time; add --server-key, or --public-key with one of your own";
            return Err(Failure::Usage(message.to_owned()));
        }
        let handover = Handover::open(self.handover)?;
        let keys = self.keys.keys()?;
        let mut wanted = Map::new();
        let mut put = |field: &str, value: Option<Value>| wanted.extend(value.map(|value| (field.to_owned(), value)));
        put("public_key", keys.public().map(|key| key.to_string().into()));
        put("name", self.name.map(Value::from));
        put("region", self.region.map(Value::from));
        put("tags", texts(&self.tag));
        put("addresses", texts(&self.address));
        put("prefixes", texts(&self.prefix));
        put("ttl_s", self.ttl.map(|ttl| ttl.as_secs().into()));
        put("idle_ttl_s", self.idle_ttl.map(|ttl| ttl.as_secs().into()));
        put("preshared", self.preshared.then(|| true.into()));
        put("keep", self.keep.then(|| true.into()));
        let key = self.idempotency_key.as_deref();
        let (status, answer) = client
            .send_once("POST", "/api/v1/peers", Some(&Value::Object(wanted)), key)
            .map_err(Failure::from_display)?;
        if status == EXISTED {
            say::note("a peer with this public key was there before; it is left as it was");
        }
        handover.give(answer, &keys)
    }
}

fn texts(items: &[impl ToString]) -> Option<Value> {
    (!items.is_empty()).then(|| items.iter().map(ToString::to_string).collect::<Vec<_>>().into())
}

/// For clap.
fn idempotency_key(text: &str) -> Result<String, String> {
    let fits = (1..=LONGEST_KEY).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(text.to_owned()) } else { Err(format!("it is not 1 to {LONGEST_KEY} visible ASCII characters")) }
}
