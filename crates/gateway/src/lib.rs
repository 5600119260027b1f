//! Peers for whoever asks: an address, a row on disk, and from the moment of the answer a tunnel as soon as it speaks.
//!
//! ```text
//! provision: checked -> addresses -> on disk -> in memory -> answered
//! register:  what the device asks at the first handshake, and tells when the peer sleeps again
//! collect:   ends those whose time it is
//! ```
//! No operation looks at more peers than it is about, however many there are; what goes on by itself does it piece by
//! piece. Only where most deadlines are of peers that are gone are all made anew: once in as many removals.

mod addresses;
mod chunks;
mod client_config;
mod collect;
mod deadlines;
mod error;
mod gateway;
mod number_set;
mod provision;
mod register;
mod request;
mod resting;
mod rows;

pub use addresses::{AddressError, Family, PoolSettings};
pub use client_config::{GatewayBearings, wg_quick};
pub use collect::End;
pub use error::GatewayError;
pub use gateway::{Figures, Flows, Gateway, GatewaySettings, Opened, PoolFigures, Shown};
pub use provision::Created;
pub use request::{IDLE_LEAST, PeerRequest, RequestError};
