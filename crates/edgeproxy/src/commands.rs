//! One module a command; what each prints goes through [`say`].

use std::ffi::OsString;
use std::fmt::Display;
use std::process::ExitCode;

use clap::Subcommand;

use crate::config::Problem;

mod admin_flags;
mod backend;
mod bench;
mod check;
mod columns;
mod demo;
mod doctor;
mod drain;
mod gateway;
mod keygen;
mod overlay;
mod peer;
mod proxy;
mod pubkey;
mod route;
mod say;

/// Exit code of bad usage or configuration.
const BAD_USAGE: u8 = 2;

/// What the binary can do.
#[derive(Subcommand)]
pub(crate) enum Command {
    Proxy(proxy::Proxy),
    Gateway(gateway::Gateway),
    Backend(backend::Backend),
    Bench(bench::Bench),
    Check(check::Check),
    Demo(demo::Demo),
    Doctor(doctor::Doctor),
    Drain(drain::Drain),
    Route(route::Route),
    Overlay(overlay::Overlay),
    Peer(peer::Peer),
    Keygen(keygen::Keygen),
    Pubkey(pubkey::Pubkey),
}

/// Runs a command: exit code 0 done, 1 failed, 2 bad usage or configuration.
pub(crate) fn run(command: Command) -> ExitCode {
    let code = match command {
        Command::Proxy(proxy) => proxy.run(),
        Command::Gateway(gateway) => gateway.run(),
        Command::Backend(backend) => backend.run(),
        Command::Bench(bench) => bench.run(),
        Command::Check(check) => check.run(),
        Command::Demo(demo) => demo.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Drain(drain) => drain.run(),
        Command::Route(route) => route.run(),
        Command::Overlay(overlay) => overlay.run(),
        Command::Peer(peer) => peer.run(),
        Command::Keygen(keygen) => keygen.run(),
        Command::Pubkey(pubkey) => pubkey.run(),
    };
    if say::has_failed() { ExitCode::FAILURE } else { code }
}

/// Why a command was not done.
enum Failure {
    /// The file, the network or the other side.
    Failed(String),
    /// What was asked for makes no sense.
    Usage(String),
    /// The configuration file that was named has mistakes, or a list that a flag gives.
    Config(Vec<Problem>),
}

impl Failure {
    /// For `map_err`: an error whose own words say what, where and what to do.
    fn from_display(error: impl Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// Tells it; the exit code for it.
    fn tell(self) -> ExitCode {
        match self {
            Self::Failed(message) => {
                say::mistake(format_args!("error: {message}"));
                ExitCode::FAILURE
            }
            Self::Usage(message) => {
                say::mistake(format_args!("error: {message}"));
                ExitCode::from(BAD_USAGE)
            }
            Self::Config(problems) => {
                problems.iter().for_each(say::mistake);
                ExitCode::from(BAD_USAGE)
            }
        }
    }
}

/// What to know of backends in a region without a place.
fn unknown_region(code: &str) -> String {
    format!(
        "nothing is known of region {code:?}, so it comes last wherever distance decides; declare it by \
         [[routing.region]] in the configuration, or use the code of a built-in one"
    )
}

/// An environment variable that says something.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
