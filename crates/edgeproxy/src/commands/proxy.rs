//! `edgeproxy proxy`: a POP.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use edgeproxy_overlay::{OverlayError, Way};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::say;
use crate::admin;
use crate::config::{Config, ProxyFlags, Role};
use crate::running::Running;
use crate::{overlay, process, telemetry};

/// Runs a POP: accepts clients and relays each to the best backend.
///
/// The routing table is an SQLite file; a change to it takes effect within 100 ms. Needs no configuration file:
/// `edgeproxy proxy --listen 0.0.0.0:8080 --db routing.db --region fra`.
#[derive(Args)]
pub(crate) struct Proxy {
    #[command(flatten)]
    flags: ProxyFlags,
}

impl Proxy {
    /// Runs until it is told to stop and has drained.
    pub(crate) fn run(self) -> ExitCode {
        serve(Role::Proxy, &self.flags)
    }
}

/// Runs a process of this role until it is told to stop and has drained.
pub(super) fn serve(role: Role, flags: &ProxyFlags) -> ExitCode {
    let config = match Config::load(role, flags, std::env::vars_os()) {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                say::mistake(format_args!("edgeproxy: {problem}"));
            }
            return ExitCode::from(super::BAD_USAGE);
        }
    };
    let way = overlay::find_way(&config.overlay);
    telemetry::start_log(&config.log);
    if config.overlay.config.is_some() {
        process::keep_memory_private();
    }
    match control_plane(config, way) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            tracing::error!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// The control plane has this thread to itself; the data plane has its own.
fn control_plane(config: Config, way: Option<Result<Way, OverlayError>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(run(config, way))
}

async fn run(config: Config, way: Option<Result<Way, OverlayError>>) -> Result<(), String> {
    // From here on a signal is remembered, and drains once all is started; before, it would just end the process.
    let mut stop = Stop::listen().map_err(|error| format!("cannot receive signals: {error}"))?;
    let hangups = signal(SignalKind::hangup()).map_err(|error| format!("cannot receive signals: {error}"))?;
    tokio::spawn(outlive_hangups(hangups));
    let descriptors = process::raise_descriptor_limit();
    for notice in &config.notices {
        tracing::warn!("{notice}");
    }
    let admin_socket = TcpListener::bind(config.admin.listen).await.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => "; another process listens there: choose another by admin.listen or --admin",
            _ => "",
        };
        format!("cannot listen on {} for the admin API: {error}{hint}", config.admin.listen)
    })?;
    let admin_address = admin_socket.local_addr().map_err(|error| error.to_string())?;

    let started = overlay::start(&config, way);
    if config.role == Role::Gateway && started.is_none() {
        return Err("a gateway is nothing without its overlay; the line before says what is wrong".to_owned());
    }
    let running = Running::start(config, started).await?;
    for address in running.pop.addresses() {
        tracing::info!(what = "proxy", %address, "listening");
    }
    tracing::info!(what = "admin", address = %admin_address, "listening");
    tokio::spawn(admin::serve(admin_socket, Arc::clone(&running)));
    tracing::info!(descriptors, "ready");

    tokio::select! {
        () = stop.asked() => {}
        () = running.asked_to_drain() => {}
        () = running.pop.failed() => {
            // Those whom the other threads serve are cut as well: whoever supervises this process starts a whole one.
            running.pop.stop();
            return Err("a data-plane thread failed".to_owned());
        }
    }
    let deadline = running.drain_within();
    tracing::info!(connections = running.pop.open_connections(), ?deadline, "draining");
    tokio::select! {
        cut = running.pop.drain(deadline) => tracing::info!(cut, "drained"),
        () = stop.asked() => tracing::warn!("told to stop again: not waiting any longer"),
    }
    running.pop.stop();
    if let Some(gateway) = &running.gateway {
        gateway.settle().await;
    }
    Ok(())
}

/// A terminal that closes, or a reload by habit, must not cut clients: the tables are followed without being told.
async fn outlive_hangups(mut hangups: Signal) {
    while hangups.recv().await.is_some() {
        tracing::info!("SIGHUP changes nothing: tables are followed by themselves, settings need a restart");
    }
}

/// SIGTERM and SIGINT.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Resolves at the next of either.
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
