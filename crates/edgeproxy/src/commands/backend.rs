//! `edgeproxy backend`: the regional service, told by environment variables alone.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use edgeproxy_bench::Turns;
use edgeproxy_bench::service::{self, Connections, Service, Settings};
use edgeproxy_bench::storage::Uploads;
use edgeproxy_overlay::{Acceptor, ListenSettings, Overlay, OverlayError, Sockets, Way};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};

use super::{BAD_USAGE, say, variable};
use crate::reach::{self, Ways};
use crate::{overlay, process, telemetry};

/// Names the level of the log.
const LOG: &str = "EDGEPROXY_LOG";
/// How TCP inside the overlay is to be had.
const OVERLAY_MODE: &str = "EDGEPROXY_OVERLAY_MODE";
/// Connections that wait to be accepted.
const BACKLOG: u32 = 128;
/// Pause after an accept that failed, as it does when descriptors run out.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);
/// How long an upload that is cut off may take to leave the store: as long as rows may take to leave the database, at the
/// same time.
const UPLOADS_SETTLE: Duration = Duration::from_secs(4);

/// Runs the service of a region: measures its database over HTTP when it is asked to
///
/// Has no flags, as platforms tell by environment variables: FLY_REGION, FLY_ALLOC_ID, PORT; DB_HOST, DB_PORT, DB_USER,
/// DB_PASSWORD, DB_NAME, DB_SSLMODE for the database that is measured, without DB_HOST none is; DATABASE_URL and
/// PRIMARY_REGION for the one that `/` asks; EDGEPROXY_OVERLAY, a wg-quick file or a folder with one for each region, for
/// the way there; AWS_ENDPOINT_URL_S3, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and S3_BUCKET or BUCKET_NAME
/// for the object store that uploads go to, EDGEPROXY_STORAGE_TOKEN for who may ask for them; EDGEPROXY_STATUS,
/// EDGEPROXY_LOG. An overlay that cannot be had is told, and the rest runs without.
#[derive(Args)]
pub(crate) struct Backend {}

impl Backend {
    /// Runs until it is told to stop.
    pub(crate) fn run(self) -> ExitCode {
        let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let mode = overlay::mode(text(OVERLAY_MODE).as_deref().unwrap_or("auto"))
            .map_err(|mistake| format!("{OVERLAY_MODE} {mistake}"));
        let (settings, mode) = match (Settings::read(text, host.trim()), mode) {
            (Ok(settings), Ok(mode)) => (settings, mode),
            (settings, mode) => {
                let mistakes = settings.err().unwrap_or_default().into_iter().chain(mode.err());
                mistakes.for_each(|mistake| say::mistake(format_args!("edgeproxy: {mistake}")));
                return ExitCode::from(BAD_USAGE);
            }
        };
        let way = settings.overlay.is_some().then(|| Way::find(mode));
        telemetry::start_log(&telemetry::of_level(text(LOG).unwrap_or_else(|| "info".to_owned())));
        if settings.overlay.is_some() {
            process::keep_memory_private();
        }
        let served = runtime().and_then(|runtime| {
            let served = runtime.block_on(serve(settings, way));
            // Nobody waits for a look-up of a name that nobody wants any more.
            runtime.shutdown_background();
            served
        });
        match served {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => {
                tracing::error!("{message}");
                ExitCode::FAILURE
            }
        }
    }
}

/// One thread: a request that is measured must not share it with others, and there is one at a time.
fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| format!("cannot start: {error}"))
}

async fn serve(settings: Settings, way: Option<Result<Way, OverlayError>>) -> Result<(), String> {
    let signals = |error: io::Error| format!("cannot receive signals: {error}");
    let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
    process::raise_descriptor_limit();
    let port = settings.port;
    let listener =
        listen(port).map_err(|error| format!("cannot listen on port {port}: {error}; choose another by PORT"))?;
    let port = listener.local_addr().map_err(|error| error.to_string())?.port();
    let inside = settings.overlay.as_deref().zip(way).and_then(|(path, way)| bring_up(path, &settings.region, way));
    let (region, instance) = (settings.region.clone(), settings.instance.clone());
    let turns = Turns::new();
    let service = Service::start(settings, Arc::new(Ways::new(inside.clone())), turns.clone());
    let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
    let uploads = Uploads::from_environment(text, turns);
    let connections = Connections::new(service.router().merge(uploads.router()));
    if let Some(overlay) = &inside {
        listen_inside(overlay, port, &connections);
    }
    tokio::spawn(service::serve(listener, connections));
    tracing::info!(region, port, instance, "backend running");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Ends the run that goes on and removes its rows, or its upload; whoever asked for it may not hear of it any more.
    tokio::join!(service.settle(), uploads.settle(UPLOADS_SETTLE));
    tracing::info!("backend stopped");
    Ok(())
}

/// On all addresses: of both versions of IP where there are both.
fn listen(port: u16) -> io::Result<TcpListener> {
    let bind = |socket: TcpSocket, address: SocketAddr| {
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match TcpSocket::new_v6().and_then(|socket| bind(socket, any)) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            bind(TcpSocket::new_v4()?, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        }
        bound => bound,
    }
}

fn bring_up(path: &Path, region: &str, way: Result<Way, OverlayError>) -> Option<Arc<Overlay>> {
    match overlay::start_spoke(path, region, way) {
        Ok(overlay) => Some(Arc::new(overlay)),
        Err(problems) => {
            problems.iter().for_each(|problem| tracing::error!("no overlay: {problem}"));
            None
        }
    }
}

/// On the addresses inside as well, where those are not the host's.
fn listen_inside(overlay: &Overlay, port: u16, connections: &Connections) {
    if matches!(overlay.sockets, Sockets::Host) {
        return;
    }
    for own in &overlay.addresses {
        let address = SocketAddr::new(own.addr(), port);
        match overlay.sockets.listen(&ListenSettings::at(address)) {
            Ok((address, acceptors)) => {
                for acceptor in acceptors {
                    tokio::spawn(take_in(acceptor, connections.clone()));
                }
                tracing::info!(%address, "listening inside the overlay");
            }
            Err(error) => tracing::error!(%address, %error, "not listening inside the overlay"),
        }
    }
}

async fn take_in(acceptor: Acceptor, connections: Connections) {
    // SAFETY: the acceptor is what the descriptor belongs to. It never gives another, and is closed with its owner alone.
    #[allow(unsafe_code, reason = "the runtime is given a descriptor")]
    let registered = unsafe { AsyncFd::register_with_interest(Door(acceptor), Interest::READABLE) };
    let door = match registered {
        Ok(door) => door,
        Err(error) => return tracing::error!(%error, "not listening inside the overlay"),
    };
    loop {
        let room = connections.room().await;
        match next(&door).await {
            Ok(stream) => connections.take(stream, room),
            Err(error) => {
                tracing::warn!(%error, "cannot accept inside the overlay; pausing");
                tokio::time::sleep(SHORTAGE_PAUSE).await;
            }
        }
    }
}

async fn next(door: &AsyncFd<Door>) -> io::Result<Box<dyn edgeproxy_postgres::Bytes>> {
    loop {
        let mut ready = door.readable().await?;
        match door.get_ref().0.accept() {
            Ok((stream, _)) => return reach::taken(stream),
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(error) => return Err(error.into()),
        }
    }
}

/// An acceptor as the runtime takes it.
struct Door(Acceptor);

impl AsRawFd for Door {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
