//! `[[publish]]`: TCP services of the network around this machine, offered on its addresses inside the overlay.
//!
//! Each is a listener of the data plane with a table of its own: one backend for each address its target's name has.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use edgeproxy_overlay::{Endpoint, Host, Overlay, Sockets};
use edgeproxy_proxy::{ListenerSettings, Published, SharedTable};
use edgeproxy_route::{RawBackend, Regions, StatePool, Table, TableBuilder};

use crate::config::PublishSettings;

/// How often a name is looked up.
const LOOK_UP_EVERY: Duration = Duration::from_secs(30);
/// Connections to one address at once: the target has limits of its own.
const UNLIMITED: i64 = 1_000_000;

/// A service that is offered.
pub(crate) struct Service {
    listen: SocketAddr,
    /// Where the overlay is an interface of the host: that one.
    interface: Option<String>,
    target: Endpoint,
    region: String,
    states: Arc<StatePool>,
    table: SharedTable,
    /// Where it was found at first.
    addresses: Vec<IpAddr>,
}

/// The services that can be offered. Of others it is told why not; the rest runs without them.
pub(crate) async fn prepare(settings: &[PublishSettings], overlay: Option<&Overlay>, region: &str) -> Vec<Service> {
    let mut services = Vec::new();
    for PublishSettings { listen, target } in settings {
        let Some(overlay) = overlay else {
            tracing::error!(%listen, service = %target, "not published: there is no overlay");
            continue;
        };
        // On any other address of this machine it would be open to whoever can reach that.
        if !overlay.is_own(listen.ip()) {
            tracing::error!(%listen, service = %target, addresses = ?overlay.addresses, "not published: no address of ours inside");
            continue;
        }
        let states = Arc::new(StatePool::default());
        let addresses = look_up(target).await;
        match table(target, &addresses, *listen, region, &states) {
            Ok(table) => {
                tracing::info!(%listen, service = %target, ?addresses, "published");
                let (target, region, table) = (target.clone(), region.to_owned(), SharedTable::new(table));
                // A neighbour of this machine could send packets for that address to it by any other interface.
                let interface = matches!(overlay.sockets, Sockets::Host).then(|| overlay.interface.clone());
                services.push(Service { listen: *listen, interface, target, region, states, table, addresses });
            }
            Err(error) => tracing::error!(%listen, service = %target, error, "not published"),
        }
    }
    services
}

impl Service {
    /// As the data plane takes it.
    pub(crate) fn published(&self) -> Published {
        let listener = ListenerSettings { interface: self.interface.clone(), ..ListenerSettings::at(self.listen) };
        Published { listener, table: self.table.clone() }
    }

    /// Follows the target's name.
    pub(crate) async fn follow(self) {
        if matches!(self.target.host, Host::Ip(_)) {
            return;
        }
        let mut known = self.addresses;
        loop {
            tokio::time::sleep(LOOK_UP_EVERY).await;
            let addresses = look_up(&self.target).await;
            // A name server that is away for a while takes nothing away.
            if !addresses.is_empty() && addresses != known {
                match table(&self.target, &addresses, self.listen, &self.region, &self.states) {
                    Ok(table) => {
                        tracing::info!(service = %self.target, ?addresses, "published target found");
                        self.table.store(table);
                        known = addresses;
                    }
                    Err(error) => tracing::error!(service = %self.target, error, "published target cannot be used"),
                }
            }
        }
    }
}

/// The addresses of a host, in order.
async fn look_up(target: &Endpoint) -> Vec<IpAddr> {
    let name = match &target.host {
        Host::Ip(ip) => return vec![*ip],
        Host::Name(name) => name,
    };
    match tokio::net::lookup_host((name.as_str(), target.port)).await {
        Ok(found) => {
            let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
            addresses.sort_unstable();
            addresses.dedup();
            addresses
        }
        Err(error) => {
            tracing::warn!(service = %target, %error, "published target not found, looking again in 30 s");
            Vec::new()
        }
    }
}

fn table(
    target: &Endpoint,
    addresses: &[IpAddr],
    listen: SocketAddr,
    region: &str,
    states: &Arc<StatePool>,
) -> Result<Arc<Table>, String> {
    let backend = |ip: &IpAddr| {
        let raw = RawBackend {
            id: Some(SocketAddr::new(*ip, target.port).to_string()),
            app: Some(listen.to_string()),
            region: Some(region.to_owned()),
            wg_ip: Some(ip.to_string()),
            port: Some(target.port.into()),
            healthy: Some(1),
            weight: Some(1),
            soft_limit: Some(UNLIMITED),
            hard_limit: Some(UNLIMITED),
            ..RawBackend::default()
        };
        raw.check().map_err(|error| error.to_string())
    };
    let backends = addresses.iter().map(backend).collect::<Result<Vec<_>, _>>()?;
    let builder = TableBuilder {
        pop_region: region.to_owned(),
        regions: Regions::default(),
        has_country: false,
        states: Arc::clone(states),
    };
    builder.build(backends).map(Arc::new).map_err(|error| error.to_string())
}
