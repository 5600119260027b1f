//! The connection log: one JSON line per connection, one per refused client up to a rate.
//!
//! Lines are formatted into a buffer of the core and written by a thread of their own, so that a slow disk or a full
//! pipe never holds up a client. When the writer cannot keep up, lines are dropped and counted.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use edgeproxy_route::{ClientAddr, Country};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use serde::{Serialize, Serializer};

use crate::close::{Close, Refusal};
use crate::record::Record;

/// A core's buffer is handed to the writer at this size…
const FLUSH_BYTES: usize = 256 * 1024;
/// …or this long after its first line, whichever comes first.
const FLUSH_AFTER: Duration = Duration::from_millis(50);
/// Buffers that may wait for the writer: 16 MiB of lines.
const WAITING_BUFFERS: usize = 64;
/// How long the last lines may take at the end…
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// …and how often it is looked whether they are written.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Where lines go.
pub struct ConnectionLog {
    writer: Option<SyncSender<Vec<u8>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    pop: String,
    refusals_per_second: u64,
    /// Second (high 32 bits) and refusals logged in it (low 32).
    refusals: AtomicU64,
    suppressed: AtomicU64,
    dropped: Counter,
}

#[derive(Serialize)]
struct ConnectionLine<'a> {
    #[serde(serialize_with = "timestamp")]
    ts: SystemTime,
    event: &'static str,
    #[serde(serialize_with = "display")]
    id: Id<'a>,
    pop: &'a str,
    listener: &'a str,
    app: &'a str,
    #[serde(serialize_with = "display")]
    client: ClientAddr,
    via: Option<&'a SocketAddr>,
    country: Option<Country>,
    backend: &'a str,
    backend_addr: SocketAddr,
    region: &'a str,
    band: u8,
    score: f32,
    affinity: bool,
    attempts: u8,
    queue_ms: f64,
    connect_ms: f64,
    bytes_in: u64,
    bytes_out: u64,
    duration_ms: f64,
    close: &'static str,
}

#[derive(Serialize)]
struct RefusalLine<'a> {
    #[serde(serialize_with = "timestamp")]
    ts: SystemTime,
    event: &'static str,
    pop: &'a str,
    listener: &'a str,
    #[serde(serialize_with = "display")]
    client: ClientAddr,
    via: Option<SocketAddr>,
    country: Option<Country>,
    reason: &'static str,
    attempts: u8,
    queue_ms: f64,
    duration_ms: f64,
    /// Refusals that were counted but not logged since the line before.
    suppressed: u64,
}

/// What is known of a refused client.
pub(crate) struct Refused<'a> {
    pub(crate) listener: &'a str,
    pub(crate) client: ClientAddr,
    pub(crate) via: Option<SocketAddr>,
    pub(crate) country: Option<Country>,
    pub(crate) reason: Refusal,
    pub(crate) attempts: u8,
    pub(crate) queued: Duration,
    pub(crate) arrived: Instant,
}

impl<'a> Refused<'a> {
    /// A client turned away before anything was learnt of it.
    pub(crate) fn at_accept(listener: &'a str, peer: SocketAddr, reason: Refusal, arrived: Instant) -> Self {
        let client = ClientAddr::new(peer);
        Self { listener, client, via: None, country: None, reason, attempts: 0, queued: Duration::ZERO, arrived }
    }

    /// A client turned away after a backend was reached.
    pub(crate) fn late(record: &'a Record, reason: Refusal) -> Self {
        Self {
            listener: &record.listener.name,
            client: record.client,
            via: record.via.as_deref().copied(),
            country: record.country,
            reason,
            attempts: record.attempts,
            queued: Duration::from_micros(record.queue_us.into()),
            arrived: record.started,
        }
    }
}

/// The lines of a core that the writer has not got yet.
#[derive(Default)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
    /// When the first of them was written.
    since: Option<Instant>,
}

impl Lines {
    /// When they should be handed over at the latest.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + FLUSH_AFTER)
    }
}

impl ConnectionLog {
    /// Starts the writer; `None` as output: no log. At most `refusals_per_second` refusals are logged.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start(
        output: Option<Box<dyn Write + Send>>,
        pop: &str,
        refusals_per_second: u64,
        metrics: &crate::Metrics,
    ) -> std::io::Result<Self> {
        let (writer, thread) = match output {
            Some(output) => {
                let (sender, receiver) = sync_channel(WAITING_BUFFERS);
                let thread = std::thread::Builder::new().name("connection-log".to_owned());
                (
                    Some(sender),
                    Some(thread.spawn({
                        let lost = metrics.log_dropped.clone();
                        move || write_out(receiver, output, &lost)
                    })?),
                )
            }
            None => (None, None),
        };
        Ok(Self {
            writer,
            thread: Mutex::new(thread),
            pop: pop.to_owned(),
            refusals_per_second,
            refusals: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
            dropped: metrics.log_dropped.clone(),
        })
    }

    pub(crate) fn closed(&self, lines: &mut Lines, record: &Record, (bytes_in, bytes_out): (u64, u64), close: Close) {
        if self.writer.is_none() {
            return;
        }
        self.line(
            lines,
            &ConnectionLine {
                ts: SystemTime::now(),
                event: "connection",
                id: Id { pop: &self.pop, number: record.id },
                pop: &self.pop,
                listener: &record.listener.name,
                app: &record.backend.app,
                client: record.client,
                via: record.via.as_deref(),
                country: record.country,
                backend: &record.backend.id,
                backend_addr: record.backend.addr.0,
                region: &record.backend.region,
                band: record.band,
                score: record.score,
                affinity: record.affine,
                attempts: record.attempts,
                queue_ms: f64::from(record.queue_us) / 1000.0,
                connect_ms: f64::from(record.connect_us) / 1000.0,
                bytes_in,
                bytes_out,
                duration_ms: millis(record.started.elapsed()),
                close: close.word(),
            },
        );
    }

    pub(crate) fn refused(&self, lines: &mut Lines, refused: &Refused<'_>) {
        if self.writer.is_none() || !self.may_log_refusal() {
            return;
        }
        self.line(
            lines,
            &RefusalLine {
                ts: SystemTime::now(),
                event: "refused",
                pop: &self.pop,
                listener: refused.listener,
                client: refused.client,
                via: refused.via,
                country: refused.country,
                reason: refused.reason.word(),
                attempts: refused.attempts,
                queue_ms: millis(refused.queued),
                duration_ms: millis(refused.arrived.elapsed()),
                suppressed: self.suppressed.swap(0, Relaxed),
            },
        );
    }

    fn may_log_refusal(&self) -> bool {
        let second = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let second = second & u64::from(u32::MAX);
        let logged = self.refusals.fetch_update(Relaxed, Relaxed, |state| {
            let (at, count) = (state >> 32, state & u64::from(u32::MAX));
            match () {
                () if at != second => Some(second << 32 | 1),
                () if count < self.refusals_per_second => Some(state + 1),
                () => None,
            }
        });
        if logged.is_err() || self.refusals_per_second == 0 {
            self.suppressed.fetch_add(1, Relaxed);
            return false;
        }
        true
    }

    fn line(&self, lines: &mut Lines, line: &impl Serialize) {
        let before = lines.bytes.len();
        match serde_json::to_writer(&mut lines.bytes, line) {
            Ok(()) => lines.bytes.push(b'\n'),
            Err(_) => lines.bytes.truncate(before),
        }
        lines.since.get_or_insert_with(Instant::now);
        if lines.bytes.len() >= FLUSH_BYTES {
            self.flush(lines);
        }
    }

    /// Waits until everything handed over is written, or until it is clear that nobody reads it. Nothing may be logged
    /// afterwards.
    pub(crate) fn close(&self) {
        let (Some(writer), Some(thread)) = (&self.writer, self.thread.lock().take()) else { return };
        let until = Instant::now() + CLOSE_WITHIN;
        // An empty buffer is the end. There is no room for it while the writer is stuck.
        while let Err(TrySendError::Full(_)) = writer.try_send(Vec::new())
            && Instant::now() < until
        {
            std::thread::sleep(LOOK_EVERY);
        }
        while !thread.is_finished() {
            if Instant::now() >= until {
                tracing::error!("nobody reads the connection log; its last lines are lost");
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Hands the lines to the writer.
    pub(crate) fn flush(&self, lines: &mut Lines) {
        let Lines { bytes, .. } = std::mem::take(lines);
        let Some(writer) = self.writer.as_ref().filter(|_| !bytes.is_empty()) else { return };
        if let Err(refused) = writer.try_send(bytes) {
            let (TrySendError::Full(lost) | TrySendError::Disconnected(lost)) = refused;
            self.dropped.inc_by(lines_in(&lost));
        }
    }
}

fn write_out(lines: Receiver<Vec<u8>>, mut output: Box<dyn Write + Send>, lost: &Counter) {
    let mut failing = false;
    for buffer in lines {
        if buffer.is_empty() {
            return;
        }
        let written = output.write_all(&buffer).and_then(|()| output.flush());
        match written {
            Ok(()) => failing = false,
            Err(error) => {
                if !failing {
                    tracing::error!(%error, "connection log cannot be written");
                }
                failing = true;
                lost.inc_by(lines_in(&buffer));
            }
        }
    }
}

fn lines_in(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

struct Id<'a> {
    pop: &'a str,
    number: u64,
}

impl std::fmt::Display for Id<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{:x}", self.pop, self.number)
    }
}

fn display<S: Serializer>(value: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn timestamp<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*at))
}

/// Whole microseconds as ms: what a clock reading is good for.
fn millis(duration: Duration) -> f64 {
    let micros = u32::try_from(duration.as_micros());
    micros.map_or_else(|_| (duration.as_secs_f64() * 1000.0).round(), |micros| f64::from(micros) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe that nobody reads.
    struct Stuck;

    impl Write for Stuck {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            loop {
                std::thread::park();
            }
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_that_nobody_reads_does_not_keep_the_process_from_ending() {
        let metrics = crate::Metrics::register(&mut prometheus_client::registry::Registry::default());
        let log = ConnectionLog::start(Some(Box::new(Stuck)), "fra", 10, &metrics).unwrap();
        for _ in 0..WAITING_BUFFERS + 10 {
            let mut lines = Lines { bytes: b"line\n".to_vec(), since: None };
            log.flush(&mut lines);
        }
        assert!(metrics.log_dropped.get() > 0, "what cannot wait is dropped and counted");
        log.close();
    }
}
