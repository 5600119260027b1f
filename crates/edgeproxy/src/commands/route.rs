//! `edgeproxy route`: the routing table from the command line.

use std::process::ExitCode;

use clap::Subcommand;

use super::Failure;

mod edit;
mod explain;
mod import;
mod list;
mod source;

/// Shows and changes the routing table, and tells where a client goes and why
#[derive(clap::Args)]
pub(crate) struct Route {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Add(edit::Add),
    Set(edit::Set),
    Rm(edit::Rm),
    List(list::List),
    Import(import::Import),
    Explain(explain::Explain),
}

impl Route {
    /// Exit code 0 done, 1 failed, 2 bad usage or configuration.
    pub(crate) fn run(self) -> ExitCode {
        let done = match self.action {
            Action::Add(add) => add.run(),
            Action::Set(set) => set.run(),
            Action::Rm(rm) => rm.run(),
            Action::List(list) => list.run(),
            Action::Import(import) => import.run(),
            Action::Explain(explain) => explain.run(),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.tell(),
        }
    }
}
