//! Equal backends with limits, and everybody coming at once.

use edgeproxy_route::RawBackend;
use edgeproxy_world::{Backend, Behaviour, Client, Pop, Site, row};

pub(crate) const UNCHECKED: &str = "[[check]]\nkind = \"none\"\n";

/// Backends of one region with these limits, and a POP before them.
pub(crate) async fn pool(backends: usize, soft: i64, hard: i64, listener: &str) -> (Site, Vec<Backend>, Pop) {
    let site = crate::support::site();
    let mut pool = Vec::new();
    for number in 0..backends {
        let backend = Backend::start(&format!("b{number}"), Behaviour::Greet).unwrap();
        let limits = RawBackend {
            soft_limit: Some(soft),
            hard_limit: Some(hard),
            ..row(backend.id(), "fra", backend.address())
        };
        site.add(limits).unwrap();
        pool.push(backend);
    }
    let toml = format!("{UNCHECKED}[[listener]]\nbind = \"127.0.0.1:0\"\naffinity_ttl = \"0s\"\n{listener}\n");
    let pop = site.start(&toml).await.unwrap();
    (site, pool, pop)
}

/// Connects as many clients at once; those that were greeted by a backend, and the number of those turned away.
pub(crate) async fn arrive(pop: &Pop, count: usize) -> (Vec<Client>, usize) {
    let address = pop.address();
    let arrivals: Vec<_> = (0..count)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Client::connect(address).await.ok()?;
                client.line().await.ok()?;
                Some(client)
            })
        })
        .collect();
    let (mut served, mut turned_away) = (Vec::new(), 0);
    for arrival in arrivals {
        match arrival.await.unwrap() {
            Some(client) => served.push(client),
            None => turned_away += 1,
        }
    }
    (served, turned_away)
}

pub(crate) fn peaks(pool: &[Backend]) -> Vec<usize> {
    pool.iter().map(Backend::peak).collect()
}
