//! A network namespace of our own within the process: one thread lives in it and makes the sockets that belong there.
//! All other threads stay in the host's.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::SocketType;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::link::{LinkError, raise_loopback};
use crate::sockets::{self, Family};

/// TCP sockets of a family kept ready once one was asked for: a burst of connects takes them without a thread switch.
const STOCK: usize = 32;
/// More are made when no more than this many are left.
const LOW: usize = STOCK / 2;

type Work = Box<dyn FnOnce() + Send>;

/// A network namespace and the thread that lives in it. What was made there lives on for as long as it is open; the
/// thread ends when this is dropped.
#[derive(Debug)]
pub struct Enclave {
    orders: Sender<Work>,
    v4: Arc<Stock>,
    v6: Arc<Stock>,
}

/// Why there is no network namespace of our own.
#[derive(Debug, thiserror::Error)]
pub enum EnclaveError {
    /// The process may not have one.
    #[error("a network namespace needs a user namespace (entered when the program starts) or CAP_SYS_ADMIN")]
    NotPermitted,
    /// There are as many as there may be.
    #[error("no more network namespaces are allowed: raise the sysctl user.max_net_namespaces")]
    Limit,
    /// The kernel has no such thing.
    #[error("this kernel has no network namespaces (CONFIG_NET_NS)")]
    Unsupported,
    /// It is there and cannot be used.
    #[error(transparent)]
    Loopback(#[from] LinkError),
    /// Its thread cannot be started, or anything else.
    #[error("cannot start the thread of the network namespace: {0}")]
    Other(io::Error),
}

impl From<Errno> for EnclaveError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::PERM => Self::NotPermitted,
            Errno::NOSPC => Self::Limit,
            Errno::INVAL | Errno::NOSYS => Self::Unsupported,
            error => Self::Other(error.into()),
        }
    }
}

impl Enclave {
    /// Starts a thread and gives it an empty network namespace with nothing but a loopback interface.
    ///
    /// # Errors
    /// Each says what is missing; the calling thread stays where it is in any case.
    pub fn start() -> Result<Arc<Self>, EnclaveError> {
        let (orders, queue) = channel();
        let (settled, arrival) = channel();
        std::thread::Builder::new()
            .name("enclave".into())
            .spawn(move || {
                let done = settle();
                let stays = done.is_ok();
                // Whoever started us waits for this and nothing else.
                let _ = settled.send(done);
                if stays {
                    serve(&queue);
                }
            })
            .map_err(EnclaveError::Other)?;
        arrival.recv().map_err(|_| EnclaveError::Other(gone()))??;
        Ok(Arc::new(Self { orders, v4: Stock::of(Family::V4), v6: Stock::of(Family::V6) }))
    }

    /// Does something on the thread of the namespace and waits for it. The work itself must not wait for such work.
    ///
    /// # Errors
    /// The work panicked.
    pub fn within<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let (done, reply) = channel();
        self.order(move || {
            // Nobody waits any more: nobody misses it.
            let _ = done.send(work());
        });
        reply.recv().map_err(|_| gone())
    }

    /// A TCP socket that does not block, from the stock if there is one.
    ///
    /// # Errors
    /// Descriptors or memory are short.
    pub(crate) fn tcp(&self, family: Family) -> io::Result<OwnedFd> {
        let stock = match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        match stock.take() {
            Some((socket, left)) => {
                if left == LOW {
                    let stock = Arc::clone(stock);
                    self.order(move || stock.fill());
                }
                Ok(socket)
            }
            None => {
                let stock = Arc::clone(stock);
                let asked = Arc::clone(&stock);
                let socket = self.within(move || asked.take_or_make())??;
                self.order(move || stock.fill());
                Ok(socket)
            }
        }
    }

    fn order(&self, work: impl FnOnce() + Send + 'static) {
        // The thread outlives us; if it does not, whoever waits for the work learns it by the missing reply.
        let _ = self.orders.send(Box::new(work));
    }
}

/// Leaves the host's network.
fn settle() -> Result<(), EnclaveError> {
    // SAFETY: CLONE_NEWNET concerns the namespace of this thread; no descriptor table is unshared.
    #[allow(unsafe_code, reason = "unsafe only for another of its flags")]
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(raise_loopback()?)
}

fn serve(queue: &Receiver<Work>) {
    for work in queue {
        // A panic has told of itself; the next who asks is served all the same.
        let _ = catch_unwind(AssertUnwindSafe(work));
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread of the network namespace did not answer")
}

/// TCP sockets of one family, ready to be used.
#[derive(Debug)]
struct Stock {
    family: Family,
    sockets: Mutex<Vec<OwnedFd>>,
}

impl Stock {
    fn of(family: Family) -> Arc<Self> {
        Arc::new(Self { family, sockets: Mutex::default() })
    }

    /// One of them, and how many are left.
    fn take(&self) -> Option<(OwnedFd, usize)> {
        let mut sockets = self.sockets.lock();
        let socket = sockets.pop()?;
        Some((socket, sockets.len()))
    }

    /// One of them, or a new one. Asked where they are made: the stock may have been filled since it was found empty,
    /// perhaps with the last descriptors there were.
    fn take_or_make(&self) -> Result<OwnedFd, Errno> {
        match self.take() {
            Some((socket, _)) => Ok(socket),
            None => sockets::new(self.family, SocketType::STREAM),
        }
    }

    /// Makes what is missing. Short of descriptors it stops: whoever finds the stock empty asks, and hears of it.
    fn fill(&self) {
        while self.sockets.lock().len() < STOCK {
            match sockets::new(self.family, SocketType::STREAM) {
                Ok(socket) => self.sockets.lock().push(socket),
                Err(_) => break,
            }
        }
    }
}
