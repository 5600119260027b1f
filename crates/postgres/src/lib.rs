//! Postgres that knows its regions: which server is the primary, which replica has what, and how to ask them in one round
//! trip.
//!
//! ```text
//! Server, Reach -> connect -> Connection             one session; each phase of its beginning timed
//!                  ServerPool                        sessions with one server, open before they are needed
//!                  Monitor -> Observed -> Judge      one look a second at each; what they all are, by evidence
//!                                         RegionPool reads nearby, writes on the primary
//!                                           Session  what was written is what is read
//! wire                                               a client's first bytes, for a proxy in between
//! ```
//! `docs/postgres.md` says what is kept and what is never done.

mod connect;
mod error;
pub mod fly;
mod jitter;
mod judge;
mod line;
mod lsn;
mod monitor;
mod observation;
mod reach;
mod region_pool;
mod server;
mod server_pool;
mod session;
mod settings;
mod statement;
mod tls;
pub mod wire;

pub use connect::{ConnectPhases, Connection, connect};
pub use error::{Error, Nowhere, Phase, Retry, Side};
pub use judge::{Judge, Lag, Limits, Primary, Standing, Verdict, Why};
pub use lsn::{Lsn, NotAnLsn, Token};
pub use monitor::{Monitor, MonitorSettings};
pub use observation::{Observation, Observed, Receiver, Role};
pub use reach::{BoxFuture, Bytes, Dialled, Direct, Reach};
pub use region_pool::{Read, ReadPolicy, RegionPool, Written};
pub use server::{CONNECT_TIMEOUT, Negotiation, PORT, Password, REPLICA_PORT, Server, TlsMode};
pub use server_pool::{Checkout, PoolSettings, ServerPool};
pub use session::Session;
pub use settings::RegionSettings;
pub use statement::{Answer, Statement};
/// The client library below, with whose types statements are written.
pub use tokio_postgres;
