//! Told to stop, it writes down what it has seen.

use edgeproxy_overlay::{Device, DeviceSettings, Netstack, PeerSettings};
use edgeproxy_tunnel::{PresharedKey, PrivateKey};
use serde_json::json;

use crate::hub::{Folder, Hub, eventually};

#[test]
fn what_was_seen_of_peers_that_are_awake_is_written_when_it_stops() {
    let folder = Folder::new();
    let hub = Hub::start(&folder);
    let own = PrivateKey::from_bytes([7; 32]);
    let peer = hub.client().post("/api/v1/peers", &json!({ "public_key": own.public().to_string() })).expect(201);
    let ip: std::net::IpAddr = peer["addresses"][0].as_str().unwrap().parse().unwrap();
    let (netstack, queues) = Netstack::start(&[format!("{ip}/16").parse().unwrap()], 1420, 1).unwrap();
    let settings = DeviceSettings::new(own, 1420, vec![ip]);
    let device = Device::start(settings, queues).unwrap();
    device.set_peer(PeerSettings {
        public: PrivateKey::from_bytes([1; 32]).public(),
        preshared: PresharedKey::default(),
        endpoint: Some(([127, 0, 0, 1], hub.port).into()),
        keepalive: None,
        allowed_ips: vec!["10.50.0.0/16".parse().unwrap()],
    });
    // Nobody answers there; it makes the two shake hands.
    let dialled = netstack.dial("10.50.0.1:9".parse().unwrap());
    let path = format!("/api/v1/peers/{}", peer["id"].as_str().unwrap());
    let shown = eventually("a handshake and a packet", || {
        let shown = hub.client().get(&path).expect(200);
        (shown["awake"] == true && shown["bytes_received"].as_u64() > Some(0)).then_some(shown)
    });
    let again = json!({ "public_key": shown["public_key"] });
    for asked in ["/api/v1/peers", &format!("{path}/rotate")] {
        let answer = hub.client().post(asked, &again).expect(200);
        assert!(answer["existing"] == true && answer["awake"] == true, "{answer}");
    }
    assert!(hub.stop().success());
    drop(dialled);

    let file = rusqlite::Connection::open(folder.db()).unwrap();
    let columns = "SELECT handshake, endpoint, received, sent FROM peers";
    let (handshake, endpoint, received, sent): (Option<u64>, Option<String>, u64, u64) =
        file.query_row(columns, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
    assert!(handshake.is_some());
    assert_eq!(endpoint, Some(format!("127.0.0.1:{}", device.port())));
    assert!(received >= shown["bytes_received"].as_u64().unwrap(), "{received}: {shown}");
    assert!(sent >= shown["bytes_sent"].as_u64().unwrap(), "{sent}: {shown}");

    // And is there after the next start, once.
    let hub = Hub::start(&folder);
    let after = hub.client().get(&path).expect(200);
    assert_eq!(after["bytes_received"].as_u64().map(|bytes| bytes >= received), Some(true));
    assert!(after["last_handshake"].is_string());
}
