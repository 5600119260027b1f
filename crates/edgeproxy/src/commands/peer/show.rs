//! `show`: all about a peer.

use super::item::Item;
use super::{PeerRef, odd_answer};
use crate::admin_client::AdminClient;
use crate::commands::{Failure, say};

/// Shows a peer: what it is, and how the gateway has last seen it
#[derive(clap::Args)]
pub(super) struct Show {
    /// Its number or public key
    #[arg(value_name = "PEER")]
    peer: PeerRef,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(super) fn run(self, client: &AdminClient) -> Result<(), Failure> {
        let answer = client.send("GET", &self.peer.path(), None).map_err(Failure::from_display)?;
        if self.json {
            say::json(&answer);
            return Ok(());
        }
        let item: Item = serde_json::from_value(answer).map_err(odd_answer)?;
        say::table(["field", "value"], &item.lines());
        Ok(())
    }
}
