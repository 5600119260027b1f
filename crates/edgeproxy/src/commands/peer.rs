//! `edgeproxy peer`: the peers of a gateway from the command line.

use std::fmt;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Subcommand;
use edgeproxy_tunnel::PublicKey;

use super::Failure;
use super::admin_flags::AdminFlags;
use crate::admin_client::{AdminClient, encoded};
use crate::config::Role;

mod add;
mod gc;
mod handover;
mod import;
mod item;
mod keys;
mod list;
mod qr;
mod rm;
mod rotate;
mod show;

/// Hands out WireGuard peers of a running gateway, and shows and ends them
///
/// Asks `edgeproxy gateway` by its admin API; it has to have the setting gateway.db.
#[derive(clap::Args)]
pub(crate) struct Peer {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    admin: AdminFlags,
}

#[derive(Subcommand)]
enum Action {
    Add(add::Add),
    Show(show::Show),
    List(list::List),
    Rm(rm::Rm),
    Rotate(rotate::Rotate),
    Gc(gc::Gc),
    Import(import::Import),
}

impl Peer {
    /// Exit code 0 done, 1 failed, 2 bad usage or configuration.
    pub(crate) fn run(self) -> ExitCode {
        let done = self.admin.client(Role::Gateway).and_then(|client| match self.action {
            Action::Add(add) => add.run(&client),
            Action::Show(show) => show.run(&client),
            Action::List(list) => list.run(&client),
            Action::Rm(rm) => rm.run(&client),
            Action::Rotate(rotate) => rotate.run(&client),
            Action::Gc(gc) => gc.run(&client),
            Action::Import(import) => import.run(&client),
        });
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.tell(),
        }
    }
}

/// A peer as people name one: by its number or its public key. Names need not be unique.
#[derive(Clone)]
struct PeerRef(String);

impl PeerRef {
    /// Its place in the API.
    fn path(&self) -> String {
        format!("/api/v1/peers/{}", encoded(&self.0))
    }
}

impl FromStr for PeerRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number || text.replace('-', "+").replace('_', "/").parse::<PublicKey>().is_ok() {
            return Ok(Self(text.to_owned()));
        }
        Err("it is neither the number of a peer nor its public key; `edgeproxy peer list --name NAME` finds it"
            .to_owned())
    }
}

impl fmt::Display for PeerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An answer that this version does not understand.
fn odd_answer(error: impl fmt::Display) -> Failure {
    Failure::Failed(format!("the answer is not what this version knows: {error}; use the same version on both sides"))
}

/// Asks for something that has a form.
fn get<T: serde::de::DeserializeOwned>(client: &AdminClient, path: &str) -> Result<T, Failure> {
    let answer = client.send("GET", path, None).map_err(Failure::from_display)?;
    serde_json::from_value(answer).map_err(odd_answer)
}
