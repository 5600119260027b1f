//! The socket that `wg` looks for: who may connect, how many, and for how long.

use std::fs::{self, DirBuilder};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use slab::Slab;
use zeroize::Zeroizing;

use super::answer::{Gathered, write_device, write_end, write_peer};
use super::refusal::Refusal;
use super::request::{Request, RequestReader};
use crate::device::Device;

/// Where `wg` looks for sockets: `<interface>.sock`.
pub const DIRECTORY: &str = "/var/run/wireguard";
/// Connections at a time. One more is closed at once; each is a thread.
pub const CONNECTIONS_MOST: usize = 16;
/// A connection on which nothing moves for so long is closed.
pub const IDLE: Duration = Duration::from_secs(10);
/// A request and its answer take no longer, or the connection is closed: a client that reads or writes a byte now and then
/// does not stay for ever.
pub const OPERATION_WITHIN: Duration = Duration::from_secs(60);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;
/// How long nobody is accepted after descriptors were short.
const BACK_OFF: Duration = Duration::from_secs(1);
/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// Why `wg` cannot speak to a device.
#[derive(Debug, thiserror::Error)]
pub enum UapiError {
    /// The directory is not there and cannot be made.
    #[error("{}: cannot be made: {}", .0.display(), .1)]
    Directory(PathBuf, io::Error),
    /// Another process answers there.
    #[error("{}: another process serves this socket", .0.display())]
    Live(PathBuf),
    /// There is a file of another kind, which is left alone.
    #[error("{}: is there and not a socket; remove it", .0.display())]
    NoSocket(PathBuf),
    /// The socket cannot be made.
    #[error("{}: no socket can be made there: {}", .0.display(), .1)]
    Socket(PathBuf, io::Error),
    /// Threads or descriptors are short.
    #[error("cannot serve the configuration socket: {0}")]
    Thread(#[from] io::Error),
}

/// Answers `wg` until it is dropped, which takes the socket away.
pub struct Uapi {
    path: PathBuf,
    /// Device and number of the file: another's in its place is left alone.
    file: (u64, u64),
    clients: Arc<Clients>,
    door: Option<JoinHandle<()>>,
}

/// Who is connected.
struct Clients {
    device: Weak<Device>,
    open: Mutex<Slab<(UnixStream, JoinHandle<()>)>>,
    /// Readable once it is to end.
    stop: OwnedFd,
}

impl Uapi {
    /// Answers for this device at `<directory>/<interface>.sock`. A directory that is missing is made. A socket where nobody
    /// answers any more is replaced.
    ///
    /// # Errors
    /// What stands in the way; for an ordinary user that is usually the directory.
    pub fn start(device: &Arc<Device>, directory: &Path, interface: &str) -> Result<Self, UapiError> {
        if let Err(error) = DirBuilder::new().recursive(true).mode(0o755).create(directory) {
            return Err(UapiError::Directory(directory.to_owned(), error));
        }
        // Names of interfaces hold no slash.
        let path = directory.join(format!("{interface}.sock"));
        clear(&path)?;
        let (listener, file) = listen(&path).map_err(|error| UapiError::Socket(path.clone(), error))?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
        let clients = Arc::new(Clients { device: Arc::downgrade(device), open: Mutex::default(), stop });
        let mut uapi = Self { path, file, clients: Arc::clone(&clients), door: None };
        let thread = std::thread::Builder::new().name("wg-uapi".to_owned());
        uapi.door = Some(thread.spawn(move || {
            if let Err(error) = clients.accept_all(&listener) {
                tracing::error!(%error, "the configuration socket failed, `wg` cannot be answered any more");
            }
        })?);
        tracing::debug!(path = %uapi.path.display(), "`wg` is answered");
        Ok(uapi)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Uapi {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.file) {
            // Left behind at worst, and replaced by the next.
            let _ = fs::remove_file(&self.path);
        }
        // Fails only when the counter is full: then it is readable already.
        let _ = rustix::io::write(&self.clients.stop, &1_u64.to_ne_bytes());
        if let Some(door) = self.door.take() {
            // One that panicked has told of itself.
            let _ = door.join();
        }
        let open: Vec<_> = self.clients.open.lock().drain().collect();
        for (stream, thread) in open {
            let _ = stream.shutdown(Shutdown::Both);
            let _ = thread.join();
        }
    }
}

/// Takes away what is left of a process that is gone.
fn clear(path: &Path) -> Result<(), UapiError> {
    let failed = |error| UapiError::Socket(path.to_owned(), error);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(UapiError::NoSocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(UapiError::Live(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

fn listen(path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file takes the mode the socket has when it is bound: there is no moment at which others could connect.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    let file = fs::symlink_metadata(path)?;
    Ok((UnixListener::from(socket), (file.dev(), file.ino())))
}

impl Clients {
    /// Ends when it is told to.
    fn accept_all(self: &Arc<Self>, listener: &UnixListener) -> io::Result<()> {
        loop {
            if self.is_over(Some(listener), None)? {
                return Ok(());
            }
            match listener.accept() {
                Ok((stream, _)) => {
                    if let Err(error) = self.admit(stream) {
                        tracing::warn!(%error, "a client of the configuration socket is turned away");
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the configuration socket, trying again in 1 s");
                    if self.is_over(None, Some(BACK_OFF))? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Waits for somebody, for the end or for `time`. Returns whether it is the end.
    fn is_over(&self, listener: Option<&UnixListener>, time: Option<Duration>) -> io::Result<bool> {
        let watched = [Some(self.stop.as_fd()), listener.map(AsFd::as_fd)];
        let mut watched: Vec<_> = watched.iter().flatten().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        match poll(&mut watched, time.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(watched.first().is_some_and(|stop| !stop.revents().is_empty()))
    }

    fn admit(self: &Arc<Self>, stream: UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(IDLE))?;
        stream.set_write_timeout(Some(IDLE))?;
        let kept = stream.try_clone()?;
        // Held until the client is in it, as its thread takes it out.
        let mut open = self.open.lock();
        if open.len() == CONNECTIONS_MOST {
            return Err(io::Error::other("all connections are taken"));
        }
        let entry = open.vacant_entry();
        let (number, clients) = (entry.key(), Arc::clone(self));
        let thread = std::thread::Builder::new().name("wg-uapi-client".to_owned());
        let thread = thread.spawn(move || {
            if let Err(error) = serve(&stream, &clients.device) {
                tracing::debug!(%error, "a client of the configuration socket is gone");
            }
            clients.open.lock().try_remove(number);
        })?;
        entry.insert((kept, thread));
        Ok(())
    }
}

/// Does what a client asks until it hangs up.
fn serve(mut stream: &UnixStream, device: &Weak<Device>) -> io::Result<()> {
    let (mut reader, mut buffer) = (RequestReader::default(), Zeroizing::new(vec![0; CHUNK]));
    let mut until = None;
    loop {
        let count = stream.read(&mut buffer)?;
        let mut bytes = &buffer[..count];
        let deadline = *until.get_or_insert_with(|| Instant::now() + OPERATION_WITHIN);
        let mut out = Gathered::new(Within { stream, until: deadline });
        while let Some(request) = reader.read(&mut bytes) {
            let Some(device) = device.upgrade() else { return Ok(()) };
            match request {
                Ok(Request::Get) => {
                    write_device(&mut out, device.private().as_ref(), device.port(), device.mark())?;
                    device.each_peer().try_for_each(|peer| write_peer(&mut out, &peer))?;
                    write_end(&mut out, 0)?;
                }
                Ok(Request::Set(change)) => {
                    let peers = change.peers.len();
                    let errno = match device.apply(change) {
                        Ok(()) => {
                            tracing::debug!(peers, "the configuration is changed");
                            0
                        }
                        Err(error) => {
                            tracing::warn!(%error, "the configuration is not changed");
                            Refusal::from(&error).errno()
                        }
                    };
                    write_end(&mut out, errno)?;
                }
                Err(refusal) => {
                    tracing::warn!(%refusal, "a request to the configuration socket is refused");
                    write_end(&mut out, refusal.errno())?;
                    // Whoever does not speak this protocol is not answered line by line.
                    if refusal != Refusal::Invalid {
                        return Ok(());
                    }
                }
            }
        }
        if count == 0 {
            return if reader.is_within() { write_end(&mut out, Refusal::Protocol.errno()) } else { Ok(()) };
        }
        if !reader.is_within() {
            until = None;
        } else if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// A stream that is written to until then.
struct Within<'a> {
    stream: &'a UnixStream,
    until: Instant,
}

impl Write for Within<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if Instant::now() >= self.until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
