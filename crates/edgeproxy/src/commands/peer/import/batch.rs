//! Peers that go to the gateway together.

use serde::Deserialize;
use serde_json::json;

use super::draft::Draft;
use super::tally::{Origin, Tally};
use crate::admin_client::AdminClient;
use crate::commands::Failure;
use crate::commands::peer::odd_answer;

/// Peers of one request, at most, as the API has it.
const PEERS_MOST: usize = 1000;
/// Bytes of one, below the 1 MiB that the API takes.
const BYTES_MOST: usize = 900 * 1024;

/// Waits until it is full.
pub(super) struct Batch<'a> {
    client: &'a AdminClient,
    origins: Vec<Origin>,
    drafts: Vec<Draft>,
    bytes: usize,
    dry_run: bool,
}

#[derive(Deserialize)]
struct Answer {
    items: Vec<Outcome>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Outcome {
    Done { existing: bool },
    Failed { status: u16, detail: String },
}

impl<'a> Batch<'a> {
    pub(super) fn new(client: &'a AdminClient, dry_run: bool) -> Self {
        Self { client, origins: Vec::new(), drafts: Vec::new(), bytes: 0, dry_run }
    }

    /// Gives back what does not fit in any more.
    pub(super) fn push(&mut self, origin: Origin, draft: Draft) -> Option<Draft> {
        let is_full = self.drafts.len() == PEERS_MOST || self.bytes + draft.room() > BYTES_MOST;
        if is_full && !self.drafts.is_empty() {
            return Some(draft);
        }
        self.bytes += draft.room();
        self.origins.push(origin);
        self.drafts.push(draft);
        None
    }

    pub(super) fn len(&self) -> usize {
        self.drafts.len()
    }

    /// Sends what waits, and notes what became of each.
    ///
    /// # Errors
    /// The gateway is not there, or refuses the request as a whole. Sending it again does no harm.
    pub(super) fn send(&mut self, tally: &mut Tally) -> Result<(), Failure> {
        let (origins, drafts) = (std::mem::take(&mut self.origins), std::mem::take(&mut self.drafts));
        self.bytes = 0;
        if self.dry_run {
            origins.iter().for_each(|_| tally.note_created());
            return Ok(());
        }
        if drafts.is_empty() {
            return Ok(());
        }
        let answer = self.client.send("POST", "/api/v1/peers:batch", Some(&json!({ "peers": drafts })));
        let answer: Answer = serde_json::from_value(answer.map_err(Failure::from_display)?).map_err(odd_answer)?;
        if answer.items.len() != origins.len() {
            return Err(odd_answer(format!("{} answers to {} peers", answer.items.len(), origins.len())));
        }
        for (origin, outcome) in origins.into_iter().zip(answer.items) {
            match outcome {
                Outcome::Done { existing: false } => tally.note_created(),
                Outcome::Done { existing: true } => tally.note_existing(),
                Outcome::Failed { status, detail } => tally.note_failed(origin, Some(status), &detail),
            }
        }
        Ok(())
    }
}
