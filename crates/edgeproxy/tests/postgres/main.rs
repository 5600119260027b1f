//! The binary in front of a real PostgreSQL primary with two streaming replicas: who reaches whom, with the tools that
//! people use, and what becomes of them when a server is promoted, killed, delayed, or cut off.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic, and tells what it measured"
)]

mod changes;
mod drivers;
mod partition;
mod refusals;
mod session;
mod stage;
mod staleness;
mod tools;
