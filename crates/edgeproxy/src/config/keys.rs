//! Every key there is. Reading the file, the environment and the flags, the defaults, and the reference page all come
//! from this one table.

use std::time::Duration;

use super::kind::Kind;

/// A table of the file.
pub(super) struct SectionName {
    /// Its path in the file; empty for the top.
    pub(super) path: &'static str,
    /// Written `[[path]]`, any number of times.
    pub(super) several: bool,
    /// What it is about.
    pub(super) doc: &'static str,
}

/// One setting.
#[derive(Clone, Copy)]
pub(super) struct Key {
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) fallback: Fallback,
    /// Flag of `edgeproxy proxy`, without the dashes.
    pub(super) flag: Option<&'static str>,
    /// Environment variable, where it is not `EDGEPROXY_<SECTION>_<KEY>`.
    variable: Option<&'static str>,
    /// Variable of an older tool, in whole seconds.
    pub(super) older: Option<&'static str>,
    /// The key and the word it must hold for this one to mean something.
    pub(super) only_with: Option<(&'static str, &'static str)>,
    pub(super) doc: &'static str,
}

/// What applies when nobody sets a key.
#[derive(Clone, Copy)]
pub(super) enum Fallback {
    /// This value.
    Value(&'static str),
    /// No value, which stands for this.
    Unset(&'static str),
    /// It must be set; this says to what.
    Required(&'static str),
}

impl Key {
    /// As the file's keys are written in full: `listener.bind`.
    pub(super) fn path(&self) -> String {
        join(self.section, self.name)
    }

    /// The variable that sets it; tables of which there can be several take none, but for a single listener.
    pub(super) fn variable(&self) -> Option<String> {
        let by_rule = || format!("EDGEPROXY_{}_{}", self.section.to_ascii_uppercase(), self.name.to_ascii_uppercase());
        let has_one = !SECTIONS.iter().any(|section| section.path == self.section && section.several);
        self.variable.map(str::to_owned).or_else(|| (has_one || self.section == "listener").then(by_rule))
    }

    const fn flag(mut self, flag: &'static str) -> Self {
        self.flag = Some(flag);
        self
    }

    const fn variable_named(mut self, variable: &'static str) -> Self {
        self.variable = Some(variable);
        self
    }

    const fn older(mut self, variable: &'static str) -> Self {
        self.older = Some(variable);
        self
    }

    const fn only_with(mut self, key: &'static str, word: &'static str) -> Self {
        self.only_with = Some((key, word));
        self
    }
}

/// A section's path and a key's name, as one path.
pub(super) fn join(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

const fn key(section: &'static str, name: &'static str, kind: Kind, fallback: Fallback, doc: &'static str) -> Key {
    Key { section, name, kind, fallback, flag: None, variable: None, older: None, only_with: None, doc }
}

const fn count(least: u64, most: u64) -> Kind {
    Kind::Count { least, most }
}

const fn lasting(least: Duration, most: Duration) -> Kind {
    Kind::Duration { least, most, zero: None }
}

const fn lasting_or(zero: &'static str, least: Duration, most: Duration) -> Kind {
    Kind::Duration { least, most, zero: Some(zero) }
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const SECOND: Duration = ms(1000);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);
// Of 365.25 days, as durations in text have it.
const YEAR: Duration = Duration::from_secs(31_557_600);

/// In the order of the reference page.
pub(super) static SECTIONS: &[SectionName] = &[
    SectionName { path: "", several: false, doc: "At the top of the file, before any table." },
    SectionName { path: "admin", several: false, doc: "Metrics, health and the API." },
    SectionName { path: "routing", several: false, doc: "Where backends and places come from." },
    SectionName {
        path: "routing.region",
        several: true,
        doc: "A region beside the built-in ones, or in place of one. In the file only.",
    },
    SectionName { path: "proxy", several: false, doc: "The data path as a whole." },
    SectionName {
        path: "listener",
        several: true,
        doc: "An address that accepts clients. Without any, there is one with the defaults. Flags and variables apply \
              to a single listener; with several in the file they are refused.",
    },
    SectionName {
        path: "check",
        several: true,
        doc: "How the backends of an app are checked. Without any, each backend is checked by a connect (`tcp`). In \
              the file only.",
    },
    SectionName {
        path: "outlier",
        several: false,
        doc: "When failed connects of clients eject a backend for a while, whatever its checks say.",
    },
    SectionName {
        path: "overlay",
        several: false,
        doc: "The address space inside WireGuard, which this process runs itself.",
    },
    SectionName {
        path: "tenant",
        several: true,
        doc: "Addresses that have nothing to do with those of other tenants: a hub passes nothing between them. What is \
              no tenant's is everybody's. In the file only.",
    },
    SectionName {
        path: "publish",
        several: true,
        doc: "A TCP service that is offered on an address of this machine inside the overlay. In the file only.",
    },
    SectionName { path: "gateway", several: false, doc: "Peers that `edgeproxy gateway` hands out by its API." },
    SectionName { path: "gateway.pool", several: true, doc: "Addresses for the peers of a region. In the file only." },
    SectionName {
        path: "gateway.token",
        several: true,
        doc: "A token that opens `/api/v1/peers` and nothing else. Where there are any, that needs one of them, or the \
              token of `admin.token_file`, which opens everything. In the file only.",
    },
    SectionName { path: "log", several: false, doc: "What is logged, and where to." },
];

use Fallback::{Required, Unset, Value};

/// One row a key; the page is in this order.
#[rustfmt::skip]
pub(super) static KEYS: &[Key] = &[
    key("", "region", Kind::Name, Required("this machine's region, such as \"fra\""),
        "Region of this machine. Backends in it come before those farther away.")
        .flag("region").variable_named("EDGEPROXY_REGION"),

    key("admin", "listen", Kind::Address, Value("127.0.0.1:9090"), "Address and port of `/metrics`, `/healthz`, `/readyz` and `/api/v1`.")
        .flag("admin").variable_named("EDGEPROXY_ADMIN_ADDR"),
    key("admin", "token_file", Kind::Path, Unset("no token"),
        "File whose first line is the API's bearer token. Required as soon as `listen` is not loopback; refused when its group or others can read it."),

    key("routing", "db", Kind::Path, Value("routing.db"), "SQLite file with the table `backends`. Changes are served without a restart.")
        .flag("db").variable_named("EDGEPROXY_DB_PATH"),
    key("routing", "poll", lasting(ms(100), HOUR), Value("5s"), "How often to look for changes of `db` where file events do not arrive (network file systems).")
        .older("EDGEPROXY_DB_RELOAD_SECS"),
    key("routing", "geoip", Kind::Path, Unset("country table inside the binary"), "MaxMind-format file (`.mmdb`), country or city. Read again when it changes.")
        .flag("geoip").variable_named("EDGEPROXY_GEOIP_PATH"),
    key("routing", "heartbeat_ttl", lasting(SECOND, DAY), Value("1m"), "How long a backend that registered through the API without saying so stays without a heartbeat. Whole seconds.")
        .older("EDGEPROXY_HEARTBEAT_TTL_SECS"),

    key("routing.region", "code", Kind::Code, Required("the code that the table's region column has"), "Code, as the table's `region` column has it."),
    key("routing.region", "latitude", Kind::Number { least: -90.0, most: 90.0 }, Required("degrees north, such as 41.39"), "Degrees north (WGS 84)."),
    key("routing.region", "longitude", Kind::Number { least: -180.0, most: 180.0 }, Required("degrees east, such as 2.17"), "Degrees east (WGS 84)."),
    key("routing.region", "country", Kind::Country, Required("the country it lies in, such as \"ES\""), "The country it lies in."),

    key("proxy", "threads", count(0, 1024), Value("0"), "Data-plane threads. 0: one per core.").flag("threads"),
    key("proxy", "max_connections", count(0, 16_777_216), Value("0"), "Client connections at once over all listeners; more are refused. 0: what the descriptor limit leaves, at two descriptors each (three in the overlay's mode `netstack`, for its 4096 connections), after 256 for the process and 128 a thread for pipes; at least 16."),
    key("proxy", "drain_timeout", lasting(Duration::ZERO, DAY), Value("30s"), "How long connections may go on after a drain was asked for. Then they are cut."),
    key("proxy", "drain_delay", lasting(Duration::ZERO, HOUR), Value("0s"), "How long `/readyz` says 503 before a drain stops accepting, so that balancers in front notice."),

    key("listener", "bind", Kind::Address, Value("0.0.0.0:8080"), "Address and port. `[::]` takes IPv4 as well.")
        .flag("listen").variable_named("EDGEPROXY_LISTEN_ADDR"),
    key("listener", "app", Kind::Name, Unset("all apps"), "Backends of this app only."),
    key("listener", "role", Kind::Word(&["any", "primary", "replica"]), Value("any"),
        "Which of them. `any`: all. `primary`: the one that is known to be the primary. `replica`: those that are known to be replicas and fresh enough, by `policy`; then what `replica_fallback` says. Other than `any` needs `app` and a check of kind `postgres` for it; new clients are held while nobody has the role (`hold`), those that are turned away get a Postgres error, and sessions to a former primary are closed."),
    key("listener", "replica_fallback", Kind::Word(&["primary", "stale", "none"]), Value("primary"),
        "Where clients go when no fresh replica can take them. `primary`: there. `stale`: to replicas that are too far behind, then to the primary. `none`: nowhere.").only_with("role", "replica"),
    key("listener", "stale_sessions", Kind::Word(&["keep", "close"]), Value("keep"),
        "What becomes of sessions on a replica that is not fresh enough any more. `keep`: they go on there. `close`: they are closed, so that their clients come again.").only_with("role", "replica"),
    key("listener", "hold", lasting_or("not at all", ms(1), Duration::from_secs(600)), Value("10s"), "How long a client waits while no backend has the role it needs, is in service, or answers. Then it is refused. Of no use with the role `any`."),
    key("listener", "hold_limit", count(1, 1_000_000), Value("1000"), "Clients that may wait so; more are refused. Of no use with the role `any`."),
    key("listener", "policy", Kind::Word(&["geo", "score", "latency"]), Value("geo"),
        "How to pick a backend. `geo`: country, then part of the world, then this machine's region, then the rest; within each the nearer until its soft limit. `score`: 100 × band (0 to 3, in that order) + (connections / soft limit) / weight, the lowest wins. `latency`: the lowest measured round trip."),
    key("listener", "affinity_ttl", lasting_or("never", ms(100), MONTH), Value("10m"), "How long a client returns to its backend after its last connection.")
        .older("EDGEPROXY_BINDING_TTL_SECS"),
    key("listener", "affinity_capacity", count(1, 100_000_000), Value("1000000"), "Clients remembered at most; the oldest leave first."),
    key("listener", "trust_proxy", Kind::Networks, Unset("nobody"),
        "Who must begin with a PROXY protocol header, v1 or v2. Headers of anybody else are refused while the list has entries; without entries first bytes are not looked at.")
        .flag("trust-proxy").variable_named("EDGEPROXY_TRUST_PROXY"),
    key("listener", "proxy_header_timeout", lasting(ms(10), MINUTE), Value("3s"), "How long a trusted peer may take for its header. Then it is refused."),
    key("listener", "connect_timeout", lasting(ms(10), MINUTE), Value("2s"), "How long one connect to a backend may take. Then another backend is tried."),
    key("listener", "connect_attempts", count(1, 8), Value("3"), "Backends tried at most for one client."),
    key("listener", "connect_deadline", lasting(ms(10), Duration::from_secs(600)), Value("5s"), "How long all connects for one client may take together. Then it is refused."),
    key("listener", "queue", count(0, 1_000_000), Value("0"), "Clients that may wait until a full app has room; more are refused. 0: nobody waits."),
    key("listener", "queue_timeout", lasting(ms(1), Duration::from_secs(600)), Value("5s"), "How long a client may wait. Then it is refused."),
    key("listener", "when_all_down", Kind::Word(&["refuse", "try"]), Value("refuse"),
        "What to do when checks or failed connects have taken out every backend. `refuse`: close. `try`: send to the one that would be best if all were in service."),
    key("listener", "idle_timeout", lasting_or("never", ms(10), YEAR), Value("0s"), "Close a connection that moved no byte for this long. Never by default, as databases idle for hours."),
    key("listener", "half_close_timeout", lasting_or("never", ms(10), YEAR), Value("1h"), "The same once one side has finished sending."),
    key("listener", "max_lifetime", lasting_or("never", ms(10), YEAR), Value("0s"), "Close a connection at this age."),
    key("listener", "keepalive", lasting_or("no probes", SECOND, Duration::from_secs(9 * 3600)), Value("1m"), "Idle time before the first of six keepalive probes, 10 s apart."),
    key("listener", "user_timeout", lasting_or("the system's answer, about 15 min", ms(100), DAY), Value("0s"), "How long sent bytes may stay unacknowledged before the connection is given up. Linux also counts the time for which a receiver that answers every probe just does not read."),

    key("check", "app", Kind::Name, Unset("every app that no other check names"), "For this app only."),
    key("check", "kind", Kind::Word(&["tcp", "http", "tls", "exchange", "postgres", "none"]), Value("tcp"),
        "`tcp`: connect. `http`: GET over HTTP/1.1. `tls`: a handshake; any certificate passes. `exchange`: send bytes, and read until the answer begins with others. `postgres`: one connection that is kept, and a query each interval, for what the server is and how far behind; the backends of an app are judged beside each other. `none`: always up."),
    key("check", "interval", lasting(ms(100), HOUR), Value("2s"), "Time between two checks of a backend; each is moved by up to a tenth of it either way. With the kind `postgres` 1s, if nobody says otherwise, and not moved; with `timeout` at most 4s."),
    key("check", "timeout", lasting(ms(10), MINUTE), Value("1s"), "How long one check may take, connect included. Then it has failed. With the kind `postgres` 2s, if nobody says otherwise, and for a login or a query each."),
    key("check", "rise", count(1, 100), Value("2"), "Successes in a row that raise a backend."),
    key("check", "fall", count(1, 100), Value("3"), "Failures in a row that take it down."),
    key("check", "port", count(1, 65_535), Unset("the backend's"), "Port to check, if not the one that serves."),
    key("check", "path", Kind::HttpPath, Value("/"), "Path and query to ask for.").only_with("kind", "http"),
    key("check", "host", Kind::Host, Unset("the backend's address"), "`Host` header.").only_with("kind", "http"),
    key("check", "statuses", Kind::Statuses, Value("200-399"), "Statuses that pass.").only_with("kind", "http"),
    key("check", "server_name", Kind::ServerName, Unset("the backend's address"), "Name to ask for.").only_with("kind", "tls"),
    key("check", "send", Kind::Bytes, Unset("nothing"), "Sent after connecting. A text is sent as UTF-8; other bytes are written as a list, such as `[0x00, 0xFF]`.")
        .only_with("kind", "exchange"),
    key("check", "expect", Kind::Bytes, Required("what the answer must begin with"), "What the answer must begin with.").only_with("kind", "exchange"),

    key("check", "user", Kind::Name, Required("who logs in, such as \"edgeproxy\""), "Who logs in: a member of `pg_monitor`, which alone may see whether a replica still hears its primary.").only_with("kind", "postgres"),
    key("check", "password_file", Kind::Path, Unset("no password"), "File whose first line is the password; refused when its group or others can read it.").only_with("kind", "postgres"),
    key("check", "database", Kind::Name, Value("postgres"), "Where it logs in.").only_with("kind", "postgres"),
    key("check", "encryption", Kind::Word(&["none", "tls"]), Value("none"), "`tls`: by TLS; any certificate passes, and SCRAM binds the password to it. `none`: for a way that is encrypted already.").only_with("kind", "postgres"),
    key("check", "max_lag", lasting_or("any", ms(10), DAY), Value("10s"), "How far behind in time a replica may be. Once too far, it is fresh again at half of it.").only_with("kind", "postgres"),
    key("check", "max_lag_bytes", count(0, 1 << 50), Value("0"), "The same in bytes of the log. 0: any.").only_with("kind", "postgres"),

    key("outlier", "consecutive_failures", count(0, 1_000_000), Value("5"), "Failed connects in a row that eject. 0: never."),
    key("outlier", "failure_ratio", Kind::Number { least: 0.01, most: 2.0 }, Value("0.5"), "Share of failed connects within `window` that ejects. Above 1: never."),
    key("outlier", "window_volume", count(1, 65_535), Value("20"), "Connects a window needs before its ratio counts."),
    key("outlier", "window", lasting(SECOND, HOUR), Value("10s"), "Length of a window. Parts of a second are dropped."),
    key("outlier", "base_pause", lasting(ms(10), HOUR), Value("5s"), "First pause; doubled with each trial connection that fails."),
    key("outlier", "max_pause", lasting(ms(10), DAY), Value("1m"), "Longest pause."),

    key("overlay", "config", Kind::Path, Unset("no overlay"),
        "A wg-quick file, or a folder with one for each region, of which `<FLY_REGION>.conf` is taken (`<region>.conf` without that variable). Backends whose `wg_ip` lies inside are dialled through it. Where it fails, that is logged and the rest runs.")
        .flag("overlay").variable_named("EDGEPROXY_OVERLAY"),
    key("overlay", "mode", Kind::Word(&["auto", "tun", "userns", "netstack", "kernel"]), Value("auto"),
        "How TCP inside is had. `tun`: by an interface of this machine (needs CAP_NET_ADMIN). `userns`: by one in a network namespace of this process (needs no privilege where user namespaces are allowed). `netstack`: by a TCP stack in this process (needs nothing; at most 4096 connections, slower than the kernel's over far or lossy ways, nothing but this proxy uses it). `auto`: the first of them that works. `kernel`: WireGuard itself is the kernel's, by an interface of its own (needs CAP_NET_ADMIN and the module `wireguard`); tenants are refused, what peers send one another is the host's to pass on (sysctl net.ipv4.ip_forward), losses are not told by their cause, and a process that is killed leaves the interface to its successor."),
    key("overlay", "forward", Kind::Word(&["off", "on"]), Value("off"), "Whether packets of one peer for another are passed on, as a hub does. `edgeproxy gateway` does so by default. Refused with the mode `kernel`."),
    key("overlay", "threads", count(0, 256), Value("0"), "Threads that encrypt. 0: one per core. The mode `kernel` has none."),

    key("tenant", "name", Kind::Name, Required("a name, such as \"blue\""), "For people alone."),
    key("tenant", "networks", Kind::Networks, Required("networks inside the overlay, such as [\"10.50.1.0/24\"]"), "Its networks inside the overlay. Of one within another tenant's, the longer counts."),

    key("publish", "listen", Kind::Address, Required("an address inside the overlay, such as \"10.50.0.1:5432\""), "Address and port inside the overlay; the address is one of the wg-quick file's own."),
    key("publish", "target", Kind::Endpoint, Required("where the service is, such as \"db.example.internal:5432\""), "Where the service is. A name is looked up every 30 s; of several addresses each takes its share."),

    key("gateway", "db", Kind::Path, Unset("no peers but those of the wg-quick file"), "File of the registered peers, an SQLite file that nobody else writes to. Made where it is missing."),
    key("gateway", "pools", Kind::Networks, Unset("the networks of this gateway's own addresses"), "Networks that peers get their addresses from: of IPv4 and IPv6 one address each, where there are networks of both. Not wider than 8 bits for IPv4; of wider ones of IPv6 the first 16,777,215 addresses."),
    key("gateway", "endpoint", Kind::Endpoint, Unset("peers are not told where this gateway is"), "Where peers reach this gateway, such as \"gw.example.com:51820\". Goes into the configurations that are handed out."),
    key("gateway", "quarantine", lasting_or("an address is given again at once", SECOND, MONTH), Value("10m"), "How long an address is nobody's after its peer has ended."),
    key("gateway", "grace", lasting_or("none", SECOND, MONTH), Value("1m"), "How long a peer is kept beyond the time it may be idle for."),
    key("gateway", "max_peers", count(1, 16_000_000), Value("2000000"), "Registered peers, at most. One takes 130 bytes of memory."),
    key("gateway", "max_awake", count(1, 1_000_000), Value("100000"), "Peers with a session, at most. Beyond, those sleep whose last handshake is longest ago. One takes 2 KiB of memory."),

    key("gateway.pool", "region", Kind::Code, Required("a region, such as \"sa\""), "Peers of this region get their addresses from here, and from here alone."),
    key("gateway.pool", "networks", Kind::Networks, Required("networks, such as [\"10.50.1.0/24\"]"), "Its networks. They may lie in those of `gateway.pools`, which then leave them out."),

    key("gateway.token", "name", Kind::Code, Required("a name, such as \"ci\""), "Who it is for, as the log names it. A peer remembers the name of the token that made it."),
    key("gateway.token", "file", Kind::Path, Required("a file, such as \"ci.token\""), "File whose first line is the token; refused when its group or others can read it."),
    key("gateway.token", "scope", Kind::Word(&["read", "create", "manage"]), Value("read"),
        "What it opens. `read`: lists and shows peers. `create`: also makes some, and removes and rotates those that were made with a token of this name. `manage`: all of it."),
    key("gateway.token", "rate", count(0, 1_000_000), Value("0"), "Peers that may be created, removed or rotated by it each second; more are refused (429). A second's worth may come at once, and a batch comes whole and is waited for afterwards. 0: any number."),

    key("log", "level", Kind::Filter, Value("info"), "What the operational log on stderr tells: `off`, `error`, `warn`, `info`, `debug` or `trace`, also by target, such as `info,edgeproxy_proxy=debug`.")
        .flag("log").variable_named("EDGEPROXY_LOG"),
    key("log", "format", Kind::Word(&["auto", "json", "text"]), Value("auto"), "Its form. `auto`: text on a terminal, otherwise JSON."),
    key("log", "connections", Kind::Output, Value("stdout"), "Where the connection log goes: one JSON line per finished connection. A new file can be read by its owner and group; to rotate it, copy and truncate it."),
    key("log", "refusals_per_second", count(0, 1_000_000), Value("10"), "Refused clients logged at most each second; the rest are counted. 0: none."),
];
