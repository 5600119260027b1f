//! `rotate`: another key for a peer that stays what it is.

use std::time::Duration;

use serde_json::{Value, json};

use super::PeerRef;
use super::handover::{Handover, HandoverFlags};
use super::keys::KeyFlags;
use crate::admin_client::AdminClient;
use crate::commands::Failure;

/// Gives a peer another key pair and prints its new wg-quick file
///
/// Its addresses stay. The key it had before counts until the new one is first used, but no longer than --overlap.
#[derive(clap::Args)]
pub(super) struct Rotate {
    /// Its number or public key
    #[arg(value_name = "PEER")]
    peer: PeerRef,
    /// For how long the key it had counts at most, such as 1h; 0s cuts it off at once [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    overlap: Option<Duration>,
    #[command(flatten)]
    keys: KeyFlags,
    #[command(flatten)]
    handover: HandoverFlags,
}

impl Rotate {
    pub(super) fn run(self, client: &AdminClient) -> Result<(), Failure> {
        let handover = Handover::open(self.handover)?;
        let keys = self.keys.keys()?;
        let mut wanted = json!({});
        if let Some(public) = keys.public() {
            wanted["public_key"] = Value::from(public.to_string());
        }
        if let Some(overlap) = self.overlap {
            wanted["overlap_s"] = Value::from(overlap.as_secs());
        }
        let path = format!("{}/rotate", self.peer.path());
        let answer = client.send("POST", &path, Some(&wanted)).map_err(Failure::from_display)?;
        handover.give(answer, &keys)
    }
}
