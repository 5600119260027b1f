//! `edgeproxy gateway`: a hub.

use std::process::ExitCode;

use clap::Args;

use super::proxy::serve;
use crate::config::{GatewayFlags, Role};

/// Runs a WireGuard hub: forwards between its peers and publishes services on its address.
///
/// `edgeproxy overlay init` makes its wg-quick file, and one for each region that comes to it. Needs no configuration
/// file: `edgeproxy gateway --overlay hub.conf`. Services are published by [[publish]] in one.
#[derive(Args)]
pub(crate) struct Gateway {
    #[command(flatten)]
    flags: GatewayFlags,
}

impl Gateway {
    /// Runs until it is told to stop and has drained.
    pub(crate) fn run(self) -> ExitCode {
        serve(Role::Gateway, &self.flags.into())
    }
}
