//! An object store that keeps sizes and forgets bytes, and that fails as it is told.
//!
//! It speaks as much S3 as uploads need: multipart, single objects, lists, deletions. Every connection has a thread that
//! reads into one buffer, so that it costs as little as a receiver can.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

mod exchange;

/// What a request is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    /// A multipart upload begins.
    Create,
    /// A part.
    Part,
    /// Parts become an object.
    Complete,
    /// A multipart upload is given up.
    Abort,
    /// An object in one request.
    Put,
    /// An object is deleted.
    Delete,
    /// Size of an object.
    Head,
    /// Multipart uploads, or objects, are listed.
    List,
    /// An object is read: it has as many zeros as it had bytes.
    Get,
}

/// How a request fails.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// This status and error code, once the body was read.
    Status(u16, &'static str),
    /// The same before any of the body was read; then the connection ends.
    EarlyStatus(u16, &'static str),
    /// Status 200 with an error document.
    ErrorInSuccess(&'static str),
    /// A reset after so many bytes of the body.
    Reset(u64),
    /// After so many bytes of the body nothing more is read or said.
    Stall(u64),
    /// The answer comes byte by byte, one in this time.
    Dribble(Duration),
    /// The body is read at so many bytes per second.
    Slow(u64),
    /// Success, without the ETag of what came.
    Untagged,
    /// An answer that is not HTTP.
    Rubbish,
}

/// A store of one bucket, whatever name it is given, on a port of its own.
pub struct Bucket {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: TcpListener,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stopping: AtomicBool,
    received: AtomicU64,
    connections: AtomicU64,
    next: AtomicU64,
    open: Mutex<HashMap<u64, TcpStream>>,
    uploads: Mutex<BTreeMap<String, Upload>>,
    objects: Mutex<BTreeMap<String, Object>>,
    faults: Mutex<Vec<(Operation, u32, Fault)>>,
    requests: Mutex<Vec<(Operation, String)>>,
    /// When the first byte of a body came, and when the last object was complete.
    span: Mutex<(Option<Instant>, Option<Instant>)>,
}

struct Upload {
    key: String,
    parts: BTreeMap<u32, u64>,
    initiated: String,
}

struct Object {
    bytes: u64,
    modified: String,
}

/// When things here are made, unless the test says otherwise.
const NOW: &str = "2999-01-01T00:00:00.000Z";

impl Bucket {
    /// Begins to listen on loopback, on any free port.
    ///
    /// # Errors
    ///
    /// Whatever `bind` says.
    pub fn start() -> io::Result<Self> {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// Begins to listen at `address`.
    ///
    /// # Errors
    ///
    /// Whatever `bind` says.
    pub fn start_at(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let accepting = std::thread::spawn({
            let (listener, shared) = (listener.try_clone()?, shared.clone());
            move || accept(&listener, &shared)
        });
        Ok(Self { address, shared, listener, accepting: Some(accepting) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next `times` requests of this kind fail like this; what was said first comes first.
    pub fn fail(&self, operation: Operation, times: u32, fault: Fault) {
        self.shared.faults.lock().push((operation, times, fault));
    }

    /// Nothing fails from now on.
    pub fn heal(&self) {
        self.shared.faults.lock().clear();
    }

    /// Keys of the uploads that were begun and neither completed nor aborted.
    #[must_use]
    pub fn uploads(&self) -> Vec<String> {
        self.shared.uploads.lock().values().map(|upload| upload.key.clone()).collect()
    }

    /// Keys of the objects, and their sizes.
    #[must_use]
    pub fn objects(&self) -> Vec<(String, u64)> {
        self.shared.objects.lock().iter().map(|(key, object)| (key.clone(), object.bytes)).collect()
    }

    /// Puts an object there that was made at `modified`.
    pub fn leave_object(&self, key: &str, modified: &str) {
        self.shared.objects.lock().insert(key.to_owned(), Object { bytes: 1, modified: modified.to_owned() });
    }

    /// Puts an upload there that was begun at `initiated`.
    pub fn leave_upload(&self, key: &str, initiated: &str) {
        let upload = Upload { key: key.to_owned(), parts: BTreeMap::new(), initiated: initiated.to_owned() };
        let id = format!("left-{}", self.shared.next.fetch_add(1, Ordering::Relaxed));
        self.shared.uploads.lock().insert(id, upload);
    }

    /// Bytes of bodies that came.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// From the first byte of a body to the last object that was complete, since this was last asked.
    pub fn take_span(&self) -> Option<Duration> {
        let (first, last) = std::mem::take(&mut *self.shared.span.lock());
        Some(last?.saturating_duration_since(first?))
    }

    /// Connections that were accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How many requests of this kind came.
    #[must_use]
    pub fn count(&self, operation: Operation) -> usize {
        self.shared.requests.lock().iter().filter(|(kind, _)| *kind == operation).count()
    }

    /// Heads of the requests of this kind, as they came.
    #[must_use]
    pub fn heads(&self, operation: Operation) -> Vec<String> {
        let requests = self.shared.requests.lock();
        requests.iter().filter(|(kind, _)| *kind == operation).map(|(_, head)| head.clone()).collect()
    }

    /// Ends every connection in the middle of what it does; new ones are taken.
    pub fn cut(&self) {
        for (_, stream) in self.shared.open.lock().drain() {
            // A reset, and not an end that could be taken for one.
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        // Wakes the thread that accepts, in whatever namespace it is.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        self.cut();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for number in 0.. {
        let accepted = listener.accept();
        if shared.stopping.load(Ordering::Acquire) {
            return;
        }
        let Ok((stream, _)) = accepted else { continue };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let Ok(other) = stream.try_clone() else { continue };
        shared.open.lock().insert(number, other);
        let shared = shared.clone();
        std::thread::spawn(move || {
            // The client may go at any time.
            let _ = exchange::serve(stream, &shared);
            shared.open.lock().remove(&number);
        });
    }
}
