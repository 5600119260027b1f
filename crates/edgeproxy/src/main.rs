//! Your own global edge in one binary.

use std::process::ExitCode;

use clap::Parser;

mod admin;
mod admin_client;
mod commands;
mod config;
mod overlay;
mod process;
mod publish;
mod reach;
mod running;
mod telemetry;

/// Your own global edge in one binary: accepts TCP near the user and relays it to the nearest healthy backend.
#[derive(Parser)]
#[command(name = "edgeproxy", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    // clap exits with 2 on bad usage by itself.
    commands::run(Cli::parse().command)
}
