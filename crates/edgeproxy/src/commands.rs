//! One module a command; what each prints goes through [`say`].

use std::process::ExitCode;

use clap::Subcommand;

mod check;
mod demo;
mod doctor;
mod drain;
mod proxy;
mod route;
mod say;

/// What the binary can do.
#[derive(Subcommand)]
pub(crate) enum Command {
    Proxy(proxy::Proxy),
    Check(check::Check),
    Demo(demo::Demo),
    Doctor(doctor::Doctor),
    Drain(drain::Drain),
    Route(route::Route),
}

/// Runs a command: exit code 0 done, 1 failed, 2 bad usage or configuration.
pub(crate) fn run(command: Command) -> ExitCode {
    match command {
        Command::Proxy(proxy) => proxy.run(),
        Command::Check(check) => check.run(),
        Command::Demo(demo) => demo.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Drain(drain) => drain.run(),
        Command::Route(route) => route.run(),
    }
}
