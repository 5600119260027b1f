//! What is to be seen only from inside: who waits for whom.

use std::future::poll_fn;
use std::pin::pin;

use edgeproxy_overlay::{DeviceSettings, Queue, Tenants};
use edgeproxy_tunnel::{GateSettings, PrivateKey, Random, Tai64N};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::*;
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
        private: PrivateKey::from_bytes(OsRandom::new().bytes()),
        port: 0,
        mtu: 1420,
        addresses: Vec::new(),
        forward: false,
        tenants: Tenants::default(),
        gate: GateSettings::default(),
        directory: Some(opened.directory()),
        awake_most: 10,
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
    assert_eq!(list.await.unwrap().len(), 1);
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
    gateway.end_former(&ids).await.unwrap();
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
