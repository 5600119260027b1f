//! The journal against the file it writes.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use edgeproxy_tunnel::{PresharedKey, PublicKey, Tai64N};
use rusqlite::Connection;

use super::*;

fn record(id: u64) -> PeerRecord {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&id.to_le_bytes());
    let row = PeerRow {
        id: PeerId(id),
        public: PublicKey(key),
        preshared: PresharedKey::default(),
        v4: Some([10, 50, 0, 7].into()),
        v6: None,
        prefixes: vec!["172.16.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
        created: 1,
        expires: None,
        idle: Some(600),
        keep: false,
        handshake: None,
        greatest: Tai64N::default(),
        former: None,
    };
    let (name, region, tags) = (Some("ci".to_owned()), None, vec!["a".to_owned(), "b".to_owned()]);
    PeerRecord { row, name, region, tags, owner: None, endpoint: None, received: 0, sent: 0 }
}

fn open(path: &Path) -> (PeersJournal, Vec<PeerRow>, PeerId) {
    let mut rows = Vec::new();
    let (journal, next) = PeersJournal::open(path, |row| rows.push(row), |_| ()).unwrap();
    (journal, rows, next)
}

#[tokio::test]
async fn what_is_written_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("peers.db");
    let (journal, rows, next) = open(&path);
    assert!(rows.is_empty() && next == PeerId(1));
    let mut first = record(1);
    journal.write(PeerWrite::Add(vec![first.clone(), record(2)])).await.unwrap();
    let sighting = Sighting {
        id: PeerId(1),
        handshake: Some(99),
        public: first.row.public,
        greatest: Tai64N([7; 12]),
        former: None,
        endpoint: Some("192.0.2.1:9".parse().unwrap()),
        received: 5,
        sent: 6,
    };
    journal.write(PeerWrite::See(vec![sighting; 2])).await.unwrap();
    let former = FormerKey { public: first.row.public, until: 50, greatest: Tai64N([3; 12]) };
    (first.row.public, first.row.former) = (PublicKey([9; 32]), Some(former));
    (first.row.handshake, first.row.greatest) = (Some(99), Tai64N([7; 12]));
    journal.write(PeerWrite::Rotate { row: Box::new(first.row.clone()) }).await.unwrap();
    journal.write(PeerWrite::Remove { ids: vec![PeerId(2)], released: Vec::new() }).await.unwrap();
    (first.endpoint, first.received, first.sent) = (sighting.endpoint, 10, 12);
    assert_eq!(PeerPages::open(&path).unwrap().get(PeerId(1)).unwrap(), Some(first.clone()));
    drop(journal);
    let (_, rows, next) = open(&path);
    assert_eq!((rows, next), (vec![first.row], PeerId(3)), "a number is not given again");
}

#[tokio::test]
async fn what_is_seen_of_a_key_is_written_to_that_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("peers.db");
    let (journal, ..) = open(&path);
    let before = record(1);
    journal.write(PeerWrite::Add(vec![before.clone()])).await.unwrap();
    let former = FormerKey { public: before.row.public, until: 50, greatest: Tai64N([3; 12]) };
    let row = PeerRow { public: PublicKey([9; 32]), former: Some(former), ..before.row };
    journal.write(PeerWrite::Rotate { row: Box::new(row.clone()) }).await.unwrap();
    let read = || PeerPages::open(&path).unwrap().get(PeerId(1)).unwrap().unwrap().row;
    let see = async |public: PublicKey, greatest: u8, former: Option<FormerKey>| {
        let greatest = Tai64N([greatest; 12]);
        let (id, handshake) = (PeerId(1), Some(99));
        let sighting = Sighting { id, handshake, public, greatest, former, endpoint: None, received: 0, sent: 0 };
        journal.write(PeerWrite::See(vec![sighting])).await.unwrap();
        let row = read();
        (row.greatest.0[0], row.former.map(|former| former.greatest.0[0]))
    };
    // Seen before the rotation, written after it; then each by its own key; an older one never takes back a later one.
    assert_eq!(see(former.public, 4, None).await, (0, Some(4)));
    assert_eq!(see(row.public, 0, Some(FormerKey { greatest: Tai64N([6; 12]), ..former })).await, (0, Some(6)));
    assert_eq!(see(row.public, 8, Some(former)).await, (8, Some(6)));
    let another = PublicKey([5; 32]);
    assert_eq!(see(another, 9, None).await, (8, Some(6)));

    journal.write(PeerWrite::EndFormer(vec![(PeerId(1), another)])).await.unwrap();
    assert!(read().former.is_some(), "another key");
    journal.write(PeerWrite::EndFormer(vec![(PeerId(1), former.public), (PeerId(7), another)])).await.unwrap();
    assert_eq!(read(), PeerRow { handshake: Some(99), greatest: Tai64N([8; 12]), former: None, ..row });
}

#[tokio::test]
async fn one_that_cannot_be_written_does_not_take_others_along() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("peers.db");
    let (journal, ..) = open(&path);
    // The first is being written while the others come: they share the next commit.
    let add = |id| journal.write(PeerWrite::Add(vec![record(id)]));
    let (first, second, again, third) = tokio::join!(add(1), add(2), add(2), add(3));
    assert!(first.is_ok() && second.is_ok() && third.is_ok());
    assert!(matches!(again, Err(PeersError::Failed { .. })), "{again:?}");
    drop(journal);
    assert_eq!(open(&path).1.len(), 3);
}

#[tokio::test]
async fn the_log_is_shortened_beside_the_writing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("peers.db");
    let (journal, ..) = open(&path);
    for first in (1..20_000).step_by(500) {
        journal.write(PeerWrite::Add((first..first + 500).map(record).collect())).await.unwrap();
    }
    let size = |suffix: &str| std::fs::metadata(crate::stamp::beside(&path, suffix)).map_or(0, |file| file.len());
    assert!(size("-wal") < 16 * 1024 * 1024, "{}", size("-wal"));
    for suffix in ["", "-wal", "-shm", "-lock"] {
        let mode = std::fs::metadata(crate::stamp::beside(&path, suffix)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "{suffix:?} holds secrets");
    }
}

#[tokio::test]
async fn to_shorten_the_log_waits_for_nobody_who_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("peers.db");
    let (journal, ..) = open(&path);
    journal.write(PeerWrite::Add(vec![record(1)])).await.unwrap();
    // A reader sees the file as it was until it is done.
    let reader = Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM peers").unwrap();
    journal.write(PeerWrite::Add(vec![record(2)])).await.unwrap();
    let (log, writer) = (crate::stamp::beside(&path, "-wal"), journal::connect(&path).unwrap());
    let began = Instant::now();
    journal::truncate(&writer).unwrap();
    assert!(began.elapsed() < journal::PATIENCE / 2, "{:?}", began.elapsed());
    assert_ne!(std::fs::metadata(&log).unwrap().len(), 0, "it is read");
    let patience: u64 = writer.query_row("PRAGMA busy_timeout", [], |row| row.get(0)).unwrap();
    assert_eq!(u128::from(patience), journal::PATIENCE.as_millis(), "as before");
    reader.execute_batch("COMMIT").unwrap();
    journal::truncate(&writer).unwrap();
    assert_eq!(std::fs::metadata(&log).unwrap().len(), 0);
}

#[tokio::test]
async fn a_page_looks_at_no_more_than_it_may_and_the_list_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("peers.db");
    let (journal, ..) = open(&path);
    const MANY: u64 = 25_000;
    let named = |id: u64| PeerRecord {
        name: Some(if id == MANY { "last" } else { "ci" }.to_owned()),
        region: id.is_multiple_of(5000).then(|| "fra".to_owned()),
        ..record(id)
    };
    journal.write(PeerWrite::Add((1..=MANY).map(named).collect())).await.unwrap();
    let pages = PeerPages::open(&path).unwrap();
    let word = |word: &str| Some(word.to_owned());
    let all = |limit: usize, filter: PeerFilter| {
        let (mut ids, mut count, mut after) = (Vec::new(), 0, Some(PeerId(0)));
        while let Some(from) = after {
            let page = pages.page(from, limit, &filter).unwrap();
            assert!(page.records.len() <= limit && page.next.is_none_or(|next| next > from));
            ids.extend(page.records.iter().map(|record| record.row.id.0));
            (count, after) = (count + 1, page.next);
        }
        (ids, count)
    };
    let five = vec![5000, 10_000, 15_000, 20_000, 25_000];
    let (tag, region) = (word("a"), word("fra"));
    assert_eq!(all(9, PeerFilter { tag: tag.clone(), region: region.clone(), name: None }), (five.clone(), 3));
    assert_eq!(all(9, PeerFilter { name: word("ci"), region: region.clone(), tag: None }), (five[..4].to_vec(), 3));
    assert_eq!(all(5, PeerFilter { region: region.clone(), ..PeerFilter::default() }), (five.clone(), 1));
    assert_eq!(all(2, PeerFilter { region, ..PeerFilter::default() }), (five, 3));
    // However many have the tag, those of the name are few.
    assert_eq!(all(9, PeerFilter { name: word("last"), tag: tag.clone(), region: None }), (vec![MANY], 1));
    assert_eq!(all(9, PeerFilter { name: word("nobody"), tag, region: None }), (vec![], 1));
    assert_eq!(all(1000, PeerFilter::default()), ((1..=MANY).collect(), 25));
}

#[test]
fn a_row_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("peers.db");
    drop(open(&path));
    let spoil = "INSERT INTO peers (id, public_key, prefixes, created, keep) VALUES (7, zeroblob(32), 'x', 1, 0)";
    Connection::open(&path).unwrap().execute(spoil, []).unwrap();
    let broken = PeersJournal::open(&path, |_| (), |_| ()).err();
    assert!(matches!(&broken, Some(PeersError::Row { id: 7, .. })), "{broken:?}");
    Connection::open(&path).unwrap().execute("UPDATE peers SET public_key = 'short', prefixes = NULL", []).unwrap();
    let broken = PeersJournal::open(&path, |_| (), |_| ()).err();
    assert!(matches!(&broken, Some(PeersError::Row { id: 7, .. })), "{broken:?}");
}

#[test]
fn tables_of_another_version_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("peers.db");
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    let foreign = PeersJournal::open(&path, |_| (), |_| ()).err();
    assert!(matches!(foreign, Some(PeersError::Foreign { version: 99, .. })), "{foreign:?}");
}
