//! A service in this process, and a server for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use edgeproxy_bench::Turns;
use edgeproxy_bench::service::{Connections, Service, Settings, serve};
use edgeproxy_postgres::Direct;
use edgeproxy_world::LONG;
use edgeproxy_world::postgres::{Binaries, DATABASE, PASSWORD, ScratchPostgres, USER};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server with the published table, or `None` where there is no PostgreSQL: that is said, and fails where CI is set.
pub(crate) async fn postgres() -> Option<ScratchPostgres> {
    if let Err(missing) = Binaries::find() {
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("SKIPPED: {missing}");
        return None;
    }
    Some(ScratchPostgres::start("eu").await.unwrap())
}

/// Where a service listens.
#[derive(Clone, Copy)]
pub(crate) struct Stage(pub(crate) SocketAddr);

/// What a service answers.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Heard {
    /// Waits for the answer.
    pub(crate) async fn read(mut stream: TcpStream) -> Self {
        let mut text = String::new();
        tokio::time::timeout(LONG, stream.read_to_string(&mut text)).await.unwrap().unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// A service in region lhr whose database is at this address.
pub(crate) async fn service(database: SocketAddr) -> Stage {
    with(&[("DB_HOST", &database.ip().to_string()), ("DB_PORT", &database.port().to_string())]).await
}

/// A service with these variables beside those that every test has.
pub(crate) async fn with(variables: &[(&str, &str)]) -> Stage {
    started(variables).await.0
}

/// The same, and the service itself.
pub(crate) async fn started(variables: &[(&str, &str)]) -> (Stage, Arc<Service>) {
    let common = [
        ("FLY_REGION", "lhr"),
        ("FLY_ALLOC_ID", "d8912345678"),
        ("DB_USER", USER),
        ("DB_PASSWORD", PASSWORD),
        ("DB_NAME", DATABASE),
    ];
    let all: Vec<(String, String)> =
        common.iter().chain(variables).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let find = |name: &str| all.iter().rev().find(|(own, _)| own == name).map(|(_, value)| value.clone());
    let settings = Settings::read(find, "host").unwrap();
    let service = Service::start(settings, Arc::new(Direct), Turns::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Connections::new(service.router())));
    (Stage(address), service)
}

impl Stage {
    pub(crate) async fn get(self, path: &str) -> Heard {
        Heard::read(self.ask(path).await).await
    }

    /// Asks, and leaves the answer to the caller.
    pub(crate) async fn ask(self, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.0).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Polls until the answer is as it should be.
    pub(crate) async fn until(self, path: &str, is_right: impl Fn(&Heard) -> bool) -> Heard {
        let deadline = tokio::time::Instant::now() + LONG;
        loop {
            let heard = self.get(path).await;
            if is_right(&heard) {
                return heard;
            }
            assert!(tokio::time::Instant::now() < deadline, "{path} still answers {heard:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Numbers of a JSON array.
pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}
