//! How many peers are awake.

use edgeproxy_gateway::PeerRequest;

use crate::support::{Client, LONG, Served, eventually, file};

#[tokio::test]
async fn whose_handshake_is_longest_ago_sleeps_first_and_wakes_again() {
    let (_folder, db) = file();
    let served = Served::start(&db, 2);
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::create(&served, PeerRequest::default()).await);
    }
    for client in &clients {
        let up = client.up(&served);
        assert!(up.is_heard(LONG));
        eventually("no more are awake than may be", || served.gateway.device().awake() <= 2);
    }
    let is_awake = |client: &Client| served.gateway.device().peer(&client.public()).is_some();
    assert_eq!(clients.iter().map(is_awake).collect::<Vec<_>>(), [false, false, true, true]);
    assert!(clients[0].up(&served).is_heard(LONG), "it wakes by its next handshake");
    eventually("another sleeps for it", || !is_awake(&clients[2]));
    let shown = served.gateway.show(served.gateway.find(&clients[1].public()).unwrap()).await.unwrap().unwrap();
    assert!(shown.awake.is_none());
    assert!(shown.peer.received > 148 && shown.peer.sent > 92, "what it moved is kept: {:?}", shown.peer);
    assert!(shown.peer.row.handshake.is_some() && shown.peer.endpoint.is_some());
}
