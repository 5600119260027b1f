//! The data path: listener -> route -> dial -> relay.
//!
//! [`Pop`] is one machine's data plane. The story of a client is told in `connection.rs`, its
//! beginning in `establish.rs`.

mod check;
mod clock;
mod close;
mod connection;
mod connection_log;
mod core;
mod dial;
mod drain;
mod establish;
mod farewell;
mod listener;
pub mod metric_names;
mod metrics;
mod pop;
mod proxy_header;
mod queue;
mod random;
mod record;
mod relay;
mod settings;
mod socket;

pub use check::{Checks, parse_status as parse_http_status};
pub use clock::Clock;
pub use close::Close;
pub use connection_log::ConnectionLog;
pub use dial::Dialler;
pub use drain::{Drain, Phase};
pub use metrics::Metrics;
pub use pop::{Pop, Published, SharedTable, StartError, Supplies};
pub use proxy_header::{Start as HeaderStart, parse as parse_proxy_header};
pub use record::LiveConnection;
pub use settings::{CheckKind, CheckSettings, ListenerSettings, Password, PostgresCheck, ProxySettings, WhenAllDown};
