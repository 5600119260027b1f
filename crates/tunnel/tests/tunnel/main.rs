//! Tunnels whole: two ends or more, a clock and a network in the test's hand.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]
#![allow(clippy::cast_possible_truncation, reason = "dice need only some of their bits")]

mod flood;
mod handshake;
mod indices;
mod oracle;
mod secrets;
mod simulation;
mod support;
mod timers;
mod vectors;
