//! `explain`: where a client goes, and why not elsewhere.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use edgeproxy_proxy::WhenAllDown;
use edgeproxy_route::{Country, Exclusions, Moment, Policy, Request, StatePool, TableBuilder, Wanted};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Failure;
use super::source::{self, SourceFlags};
use crate::admin_client::{AdminClient, encoded};
use crate::commands::{columns, say, variable};
use crate::running::load_geo;

/// Tells where a client goes and why: every backend in the order of preference
///
/// Reads the table alone: no connections, no check results, no measured round trips. With --admin it asks a running
/// proxy, which knows them.
#[derive(clap::Args)]
pub(super) struct Explain {
    /// The client's address
    #[arg(value_name = "CLIENT_IP")]
    client: IpAddr,
    /// Backends of this app only, as a listener with this app [default: that of the first listener]
    #[arg(long, value_parser = source::name)]
    app: Option<String>,
    /// The primary, or replicas, as the setting listener.role; the running proxy knows who is what [default: that of
    /// the first listener]
    #[arg(long, value_parser = ["any", "primary", "replica"], requires = "admin")]
    role: Option<String>,
    /// How to pick, as the setting listener.policy [default: that of the first listener, else geo]
    #[arg(long, value_parser = PossibleValuesParser::new(Policy::ALL.map(Policy::name)).try_map(|word| word.parse::<Policy>()))]
    policy: Option<Policy>,
    /// Region of the machine that the client has reached, such as fra [env: EDGEPROXY_REGION]
    #[arg(long, value_name = "CODE", value_parser = source::name)]
    pop: Option<String>,
    /// Country or city table, an .mmdb file [env: EDGEPROXY_GEOIP_PATH] [default: the table inside the binary]
    #[arg(long, value_name = "FILE")]
    geoip: Option<PathBuf>,
    /// Ask the proxy whose admin API is here, such as 127.0.0.1:9090
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["pop", "geoip", "db", "config"])]
    admin: Option<String>,
    /// File whose first line is the API's token [env: EDGEPROXY_ADMIN_TOKEN_FILE]
    #[arg(long, value_name = "FILE", requires = "admin")]
    token_file: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: SourceFlags,
}

/// What the API answers, and `--json` prints.
#[derive(Serialize, Deserialize)]
struct Explained {
    client: Client,
    pop: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    policy: String,
    candidates: Vec<Value>,
}

#[derive(Serialize, Deserialize)]
struct Client {
    ip: String,
    country: Option<String>,
    area: Option<String>,
    /// Finer than the country.
    precise: bool,
}

/// What the table shows of a candidate.
#[derive(Deserialize)]
struct Candidate {
    id: String,
    app: String,
    region: String,
    country: Option<String>,
    limits: Limits,
    standing: String,
    band_reason: String,
    distance_km: Option<f64>,
    role: String,
    lag_bytes: Option<u64>,
    lag_ms: Option<u64>,
    connections: u32,
    score: f64,
    round_trip_ms: Option<f64>,
}

#[derive(Deserialize)]
struct Limits {
    soft: u32,
    hard: u32,
}

impl Explain {
    pub(super) fn run(self) -> Result<(), Failure> {
        let json = self.json;
        let explained = match &self.admin {
            Some(address) => self.ask(address)?,
            None => self.work_out()?,
        };
        if json {
            say::json(&explained);
            return Ok(());
        }
        explained.print()
    }

    fn ask(&self, address: &str) -> Result<Explained, Failure> {
        let token_file = self.token_file.clone().or_else(|| variable("EDGEPROXY_ADMIN_TOKEN_FILE").map(PathBuf::from));
        let client = AdminClient::new(address, token_file.as_deref()).map_err(Failure::from_display)?;
        let mut path = format!("/api/v1/explain?client={}", encoded(&self.client.to_string()));
        // What is not asked for is as the proxy's first listener has it.
        if let Some(policy) = self.policy {
            path.push_str(&format!("&policy={}", policy.name()));
        }
        if let Some(app) = &self.app {
            path.push_str(&format!("&app={}", encoded(app)));
        }
        if let Some(role) = &self.role {
            path.push_str(&format!("&role={role}"));
        }
        let answer = client.send("GET", &path, None).map_err(Failure::from_display)?;
        serde_json::from_value(answer).map_err(|error| odd_answer(&error))
    }

    fn work_out(self) -> Result<Explained, Failure> {
        let source = self.source.read()?;
        let pop = self.pop.or_else(|| variable("EDGEPROXY_REGION").and_then(|pop| pop.into_string().ok()));
        let pop = pop.or_else(|| source.region.clone()).ok_or_else(|| {
            let message = "which machine has the client reached? Give its region by --pop, such as --pop fra";
            Failure::Usage(message.to_owned())
        })?;
        let geoip = self.geoip.or_else(|| variable("EDGEPROXY_GEOIP_PATH").map(PathBuf::from));
        let geo = load_geo(geoip.or_else(|| source.geoip.clone()).as_deref()).map_err(Failure::Failed)?;
        let loaded = source.load()?;
        source.tell_rejected(&loaded);
        source.tell_unknown_regions(&loaded.backends);
        if source.regions.get(&pop).point.is_none() {
            say::note(format_args!("nothing is known of region {pop:?}, where the client is said to arrive"));
        }
        let table = TableBuilder {
            pop_region: pop.clone(),
            regions: source.regions,
            has_country: loaded.has_country,
            states: Arc::new(StatePool::default()),
        };
        let table = table.build(loaded.backends).map_err(Failure::from_display)?;
        say::note("from the table alone, without connections and check results; --admin asks a running proxy");
        let ip = self.client.to_canonical();
        let place = geo.lookup(ip);
        let listener = source.listener;
        let policy = self.policy.or_else(|| Some(listener.as_ref()?.policy)).unwrap_or_default();
        let forced = listener.as_ref().is_some_and(|listener| listener.when_all_down == WhenAllDown::Try);
        let app = self.app.or_else(|| listener?.app);
        let candidates = table.explain(&Request {
            place,
            app: app.as_deref(),
            wanted: Wanted::Any,
            policy,
            tried: &Exclusions::default(),
            bound: None,
            forced,
            now: Moment::from_millis(0),
            random: 0,
        });
        let candidates = candidates.iter().map(serde_json::to_value).collect::<Result<_, _>>();
        Ok(Explained {
            client: Client {
                ip: ip.to_string(),
                country: place.country.map(|country| country.to_string()),
                area: place.area.map(|area| area.code().to_owned()),
                precise: place.precise,
            },
            pop,
            role: None,
            policy: policy.name().to_owned(),
            candidates: candidates.map_err(|error| odd_answer(&error))?,
        })
    }
}

fn odd_answer(error: &serde_json::Error) -> Failure {
    Failure::Failed(format!("the answer is not what this version knows: {error}; use the same version on both sides"))
}

impl Explained {
    fn print(self) -> Result<(), Failure> {
        say::line(format_args!("client {}: {}", self.client.ip, self.client.place()));
        let role = self.role.filter(|role| role != "any").map(|role| format!(", role {role}")).unwrap_or_default();
        say::line(format_args!("reached {}, policy {}{role}", self.pop, self.policy));
        let candidates = self.candidates.into_iter().map(serde_json::from_value);
        let candidates: Vec<Candidate> = candidates.collect::<Result<_, _>>().map_err(|error| odd_answer(&error))?;
        let rows: Vec<_> = candidates.iter().map(Candidate::row).collect();
        let names = [
            "", "id", "app", "region", "country", "band", "km", "conns", "soft", "hard", "score", "rtt ms", "standing",
        ];
        if candidates.iter().all(|candidate| candidate.role == "unknown") {
            columns::print(names, &[6, 7, 8, 9, 10, 11], rows);
        } else {
            let names: [&str; 16] = with_roles(names, ["role", "lag", "lag bytes"]);
            let rows = rows.into_iter().zip(&candidates).map(|(row, candidate)| with_roles(row, candidate.roles()));
            columns::print(names, &[6, 7, 8, 9, 10, 11, 13, 14], rows.collect());
        }
        if !candidates.iter().any(Candidate::is_chosen) {
            say::line("refused: no backend can take this client");
        }
        Ok(())
    }
}

impl Client {
    fn place(&self) -> String {
        let country = self.country.as_deref().map(|code| {
            let name = code.parse::<Country>().ok().and_then(Country::name);
            name.map_or_else(|| code.to_owned(), |name| format!("{name} ({code})"))
        });
        let area = self.area.as_deref().map(|area| format!("part of the world {area}"));
        let words: Vec<String> = country.into_iter().chain(area).collect();
        match (words.is_empty(), self.precise) {
            (true, false) => "nothing is known of where it is".to_owned(),
            (true, true) => "at a known position".to_owned(),
            (false, true) => format!("{}, at a known position", words.join(", ")),
            (false, false) => format!("{}, no finer than the country", words.join(", ")),
        }
    }
}

/// A row that tells roles as well, before the standing.
fn with_roles<T: Default>(row: [T; 13], roles: [T; 3]) -> [T; 16] {
    let mut cells: Vec<T> = row.into_iter().collect();
    let standing = cells.pop().unwrap_or_default();
    let mut cells = cells.into_iter().chain(roles).chain([standing]);
    std::array::from_fn(|_| cells.next().unwrap_or_default())
}

impl Candidate {
    /// What it is, and how far behind.
    fn roles(&self) -> [String; 3] {
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let seconds = |millis: u64| format!("{}.{:03} s", millis / 1000, millis % 1000);
        [self.role.clone(), or_dash(self.lag_ms.map(seconds)), or_dash(self.lag_bytes.map(|bytes| bytes.to_string()))]
    }

    fn is_chosen(&self) -> bool {
        self.standing == "chosen"
    }

    fn row(&self) -> [String; 13] {
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        [
            if self.is_chosen() { ">" } else { "" }.to_owned(),
            self.id.clone(),
            self.app.clone(),
            self.region.clone(),
            or_dash(self.country.clone()),
            self.band_reason.clone(),
            or_dash(self.distance_km.map(|km| format!("{km:.0}"))),
            self.connections.to_string(),
            self.limits.soft.to_string(),
            self.limits.hard.to_string(),
            format!("{:.2}", self.score),
            or_dash(self.round_trip_ms.map(|millis| format!("{millis:.1}"))),
            self.standing.replace('_', " "),
        ]
    }
}
