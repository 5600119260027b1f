//! Uploads to stores that work, and to stores that do not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]
#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

mod encrypted;
mod failing;
mod servers;
mod support;
mod working;
