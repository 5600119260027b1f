//! Uploads by the regional service and by the command, with the real binary.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the value beside its limit, and what is skipped")]

mod command;
mod endpoints;
mod service;
mod stopping;
