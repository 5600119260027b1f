//! The world on one machine: backends, clients from every country, and a POP between them, all on loopback.
//!
//! `edgeproxy demo` shows it and the end-to-end tests use it. Everything here is real (sockets, files, the binary
//! itself); only distances are made, and clients claim their addresses by the PROXY protocol.
//!
//! A [`Site`] is the place of one POP: a directory with its routing table. [`Backend`]s are put into the table,
//! [`Site::start`] runs a [`Pop`] there, [`Client`]s connect to it. [`postgres`] is a database server with its standbys, a
//! [`Bucket`] or a [`ForeignStore`] an object store, [`wan`] the distances, and a [`Star`] all of it around a WireGuard hub.

mod backend;
mod bucket;
mod census;
mod client;
mod deadline;
mod foreign;
mod http;
mod lines;
mod pattern;
mod pop;
pub mod postgres;
mod process;
mod site;
mod star;
mod ten;
pub mod wan;

pub use backend::{Backend, Behaviour};
pub use bucket::{Bucket, Fault, Operation};
pub use census::Census;
pub use client::{Client, Ending, Header};
pub use deadline::{LONG, eventually, within};
pub use foreign::ForeignStore;
pub use lines::Lines;
pub use pattern::{Pattern, read_pattern, write_pattern};
pub use pop::{Pop, PopPlan};
pub use site::{Site, row};
pub use star::{Inside, Spoke, Star};
pub use ten::{Place, TEN_REGIONS};
