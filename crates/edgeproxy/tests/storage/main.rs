//! Uploads by the regional service and by the command, with the real binary.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]
#![allow(clippy::print_stdout, reason = "the value beside its limit")]

mod command;
mod endpoints;
mod service;
