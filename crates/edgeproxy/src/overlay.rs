//! Bringing the overlay up as the configuration says. Where that fails it is told, and the rest runs without.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgeproxy_gateway::{Opened, PoolSettings};
use edgeproxy_overlay::{Device, Mode, Overlay, OverlayError, Tenants, Way, WgQuick, region_file};
use edgeproxy_tunnel::Prefix;
use ipnet::IpNet;

use crate::config::{Config, GatewaySettings, OverlaySettings};

/// Names the region where the file's folder has one for each.
const FLY_REGION: &str = "FLY_REGION";

/// Finds how TCP inside is to be had. Has to be called before any thread is started.
pub(crate) fn find_way(settings: &OverlaySettings) -> Option<Result<Way, OverlayError>> {
    settings.config.as_ref().map(|_| Way::find(settings.mode))
}

/// The overlay, and the peers it hands out.
pub(crate) struct Started {
    pub(crate) overlay: Arc<Overlay>,
    /// With the device that asks for them.
    pub(crate) peers: Option<(Opened, Arc<Device>)>,
}

/// Starts the overlay on the way that was found.
pub(crate) fn start(config: &Config, way: Option<Result<Way, OverlayError>>) -> Option<Started> {
    let path = config.overlay.config.as_deref()?;
    match try_start(config, path, way?) {
        Ok(started) => {
            tell(&started.overlay);
            Some(started)
        }
        Err(problems) => {
            problems.iter().for_each(|problem| tracing::error!("no overlay: {problem}"));
            None
        }
    }
}

/// A word of a flag or a variable.
///
/// # Errors
/// What to say after the name of either.
pub(crate) fn mode(word: &str) -> Result<Mode, String> {
    Mode::from_word(word).ok_or_else(|| format!("is {word:?}; it is auto, tun, userns, netstack or kernel"))
}

/// Starts the overlay of a machine that is no hub, as a wg-quick file says, or the region's out of a folder.
///
/// # Errors
/// What is wrong, a line each.
pub(crate) fn start_spoke(path: &Path, region: &str, way: Result<Way, OverlayError>) -> Result<Overlay, Vec<String>> {
    let spoke = read(path, region)?;
    let overlay = way.and_then(|way| Overlay::start(&spoke, way, edgeproxy_overlay::OverlaySettings::default()));
    let overlay = overlay.map_err(|error| vec![error.to_string()])?;
    tell(&overlay);
    Ok(overlay)
}

fn tell(overlay: &Overlay) {
    let (public, port) = overlay.engine.bearings();
    tracing::info!(
        mode = overlay.way.mode(),
        reason = overlay.way.reason,
        interface = overlay.interface,
        addresses = ?overlay.addresses,
        public_key = %public,
        port,
        peers = overlay.engine.peer_count(),
        "overlay up"
    );
}

/// What the file says; its notes are told.
fn read(path: &Path, region: &str) -> Result<WgQuick, Vec<String>> {
    let config = parse(path, region)?;
    for note in &config.notes {
        tracing::warn!("{note}");
    }
    Ok(config)
}

fn parse(path: &Path, region: &str) -> Result<WgQuick, Vec<String>> {
    let file = file(path, region).map_err(|error| vec![error])?;
    WgQuick::read(&file).map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
}

/// The addresses inside of whoever starts a spoke with the same.
///
/// # Errors
/// What is wrong with the file, a line each.
pub(crate) fn own_addresses(path: &Path, region: &str) -> Result<Vec<IpAddr>, Vec<String>> {
    Ok(parse(path, region)?.interface.addresses.iter().map(|(address, _)| *address).collect())
}

fn try_start(config: &Config, path: &Path, way: Result<Way, OverlayError>) -> Result<Started, Vec<String>> {
    let settings = &config.overlay;
    let hub = read(path, &config.proxy.region)?;
    let way = way.map_err(|error| vec![error.to_string()])?;
    let prefixes = |networks: &Vec<IpNet>| -> Vec<Prefix> {
        networks.iter().filter_map(|network| Prefix::new(network.addr(), network.prefix_len())).collect()
    };
    let tenants: Vec<Vec<Prefix>> = settings.tenants.iter().map(prefixes).collect();
    let tenants = Tenants::new(tenants.iter().map(Vec::as_slice));
    let own: Vec<IpNet> =
        hub.interface.addresses.iter().filter_map(|(ip, length)| IpNet::new(*ip, *length).ok()).collect();
    let opened = config.gateway.as_ref().map(|gateway| open_peers(gateway, &own, &hub)).transpose();
    let opened = opened.map_err(|error| vec![error])?;
    let of_overlay = edgeproxy_overlay::OverlaySettings {
        forward: settings.forward,
        tenants,
        threads: settings.threads,
        directory: opened
            .as_ref()
            .zip(config.gateway.as_ref())
            .map(|(opened, gateway)| (opened.directory(), gateway.max_awake)),
    };
    let overlay = Overlay::start(&hub, way, of_overlay).map_err(|error| vec![error.to_string()])?;
    // The configuration hands out no peers by the kernel's.
    let peers = opened.zip(overlay.engine.device().cloned());
    Ok(Started { overlay: Arc::new(overlay), peers })
}

/// Reads the registered peers.
fn open_peers(settings: &GatewaySettings, own: &[IpNet], hub: &WgQuick) -> Result<Opened, String> {
    let mut settings = settings.peers.clone();
    if settings.pools.is_empty() {
        let networks = own.iter().map(IpNet::trunc);
        settings.pools = networks.map(|network| PoolSettings { network, region: None }).collect();
        settings.pools.sort_by_key(|pool| pool.network);
        settings.pools.dedup();
    }
    let of_file = hub.peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied());
    let taken: Vec<_> = own.iter().map(|own| Prefix::host(own.addr())).chain(of_file).collect();
    Opened::open(settings, &taken).map_err(|error| error.to_string())
}

/// The file itself, or the region's out of a folder.
pub(crate) fn file(path: &Path, region: &str) -> Result<PathBuf, String> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let of_platform = std::env::var(FLY_REGION).ok().filter(|region| !region.is_empty());
    region_file(path, of_platform.as_deref().unwrap_or(region)).map_err(|error| error.to_string())
}
