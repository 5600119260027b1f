//! Flags that `proxy` and `check` share.

use std::path::PathBuf;

/// Settings by flag. They are kept as text: a bad one is reported together with every other mistake.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct ProxyFlags {
    /// Configuration file [env: EDGEPROXY_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where clients connect [env: EDGEPROXY_LISTEN_ADDR] [default: 0.0.0.0:8080]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    /// Routing table, an SQLite file [env: EDGEPROXY_DB_PATH] [default: routing.db]
    #[arg(long, value_name = "FILE")]
    pub(crate) db: Option<String>,
    /// Region of this machine, such as fra [env: EDGEPROXY_REGION]
    #[arg(long, value_name = "REGION")]
    pub(crate) region: Option<String>,
    /// Metrics, health and the API [env: EDGEPROXY_ADMIN_ADDR] [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) admin: Option<String>,
    /// Country or city table, an .mmdb file [env: EDGEPROXY_GEOIP_PATH] [default: the table inside the binary]
    #[arg(long, value_name = "FILE")]
    pub(crate) geoip: Option<String>,
    /// Who begins with a PROXY header, separated by commas [env: EDGEPROXY_TRUST_PROXY] [default: nobody]
    #[arg(long, value_name = "NETWORKS")]
    pub(crate) trust_proxy: Option<String>,
    /// WireGuard by a wg-quick file, or a folder of them by region [env: EDGEPROXY_OVERLAY] [default: no overlay]
    #[arg(long, value_name = "FILE")]
    pub(crate) overlay: Option<String>,
    /// Data-plane threads [env: EDGEPROXY_PROXY_THREADS] [default: one per core]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<String>,
    /// Level of the log on stderr, or target=level directives [env: EDGEPROXY_LOG] [default: info]
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

/// Settings by flag of `gateway`.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct GatewayFlags {
    /// Configuration file [env: EDGEPROXY_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The hub's wg-quick file [env: EDGEPROXY_OVERLAY]
    #[arg(long, value_name = "FILE")]
    pub(crate) overlay: Option<String>,
    /// Metrics, health and the API [env: EDGEPROXY_ADMIN_ADDR] [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) admin: Option<String>,
    /// Level of the log on stderr, or target=level directives [env: EDGEPROXY_LOG] [default: info]
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

impl From<GatewayFlags> for ProxyFlags {
    fn from(flags: GatewayFlags) -> Self {
        let GatewayFlags { config, overlay, admin, log } = flags;
        Self { config, overlay, admin, log, ..Self::default() }
    }
}

impl ProxyFlags {
    /// What the flag of this name holds.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        match name {
            "listen" => self.listen.as_deref(),
            "db" => self.db.as_deref(),
            "region" => self.region.as_deref(),
            "admin" => self.admin.as_deref(),
            "geoip" => self.geoip.as_deref(),
            "trust-proxy" => self.trust_proxy.as_deref(),
            "overlay" => self.overlay.as_deref(),
            "threads" => self.threads.as_deref(),
            "log" => self.log.as_deref(),
            _ => None,
        }
    }
}
