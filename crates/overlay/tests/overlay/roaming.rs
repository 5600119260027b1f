//! Where a peer is, and from where it is answered.

use std::net::{IpAddr, SocketAddr};

use edgeproxy_overlay::{Loss, PeerSettings};
use edgeproxy_tunnel::{PresharedKey, Rejected};

use crate::client::{Client, receive, socket};
use crate::support::{Host, LONG, eventually, packet};

fn endpoint(host: &Host, client: &Client) -> Option<SocketAddr> {
    host.device.peer(&client.public()).unwrap().settings.endpoint
}

#[test]
fn a_peer_moves_with_what_is_new_and_with_nothing_that_is_repeated() {
    let host = Host::start(9, false);
    let mut client = Client::known(1, &host, &["10.50.0.1"]);
    client.connect();
    let home = client.socket.local_addr().unwrap();
    eventually("a session", || endpoint(&host, &client) == Some(home));
    let sent = packet([10, 50, 0, 1].into(), host.ip, b"news");
    let (first, second) = (client.seal(&sent, 0), client.seal(&sent, 0));
    let (thief, elsewhere) = (socket("127.0.0.1"), socket("127.0.0.5"));
    // What is new moves it, wherever it comes from…
    elsewhere.send_to(&second, client.to).unwrap();
    assert_eq!(host.receive(), sent);
    let moved = elsewhere.local_addr().unwrap();
    eventually("the move", || endpoint(&host, &client) == Some(moved));
    // …what comes late, twice, changed or without a meaning does not.
    client.send(&first);
    assert_eq!(host.receive(), sent);
    thief.send_to(&second, client.to).unwrap();
    let mut changed = client.seal(&sent, 0);
    changed[20] ^= 1;
    thief.send_to(&changed, client.to).unwrap();
    let count = |loss| host.device.counters().get(Loss::Transport(loss));
    eventually("the counts", || count(Rejected::Replayed) == 1 && count(Rejected::Forged) == 1);
    assert_eq!(endpoint(&host, &client), Some(moved));
    let back = packet(host.ip, [10, 50, 0, 1].into(), b"there you are");
    host.send(&back);
    assert!(receive(&elsewhere, LONG).is_some());
}

/// A client lets in what comes from the address it spoke to, and so does whatever translates addresses on the way.
#[test]
fn a_peer_is_answered_from_the_address_it_speaks_to() {
    let host = Host::start(9, false);
    let mut client = Client::known(1, &host, &["10.50.0.1"]);
    let back = packet(host.ip, [10, 50, 0, 1].into(), b"from where you asked");
    for own in ["127.0.0.2", "127.0.0.3", "127.0.0.1"] {
        let own: IpAddr = own.parse().unwrap();
        client.to.set_ip(own);
        // From now on, nothing that comes from elsewhere is let in.
        client.socket = socket("127.0.0.1");
        client.socket.connect(client.to).unwrap();
        client.connect();
        let sent = packet([10, 50, 0, 1].into(), host.ip, own.to_string().as_bytes());
        client.send(&client.seal(&sent, 0));
        assert_eq!(host.receive(), sent);
        for _ in 0..4 {
            // By each worker: who has the session and who has not.
            host.send(&back);
            let (_, came) = client.open_within(LONG).expect("a packet comes");
            assert_eq!(came[..back.len()], back);
        }
    }
    // It speaks to another of our addresses in the same session.
    client.socket = socket("127.0.0.1");
    client.to.set_ip("127.0.0.7".parse().unwrap());
    client.socket.connect(client.to).unwrap();
    let sent = packet([10, 50, 0, 1].into(), host.ip, b"moved");
    client.send(&client.seal(&sent, 0));
    assert_eq!(host.receive(), sent);
    host.send(&back);
    assert!(client.open_within(LONG).is_some());
}

#[test]
fn an_endpoint_of_ipv4_in_the_guise_of_ipv6_is_one_of_ipv4() {
    let (a, b) = (Host::start(1, false), Host::start(2, false));
    a.device.set_peer(PeerSettings {
        public: b.device.public(),
        preshared: PresharedKey::default(),
        endpoint: Some(SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), b.device.port())),
        keepalive: None,
        allowed_ips: vec!["10.50.0.2".parse().unwrap()],
    });
    b.know(&a, false, &["10.50.0.1"]);
    assert_eq!(a.device.peer(&b.device.public()).unwrap().settings.endpoint, Some(b.address()));
    let there = packet(a.ip, b.ip, b"there");
    a.send(&there);
    assert_eq!(b.receive(), there);
    // And it is where it was heard.
    assert_eq!(b.device.peer(&a.device.public()).unwrap().settings.endpoint, Some(a.address()));
}
