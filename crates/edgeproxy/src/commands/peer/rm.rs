//! `rm`: the end of peers.

use serde::Serialize;

use super::PeerRef;
use crate::admin_client::{AdminClient, AdminError};
use crate::commands::{Failure, say};

/// Removes peers, each for itself: once this returns nothing is taken from them and nothing sent to them
#[derive(clap::Args)]
pub(super) struct Rm {
    /// Their numbers or public keys
    #[arg(required = true, value_name = "PEER")]
    peers: Vec<PeerRef>,
    /// One that is not there is no mistake
    #[arg(long)]
    if_exists: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints: the peers as they were named.
#[derive(Serialize, Default)]
struct Answer {
    removed: Vec<String>,
    absent: Vec<String>,
}

impl Rm {
    pub(super) fn run(self, client: &AdminClient) -> Result<(), Failure> {
        let mut answer = Answer::default();
        let done = self.peers.iter().try_for_each(|peer| self.remove(client, peer, &mut answer));
        if self.json {
            say::json(&answer);
        }
        done?;
        match (answer.absent.len(), self.if_exists) {
            (0, _) | (_, true) => Ok(()),
            (absent, false) => Err(Failure::Failed(format!(
                "{absent} of {} peers were not there; --if-exists takes that for done",
                self.peers.len()
            ))),
        }
    }

    fn remove(&self, client: &AdminClient, peer: &PeerRef, answer: &mut Answer) -> Result<(), Failure> {
        match client.send("DELETE", &peer.path(), None) {
            Ok(_) => {
                answer.removed.push(peer.to_string());
                if !self.json {
                    say::line(format_args!("removed {peer}"));
                }
                Ok(())
            }
            Err(AdminError::Refused { status: 404, .. }) => {
                // The whole API may not be there: then this says so.
                client.send("GET", "/api/v1/peers?limit=1", None).map_err(Failure::from_display)?;
                answer.absent.push(peer.to_string());
                if !self.json {
                    say::note(format_args!("there is no peer {peer}"));
                }
                Ok(())
            }
            Err(error) => Err(Failure::from_display(error)),
        }
    }
}
