//! The flags of every command that asks a running process by its admin API.

use std::path::PathBuf;

use super::{Failure, variable};
use crate::admin_client::AdminClient;
use crate::config::{Config, ProxyFlags, Role};

const DEFAULT_ADMIN: &str = "127.0.0.1:9090";
/// Keeps them apart from what the command itself is told.
const HEADING: &str = "Whom to ask";

/// Whom to ask, and what opens it.
#[derive(clap::Args)]
pub(super) struct AdminFlags {
    /// Where the admin API is [env: EDGEPROXY_ADMIN_ADDR] [default: that of the configuration, else 127.0.0.1:9090]
    #[arg(long, global = true, help_heading = HEADING, value_name = "ADDRESS")]
    admin: Option<String>,
    /// File whose first line is the API's token [env: EDGEPROXY_ADMIN_TOKEN_FILE]
    #[arg(long, global = true, help_heading = HEADING, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The configuration file of who is asked, for its admin address and token [env: EDGEPROXY_CONFIG]
    #[arg(short, long, global = true, help_heading = HEADING, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl AdminFlags {
    /// The process to ask: by flags, else by variables, else by the configuration that it reads as well. Another one may
    /// run on this machine, and be the one at the default address.
    ///
    /// # Errors
    /// The token or the configuration cannot be read, or is wrong.
    pub(super) fn client(&self, role: Role) -> Result<AdminClient, Failure> {
        let token_file = self.token_file.clone().or_else(|| variable("EDGEPROXY_ADMIN_TOKEN_FILE").map(PathBuf::from));
        let address = match (&self.admin, variable("EDGEPROXY_ADMIN_ADDR")) {
            (Some(address), _) => Some(address.clone()),
            (None, None) => None,
            (None, Some(address)) => Some(address.into_string().map_err(|address| {
                let message = format!("EDGEPROXY_ADMIN_ADDR: {} is not UTF-8", address.display());
                Failure::Usage(message)
            })?),
        };
        let config = self.config.clone().or_else(|| variable("EDGEPROXY_CONFIG").map(PathBuf::from));
        let (address, config) = match (address, config) {
            (Some(address), _) => (address, None),
            (None, None) => (DEFAULT_ADMIN.to_owned(), None),
            (None, Some(file)) => {
                let flags = ProxyFlags { config: Some(file), ..ProxyFlags::default() };
                let config = Config::load(role, &flags, std::env::vars_os()).map_err(Failure::Config)?;
                (config.admin.listen.to_string(), config.admin.token)
            }
        };
        match (token_file, config) {
            (None, Some(token)) => Ok(AdminClient::with_token(&address, Some(token.reveal().to_owned()))),
            (file, _) => AdminClient::new(&address, file.as_deref()).map_err(Failure::from_display),
        }
    }
}
