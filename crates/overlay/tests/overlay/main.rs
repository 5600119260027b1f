//! Devices over real sockets on loopback; what is above them, the test holds in its hand.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod device;
mod support;
