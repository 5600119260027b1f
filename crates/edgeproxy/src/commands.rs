//! One module a command; what each prints goes through [`say`].

use std::process::ExitCode;

use clap::Subcommand;

/// What the binary can do.
#[derive(Subcommand)]
pub(crate) enum Command {}

/// Runs a command: exit code 0 done, 1 failed, 2 bad usage or configuration.
pub(crate) fn run(command: Command) -> ExitCode {
    match command {}
}
