//! What is to be seen only from inside: who waits for whom.

use std::future::poll_fn;
use std::pin::pin;

use edgeproxy_overlay::{DeviceSettings, PeerSettings, Queue};
use edgeproxy_tunnel::{PresharedKey, PrivateKey, Random, Tai64N};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::*;
use crate::collect::Came;
use crate::request::PeerRequest;

/// Longer than anything here may take.
const LONG: Duration = Duration::from_secs(10);

struct NoFlows;

impl Flows for NoFlows {
    fn any(&self) -> bool {
        false
    }

    fn cut(&self, _: &[Prefix]) {}
}

/// A gateway whose interface leads nowhere, with what it needs to live.
fn start() -> (tempfile::TempDir, OwnedFd, Arc<Gateway>) {
    let folder = tempfile::tempdir().unwrap();
    let settings = GatewaySettings {
        db: folder.path().join("peers.db"),
        pools: vec![PoolSettings { network: "10.50.0.0/16".parse().unwrap(), region: None }],
        quarantine: Duration::ZERO,
        grace: Duration::ZERO,
        max_peers: 10_000,
    };
    let opened = Opened::open(settings, &[]).unwrap();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (above, below) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let device = DeviceSettings {
        directory: Some(opened.directory()),
        awake_most: 10,
        ..DeviceSettings::new(PrivateKey::from_bytes(OsRandom::new().bytes()), 1420, Vec::new())
    };
    let device = Device::start(device, vec![Queue::from(below)]).unwrap();
    (folder, above, Arc::new(opened.serve(Arc::new(device), Arc::new(NoFlows))))
}

#[tokio::test]
async fn a_list_that_takes_long_holds_up_nobody_who_asks_for_one_peer() {
    let (_folder, _above, gateway) = start();
    let request = PeerRequest { public: Some(PublicKey([7; 32])), ..PeerRequest::default() };
    let peer = gateway.create(request.clone()).await.unwrap().peer;
    // As a list does for as long as it reads.
    let reading = Arc::clone(&gateway.lists).lock_owned().await;
    let mut list = pin!(gateway.page(PeerId(0), 10, PeerFilter::default()));
    assert!(poll_fn(|cx| std::task::Poll::Ready(list.as_mut().poll(cx).is_pending())).await);
    let others = async {
        assert_eq!(gateway.show(peer.row.id).await.unwrap().unwrap().peer, peer);
        assert!(gateway.create(request).await.unwrap().existing);
        gateway.create(PeerRequest::default()).await.unwrap();
        gateway.rotate(peer.row.id, None, Duration::ZERO).await.unwrap();
        gateway.remove(peer.row.id).await.unwrap();
    };
    tokio::time::timeout(LONG, others).await.unwrap();
    drop(reading);
    assert_eq!(list.await.unwrap().0.len(), 1);
}

#[tokio::test]
async fn a_batch_of_key_pairs_is_made_piece_by_piece() {
    let (_folder, _above, gateway) = start();
    let mut batch = pin!(gateway.create_all(vec![PeerRequest::default(); 1000]));
    let mut turns = 0;
    let created = poll_fn(|cx| {
        turns += 1;
        batch.as_mut().poll(cx)
    });
    let created = created.await;
    assert!(created.iter().all(|created| created.as_ref().is_ok_and(|created| created.private.is_some())));
    assert!(turns >= 1000 / 16, "others had their turn {turns} times");
}

#[tokio::test]
async fn keys_of_many_are_changed_at_once_and_those_of_one_in_turn() {
    let (_folder, _above, gateway) = start();
    let created = gateway.create_all(vec![PeerRequest::default(); 100]).await;
    let ids: Vec<_> = created.into_iter().map(|created| created.unwrap().peer.row.id).collect();
    // Whoever has the turn of one keeps no other from it.
    let turn = gateway.turn(ids[0]).await;
    let rotated = |id: PeerId| {
        let gateway = Arc::clone(&gateway);
        async move { gateway.rotate(id, None, LONG).await.unwrap().peer.row }
    };
    let mut waits = pin!(rotated(ids[0]));
    assert!(poll_fn(|cx| std::task::Poll::Ready(waits.as_mut().poll(cx).is_pending())).await);
    let mut others = tokio::task::JoinSet::new();
    ids[1..].iter().for_each(|id| _ = others.spawn(rotated(*id)));
    let rows = tokio::time::timeout(LONG, others.join_all()).await.unwrap();
    assert_eq!(rows.len(), 99);
    drop(turn);
    waits.await;

    // Twice at once: the second finds what the first made, and its key is the former one.
    let (first, second) = tokio::join!(rotated(ids[5]), rotated(ids[5]));
    let (first, last) = if first.former.unwrap().public == second.public { (second, first) } else { (first, second) };
    assert_eq!(last.former.unwrap().public, first.public);
    assert_eq!(gateway.peer(ids[5]), Some(last.clone()));
    assert_eq!(gateway.show(ids[5]).await.unwrap().unwrap().peer.row, last, "the disk agrees");

    // All that have a former key lose it by one write, and the disk agrees.
    gateway.end_former(&ids, |_, _| true).await.unwrap();
    for id in &ids {
        assert!(gateway.peer(*id).unwrap().former.is_none());
        assert!(gateway.singles.lock().await.get(*id).unwrap().unwrap().row.former.is_none());
    }
}

#[tokio::test]
async fn a_key_that_was_used_and_replaced_within_one_look_counts_still() {
    let (_folder, _above, gateway) = start();
    let id = gateway.create(PeerRequest::default()).await.unwrap().peer.row.id;
    let rotate = async || gateway.rotate(id, None, LONG).await.unwrap().peer.row.public;
    let second = rotate().await;
    gateway.register.note_answered(&second, Tai64N([1; 12]));
    rotate().await;
    gateway.end_replaced().await;
    assert_eq!(gateway.peer(id).unwrap().former.unwrap().public, second, "its successor was not heard yet");
    let third = gateway.peer(id).unwrap().public;
    gateway.register.note_answered(&third, Tai64N([2; 12]));
    gateway.end_replaced().await;
    assert!(gateway.peer(id).unwrap().former.is_none());
}

#[tokio::test]
async fn what_was_seen_of_very_many_is_written_in_pieces_and_never_left_out() {
    let (_folder, _above, gateway) = start();
    let register = &gateway.register;
    let created = gateway.create_all(vec![PeerRequest::default(); 3000]).await;
    let rows: Vec<_> = created.into_iter().map(|created| created.unwrap().peer.row).collect();
    let sleeps = |row: &PeerRow, endpoint: &str, bytes: u64| {
        let (public, endpoint) = (row.public, endpoint.parse().ok());
        let preshared = PresharedKey::default();
        let settings = PeerSettings { public, preshared, endpoint, keepalive: None, allowed_ips: Vec::new() };
        let (greatest, last_handshake, last_handshake_at) = (Tai64N::default(), None, None);
        let (received, sent) = (bytes, 2 * bytes);
        edgeproxy_overlay::Directory::note_asleep(
            &**register,
            &PeerStatus { settings, last_handshake, last_handshake_at, greatest, received, sent },
        );
    };
    let shown = async |row: &PeerRow| {
        let peer = gateway.show(row.id).await.unwrap().unwrap().peer;
        (peer.endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default(), peer.received, peer.sent)
    };
    rows.iter().for_each(|row| sleeps(row, "192.0.2.1:1", 5));
    let taken = register.take_sightings(1000);
    assert_eq!((taken.len(), register.unwritten()), (1000, 2000));
    let first = rows.iter().find(|row| row.id == taken[0].id).unwrap();
    assert_eq!(shown(first).await, ("192.0.2.1:1".to_owned(), 5, 10), "while it is being written");
    sleeps(first, "192.0.2.2:2", 7);
    // The disk was full.
    register.put_back();
    assert_eq!(register.unwritten(), 3000);
    let expected = ("192.0.2.2:2".to_owned(), 12, 24);
    assert_eq!(shown(first).await, expected, "with what was seen last");
    gateway.settle().await;
    assert_eq!(register.unwritten(), 0);
    let on_disk = gateway.singles.lock().await.get(first.id).unwrap().unwrap();
    assert_eq!((on_disk.received, on_disk.sent), (12, 24));
    assert_eq!(shown(first).await, expected);
    assert_eq!(shown(rows.last().unwrap()).await, ("192.0.2.1:1".to_owned(), 5, 10));
}

#[tokio::test]
async fn of_very_many_whose_time_is_over_others_wait_for_a_batch_alone() {
    let (_folder, _above, gateway) = start();
    let short = PeerRequest { ttl: Some(Duration::from_secs(1)), ..PeerRequest::default() };
    gateway.create_all(vec![short; 600]).await;
    let (later, mut ended) = (unix_now() + 60, Vec::new());
    for (came, left) in [(Came::Halfway, 344), (Came::Halfway, 88), (Came::ToTheEnd, 0)] {
        assert_eq!(gateway.end_some(later, &mut ended).await, came);
        assert_eq!((gateway.len(), ended.len()), (left, 600 - left));
    }
    assert_eq!(gateway.end_some(later, &mut ended).await, Came::ToTheEnd);
}
