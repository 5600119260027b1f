//! A gateway with a device of its own, and clients with theirs: what is said of peers shows in what they can do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod awake;
mod created;
mod ended;
mod kept;
mod recorder;
mod steady;
mod support;
