//! `gc`: the end of peers whose time is over.

use serde::Deserialize;
use serde_json::json;

use super::odd_answer;
use crate::admin_client::AdminClient;
use crate::commands::{Failure, say};

/// Peers that a dry run tells of at most, as the API has it.
const TOLD_MOST: usize = 1000;

/// Ends the peers whose time is over, by --ttl or --idle-ttl; the gateway does so by itself, a moment later
#[derive(clap::Args)]
pub(super) struct Gc {
    /// Tell which those are, and leave them
    #[arg(long)]
    dry_run: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Collected {
    ended: Vec<Ended>,
}

#[derive(Deserialize)]
struct Ended {
    id: String,
    why: String,
}

impl Gc {
    pub(super) fn run(self, client: &AdminClient) -> Result<(), Failure> {
        let order = json!({ "dry_run": self.dry_run });
        let answer = client.send("POST", "/api/v1/peers:collect", Some(&order)).map_err(Failure::from_display)?;
        if self.json {
            say::json(&answer);
            return Ok(());
        }
        let Collected { ended } = serde_json::from_value(answer).map_err(odd_answer)?;
        let rows: Vec<_> = ended.into_iter().map(|Ended { id, why }| [id, why]).collect();
        say::table(["id", "why"], &rows);
        let done = if self.dry_run { "would end" } else { "ended" };
        let count = match rows.len() {
            0 => "no peer".to_owned(),
            count if self.dry_run && count >= TOLD_MOST => format!("{count} or more"),
            count => count.to_string(),
        };
        say::aside(format_args!("{count} {done}"));
        Ok(())
    }
}
