//! What a process writes, line by line, as it comes.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;

use crate::deadline::within;

/// Lines told when one that was waited for does not come.
const TOLD: usize = 25;

/// All lines so far of one stream of a process.
#[derive(Clone, Debug)]
pub struct Lines(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    name: &'static str,
    lines: Mutex<Vec<String>>,
    ended: AtomicBool,
    news: Notify,
}

impl Lines {
    /// Reads to the end of the stream, on a thread of its own.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn of(name: &'static str, stream: impl Read + Send + 'static) -> io::Result<Self> {
        let shared =
            Arc::new(Shared { name, lines: Mutex::default(), ended: AtomicBool::new(false), news: Notify::new() });
        let ours = Arc::clone(&shared);
        std::thread::Builder::new().name(format!("read-{name}")).spawn(move || {
            for line in BufReader::new(stream).lines() {
                let Ok(line) = line else { break };
                ours.lines.lock().push(line);
                ours.news.notify_waiters();
            }
            ours.ended.store(true, Release);
            ours.news.notify_waiters();
        })?;
        Ok(Self(shared))
    }

    /// Every line so far.
    pub fn all(&self) -> Vec<String> {
        self.0.lines.lock().clone()
    }

    /// Every line so far that is JSON.
    pub fn all_json(&self) -> Vec<Value> {
        self.0.lines.lock().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Whether some line holds this text.
    pub fn holds(&self, text: &str) -> bool {
        self.0.lines.lock().iter().any(|line| line.contains(text))
    }

    /// The first JSON line that `matches`, whether it is there already or still to come.
    ///
    /// # Errors
    /// It does not come in time; the error tells the last lines that did.
    pub async fn wait_for(&self, what: &str, limit: Duration, matches: impl Fn(&Value) -> bool) -> io::Result<Value> {
        let look = |line: &String| serde_json::from_str(line).ok().filter(&matches);
        let mut seen = 0;
        let found = within(what, limit, async {
            loop {
                let news = self.0.news.notified();
                let found = {
                    let lines = self.0.lines.lock();
                    let found = lines[seen..].iter().find_map(look);
                    seen = lines.len();
                    found
                };
                match found {
                    Some(found) => return Ok(found),
                    None => news.await,
                }
            }
        });
        found.await.map_err(|error| io::Error::new(error.kind(), format!("{error}; {}", self.tail())))
    }

    /// Waits until all has been read, to the end of the stream.
    ///
    /// # Errors
    /// It does not end in time.
    pub async fn ended(&self, what: &str, limit: Duration) -> io::Result<()> {
        within(what, limit, async {
            loop {
                let news = self.0.news.notified();
                if self.0.ended.load(Acquire) {
                    return Ok(());
                }
                news.await;
            }
        })
        .await
    }

    /// The last lines, for messages.
    pub fn tail(&self) -> String {
        let lines = self.0.lines.lock();
        let from = lines.len().saturating_sub(TOLD);
        format!("{} ends with:\n{}", self.0.name, lines[from..].join("\n"))
    }
}
