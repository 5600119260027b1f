//! Postgres that knows its regions.
