//! Against PostgreSQL itself: a primary and its standbys, made for each test and gone after it.
//!
//! Where no PostgreSQL is installed they say so and are skipped; where `CI` is set they fail.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]
#![allow(clippy::print_stdout, reason = "measured and skipped things are told")]

mod chaos;
mod connect;
mod flights;
mod lag;
mod pool;
mod region;
mod stage;
mod takeover;
mod waits;
