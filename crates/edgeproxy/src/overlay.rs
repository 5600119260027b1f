//! Bringing the overlay up as the configuration says. Where that fails it is told, and the rest runs without.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgeproxy_overlay::{Overlay, OverlayError, Tenants, Way, WgQuick, region_file};
use edgeproxy_tunnel::Prefix;
use ipnet::IpNet;

use crate::config::OverlaySettings;

/// Names the region where the file's folder has one for each.
const FLY_REGION: &str = "FLY_REGION";

/// Finds how TCP inside is to be had. Has to be called before any thread is started.
pub(crate) fn find_way(settings: &OverlaySettings) -> Option<Result<Way, OverlayError>> {
    settings.config.as_ref().map(|_| Way::find(settings.mode))
}

/// Starts the overlay on the way that was found.
pub(crate) fn start(
    settings: &OverlaySettings,
    region: &str,
    way: Option<Result<Way, OverlayError>>,
) -> Option<Arc<Overlay>> {
    let path = settings.config.as_deref()?;
    match try_start(settings, path, region, way?) {
        Ok(overlay) => {
            tracing::info!(
                mode = overlay.way.mode(),
                reason = overlay.way.reason,
                interface = overlay.interface,
                addresses = ?overlay.addresses,
                public_key = %overlay.device.public(),
                port = overlay.device.port(),
                peers = overlay.device.peer_count(),
                "overlay up"
            );
            Some(Arc::new(overlay))
        }
        Err(problems) => {
            problems.iter().for_each(|problem| tracing::error!("no overlay: {problem}"));
            None
        }
    }
}

fn try_start(
    settings: &OverlaySettings,
    path: &Path,
    region: &str,
    way: Result<Way, OverlayError>,
) -> Result<Overlay, Vec<String>> {
    let file = file(path, region).map_err(|error| vec![error])?;
    let config =
        WgQuick::read(&file).map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    for note in &config.notes {
        tracing::warn!("{note}");
    }
    let way = way.map_err(|error| vec![error.to_string()])?;
    let prefixes = |networks: &Vec<IpNet>| -> Vec<Prefix> {
        networks.iter().filter_map(|network| Prefix::new(network.addr(), network.prefix_len())).collect()
    };
    let tenants: Vec<Vec<Prefix>> = settings.tenants.iter().map(prefixes).collect();
    let tenants = Tenants::new(tenants.iter().map(Vec::as_slice));
    let of_overlay =
        edgeproxy_overlay::OverlaySettings { forward: settings.forward, tenants, threads: settings.threads };
    Overlay::start(&config, way, of_overlay).map_err(|error| vec![error.to_string()])
}

/// The file itself, or the region's out of a folder.
fn file(path: &Path, region: &str) -> Result<PathBuf, String> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let of_platform = std::env::var(FLY_REGION).ok().filter(|region| !region.is_empty());
    region_file(path, of_platform.as_deref().unwrap_or(region)).map_err(|error| error.to_string())
}
