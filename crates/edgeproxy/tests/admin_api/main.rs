//! The admin API of the real binary: asked over HTTP, and its effects seen by clients of the proxy.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod backends;
mod connections;
mod drain;
mod health;
mod mistakes;
mod pop;
mod registration;
mod token;
