//! What is kept on disk: the routing table, a SQLite file that operators and other programs write to while we run, and
//! the [`peers`] of a gateway.
//!
//! [`RoutingDb`] reads it and says which rows are wrong; [`RoutingWatch`] waits for the next committed change and
//! reads again; [`RoutingEditor`] changes it. [`FileWatch`] notices that any other file was replaced.
//!
//! No connection is kept open between two uses. A kept one would keep the `-wal` file alive after every other program
//! is done, and SQLite then lays the old `-wal` over a file that is moved into place (`mv new.db routing.db`).
//!
//! SQLite blocks its caller. A load takes some 2 ms for a thousand rows, and locks are waited for outside of
//! it, so the watch may run on the thread of the control plane; it has no place on a thread that relays bytes.

mod edit;
mod error;
mod file_watch;
mod notices;
pub mod peers;
mod routing;
mod row;
mod schema;
mod stamp;
mod watch;

pub use edit::{Change, DrainTarget, Imported, RoutingEditor};
pub use error::{EditError, StoreError};
pub use file_watch::FileWatch;
pub use routing::{Loaded, RoutingDb};
pub use watch::RoutingWatch;
