//! `edgeproxy gateway` as a process: asked over HTTP, killed, out of disk, and met by peers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]
#![allow(clippy::print_stdout, reason = "measured and skipped things are told")]

mod check;
mod client;
mod conformance;
mod crash;
mod figures;
mod flood;
mod full;
mod hub;
mod peer;
mod service;
mod short_lived;
mod stop;
mod tokens;
