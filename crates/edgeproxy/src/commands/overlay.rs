//! `edgeproxy overlay`: the address space inside WireGuard from the command line.

use std::process::ExitCode;

use clap::Subcommand;

mod init;
mod key_files;
mod plan;

/// Makes the keys and configurations of a hub and its regions
#[derive(clap::Args)]
pub(crate) struct Overlay {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Init(init::Init),
}

impl Overlay {
    /// Exit code 0 done, 1 failed, 2 bad usage.
    pub(crate) fn run(self) -> ExitCode {
        let Action::Init(init) = self.action;
        match init.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.tell(),
        }
    }
}
