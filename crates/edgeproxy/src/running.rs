//! A POP at work: the data plane, what keeps its tables fresh, and what the admin API steers.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeproxy_gateway::{Flows, Gateway, GatewayBearings};
use edgeproxy_overlay::Overlay;
use edgeproxy_proxy::{Checks, Clock, ConnectionLog, Dialler, Metrics, Pop, Supplies};
use edgeproxy_route::{Backend, BackendError, GeoTable, Regions, StatePool, Table, TableBuilder};
use edgeproxy_store::{FileWatch, Loaded, RoutingWatch};
use edgeproxy_tunnel::Prefix;
use ipnet::IpNet;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::admin::{BackendFigures, GatewayFigures, OverlayFigures, PeerMetrics};
use crate::config::{Config, Role};
use crate::overlay::Started;
use crate::process::ProcessFigures;
use crate::publish::{self, Service};
use crate::telemetry;

/// Rejected rows told one by one; of more only the number is told.
const REJECTIONS_TOLD: usize = 20;

/// Everything that runs.
pub(crate) struct Running {
    pub(crate) config: Config,
    pub(crate) pop: Arc<Pop>,
    pub(crate) checks: Checks,
    pub(crate) registry: Registry,
    pub(crate) metrics: Metrics,
    pub(crate) overlay: Option<Arc<Overlay>>,
    pub(crate) gateway: Option<Arc<Gateway>>,
    /// What peers are told that they reach here.
    inside: Vec<IpNet>,
    pub(crate) peer_metrics: PeerMetrics,
    states: Arc<StatePool>,
    /// A drain the API asked for, and within which time.
    drain_order: watch::Sender<Option<Duration>>,
    /// Tells that another routing table serves.
    table_changed: watch::Sender<()>,
}

impl Running {
    /// Loads both tables, starts the data plane, and keeps the tables fresh from then on.
    ///
    /// # Errors
    /// A table that cannot be loaded, or an address that cannot be bound: what, where, and what to do.
    pub(crate) async fn start(config: Config, inside: Option<Started>) -> Result<Arc<Self>, String> {
        let (overlay, peers) = inside.map(|inside| (inside.overlay, inside.peers)).unzip();
        let started = Instant::now();
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        registry.register_collector(Box::new(ProcessFigures::new()));
        let states = Arc::new(StatePool::default());

        let (table, routing) = match config.role {
            Role::Proxy => {
                let (table, routing) = first_table(&config, &states, &metrics).await?;
                (table, Some(routing))
            }
            // What it serves, it publishes.
            Role::Gateway => (no_table(&config, &states)?, None),
        };
        // Before the file is read: what comes between the two is then seen as a change.
        let geo_file = config.routing.geoip.as_deref().map(|path| FileWatch::new(path, config.routing.poll));
        let geo = load_geo(config.routing.geoip.as_deref())?;
        tracing::info!(table = geo.description(), "geo table loaded");

        let output = telemetry::open_connection_log(&config.log)
            .map_err(|error| format!("cannot write the connection log: {error}"))?;
        let region = &config.proxy.region;
        let log = ConnectionLog::start(output, region, config.log.refusals_per_second.into(), &metrics)
            .map_err(|error| format!("cannot start the connection log: {error}"))?;
        let services = publish::prepare(&config.overlay.publish, overlay.as_deref(), region).await;
        let supplies = Supplies {
            table,
            geo: Arc::new(geo),
            clock: Clock::start(),
            metrics: metrics.clone(),
            log,
            dialler: Dialler::new(overlay.clone()),
            published: services.iter().map(Service::published).collect(),
        };
        let pop = Pop::start(config.proxy.clone(), supplies).map_err(|error| error.to_string())?;
        for service in services {
            tokio::spawn(service.follow());
        }
        registry.register_collector(Box::new(BackendFigures::new(Arc::clone(&pop))));
        if let Some(overlay) = &overlay {
            registry.register_collector(Box::new(OverlayFigures::new(Arc::clone(overlay))));
        }
        let checks = Checks::new(Arc::clone(&pop));
        checks.follow(&pop.table());
        let drain_order = watch::Sender::new(None);
        let table_changed = watch::Sender::new(());
        let gateway = peers.flatten().map(|(peers, device)| {
            let flows = PublishedFlows { pop: Arc::clone(&pop), any: !config.overlay.publish.is_empty() };
            let flows = Arc::new(flows);
            Arc::new(peers.serve(device, flows))
        });
        let peer_metrics = PeerMetrics::default();
        if let Some(gateway) = &gateway {
            peer_metrics.register(&mut registry);
            registry.register_collector(Box::new(GatewayFigures::new(Arc::clone(gateway), &peer_metrics)));
            tokio::spawn(Arc::clone(gateway).run());
        }
        let running = Arc::new(Self {
            config,
            pop,
            checks,
            registry,
            metrics,
            inside: networks(overlay.as_deref(), gateway.as_deref()),
            overlay,
            gateway,
            peer_metrics,
            states,
            drain_order,
            table_changed,
        });
        if let Some(routing) = routing {
            tokio::spawn(Arc::clone(&running).follow_routing(routing));
        }
        if let Some(file) = geo_file {
            tokio::spawn(Arc::clone(&running).follow_geo(file));
        }
        tracing::debug!(took = ?started.elapsed(), "started");
        Ok(running)
    }

    /// Serves by each new content of routing.db. One that cannot be used changes nothing.
    async fn follow_routing(self: Arc<Self>, mut routing: RoutingWatch) {
        loop {
            let table = match routing.next().await {
                Ok(loaded) => {
                    let running = Arc::clone(&self);
                    let build = move || build_table(&running.config, &running.states, loaded);
                    off_thread(build).await
                }
                Err(error) => Err(error.to_string()),
            };
            match table {
                Ok((table, rejected)) => {
                    self.pop.replace_table(Arc::clone(&table));
                    self.checks.follow(&table);
                    // Whoever sees the count sees what serves.
                    self.metrics.table_loaded(table.backends().count(), rejected);
                    self.table_changed.send_replace(());
                }
                Err(error) => {
                    self.metrics.table_failed();
                    tracing::error!(error, "routing table not reloaded, the last good one keeps serving");
                }
            }
        }
    }

    async fn follow_geo(self: Arc<Self>, mut file: FileWatch) {
        loop {
            file.changed().await;
            let path = self.config.routing.geoip.clone();
            match off_thread(move || load_geo(path.as_deref())).await {
                Ok(geo) => {
                    tracing::info!(table = geo.description(), "geo table reloaded");
                    self.pop.replace_geo(Arc::new(geo));
                    self.metrics.geo_reloaded(true);
                }
                Err(error) => {
                    self.metrics.geo_reloaded(false);
                    tracing::error!(error, "geo table not reloaded, the last good one keeps serving");
                }
            }
        }
    }

    /// What peers are told of this gateway.
    pub(crate) fn bearings(&self, gateway: &Gateway) -> GatewayBearings {
        let endpoint = self.config.gateway.as_ref().and_then(|gateway| gateway.endpoint.as_ref());
        let networks = self.inside.clone();
        GatewayBearings { public: gateway.device().public(), endpoint: endpoint.map(ToString::to_string), networks }
    }

    /// Tells of each routing table that begins to serve from now on, its checks included.
    pub(crate) fn table_changes(&self) -> watch::Receiver<()> {
        self.table_changed.subscribe()
    }

    /// Asks this POP to drain and end.
    pub(crate) fn order_drain(&self, within: Duration) {
        self.drain_order.send_replace(Some(within));
    }

    /// Resolves when the API has asked for a drain.
    pub(crate) async fn asked_to_drain(&self) {
        let mut order = self.drain_order.subscribe();
        // The sender lives in `self`.
        let _ = order.wait_for(Option::is_some).await;
    }

    /// How long a drain that begins now may take.
    pub(crate) fn drain_within(&self) -> Duration {
        self.drain_order.borrow().unwrap_or(self.config.proxy.drain_timeout)
    }
}

/// What is reached through an overlay: the networks of its addresses, and pools beside them.
fn networks(overlay: Option<&Overlay>, gateway: Option<&Gateway>) -> Vec<IpNet> {
    let mut networks: Vec<IpNet> =
        overlay.into_iter().flat_map(|overlay| &overlay.addresses).map(IpNet::trunc).collect();
    for pool in gateway.into_iter().flat_map(|gateway| gateway.figures().pools) {
        if !networks.iter().any(|network| network.contains(&pool.network)) {
            networks.push(pool.network);
        }
    }
    networks
}

/// Connections of peers to what is published.
struct PublishedFlows {
    pop: Arc<Pop>,
    /// Whether anything is.
    any: bool,
}

impl Flows for PublishedFlows {
    fn any(&self) -> bool {
        self.any
    }

    fn cut(&self, from: &[Prefix]) {
        let networks = from.iter().filter_map(|prefix| IpNet::new(prefix.address(), prefix.length()).ok());
        let cut = self.pop.cut_sources(&networks.collect::<Vec<_>>());
        if cut > 0 {
            tracing::info!(cut, "connections of a removed peer cut");
        }
    }
}

/// Runs what takes long on a thread of its own: health, heartbeats and checks, whose times are measured, share this one.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}

/// The table of routing.db, and what tells of its changes.
async fn first_table(
    config: &Config,
    states: &Arc<StatePool>,
    metrics: &Metrics,
) -> Result<(Arc<Table>, RoutingWatch), String> {
    let mut routing = RoutingWatch::new(&config.routing.db, config.routing.poll);
    if routing.is_poll_only() {
        tracing::warn!(
            db = %config.routing.db.display(),
            poll = ?config.routing.poll,
            "the kernel tells nothing of changes to the routing table (is fs.inotify.max_user_instances used up?); they \
             are seen at the next poll"
        );
    }
    let loaded = routing.next().await.map_err(|error| error.to_string())?;
    let (table, rejected) = build_table(config, states, loaded)?;
    metrics.table_loaded(table.backends().count(), rejected);
    Ok((table, routing))
}

fn no_table(config: &Config, states: &Arc<StatePool>) -> Result<Arc<Table>, String> {
    let builder = TableBuilder {
        pop_region: config.proxy.region.clone(),
        regions: Regions::default(),
        has_country: false,
        states: Arc::clone(states),
    };
    builder.build(Vec::new()).map(Arc::new).map_err(|error| error.to_string())
}

/// The table, and how many rows were rejected.
fn build_table(config: &Config, states: &Arc<StatePool>, loaded: Loaded) -> Result<(Arc<Table>, usize), String> {
    let Loaded { backends, rejected, has_country } = loaded;
    tell_rejections(&rejected);
    let count = backends.len();
    let builder = TableBuilder {
        pop_region: config.proxy.region.clone(),
        regions: Regions::with(config.routing.regions.iter().cloned()),
        has_country,
        states: Arc::clone(states),
    };
    let table = builder.build(backends).map_err(|error| error.to_string())?;
    let unknown = table.unknown_regions();
    if !unknown.is_empty() {
        tracing::warn!(
            regions = unknown.join(","),
            "regions without a known place: their backends come last by distance; declare them in the configuration"
        );
    }
    let taking = table.backends().filter(|(backend, _)| Backend::accepts_new(backend)).count();
    tracing::info!(backends = count, taking_clients = taking, rejected = rejected.len(), "routing table loaded");
    Ok((Arc::new(table), rejected.len()))
}

fn tell_rejections(rejected: &[BackendError]) {
    for BackendError { id, field, rule } in rejected.iter().take(REJECTIONS_TOLD) {
        tracing::warn!(id, field, rule, "backend rejected");
    }
    if rejected.len() > REJECTIONS_TOLD {
        tracing::warn!(more = rejected.len() - REJECTIONS_TOLD, "more backends rejected");
    }
}

/// The file's table, or the one inside the binary.
pub(crate) fn load_geo(path: Option<&Path>) -> Result<GeoTable, String> {
    let Some(path) = path else { return Ok(GeoTable::embedded()) };
    let bytes = std::fs::read(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    let hint = "give a country or city table in .mmdb format";
    GeoTable::from_mmdb(bytes).map_err(|error| format!("{}: {error}; {hint}", path.display()))
}
