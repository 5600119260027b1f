//! Killed at any moment, it has all that it has acknowledged, whole.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use edgeproxy_tunnel::PublicKey;
use serde_json::{Value, json};

use crate::client::Client;
use crate::hub::{Folder, Hub};

/// Who create at once.
const CREATORS: usize = 64;
/// Kills, and with EDGEPROXY_SLOW_TESTS=1.
const ROUNDS: usize = 8;
const ROUNDS_SLOW: usize = 200;
/// Kills after which a new file is begun, as each round reads all that is in it.
const ROUNDS_OF_A_FILE: usize = 8;

/// What is known of the peers of a file.
#[derive(Default)]
struct Book {
    /// Keys that were sent, and what was answered.
    peers: HashMap<String, Option<Value>>,
    /// Those whose end was asked for, and whether it was acknowledged.
    ended: HashMap<String, bool>,
}

impl Book {
    fn add(&mut self, other: Book) {
        self.peers.extend(other.peers);
        self.ended.extend(other.ended);
    }

    /// Compares it with what a gateway says; returns how many peers that has.
    fn check(&self, hub: &Hub) -> usize {
        let mut client = hub.client();
        let listed = list(&mut client, "");
        let mut addresses = HashSet::new();
        for (key, peer) in &listed {
            assert!(self.peers.contains_key(key), "nobody asked for {peer}");
            assert_eq!(peer["name"], "n", "{peer}");
            assert_eq!(peer["tags"], json!(["a", "b"]), "{peer}");
            assert_eq!(peer["preshared"], true, "{peer}");
            let own: Vec<_> = peer["addresses"].as_array().unwrap().iter().map(ToString::to_string).collect();
            assert_eq!(own.len(), 2, "{peer}");
            assert!(own.into_iter().all(|address| addresses.insert(address)), "an address twice: {peer}");
        }
        assert_eq!(list(&mut client, "&tag=b").len(), listed.len(), "half peers");
        for (key, acknowledged) in &self.peers {
            match (acknowledged, self.ended.get(key)) {
                (_, Some(true)) => assert!(!listed.contains_key(key), "{key} came back"),
                (Some(peer), None) => {
                    let found = listed.get(key).unwrap_or_else(|| panic!("lost: {peer}"));
                    assert_eq!((&found["id"], &found["addresses"]), (&peer["id"], &peer["addresses"]));
                }
                (Some(_), Some(false)) | (None, _) => {}
            }
        }
        // Each by its key: the table in memory is another than the file.
        for (key, peer) in &listed {
            let name = key.replace('+', "-").replace('/', "_");
            let shown = client.get(&format!("/api/v1/peers/{name}")).expect(200);
            assert_eq!(shown["id"], peer["id"]);
        }
        listed.len()
    }
}

fn list(client: &mut Client, filter: &str) -> HashMap<String, Value> {
    let (mut peers, mut cursor) = (HashMap::new(), String::new());
    loop {
        let page = client.get(&format!("/api/v1/peers?limit=1000{cursor}{filter}")).expect(200);
        let items = page["items"].as_array().unwrap();
        peers.extend(items.iter().map(|peer| (peer["public_key"].as_str().unwrap().to_owned(), peer.clone())));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return peers,
        }
    }
}

/// Creates, and ends one of four, until nobody answers any more.
fn create(admin: SocketAddr) -> Book {
    let (mut client, mut book) = (Client::of(admin), Book::default());
    for number in 0.. {
        let key = key();
        book.peers.insert(key.clone(), None);
        let body = json!({ "public_key": key, "name": "n", "tags": ["a", "b"], "preshared": true });
        let Ok(reply) = client.ask("POST", "/api/v1/peers", &[], &body.to_string()) else { break };
        let peer = reply.expect(201);
        let id = peer["id"].as_str().unwrap().to_owned();
        book.peers.insert(key.clone(), Some(peer));
        if number % 4 == 3 {
            book.ended.insert(key.clone(), false);
            let Ok(reply) = client.ask("DELETE", &format!("/api/v1/peers/{id}"), &[], "") else { break };
            reply.expect(204);
            book.ended.insert(key, true);
        }
    }
    book
}

#[test]
fn a_kill_loses_nothing_that_was_acknowledged() {
    let slow = std::env::var("EDGEPROXY_SLOW_TESTS").is_ok_and(|slow| slow == "1");
    let rounds = if slow { ROUNDS_SLOW } else { ROUNDS };
    let (mut peers, mut unanswered) = (0, 0);
    for _ in 0..rounds / ROUNDS_OF_A_FILE {
        let (folder, mut book) = (Folder::new(), Book::default());
        for _ in 0..ROUNDS_OF_A_FILE {
            let hub = Hub::start(&folder);
            book.check(&hub);
            let admin = hub.admin;
            let creators: Vec<_> = (0..CREATORS).map(|_| thread::spawn(move || create(admin))).collect();
            // The moment of the kill.
            thread::sleep(Duration::from_millis(20 + number() % 180));
            hub.kill();
            creators.into_iter().for_each(|creator| book.add(creator.join().unwrap()));
        }
        let hub = Hub::start(&folder);
        peers += book.check(&hub);
        unanswered += book.peers.values().filter(|peer| peer.is_none()).count();
        assert!(hub.stop().success());
        let file = rusqlite::Connection::open(folder.db()).unwrap();
        let sound: String = file.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        let strays = "SELECT count(*) FROM peer_tags WHERE peer NOT IN (SELECT id FROM peers)";
        let strays: i64 = file.query_row(strays, [], |row| row.get(0)).unwrap();
        assert_eq!((sound.as_str(), strays), ("ok", 0));
    }
    println!("{rounds} kills, {peers} peers kept, {unanswered} requests cut");
    assert!(peers > 0 && unanswered > 0, "{peers} peers, {unanswered} cut");
}

fn number() -> u64 {
    RandomState::new().hash_one(())
}

fn key() -> String {
    let mut bytes = [0; 32];
    bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&number().to_le_bytes()));
    PublicKey(bytes).to_string()
}
