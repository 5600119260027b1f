//! Peers that end.

use std::time::Duration;

use edgeproxy_gateway::{End, GatewayError, PeerRequest};
use edgeproxy_store::peers::PeerId;

use crate::support::{A_WHILE, Client, LONG, Served, eventually, file, private};

#[tokio::test]
async fn a_removed_peer_is_cut_at_once_and_can_come_back() {
    let (_folder, db) = file();
    let served = Served::start(&db, 10);
    let (client, other) =
        (Client::create(&served, PeerRequest::default()).await, Client::create(&served, PeerRequest::default()).await);
    let (up, other) = (client.up(&served), other.up(&served));
    assert!(up.is_heard(LONG) && other.is_heard(LONG));
    let id = served.gateway.find(&client.public()).unwrap();
    served.gateway.remove(id).await.unwrap();
    assert_eq!(served.gateway.device().awake(), 1);
    assert!(!up.is_heard(A_WHILE));
    assert!(other.is_heard(A_WHILE), "nobody else notices");
    assert_eq!(served.gateway.remove(id).await, Err(GatewayError::Unknown(id)));
    drop(up);
    let request = PeerRequest { public: Some(client.public()), ..PeerRequest::default() };
    let again = served.gateway.create(request).await.unwrap();
    assert!(again.peer.row.id > id && again.peer.row.v4.unwrap() != client.ip, "another number, another address");
}

#[tokio::test]
async fn a_peer_whose_time_is_over_is_collected() {
    let (_folder, db) = file();
    let served = Served::start(&db, 10);
    let short = PeerRequest { ttl: Some(Duration::from_secs(1)), ..PeerRequest::default() };
    let client = Client::create(&served, short).await;
    Client::create(&served, PeerRequest { ttl: Some(Duration::from_secs(3600)), ..PeerRequest::default() }).await;
    let up = client.up(&served);
    assert!(up.is_heard(LONG));
    let id = served.gateway.find(&client.public()).unwrap();
    eventually("time passes", || served.gateway.ending(1000) == [(id, End::Expired)]);
    assert_eq!(served.gateway.collect().await, [(id, End::Expired)]);
    assert!(!up.is_heard(A_WHILE), "also one that is in use");
    assert_eq!(served.gateway.len(), 1);
    assert!(served.gateway.collect().await.is_empty());
}

#[tokio::test]
async fn very_many_end_at_once() {
    let (_folder, db) = file();
    let served = Served::start(&db, 10);
    let short = PeerRequest { ttl: Some(Duration::from_secs(1)), ..PeerRequest::default() };
    served.gateway.create_all(vec![short; 700]).await;
    let kept = Client::create(&served, PeerRequest::default()).await;
    eventually("time passes", || served.gateway.ending(1000).len() == 700);
    assert_eq!(served.gateway.collect().await.len(), 700);
    assert_eq!(served.gateway.len(), 1);
    assert!(kept.up(&served).is_heard(LONG));
}

#[tokio::test]
async fn one_whose_time_is_over_is_not_let_in_even_before_it_is_collected() {
    let (_folder, db) = file();
    let served = Served::start(&db, 10);
    let short = PeerRequest { ttl: Some(Duration::from_secs(1)), ..PeerRequest::default() };
    let client = Client::create(&served, short).await;
    eventually("time passes", || served.gateway.ending(1000).len() == 1);
    assert!(!client.up(&served).is_heard(A_WHILE));
    assert_eq!(served.gateway.device().awake(), 0);
}

#[tokio::test]
async fn a_former_key_does_not_come_back_once_its_successor_has_spoken() {
    let (_folder, db) = file();
    let served = Served::start(&db, 10);
    let client = Client::create(&served, PeerRequest::default()).await;
    let id = served.gateway.find(&client.public()).unwrap();
    let rotated = served.gateway.rotate(id, None, Duration::from_secs(60)).await.unwrap();
    let after = Client::with(rotated.private.unwrap(), &rotated.peer).up(&served);
    assert!(after.is_heard(LONG));
    assert!(!client.up(&served).is_heard(A_WHILE));
    assert!(after.is_heard(LONG), "its addresses are its own");
}

#[tokio::test]
async fn a_key_is_replaced_without_a_gap() {
    let (_folder, db) = file();
    let served = Served::start(&db, 10);
    let client = Client::create(&served, PeerRequest::default()).await;
    let id = served.gateway.find(&client.public()).unwrap();
    let before = client.up(&served);
    assert!(before.is_heard(LONG));
    let rotated = served.gateway.rotate(id, None, Duration::from_secs(60)).await.unwrap();
    assert!(before.is_heard(LONG), "counts still");
    let taken = PeerRequest { public: Some(client.public()), ..PeerRequest::default() };
    assert!(matches!(served.gateway.create(taken).await, Err(GatewayError::KeyTaken(_))));
    let after = Client::with(rotated.private.unwrap(), &rotated.peer);
    assert_eq!((after.ip, rotated.peer.row.id), (client.ip, id));
    let after = after.up(&served);
    assert!(after.is_heard(LONG));
    assert!(!before.is_heard(A_WHILE), "the successor is in use");
    assert!(after.is_heard(LONG));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_moved_stays_with_it_when_it_gets_another_key() {
    let (_folder, db) = file();
    let served = Served::start(&db, 10);
    let client = Client::create(&served, PeerRequest::default()).await;
    let id = served.gateway.find(&client.public()).unwrap();
    let moved = async || {
        let shown = served.gateway.show(id).await.unwrap().unwrap();
        assert!(shown.peer.endpoint.is_some() && shown.peer.row.handshake.is_some());
        (shown.peer.received, shown.peer.sent, shown.awake.is_some())
    };
    assert!(client.up(&served).is_heard(LONG));
    let (received, sent, _) = moved().await;
    assert!(received > 148 && sent > 92);

    // While the former key counts, what moves by it does.
    let next = private();
    let rotated = served.gateway.rotate(id, Some(next.public()), Duration::from_secs(60)).await.unwrap();
    let (by_former, sent_by_former, is_awake) = moved().await;
    assert!(by_former >= received && sent_by_former >= sent && is_awake);
    let after = Client::with(next, &rotated.peer);
    assert!(after.up(&served).is_heard(LONG));
    let run = tokio::spawn(std::sync::Arc::clone(&served.gateway).run());
    eventually("it counts no more", || served.gateway.device().peer(&client.public()).is_none());
    let (by_both, sent_by_both, _) = moved().await;
    assert!(by_both > by_former + 148 && sent_by_both > sent_by_former + 92);

    // At once, and on disk.
    served.gateway.rotate(id, None, Duration::ZERO).await.unwrap();
    assert!(served.gateway.device().peer(&after.public()).is_none());
    let last = moved().await;
    assert!(last.0 >= by_both && last.1 >= sent_by_both && !last.2, "{last:?}");
    served.gateway.settle().await;
    assert_eq!(moved().await, last);
    run.abort();
    assert!(run.await.unwrap_err().is_cancelled());
    drop(served);
    let kept = Served::start(&db, 10).gateway.show(id).await.unwrap().unwrap().peer;
    assert_eq!((kept.received, kept.sent), (last.0, last.1));
}

#[tokio::test]
async fn without_overlap_the_former_key_ends_at_once() {
    let (_folder, db) = file();
    let served = Served::start(&db, 10);
    let client = Client::create(&served, PeerRequest::default()).await;
    let id = served.gateway.find(&client.public()).unwrap();
    let before = client.up(&served);
    assert!(before.is_heard(LONG));
    let next = private();
    let rotated = served.gateway.rotate(id, Some(next.public()), Duration::ZERO).await.unwrap();
    assert!(rotated.private.is_none() && rotated.peer.row.former.is_none());
    assert!(!before.is_heard(A_WHILE));
    assert!(Client::with(next, &rotated.peer).up(&served).is_heard(LONG));
    let nobody = PeerId(999);
    assert_eq!(
        served.gateway.rotate(nobody, None, Duration::ZERO).await.map(|_| ()),
        Err(GatewayError::Unknown(nobody))
    );
}
