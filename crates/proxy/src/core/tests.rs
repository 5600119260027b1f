//! One core, and clients over loopback.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::channel;

use edgeproxy_route::{GeoTable, OutlierPolicy, RawBackend, Regions, StatePool, TableBuilder};
use prometheus_client::registry::Registry;

use super::*;
use crate::clock::Clock;
use crate::connection_log::ConnectionLog;
use crate::dial::Dialler;
use crate::metrics::Metrics;
use crate::pop::{Published, SharedTable, Supplies};
use crate::settings::{ListenerSettings, ProxySettings};

/// Longer than anything here may take.
const LONG: Duration = Duration::from_secs(10);

/// One that offers this service alone.
fn publish(service: SocketAddr) -> Arc<Pop> {
    let states = Arc::new(StatePool::default());
    let backend = RawBackend {
        id: Some("service".to_owned()),
        app: Some("app".to_owned()),
        region: Some("fra".to_owned()),
        wg_ip: Some(service.ip().to_string()),
        port: Some(service.port().into()),
        healthy: Some(1),
        weight: Some(1),
        soft_limit: Some(1000),
        hard_limit: Some(1000),
        ..RawBackend::default()
    };
    let builder = || TableBuilder {
        pop_region: "fra".to_owned(),
        regions: Regions::default(),
        has_country: false,
        states: Arc::clone(&states),
    };
    let table = Arc::new(builder().build(vec![backend.check().unwrap()]).unwrap());
    let settings = ProxySettings {
        region: "fra".to_owned(),
        threads: 1,
        max_connections: 0,
        drain_timeout: LONG,
        drain_delay: Duration::ZERO,
        listeners: Vec::new(),
        checks: Vec::new(),
        outlier: OutlierPolicy::default(),
    };
    let metrics = Metrics::register(&mut Registry::default());
    let listener = ListenerSettings::at(([127, 0, 0, 1], 0).into());
    let supplies = Supplies {
        table: Arc::new(builder().build(Vec::new()).unwrap()),
        geo: Arc::new(GeoTable::embedded()),
        clock: Clock::start(),
        log: ConnectionLog::start(None, "fra", 0, &metrics).unwrap(),
        metrics,
        dialler: Dialler::new(None),
        published: vec![Published { listener, table: SharedTable::new(table) }],
    };
    Pop::start(settings, supplies).unwrap()
}

#[test]
fn what_waits_at_the_door_of_a_published_service_is_cut_with_the_rest() {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let pop = publish(service.local_addr().unwrap());
    let connect = || {
        let client = TcpStream::connect_timeout(&pop.addresses()[0], LONG).unwrap();
        client.set_read_timeout(Some(LONG)).unwrap();
        client
    };
    let mut clients = vec![connect()];
    let until = Instant::now() + LONG;
    while pop.connections(None, 1).is_empty() {
        assert!(Instant::now() < until, "not established within {LONG:?}");
        std::thread::sleep(Duration::from_millis(1));
    }

    // While the core is held, many more come than it takes in at once.
    let (tell, is_held) = channel();
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let hold: Concerns = Arc::new(move |_| {
        tell.send(()).unwrap();
        released.lock().unwrap().recv_timeout(LONG).unwrap();
        false
    });
    let (reply, ended) = channel();
    pop.cores[0].post(Order::End { concerns: hold, close: Close::Cut, reply });
    is_held.recv_timeout(LONG).unwrap();
    clients.extend(std::iter::repeat_with(connect).take(50));
    let (reply, cut) = channel();
    let from: Arc<[IpNet]> = vec!["127.0.0.1/32".parse().unwrap()].into();
    pop.cores[0].post(Order::EndSources { from, reply });
    release.send(()).unwrap();
    assert_eq!(ended.recv_timeout(LONG), Ok(0));
    assert_eq!(cut.recv_timeout(LONG), Ok(51));
    assert_eq!(pop.open_connections(), 0);
    for mut client in clients {
        let read = client.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(read, Err(io::ErrorKind::ConnectionReset));
    }
    // The door is open still.
    drop(connect());
    pop.stop();
}
