//! What outlives the process.

use std::time::Duration;

use edgeproxy_gateway::{GatewayError, GatewaySettings, Opened, PeerRequest, PoolSettings};
use edgeproxy_overlay::Loss;
use edgeproxy_store::peers::{PeerFilter, PeerId, PeersError};
use edgeproxy_tunnel::{Dropped, Prefix};

use crate::recorder::Recorder;
use crate::support::{Client, LONG, Served, eventually, file, settings};

#[tokio::test]
async fn all_that_was_acknowledged_is_there_after_a_restart() {
    let (_folder, db) = file();
    let served = Served::start(&db, 10);
    let request = PeerRequest {
        name: Some("site".to_owned()),
        region: Some("fra".to_owned()),
        tags: vec!["a".to_owned(), "b".to_owned()],
        prefixes: vec!["172.16.0.0/24".parse().unwrap()],
        ttl: Some(Duration::from_secs(3600)),
        idle_ttl: Some(Duration::from_secs(600)),
        make_preshared: true,
        keep: true,
        ..PeerRequest::default()
    };
    let site = served.gateway.create(request).await.unwrap().peer;
    let client = Client::create(&served, PeerRequest::default()).await;
    let gone = Client::create(&served, PeerRequest::default()).await;
    let gone_id = served.gateway.find(&gone.public()).unwrap();
    served.gateway.remove(gone_id).await.unwrap();
    assert!(client.up(&served).is_heard(LONG));
    served.gateway.settle().await;
    let id = served.gateway.find(&client.public()).unwrap();
    let greatest = served.gateway.show(id).await.unwrap().unwrap().peer.row.greatest;
    drop(served);

    let served = Served::start(&db, 10);
    assert_eq!(served.gateway.len(), 2);
    assert_eq!(served.gateway.show(site.row.id).await.unwrap().unwrap().peer, site);
    let after = served.gateway.show(id).await.unwrap().unwrap().peer;
    assert_eq!(after.row.greatest, greatest, "no initiation from before is answered again");
    assert!(after.row.handshake.is_some());
    // Two initiations of one moment, of 17 ms, count once.
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(client.up(&served).is_heard(LONG));
    let next = served.gateway.create(PeerRequest::default()).await.unwrap().peer;
    assert!(next.row.id > gone_id, "no number is given twice");
    assert_ne!(next.row.v4.map(Into::into), Some(gone.ip), "its address rests");
}

/// What was recorded of a peer before it got another key, while the former one counts still.
#[tokio::test]
async fn an_initiation_by_a_former_key_is_not_answered_again_by_the_next_process() {
    let (_folder, db) = file();
    let served = Served::start(&db, 10);
    let client = Client::create(&served, PeerRequest::default()).await;
    let id = served.gateway.find(&client.public()).unwrap();
    served.gateway.rotate(id, None, Duration::from_secs(600)).await.unwrap();
    let mut recorder = Recorder::new(&client, &served);
    let (first, second) = (recorder.initiation(1), recorder.initiation(2));
    assert!(recorder.is_answered(&served, &first));
    assert!(recorder.is_answered(&served, &second), "counts still");
    served.gateway.settle().await;
    drop(served);

    let served = Served::start(&db, 10);
    let (third, replayed) =
        (recorder.initiation(3), || served.gateway.device().counters().get(Loss::Handshake(Dropped::Replayed)));
    for (count, recorded) in [(1, &first), (2, &second)] {
        recorder.send(&served, recorded);
        eventually("it is counted", || replayed() == count);
    }
    assert_eq!(served.gateway.device().awake(), 0);
    assert!(recorder.is_answered(&served, &third));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_rests_no_longer_than_the_quarantine_is_now() {
    let (_folder, db) = file();
    let quarantine = |seconds: u64| GatewaySettings { quarantine: Duration::from_secs(seconds), ..settings(&db) };
    let served = Served::start_with(quarantine(3600), 10);
    let peer = served.gateway.create(PeerRequest::default()).await.unwrap().peer.row;
    served.gateway.remove(peer.id).await.unwrap();
    drop(served);
    let served = Served::start_with(quarantine(0), 10);
    assert_eq!(served.gateway.figures().resting, 2);
    let run = tokio::spawn(std::sync::Arc::clone(&served.gateway).run());
    eventually("both are to be had again", || served.gateway.figures().resting == 0);
    run.abort();
    let request = PeerRequest { addresses: vec![peer.v4.unwrap().into()], ..PeerRequest::default() };
    assert_eq!(served.gateway.create(request).await.unwrap().peer.row.v4, peer.v4);
}

#[tokio::test]
async fn what_the_configuration_has_taken_for_itself_is_told() {
    let (_folder, db) = file();
    let served = Served::start(&db, 10);
    let request = PeerRequest { prefixes: vec!["172.16.0.0/24".parse().unwrap()], ..PeerRequest::default() };
    let peer = served.gateway.create(request).await.unwrap().peer.row;
    drop(served);
    let error = |settings: GatewaySettings, taken: &[Prefix]| Opened::open(settings, taken).err().unwrap();
    let reserved = |error: GatewayError| match error {
        GatewayError::Reserved { id, has, by, .. } => (id, has.to_string(), by.to_string()),
        other => panic!("{other}"),
    };
    let own = Prefix::host(peer.v4.unwrap().into());
    let address = own.to_string();
    assert_eq!(reserved(error(settings(&db), &[own])), (peer.id, address.clone(), address.clone()));
    let around: Prefix = "10.50.0.0/30".parse().unwrap();
    assert_eq!(reserved(error(settings(&db), &[around])), (peer.id, address, around.to_string()));
    let mut other = settings(&db);
    other.pools.push(PoolSettings { network: "172.16.0.0/16".parse().unwrap(), region: None });
    assert_eq!(reserved(error(other, &[])), (peer.id, "172.16.0.0/24".to_owned(), "172.16.0.0/16".to_owned()));
    // A pool that is gone takes nobody's address away.
    let fewer = GatewaySettings { pools: Vec::new(), ..settings(&db) };
    assert_eq!(Opened::open(fewer, &[]).err(), None);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let (_folder, db) = file();
    let served = Served::start(&db, 10);
    let request = |number: usize| PeerRequest {
        name: Some(format!("p{}", number % 10)),
        region: number.is_multiple_of(3).then(|| "fra".to_owned()),
        tags: if number.is_multiple_of(2) { vec!["even".to_owned()] } else { Vec::new() },
        ..PeerRequest::default()
    };
    served.gateway.create_all((0..100).map(request).collect()).await;
    let ids = async |filter: PeerFilter| {
        let (mut ids, mut after) = (Vec::new(), Some(PeerId(0)));
        while let Some(from) = after {
            let (page, next) = served.gateway.page(from, 7, filter.clone()).await.unwrap();
            ids.extend(page.iter().map(|shown| shown.peer.row.id.0));
            after = next;
        }
        ids
    };
    let expected = |keep: fn(&u64) -> bool| (0..100).filter(keep).map(|number| number + 1).collect::<Vec<u64>>();
    assert_eq!(ids(PeerFilter::default()).await, expected(|_| true));
    let (region, tag) = (Some("fra".to_owned()), Some("even".to_owned()));
    assert_eq!(ids(PeerFilter { region: region.clone(), ..PeerFilter::default() }).await, expected(|n| n % 3 == 0));
    assert_eq!(ids(PeerFilter { tag: tag.clone(), ..PeerFilter::default() }).await, expected(|n| n % 2 == 0));
    assert_eq!(ids(PeerFilter { region, tag, name: None }).await, expected(|n| n % 6 == 0));
    assert_eq!(
        ids(PeerFilter { name: Some("p4".to_owned()), ..PeerFilter::default() }).await,
        expected(|n| n % 10 == 4)
    );
    assert!(ids(PeerFilter { name: Some("p".to_owned()), ..PeerFilter::default() }).await.is_empty());
}

#[tokio::test]
async fn a_file_has_one_gateway() {
    let (_folder, db) = file();
    let _served = Served::start(&db, 10);
    let second = Opened::open(settings(&db), &[]).err();
    assert!(matches!(second, Some(GatewayError::Store(PeersError::InUse { .. }))), "{second:?}");
}

#[test]
fn a_file_about_something_else_is_refused() {
    let (_folder, db) = file();
    std::fs::write(&db, "not a database, but longer than nothing").unwrap();
    let damaged = Opened::open(settings(&db), &[]).err();
    assert!(matches!(damaged, Some(GatewayError::Store(PeersError::Damaged { .. }))), "{damaged:?}");
}
