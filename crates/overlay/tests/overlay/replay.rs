//! Initiations that somebody has recorded.

use edgeproxy_overlay::{DeviceChange, Loss, PeerChange};
use edgeproxy_tunnel::{Dropped, Tai64N};

use crate::client::Client;
use crate::support::{Host, LONG, eventually};

fn remember(host: &Host, client: &Client, greatest: Tai64N) {
    let peer = PeerChange { greatest: Some(greatest), ..PeerChange::new(client.public()) };
    host.device.apply(DeviceChange { peers: vec![peer], ..DeviceChange::default() }).unwrap();
}

#[test]
fn an_initiation_is_not_answered_again_by_the_next_process() {
    let host = Host::start(9, false);
    let mut client = Client::known(1, &host, &["10.50.0.1"]);
    let stamp = |number: u8| Tai64N([number; 12]);
    let (recorded, _) = client.initiation(stamp(5));
    client.send(&recorded);
    assert_eq!(client.receive_within(LONG).expect("an answer").len(), 92);
    let status = host.device.peer(&client.public()).unwrap();
    assert_eq!(status.greatest, stamp(5), "to be remembered");
    drop(host);

    // Known from the first moment on, as it is given with the key.
    let host = Host::start(9, false);
    client.to = host.address();
    remember(&host, &client, status.greatest);
    client.send(&recorded);
    let replayed = || host.device.counters().get(Loss::Handshake(Dropped::Replayed));
    eventually("the count", || replayed() == 1);
    // Nor is one that is older than what is remembered here, whatever is said of it later.
    remember(&host, &client, stamp(3));
    let (older, _) = client.initiation(stamp(4));
    client.send(&older);
    eventually("the count", || replayed() == 2);
    assert!(client.receive_within(std::time::Duration::from_millis(50)).is_none());
    let (newer, _) = client.initiation(stamp(6));
    client.send(&newer);
    assert_eq!(client.receive_within(LONG).expect("an answer").len(), 92);
    assert_eq!(host.device.peer(&client.public()).unwrap().greatest, stamp(6));
}
