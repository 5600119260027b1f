//! What CI does all day: a peer is created, connects, fetches something from a service inside, and is deleted.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use crate::figures::metric;
use crate::hub::{Hub, LONG, eventually};
use crate::peer::Peer;
use crate::service::{ECHO, HTTP, folder};

/// Peers, and with EDGEPROXY_SLOW_TESTS=1.
const PEERS: usize = 300;
const PEERS_SLOW: usize = 10_000;
/// At once.
const JOBS: usize = 4;
/// An initiation that is lost would be sent again only after five seconds: nobody has to.
const FETCHED_WITHIN: Duration = Duration::from_secs(4);

/// How long the steps of one peer took.
struct Took([Duration; 3]);

fn live(hub: &Hub, number: usize) -> Took {
    let mut client = hub.client();
    let began = Instant::now();
    let peer = Peer::create(hub, &mut client);
    let created = began.elapsed();
    let answer = peer.fetch(HTTP, &format!("/{number}"), FETCHED_WITHIN);
    let fetched = began.elapsed();
    let answer = answer.unwrap_or_else(|error| panic!("peer {number}: {error} after {:?}", fetched - created));
    assert!(answer.ends_with(&format!("GET /{number} HTTP/1.1")), "peer {number}: {answer:?}");
    client.delete(&peer.path).expect(204);
    Took([created, fetched - created, began.elapsed() - fetched])
}

#[test]
fn peers_that_live_for_one_request_are_served_every_time() {
    let slow = std::env::var("EDGEPROXY_SLOW_TESTS").is_ok_and(|slow| slow == "1");
    let count = if slow { PEERS_SLOW } else { PEERS };
    let folder = folder();
    let hub = Hub::start(&folder);
    let (next, began) = (AtomicUsize::new(0), Instant::now());
    let job = || {
        let number = std::iter::from_fn(|| Some(next.fetch_add(1, Relaxed)).filter(|number| *number < count));
        number.map(|number| live(&hub, number)).collect::<Vec<_>>()
    };
    let took: Vec<Took> = thread::scope(|scope| {
        let jobs: Vec<_> = (0..JOBS).map(|_| scope.spawn(job)).collect();
        jobs.into_iter().flat_map(|job| job.join().unwrap()).collect()
    });
    assert_eq!(took.len(), count);
    println!("{count} peers, {JOBS} at once, in {:?}", began.elapsed());
    for (step, name) in ["created, its side up", "handshake and fetch", "deleted"].iter().enumerate() {
        let mut times: Vec<_> = took.iter().map(|took| took.0[step]).collect();
        times.sort_unstable();
        println!(
            "{name}: median {:?}, 99 of 100 {:?}, most {:?}",
            times[count / 2],
            times[count * 99 / 100],
            times[count - 1]
        );
    }
    let text = hub.client().get("/metrics").text;
    assert_eq!((metric(&text, "edge_gateway_peers"), metric(&text, "edge_gateway_peers_awake")), (0, 0));
    for change in ["created", "removed"] {
        assert_eq!(metric(&text, &format!("edge_gateway_changes_total{{change=\"{change}\"}}")), count as u64);
    }
    assert!(hub.stop().success());
}

#[test]
fn the_connections_of_a_deleted_peer_are_cut_and_no_others() {
    let folder = folder();
    let hub = Hub::start(&folder);
    let mut client = hub.client();
    let (ends, stays) = (Peer::create(&hub, &mut client), Peer::create(&hub, &mut client));
    let mut open = Vec::new();
    for peer in [&ends, &ends, &stays] {
        let mut connection = peer.dial(ECHO, LONG).unwrap();
        connection.echo(b"hello").unwrap();
        open.push(connection);
    }
    let connections = |client: &mut crate::client::Client| {
        let listed = client.get("/api/v1/connections").expect(200);
        listed["items"].as_array().unwrap().len()
    };
    assert_eq!(connections(&mut client), 3);
    client.delete(&ends.path).expect(204);
    assert_eq!(connections(&mut client), 1, "before it is acknowledged");
    open[2].echo(b"still here").unwrap();
    client.delete(&stays.path).expect(204);
    assert_eq!(connections(&mut client), 0);
    eventually("what was open is given back", || {
        let text = client.get("/metrics").text;
        (metric(&text, &format!("edge_connections_current{{listener=\"{ECHO}\"}}")) == 0).then_some(())
    });
}
