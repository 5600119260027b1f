//! A primary in Frankfurt, replicas in London and Sydney, and a POP in London in front of them.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use edgeproxy_route::RawBackend;
use edgeproxy_world::postgres::{Binaries, PASSWORD, Plan, ScratchPostgres};
use edgeproxy_world::wan::{Link, TcpPath, Wan};
use edgeproxy_world::{LONG, Pop, Site, eventually, row};
use serde_json::Value;

/// Who watches.
const MONITOR: &str = "monitor";

/// The servers, and what is in front of them.
pub(crate) struct Stage {
    pub(crate) fra: ScratchPostgres,
    pub(crate) lhr: ScratchPostgres,
    pub(crate) syd: ScratchPostgres,
    pub(crate) pop: Pop,
    pub(crate) site: Site,
}

/// Whether there is a PostgreSQL to test against. Where there is none, that is said; where CI is set, it is a failure.
pub(crate) fn there_is_none() -> bool {
    match Binaries::find() {
        Ok(_) => false,
        Err(missing) if std::env::var_os("CI").is_some() => panic!("{missing}"),
        Err(missing) => {
            println!("SKIPPED: {missing}");
            true
        }
    }
}

/// The three, streaming, and somebody who may watch them.
pub(crate) async fn servers(fra: Plan) -> [ScratchPostgres; 3] {
    let fra = fra.start().await.unwrap();
    let address = fra.address();
    followed(fra, address).await
}

/// The same; whoever goes to Frankfurt goes this way.
pub(crate) async fn servers_through(fra: Plan, wan: &Wan, link: Link) -> ([ScratchPostgres; 3], TcpPath) {
    let fra = fra.start().await.unwrap();
    let way = wan.tcp(fra.address(), link).unwrap();
    let address = way.address();
    (followed(fra, address).await, way)
}

/// With this primary, which is reached at that address.
pub(crate) async fn followed(fra: ScratchPostgres, address: SocketAddr) -> [ScratchPostgres; 3] {
    let role = format!("CREATE ROLE {MONITOR} LOGIN PASSWORD '{PASSWORD}' IN ROLE pg_monitor");
    fra.sql(&role).await.unwrap();
    let lhr = fra.standby_through("lhr", address).await.unwrap();
    let syd = fra.standby_through("syd", address).await.unwrap();
    for standby in [&lhr, &syd] {
        standby.catch_up(&fra).await.unwrap();
    }
    [fra, lhr, syd]
}

/// A check that looks ten times a second, and two listeners with more to them.
pub(crate) fn config(primary: &str, replica: &str) -> String {
    paced("interval = \"100ms\"\n", primary, replica)
}

/// The same with a pace of its own.
pub(crate) fn paced(pace: &str, primary: &str, replica: &str) -> String {
    let listener = |role: &str, more: &str| {
        format!("[[listener]]\nbind = \"127.0.0.1:0\"\napp = \"db\"\nrole = \"{role}\"\n{more}\n")
    };
    let check = format!(
        "[[check]]\napp = \"db\"\nkind = \"postgres\"\nuser = \"{MONITOR}\"\npassword_file = \"monitor.password\"\n\
         max_lag = \"2s\"\n{pace}"
    );
    format!("{}{}{check}", listener("primary", primary), listener("replica", replica))
}

impl Stage {
    /// All of it, once every server's role is known.
    pub(crate) async fn start(config: &str) -> Self {
        Self::with(servers(ScratchPostgres::plan("fra")).await, config).await
    }

    /// In front of these.
    pub(crate) async fn with(servers: [ScratchPostgres; 3], config: &str) -> Self {
        let addresses = servers.each_ref().map(ScratchPostgres::address);
        Self::before(servers, addresses, config).await
    }

    /// In front of these, each at an address of its own.
    pub(crate) async fn before(
        [fra, lhr, syd]: [ScratchPostgres; 3],
        addresses: [SocketAddr; 3],
        config: &str,
    ) -> Self {
        let site = Site::new(Path::new(env!("CARGO_BIN_EXE_edgeproxy"))).unwrap();
        let file = site.file("monitor.password");
        std::fs::write(&file, PASSWORD).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        for (server, address) in [&fra, &lhr, &syd].into_iter().zip(addresses) {
            let row = row(server.region(), server.region(), address);
            site.add(RawBackend { app: Some("db".to_owned()), ..row }).unwrap();
        }
        let pop = site.plan(config).region("lhr").start().await.unwrap();
        let stage = Self { fra, lhr, syd, pop, site };
        for (id, role) in [("fra", "primary"), ("lhr", "replica"), ("syd", "replica")] {
            stage.until_role(id, role).await;
        }
        stage
    }

    /// Where writes go.
    pub(crate) fn primary(&self) -> SocketAddr {
        self.pop.addresses()[0]
    }

    /// Where reads go.
    pub(crate) fn replica(&self) -> SocketAddr {
        self.pop.addresses()[1]
    }

    /// What the API tells of a client from Britain at a listener for this role.
    pub(crate) async fn candidates(&self, role: &str) -> Vec<Value> {
        let path = format!("/api/v1/explain?client=81.2.69.142&app=db&role={role}");
        let (status, body) = self.pop.get(&path).await.unwrap();
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        answer["candidates"].as_array().unwrap().clone()
    }

    /// What is known of a server.
    pub(crate) async fn role(&self, id: &str) -> String {
        let candidates = self.candidates("any").await;
        let one = candidates.iter().find(|candidate| candidate["id"] == id).unwrap();
        one["role"].as_str().unwrap().to_owned()
    }

    /// Waits until a server is known to be this.
    pub(crate) async fn until_role(&self, id: &str, role: &str) {
        let mut last = String::new();
        let what = format!("{id} is {role}");
        let reached = eventually(&what, LONG, async || {
            last = self.role(id).await;
            Ok((last == role).then_some(()))
        });
        reached.await.unwrap_or_else(|error| panic!("{error}; it is {last}; {}", self.pop.log.tail()));
    }

    /// Ends the POP in order; the servers end with this.
    pub(crate) async fn stop(self) {
        self.pop.stop(LONG).await.unwrap();
    }
}
