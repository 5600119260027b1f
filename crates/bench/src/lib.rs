//! Measures from every region: a service that runs in each of them, and the run over all of them that asks it.
//!
//! ```text
//! service/  the HTTP endpoints of one region
//! db/       what they measure in a database
//! sample/   latencies, and what may be said of them
//! fleet/    the regions, and asking all of them at once
//! report/   tables, charts, pages, files
//! compare   two saved runs
//! storage/  object storage: uploads, measured; its own endpoints, reports and pages
//! turn      one run at a time, of whichever
//! ```

pub mod compare;
pub mod db;
pub mod fleet;
pub mod report;
mod sample;
pub mod service;
pub mod storage;
mod turn;

pub use sample::{Sample, Summary};
pub use turn::Turns;
