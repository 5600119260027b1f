//! What the demo runs: ten backends, a routing table, a POP, and clients that come and go.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use edgeproxy_route::{Country, GeoTable, RawBackend};
use edgeproxy_world::{Backend, Behaviour, Census, Client, Header, Pop, Site, TEN_REGIONS, row};
use serde::Serialize;

use super::visitors::Visitor;

/// London is small, for the third act.
pub(super) const SMALL: &str = "lhr";
pub(super) const SMALL_HARD_LIMIT: usize = 10;
/// Soft and hard limit of London, and of the others.
const SMALL_LIMITS: (i64, i64) = (7, SMALL_HARD_LIMIT as i64);
const LIMITS: (i64, i64) = (100, 150);

const CLIENT_PORT: u16 = 5555;

/// Everything that runs. Ends with its owner.
pub(super) struct Stage {
    pub(super) backends: Vec<Backend>,
    pub(super) site: Site,
    pub(super) pop: Pop,
    region: String,
    census: Census,
}

/// One client and where it was served.
#[derive(Serialize)]
pub(super) struct Visit {
    pub(super) country: &'static str,
    pub(super) name: &'static str,
    pub(super) client: Ipv4Addr,
    pub(super) reached: String,
    pub(super) expected: Vec<String>,
    #[serde(skip)]
    pub(super) expected_in_words: String,
    pub(super) first_byte_ms: f64,
    pub(super) ok: bool,
}

impl Stage {
    /// Starts it all.
    pub(super) async fn set(region: &str) -> io::Result<Self> {
        let site = Site::new(&std::env::current_exe()?)?;
        let mut backends = Vec::new();
        for place in TEN_REGIONS {
            let backend = Backend::start(place.region, Behaviour::Greet)?;
            let mut row = row(place.region, place.region, backend.address());
            row.country = Some(place.country.to_owned());
            let (soft, hard) = if place.region == SMALL { SMALL_LIMITS } else { LIMITS };
            (row.soft_limit, row.hard_limit) = (Some(soft), Some(hard));
            site.add(row)?;
            backends.push(backend);
        }
        let plan = site.plan("").region(region).flag("--trust-proxy").flag("127.0.0.0/8");
        let pop = plan.start().await?;
        let census = Census::take(&GeoTable::embedded());
        Ok(Self { backends, site, pop, region: region.to_owned(), census })
    }

    /// A client comes, is served, and stays until it is dropped. `number` tells apart those of one country.
    pub(super) async fn visit(&self, visitor: &Visitor, number: usize) -> io::Result<(Visit, Client)> {
        let client = self.addresses(visitor.country, number + 1)?[number];
        let (reached, took, guest) = self.arrive(client).await?;
        let expected = visitor.expected.regions(&self.region);
        let visit = Visit {
            country: visitor.country,
            name: name(visitor.country),
            client,
            ok: expected.contains(&reached),
            reached,
            expected,
            expected_in_words: visitor.expected.in_words(&self.region),
            first_byte_ms: millis(took),
        };
        Ok((visit, guest))
    }

    /// Connects as this client: the backend that greets it, and how long that took.
    pub(super) async fn arrive(&self, client: Ipv4Addr) -> io::Result<(String, Duration, Client)> {
        let header = Header::V2(SocketAddr::new(client.into(), CLIENT_PORT));
        let started = Instant::now();
        let mut guest = self.pop.connect_as(header).await?;
        let greeting = guest.line().await?;
        Ok((greeting, started.elapsed(), guest))
    }

    /// Public addresses of a country, each in another network.
    pub(super) fn addresses(&self, country: &str, count: usize) -> io::Result<&[Ipv4Addr]> {
        let found = self.census.addresses(country).get(..count);
        found.ok_or_else(|| io::Error::other(format!("the geo table has fewer than {count} networks of {country}")))
    }

    /// Waits until all clients have left.
    pub(super) async fn emptied(&self) -> io::Result<()> {
        self.pop.until_count("edge_connections_current", &[], 0).await
    }

    /// As it was at the beginning.
    pub(super) fn restore(&mut self) -> io::Result<()> {
        for backend in &mut self.backends {
            if !backend.is_listening() {
                backend.resume()?;
            }
        }
        self.site.set("fra", RawBackend { weight: Some(1), ..RawBackend::default() })
    }

    /// Ends it all.
    pub(super) async fn close(self, within: Duration) -> io::Result<()> {
        self.pop.stop(within).await
    }
}

/// The country's English name.
pub(super) fn name(country: &str) -> &'static str {
    country.parse().ok().and_then(Country::name).unwrap_or("?")
}

/// City of a region.
pub(super) fn city(region: &str) -> &'static str {
    TEN_REGIONS.iter().find(|place| place.region == region).map_or("?", |place| place.city)
}

/// With two decimals, as shown.
pub(super) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100_000.0).round() / 100.0
}
