//! What an operator can set of the data path. Every field says its unit, default and bound.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use edgeproxy_route::{CheckPace, OutlierPolicy, Policy, Wanted};
use ipnet::IpNet;

/// Everything the proxy needs to run, besides the routing table.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// Region of this machine.
    pub region: String,
    /// Data-plane threads; default: one per core.
    pub threads: usize,
    /// Client connections at once over all listeners; more are refused. 0: what the descriptor limit leaves, at two
    /// descriptors each. Default 0.
    pub max_connections: usize,
    /// How long connections may go on after a drain was asked for. Default 30 s.
    pub drain_timeout: Duration,
    /// How long the POP says it is not ready before it stops accepting, so that balancers in front notice. Default 0.
    pub drain_delay: Duration,
    /// Where clients come in; at least one.
    pub listeners: Vec<ListenerSettings>,
    /// Active checks; the first that matches a backend's app applies.
    pub checks: Vec<CheckSettings>,
    /// When failed connects eject a backend.
    pub outlier: OutlierPolicy,
}

/// One listening address and how its clients are served.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// Address and port; `[::]` takes IPv4 as well. Default 0.0.0.0:8080.
    pub bind: SocketAddr,
    /// Only clients that come by this interface: a host takes packets for any address of its own by any interface. Default:
    /// by any.
    pub interface: Option<String>,
    /// Backends of this app only. Default: all.
    pub app: Option<String>,
    /// Which of those: all, the primary, or fresh replicas and what comes after them. Other than all needs `app` and a
    /// check that tells roles, and speaks Postgres to clients that are turned away. Default all.
    pub wanted: Wanted,
    /// How long a client waits for a backend of the role it needs; zero: not at all. Default 10 s.
    pub hold: Duration,
    /// Clients that may wait so; more are refused. Default 1,000.
    pub hold_limit: usize,
    /// Close sessions on a replica that has become too stale. Default no: they go on there.
    pub close_stale: bool,
    /// How to pick a backend. Default geo.
    pub policy: Policy,
    /// How long a client returns to its backend after its last connection; zero: never. Default 10 min.
    pub affinity_ttl: Duration,
    /// Clients remembered at most; the oldest leave first. Default 1,000,000.
    pub affinity_capacity: usize,
    /// Who must begin with a PROXY protocol header (v1 or v2). Headers from anybody else are refused. Default: nobody,
    /// and then first bytes are not looked at.
    pub trust_proxy: Vec<IpNet>,
    /// How long a trusted peer may take for its header. Default 3 s.
    pub proxy_header_timeout: Duration,
    /// How long one connect may take. Default 2 s.
    pub connect_timeout: Duration,
    /// Backends tried at most for one client, 1 to 8. Default 3.
    pub connect_attempts: usize,
    /// How long all connects of one client may take together. Default 5 s.
    pub connect_deadline: Duration,
    /// Clients that may wait for a full app to have room; 0: none, refuse at once. Default 0.
    pub queue: usize,
    /// How long a client may wait. Default 5 s.
    pub queue_timeout: Duration,
    /// What to do when checks or failed connects have taken out every backend. Default refuse.
    pub when_all_down: WhenAllDown,
    /// Close a connection that moved no byte for this long; `None`: never. Default never, as databases idle for hours.
    pub idle_timeout: Option<Duration>,
    /// The same once one side has finished sending. Default 1 h.
    pub half_close_timeout: Option<Duration>,
    /// Close a connection at this age; `None`: never. Default never.
    pub max_lifetime: Option<Duration>,
    /// Idle time before the first of six keepalive probes, 10 s apart; `None`: no probes. Default 60 s.
    pub keepalive: Option<Duration>,
    /// How long sent bytes may stay unacknowledged before the connection is given up; `None`: the system's answer,
    /// about 15 min. Default none: Linux also counts the time for which a receiver that answers every probe just does
    /// not read, so a pager left open over lunch would be cut.
    pub user_timeout: Option<Duration>,
}

/// What a client gets when every backend is out of service by checks or ejection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenAllDown {
    /// Its connection is closed at once.
    #[default]
    Refuse,
    /// It is sent to the backend that would be best if all were in service.
    Try,
}

/// How backends of an app are checked.
#[derive(Clone, Debug)]
pub struct CheckSettings {
    /// For this app only. Default: every app that no other check names.
    pub app: Option<String>,
    /// What to do.
    pub kind: CheckKind,
    /// Interval, rise and fall.
    pub pace: CheckPace,
    /// How long one check may take, connect included. Default 1 s.
    pub timeout: Duration,
    /// Port to check, if not the one that serves. Default: the backend's.
    pub port: Option<u16>,
}

/// What a check does once it has an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CheckKind {
    /// No check: always up.
    None,
    /// Connect.
    Tcp,
    /// `GET` over HTTP/1.1 and look at the status.
    Http {
        /// Path and query. Default `/`.
        path: String,
        /// `Host` header. Default: the backend's address.
        host: Option<String>,
        /// Statuses that pass. Default 200 to 399.
        statuses: RangeInclusive<u16>,
    },
    /// A TLS handshake. Whether a certificate is trusted is a matter between client and backend: any passes.
    Tls {
        /// Name to ask for. Default: the backend's address.
        server_name: Option<String>,
    },
    /// Send bytes, and read until the answer begins with others.
    Exchange {
        /// Sent after connecting; may be empty.
        send: Vec<u8>,
        /// What the answer must begin with.
        expect: Vec<u8>,
    },
    /// One connection that is kept, and a query each interval: what the server is, and how far behind.
    Postgres(PostgresCheck),
}

/// Who asks a Postgres server, and what it must answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PostgresCheck {
    /// Who logs in; a member of `pg_monitor`.
    pub user: String,
    /// Its password; `None`: the server asks for none.
    pub password: Option<Password>,
    /// Where it logs in. Default `postgres`.
    pub database: String,
    /// By TLS, whatever the certificate. Default no.
    pub encrypted: bool,
    /// How far behind in time a replica may be. Once out, it is fresh again at half of it. `None`: any. Default 10 s.
    pub max_lag: Option<Duration>,
    /// The same in bytes of the log. Default any.
    pub max_lag_bytes: Option<u64>,
}

/// A password that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// This text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

impl ListenerSettings {
    /// The defaults, at this address.
    pub fn at(bind: SocketAddr) -> Self {
        Self {
            bind,
            interface: None,
            app: None,
            wanted: Wanted::Any,
            hold: Duration::from_secs(10),
            hold_limit: 1_000,
            close_stale: false,
            policy: Policy::Geo,
            affinity_ttl: Duration::from_secs(600),
            affinity_capacity: 1_000_000,
            trust_proxy: Vec::new(),
            proxy_header_timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(2),
            connect_attempts: 3,
            connect_deadline: Duration::from_secs(5),
            queue: 0,
            queue_timeout: Duration::from_secs(5),
            when_all_down: WhenAllDown::Refuse,
            idle_timeout: None,
            half_close_timeout: Some(Duration::from_secs(3600)),
            max_lifetime: None,
            keepalive: Some(Duration::from_secs(60)),
            user_timeout: None,
        }
    }
}

impl Default for CheckSettings {
    fn default() -> Self {
        Self {
            app: None,
            kind: CheckKind::Tcp,
            pace: CheckPace::default(),
            timeout: Duration::from_secs(1),
            port: None,
        }
    }
}
