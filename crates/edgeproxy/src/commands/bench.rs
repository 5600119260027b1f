//! `edgeproxy bench`: measurements from every region, and runs beside each other.

use std::process::ExitCode;

use clap::Subcommand;

mod compare;
mod db;
mod progress;
mod storage;
mod tunnel;

/// Measures from every region, and compares what was measured
#[derive(clap::Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Db(Box<db::Db>),
    Storage(Box<storage::Storage>),
    Compare(compare::Compare),
}

impl Bench {
    /// Exit code 0 done, 1 failed, 2 bad usage.
    pub(crate) fn run(self) -> ExitCode {
        let done = match self.action {
            Action::Db(db) => db.run(),
            Action::Storage(storage) => storage.run(),
            Action::Compare(compare) => compare.run(),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.tell(),
        }
    }
}
