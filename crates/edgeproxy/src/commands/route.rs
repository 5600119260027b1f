//! `edgeproxy route`: the routing table from the command line.

use std::fmt::Display;
use std::process::ExitCode;

use clap::Subcommand;

use super::say;
use crate::config::Problem;

mod columns;
mod edit;
mod explain;
mod import;
mod list;
mod source;

/// Exit code of bad usage or configuration.
const BAD_USAGE: u8 = 2;

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

/// Why an action was not done.
enum Failure {
    /// The file, the network or the other side.
    Failed(String),
    /// What was asked for makes no sense.
    Usage(String),
    /// The configuration file that was named has mistakes.
    Config(Vec<Problem>),
}

impl Failure {
    /// For `map_err`: an error whose own words say what, where and what to do.
    fn from_display(error: impl Display) -> Self {
        Self::Failed(error.to_string())
    }
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
            Err(Failure::Failed(message)) => {
                say::mistake(format_args!("error: {message}"));
                ExitCode::FAILURE
            }
            Err(Failure::Usage(message)) => {
                say::mistake(format_args!("error: {message}"));
                ExitCode::from(BAD_USAGE)
            }
            Err(Failure::Config(problems)) => {
                problems.iter().for_each(say::mistake);
                ExitCode::from(BAD_USAGE)
            }
        }
    }
}
