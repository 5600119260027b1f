//! The registered peers on disk: a SQLite file that is ours alone while we run.
//!
//! [`PeersJournal`] writes: what comes while the disk is busy goes into the next commit together, so that many at once
//! wait for one flush. [`PeerPages`] reads lists. What is asked on the way of packets is in memory, filled when the file
//! is opened; so a new peer is a row at the end of the table, and of no index but those of what the row has: it costs
//! the same beside ten and beside a million.

mod error;
mod journal;
mod pages;
mod record;
mod schema;
#[cfg(test)]
mod tests;

pub use error::PeersError;
pub use journal::{PeerWrite, PeersJournal};
pub use pages::{PeerFilter, PeerPage, PeerPages};
pub use record::{FormerKey, PeerId, PeerRecord, PeerRow, Released, Sighting};
