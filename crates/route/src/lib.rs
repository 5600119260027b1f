//! Which backend should this client reach, and why?
//!
//! The way through this crate is the way of a client:
//! its address ([`ClientAddr`]) is looked up in a [`GeoTable`], which gives a [`Place`];
//! [`Table`], an immutable snapshot of the backends, is asked by [`Table::choose`] for the best one;
//! the [`Choice`] says which and why, and [`Table::reserve`] takes one of its connection slots.
//! [`Affinity`] remembers who went where. What this machine has learnt of each backend (connections in use, check
//! verdicts, roles, ejection, round-trip time) lives in a [`StatePool`], outlives every snapshot and is read without a lock.
//!
//! Nothing here opens a socket, reads a clock or draws a random number for a decision: time is a [`Moment`] and
//! randomness a number, both given by the caller, so that every decision can be replayed. Only the memory of
//! [`Affinity`] is spread by a secret of its own, because clients choose their addresses.

mod affinity;
mod backend;
mod choose;
mod client;
mod countries;
mod explain;
mod geo;
mod health;
mod latency;
mod moment;
mod outlier;
mod place;
mod regions;
mod role;
mod state;
mod table;
mod view;

pub use affinity::Affinity;
pub use backend::{Backend, BackendAddr, BackendError, Limits, RawBackend};
pub use choose::{Choice, Exclusions, NoRoute, Policy, Request};
pub use client::{AffinityKey, ClientAddr};
pub use explain::{Candidate, Standing};
pub use geo::{GeoError, GeoTable};
pub use health::{CheckPace, Health, Verdict};
pub use moment::Moment;
pub use outlier::OutlierPolicy;
pub use place::{Area, Country, Place, Point};
pub use role::{Fallback, Lag, Role, Wanted};
pub use state::{Reservation, Slot, SlotKey, StatePool};
pub use table::{CustomRegion, Region, Regions, Table, TableBuilder, TableError};
