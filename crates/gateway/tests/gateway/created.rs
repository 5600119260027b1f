//! Peers that are created.

use std::time::Duration;

use edgeproxy_gateway::{AddressError, GatewayError, PeerRequest};
use edgeproxy_tunnel::PublicKey;

use crate::support::{A_WHILE, Client, LONG, Served, file, private, settings};

#[tokio::test]
async fn the_first_handshake_after_the_answer_is_answered() {
    let (_folder, db) = file();
    let served = Served::start(&db, 10);
    for _ in 0..3 {
        let client = Client::create(&served, PeerRequest::default()).await;
        // A lost initiation is sent again after five seconds.
        assert!(client.up(&served).is_heard(Duration::from_secs(4)));
    }
    assert_eq!((served.gateway.len(), served.gateway.device().awake()), (3, 3));
}

#[tokio::test]
async fn a_stranger_hears_nothing() {
    let (_folder, db) = file();
    let served = Served::start(&db, 10);
    let known = Client::create(&served, PeerRequest::default()).await;
    let stranger =
        Client::with(private(), &served.gateway.show(known_id(&served, &known)).await.unwrap().unwrap().peer);
    assert!(!stranger.up(&served).is_heard(A_WHILE));
    assert_eq!(served.gateway.device().awake(), 0);
}

fn known_id(served: &Served, client: &Client) -> edgeproxy_store::peers::PeerId {
    served.gateway.find(&client.public()).unwrap()
}

#[tokio::test]
async fn the_same_key_gives_the_same_peer() {
    let (_folder, db) = file();
    let served = Served::start(&db, 10);
    let request =
        PeerRequest { public: Some(private().public()), name: Some("ci".to_owned()), ..PeerRequest::default() };
    let first = served.gateway.create(request.clone()).await.unwrap();
    let again = served.gateway.create(PeerRequest { name: Some("other".to_owned()), ..request }).await.unwrap();
    assert!(!first.existing && again.existing);
    assert_eq!(first.peer, again.peer);
    assert!(again.private.is_none());
    assert_eq!(served.gateway.len(), 1);
}

#[tokio::test]
async fn a_peer_of_the_operators_stays_the_operators() {
    let (_folder, db) = file();
    let served = Served::start(&db, 10);
    let key = private().public();
    served.gateway.device().set_peer(edgeproxy_overlay::PeerSettings {
        public: key,
        preshared: edgeproxy_tunnel::PresharedKey::default(),
        endpoint: None,
        keepalive: None,
        allowed_ips: vec!["10.50.77.0/24".parse().unwrap()],
    });
    let created = served.gateway.create(PeerRequest { public: Some(key), ..PeerRequest::default() }).await;
    assert_eq!(created.map(|_| ()), Err(GatewayError::KeyTaken(key)));
    assert!(served.gateway.device().peer(&key).is_some());
}

#[tokio::test]
async fn keys_are_made_for_whoever_has_none() {
    let (_folder, db) = file();
    let served = Served::start(&db, 10);
    let created = served.gateway.create(PeerRequest::default()).await.unwrap();
    let private = created.private.unwrap();
    assert_eq!(private.public(), created.peer.row.public);
    assert!(Client::with(private, &created.peer).up(&served).is_heard(LONG));
}

#[tokio::test]
async fn what_cannot_be_created_leaves_nothing_behind() {
    let (_folder, db) = file();
    let served = Served::start_with(edgeproxy_gateway::GatewaySettings { max_peers: 2, ..settings(&db) }, 10);
    let own = served.gateway.device().public();
    let refused = |error: GatewayError| error;
    let create = |request: PeerRequest| served.gateway.create(request);
    let with_key = |public: PublicKey| PeerRequest { public: Some(public), ..PeerRequest::default() };
    assert_eq!(create(with_key(own)).await.map(|_| ()).map_err(refused), Err(GatewayError::OwnKey(own)));
    assert!(matches!(create(with_key(PublicKey([0; 32]))).await, Err(GatewayError::Request(_))), "of low order");
    let first = create(PeerRequest { prefixes: vec!["172.16.0.0/24".parse().unwrap()], ..PeerRequest::default() });
    let first = first.await.unwrap().peer.row;
    let taken = first.v4.unwrap().into();
    let again = PeerRequest { addresses: vec!["10.50.7.7".parse().unwrap(), taken], ..PeerRequest::default() };
    assert!(matches!(create(again).await, Err(GatewayError::Address(AddressError::Taken(_)))));
    let overlap = PeerRequest { prefixes: vec!["172.16.0.0/25".parse().unwrap()], ..PeerRequest::default() };
    assert!(matches!(create(overlap).await, Err(GatewayError::Address(AddressError::Overlap(..)))));
    let bad = PeerRequest { name: Some("two words".to_owned()), ..PeerRequest::default() };
    assert!(matches!(create(bad).await, Err(GatewayError::Request(_))));
    let free = PeerRequest { addresses: vec!["10.50.7.7".parse().unwrap()], ..PeerRequest::default() };
    assert!(create(free).await.is_ok(), "given back by the one that failed");
    assert_eq!(create(PeerRequest::default()).await.map(|_| ()), Err(GatewayError::Full(2)));
}

#[tokio::test]
async fn of_a_thousand_at_once_none_shares_an_address_or_a_number() {
    let (_folder, db) = file();
    let served = Served::start(&db, 10);
    let mut creations = tokio::task::JoinSet::new();
    for _ in 0..250 {
        let gateway = std::sync::Arc::clone(&served.gateway);
        creations.spawn(async move { gateway.create_all(vec![PeerRequest::default(); 4]).await });
    }
    let created = creations.join_all().await;
    let rows: Vec<_> = created.into_iter().flatten().map(|created| created.unwrap().peer.row).collect();
    let count = |mut all: Vec<String>| {
        all.sort();
        all.dedup();
        all.len()
    };
    assert_eq!(count(rows.iter().map(|row| row.v4.unwrap().to_string()).collect()), 1000);
    assert_eq!(count(rows.iter().map(|row| row.v6.unwrap().to_string()).collect()), 1000);
    assert_eq!(count(rows.iter().map(|row| row.id.to_string()).collect()), 1000);
}
