//! Tunnels whole: two ends or more, a clock and a network in the test's hand.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]
#![allow(clippy::cast_possible_truncation, reason = "dice need only some of their bits")]

mod handshake;
mod oracle;
mod simulation;
mod support;
mod timers;
mod vectors;
