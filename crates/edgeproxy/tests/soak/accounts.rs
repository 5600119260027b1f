//! What must add up once everybody has left.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::time::Duration;

use edgeproxy_world::{Backend, LONG, Pop, eventually};
use serde_json::Value;

use crate::load::{Failure, Kind, Visits};
use crate::stage::{REGIONS, Stage};

/// Data-plane threads; each keeps up to 16 pipes of two descriptors.
const THREADS: i64 = 2;
const KEPT_PIPE_DESCRIPTORS: i64 = THREADS * 16 * 2;

/// What the process holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resources {
    pub(crate) descriptors: i64,
    pub(crate) resident: f64,
    pub(crate) connections: i64,
}

impl Resources {
    pub(crate) async fn of(pop: &Pop) -> Self {
        Self {
            descriptors: pop.count("process_open_fds", &[]).await.unwrap(),
            resident: pop.metric("process_resident_memory_bytes", &[]).await.unwrap(),
            connections: pop.count("edge_connections_current", &[]).await.unwrap(),
        }
    }

    pub(crate) fn or_higher(self, other: Self) -> Self {
        Self {
            descriptors: self.descriptors.max(other.descriptors),
            resident: self.resident.max(other.resident),
            connections: self.connections.max(other.connections),
        }
    }
}

/// The connection log, by the client's own address.
pub(crate) struct LogIndex(HashMap<String, Vec<Value>>);

impl LogIndex {
    pub(crate) fn new(pop: &Pop) -> Self {
        let mut lines: HashMap<String, Vec<Value>> = HashMap::new();
        for line in pop.connections.all_json() {
            let address = line["via"].as_str().or(line["client"].as_str()).map(str::to_owned);
            lines.entry(address.unwrap_or_default()).or_default().push(line);
        }
        Self(lines)
    }

    /// The line of a client: of its address and its time, as a port serves many in turn.
    pub(crate) fn find(&self, failure: &Failure) -> Option<&Value> {
        let slack = Duration::from_secs(2);
        // The log's clock has milliseconds.
        let from = failure.from - Duration::from_millis(1);
        let lines = self.0.get(&failure.address?.to_string())?;
        lines.iter().find(|line| {
            let ended = line["ts"].as_str().and_then(|ts| humantime::parse_rfc3339_weak(ts).ok());
            ended.is_some_and(|ended| ended >= from && ended <= failure.to + slack)
        })
    }
}

/// What the POP says of itself once everybody has left.
pub(crate) struct Accounts {
    accepted: i64,
    closed: i64,
    refused: BTreeMap<&'static str, i64>,
    refused_in_all: i64,
    logged: i64,
    refused_logged: i64,
    descriptors_left: i64,
}

impl Accounts {
    /// Waits until all that must come to rest has.
    pub(crate) async fn of(stage: &Stage, tight: &Backend, at_start: Resources) -> Self {
        let pop = &stage.pop;
        pop.until_count("edge_connections_current", &[], 0).await.unwrap();
        pop.until_count("edge_queue_waiting", &[], 0).await.unwrap();
        pop.until_count("edge_backend_connections", &[], 0).await.unwrap();
        let (_, listed) = pop.get("/api/v1/backends").await.unwrap();
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let items = listed["items"].as_array().unwrap();
        assert_eq!(items.len(), REGIONS.len() + 1, "{listed}");
        assert!(items.iter().all(|item| item["connections"] == 0), "{listed}");
        eventually("backends without connections", LONG, async || {
            let current: usize = stage.backends.iter().map(|disturbed| disturbed.backend.current()).sum();
            Ok((current + tight.current() == 0).then_some(()))
        })
        .await
        .unwrap();
        let most = at_start.descriptors + KEPT_PIPE_DESCRIPTORS;
        let descriptors = eventually("descriptors given back", LONG, async || {
            let descriptors = pop.count("process_open_fds", &[]).await?;
            Ok((descriptors <= most).then_some(descriptors))
        });
        let descriptors_left = descriptors.await.unwrap() - at_start.descriptors;

        let closed = pop.count("edge_closed_total", &[]).await.unwrap();
        let refused_in_all = pop.count("edge_refused_total", &[]).await.unwrap();
        let logged = eventually("the log's last lines", LONG, async || {
            let lines = pop.connections.all_json();
            let of = |event: &'static str| lines.iter().filter(move |line| line["event"] == event);
            let ids: HashSet<&str> = of("connection").filter_map(|line| line["id"].as_str()).collect();
            let logged = [ids.len(), of("refused").count()].map(|count| i64::try_from(count).unwrap());
            Ok((logged[0] >= closed && logged[1] >= refused_in_all).then_some(logged))
        });
        let [logged, refused_logged] = logged.await.unwrap();
        let mut refused = BTreeMap::new();
        for reason in ["proxy_header_malformed", "client_gone"] {
            refused.insert(reason, pop.count("edge_refused_total", &[("reason", reason)]).await.unwrap());
        }
        Self {
            accepted: pop.count("edge_connections_total", &[]).await.unwrap(),
            closed,
            refused,
            refused_in_all,
            logged,
            refused_logged,
            descriptors_left,
        }
    }

    pub(crate) fn check(&self, visits: &Visits) {
        assert_eq!(self.accepted, self.closed + self.refused_in_all, "every client is closed or refused");
        assert_eq!(self.logged, self.closed, "a line for every connection, each with an id of its own");
        assert_eq!(self.refused_logged, self.refused_in_all, "and for every client refused");
        assert_eq!(self.refused.values().sum::<i64>(), self.refused_in_all, "nobody is refused for want of a backend");
        assert_eq!(self.refused["proxy_header_malformed"], visits.count(Kind::BadHeader));
        let made: i64 = visits.done.keys().map(|kind| visits.count(*kind)).sum();
        assert_eq!(self.accepted, made, "one connection a visit");
    }
}

impl std::fmt::Display for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut refused = String::new();
        for (reason, count) in &self.refused {
            let _ = write!(refused, " {reason} {count}");
        }
        write!(
            f,
            "{} accepted = {} closed + {} refused ({refused} ); {} + {} log lines; {} descriptors more than at the start",
            self.accepted, self.closed, self.refused_in_all, self.logged, self.refused_logged, self.descriptors_left
        )
    }
}
