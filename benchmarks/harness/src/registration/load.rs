//! What is asked of a gateway, and how long that takes.

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use base64ct::{Base64, Base64UrlUnpadded, Encoding};

use super::http::Http;
use crate::failure::{Context, Failure};
use crate::site::ADMIN;

/// Peers of one request when it is only about having them.
const BATCH: usize = 1000;

/// A public key; all 32 bytes are one.
#[derive(Clone, Copy)]
pub(super) struct Key(pub(super) [u8; 32]);

impl Key {
    fn body(&self) -> String {
        format!("{{\"public_key\":\"{}\"}}", Base64::encode_string(&self.0))
    }

    fn path(&self) -> String {
        // With its last sign, as a key is written everywhere.
        format!("/api/v1/peers/{}=", Base64UrlUnpadded::encode_string(&self.0))
    }
}

pub(super) fn keys(count: usize) -> Result<Vec<Key>, Failure> {
    let mut bytes = vec![0; count * 32];
    File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes)).context("no random bytes")?;
    Ok(bytes.as_chunks().0.iter().map(|bytes| Key(*bytes)).collect())
}

/// Adds peers until there are so many, as fast as that goes.
pub(super) fn fill(count: usize) -> Result<(), Failure> {
    let mut http = Http::connect(ADMIN)?;
    for batch in keys(count)?.chunks(BATCH) {
        let peers: Vec<_> = batch.iter().map(Key::body).collect();
        http.post("/api/v1/peers:batch", &format!("{{\"peers\":[{}]}}", peers.join(",")))?.done()?;
    }
    Ok(())
}

/// How long each took, ascending, in nanoseconds.
pub(super) type Times = Vec<u64>;

/// One after the other over one connection.
pub(super) struct Steps {
    pub(super) create: Times,
    pub(super) show: Times,
    pub(super) list: Times,
    pub(super) delete: Times,
}

/// Creates so many, looks at each, and deletes them again.
pub(super) fn step_by_step(count: usize, pages: usize) -> Result<Steps, Failure> {
    let mut http = Http::connect(ADMIN)?;
    let keys = keys(count)?;
    let mut each = |work: &mut dyn FnMut(&mut Http, &Key) -> Result<(), Failure>| -> Result<Times, Failure> {
        let mut times = Times::with_capacity(keys.len());
        for key in &keys {
            let began = Instant::now();
            work(&mut http, key)?;
            times.push(nanos(began.elapsed()));
        }
        times.sort_unstable();
        Ok(times)
    };
    let create = each(&mut |http, key| http.post("/api/v1/peers", &key.body())?.done().map(|_| ()))?;
    let show = each(&mut |http, key| http.get(&key.path())?.done().map(|_| ()))?;
    let delete = each(&mut |http, key| http.delete(&key.path())?.done().map(|_| ()))?;
    let mut list = Times::new();
    for _ in 0..pages {
        let began = Instant::now();
        http.get("/api/v1/peers?limit=100")?.done()?;
        list.push(nanos(began.elapsed()));
    }
    list.sort_unstable();
    Ok(Steps { create, show, list, delete })
}

/// By several at once.
pub(super) struct Crowd {
    pub(super) creates_per_s: f64,
    pub(super) create: Times,
    pub(super) deletes_per_s: f64,
}

pub(super) fn crowd(clients: usize, each: usize) -> Result<Crowd, Failure> {
    let keys = keys(clients * each)?;
    let at_once = |work: fn(&mut Http, &Key) -> Result<(), Failure>| -> Result<(Times, Duration), Failure> {
        let began = Instant::now();
        let results: Vec<Result<Times, Failure>> = std::thread::scope(|scope| {
            let share = |keys| {
                scope.spawn(move || {
                    let mut http = Http::connect(ADMIN)?;
                    let mut times = Times::with_capacity(each);
                    for key in keys {
                        let began = Instant::now();
                        work(&mut http, key)?;
                        times.push(nanos(began.elapsed()));
                    }
                    Ok(times)
                })
            };
            let threads: Vec<_> = keys.chunks(each).map(share).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|_| Err(Failure::new("a thread panicked")))
            };
            threads.into_iter().map(join).collect()
        });
        let took = began.elapsed();
        let mut times: Times = results.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
        times.sort_unstable();
        Ok((times, took))
    };
    let per_second = |took: Duration| keys.len() as f64 / took.as_secs_f64();
    let (create, took) = at_once(|http, key| http.post("/api/v1/peers", &key.body())?.done().map(|_| ()))?;
    let creates_per_s = per_second(took);
    let (_, took) = at_once(|http, key| http.delete(&key.path())?.done().map(|_| ()))?;
    Ok(Crowd { creates_per_s, create, deletes_per_s: per_second(took) })
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
