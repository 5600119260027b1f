//! The way to services that are inside an overlay.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use edgeproxy_bench::fleet::{Origin, PORT, Site};
use edgeproxy_overlay::{OverlayError, Way};

use crate::commands::Failure;
use crate::overlay;
use crate::reach::Ways;

#[derive(clap::Args)]
pub(super) struct Tunnel {
    /// Reach services by WireGuard: a wg-quick file, or a folder with one for each region; never that of a service which runs
    #[arg(long, value_name = "PATH")]
    overlay: Option<PathBuf>,
    /// How TCP inside the overlay is had: auto, tun, userns, netstack, kernel
    #[arg(long, value_name = "MODE", default_value = "auto")]
    overlay_mode: String,
}

/// A tunnel that is not up yet: a file, this machine's region, and how TCP inside it will be had.
pub(super) struct Planned(Option<(PathBuf, String, Result<Way, OverlayError>)>);

impl Tunnel {
    /// To these sites, from this region. To be asked before any thread is started.
    pub(super) fn plan(&self, sites: &[Site], region: &str) -> Result<Planned, Failure> {
        let mode =
            overlay::mode(&self.overlay_mode).map_err(|error| Failure::Usage(format!("--overlay-mode {error}")))?;
        let Some(path) = &self.overlay else { return Ok(Planned(None)) };
        let own = overlay::own_addresses(path, region);
        let own = own.map_err(|problems| Failure::Failed(problems.join("\n")))?;
        refuse_the_place_of_another(sites, &own)?;
        Ok(Planned(Some((path.clone(), region.to_owned(), Way::find(mode)))))
    }
}

impl Planned {
    /// Whether there is to be one.
    pub(super) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Brings it up, on the runtime that runs.
    pub(super) fn up(self) -> Result<Ways, Failure> {
        let overlay = self.0.map(|(path, region, way)| overlay::start_spoke(&path, &region, way));
        let overlay = overlay.transpose().map_err(|problems| Failure::Failed(problems.join("\n")))?;
        Ok(Ways::new(overlay.map(Arc::new)))
    }
}

/// Two who use the key of one region take each other's answers: the hub knows the one that spoke last.
fn refuse_the_place_of_another(sites: &[Site], own: &[IpAddr]) -> Result<(), Failure> {
    let is_own = |site: &&Site| {
        let host = Origin::at(&site.address, PORT).ok().and_then(|origin| origin.host.parse::<IpAddr>().ok());
        host.is_some_and(|host| own.contains(&host))
    };
    match sites.iter().find(is_own) {
        None => Ok(()),
        Some(site) => Err(Failure::Usage(format!(
            "--overlay: this is the file of {}, which is to be asked; with it this machine would take its place. Give it a \
             file of its own: edgeproxy overlay init --regions ...,me=10.50.0.2",
            site.name
        ))),
    }
}
