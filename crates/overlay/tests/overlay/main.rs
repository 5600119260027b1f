//! Devices over real sockets on loopback; what is above them, the test holds in its hand.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]
#![allow(clippy::print_stdout, reason = "measured and skipped things are told")]

mod client;
mod device;
mod flood;
mod hostile;
mod netstack;
mod replay;
mod revocation;
mod roaming;
mod routing;
mod support;
mod uapi;
