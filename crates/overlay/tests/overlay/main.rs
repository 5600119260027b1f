//! Devices over real sockets on loopback; what is above them, the test holds in its hand.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]
#![allow(clippy::print_stdout, reason = "measured and skipped things are told")]

mod device;
mod netstack;
mod support;
mod uapi;
