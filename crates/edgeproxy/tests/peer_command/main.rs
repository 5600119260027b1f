//! `edgeproxy peer` as an operator types it, against a gateway that is a process of its own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod gateway;
mod import;
mod inside;
mod kept;
mod made;
mod used;
