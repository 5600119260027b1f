//! The regional service before a real PostgreSQL: what it answers, and what it does when things go wrong.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may panic, and tells what it skips"
)]

mod faults;
mod fleet;
mod published;
mod stage;
mod stuck;
mod trips;
