//! `edgeproxy drain`: takes a backend, a region or a whole POP out of service without cutting anybody off.

use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Subcommand};
use serde_json::{Value, json};

use super::admin_flags::AdminFlags;
use super::{Failure, say};
use crate::config::Role;

/// Takes a backend, a region or a POP out of service; who is connected may finish
///
/// Asks a running proxy by its admin API. The mark of a backend or region is kept in the routing table, so that every
/// POP that reads the table heeds it, also after a restart.
#[derive(clap::Args)]
pub(crate) struct Drain {
    #[command(subcommand)]
    target: Target,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand)]
enum Target {
    /// One backend
    Backend {
        /// Its name
        #[arg(value_name = "ID")]
        name: String,
    },
    /// All backends of a region
    Region {
        /// Its code, such as fra
        #[arg(value_name = "CODE")]
        name: String,
    },
    /// The proxy that is asked: it takes no more clients, and ends when the last one has left
    #[command(name = "self")]
    Pop,
}

#[derive(clap::Args)]
#[command(group = ArgGroup::new("when"))]
struct Options {
    /// Let new clients in again
    #[arg(long, global = true, group = "when")]
    undo: bool,
    /// Cut connections that are still open after this time, such as 30s [of self: proxy.drain_timeout; else: never]
    #[arg(long, global = true, value_name = "DURATION", group = "when", value_parser = humantime::parse_duration)]
    deadline: Option<Duration>,
    /// Answer in JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    admin: AdminFlags,
}

impl Drain {
    /// Exit code 0 done, 1 failed, 2 bad usage or configuration.
    pub(crate) fn run(self) -> ExitCode {
        if self.options.undo && matches!(self.target, Target::Pop) {
            let message = "the drain of a proxy cannot be undone: start it again once it has ended";
            return Failure::Usage(message.to_owned()).tell();
        }
        match self.order() {
            Ok(answer) if self.options.json => {
                say::json(&answer);
                ExitCode::SUCCESS
            }
            Ok(answer) => {
                say::line(self.told(&answer));
                ExitCode::SUCCESS
            }
            Err(failure) => failure.tell(),
        }
    }

    fn order(&self) -> Result<Value, Failure> {
        let Options { undo, deadline, .. } = &self.options;
        let mut order = match &self.target {
            Target::Backend { name } => json!({ "scope": "backend", "name": name, "undo": undo }),
            Target::Region { name } => json!({ "scope": "region", "name": name, "undo": undo }),
            Target::Pop => json!({ "scope": "self" }),
        };
        if let Some(deadline) = deadline {
            order["deadline"] = humantime::format_duration(*deadline).to_string().into();
        }
        self.options
            .admin
            .client(Role::Proxy)?
            .send("POST", "/api/v1/drain", Some(&order))
            .map_err(Failure::from_display)
    }

    fn told(&self, answer: &Value) -> String {
        let number = |field: &str| answer.get(field).and_then(Value::as_u64).unwrap_or(0);
        let what = match &self.target {
            Target::Backend { name } => format!("backend {name}"),
            Target::Region { name } => {
                let count = number("drained").max(number("undone"));
                format!("region {name} ({count} backend{})", if count == 1 { "" } else { "s" })
            }
            Target::Pop => {
                let within = answer.get("deadline").and_then(Value::as_str).unwrap_or("its drain_timeout");
                let count = number("connections");
                let delay = answer.get("delay").and_then(Value::as_str).filter(|delay| *delay != "0s");
                return match delay {
                    None => {
                        format!("the proxy takes no more clients and ends within {within}; connections now: {count}")
                    }
                    Some(delay) => format!(
                        "the proxy takes no more clients after {delay} and ends within {within} from then on; \
                         connections now: {count}"
                    ),
                };
            }
        };
        match self.options.deadline {
            _ if self.options.undo => format!("{what} takes new clients again"),
            None => format!("{what} takes no new clients; those connected may stay"),
            Some(deadline) => {
                let after = humantime::format_duration(deadline);
                format!("{what} takes no new clients; those still connected after {after} are cut off")
            }
        }
    }
}
