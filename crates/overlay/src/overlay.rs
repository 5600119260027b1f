//! An overlay whole: who does WireGuard, the interface above it, and the way to sockets inside.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use edgeproxy_tunnel::Prefix;
use ipnet::IpNet;
use rustix::thread::CapabilitySet;

use crate::device::{AWAKE_MOST, Device, DeviceSettings};
use crate::directory::Directory;
use crate::enclave::{Enclave, EnclaveError};
use crate::engine::Engine;
use crate::kernel::{KernelDevice, KernelError};
use crate::link::{LinkError, LinkSettings, configure};
use crate::names::Names;
use crate::namespace::{UserNamespaceError, enter_user_namespace, renounce};
use crate::netstack::Netstack;
use crate::registry::PeerSettings;
use crate::sockets::Sockets;
use crate::tenants::Tenants;
use crate::tun::{Queue, Tun, TunError};
use crate::uapi::{self, Uapi};
use crate::wg_quick::{Endpoint, Host, PeerConfig, WgQuick};

/// Bytes of the longest packet where nobody says otherwise: what fits an Ethernet frame with both headers of IPv6.
const MTU: u16 = 1420;

/// How TCP inside the overlay is to be had.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Mode {
    /// By the first of the others that works.
    #[default]
    Auto,
    /// By an interface of this machine, which needs CAP_NET_ADMIN.
    Tun,
    /// By an interface in a network namespace of this process, which needs no privilege where user namespaces are allowed.
    UserNamespace,
    /// By a TCP stack in this process, which needs nothing at all; slower over far ways.
    Netstack,
    /// By the kernel's own WireGuard, which needs CAP_NET_ADMIN and is only had by asking for it.
    Kernel,
}

impl Mode {
    /// As configurations call it: auto, tun, userns, netstack, kernel.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "auto" => Some(Self::Auto),
            "tun" => Some(Self::Tun),
            "userns" => Some(Self::UserNamespace),
            "netstack" => Some(Self::Netstack),
            "kernel" => Some(Self::Kernel),
            _ => None,
        }
    }
}

/// The way that was found.
#[derive(Clone, Debug)]
pub struct Way {
    by: By,
    /// Why this one, in a sentence.
    pub reason: String,
}

/// Who does WireGuard.
#[derive(Clone, Debug)]
enum By {
    /// Threads of ours, below what is there.
    Us(Place),
    Kernel,
}

#[derive(Clone, Debug)]
enum Place {
    Host,
    Enclave(Arc<Enclave>),
    Netstack,
}

impl Way {
    /// Finds it, and takes the first step of it. Has to be called while the process has but one thread. Where that one
    /// enters a user namespace it keeps none of the capabilities it has there: only the thread of the network namespace
    /// has any, until the interface stands.
    ///
    /// # Errors
    /// The way that was asked for is closed.
    pub fn find(mode: Mode) -> Result<Self, OverlayError> {
        let configured = |by| Ok(Self { by, reason: "as configured".to_owned() });
        match mode {
            Mode::Tun => configured(By::Us(Place::Host)),
            Mode::UserNamespace => {
                enter_user_namespace()?;
                configured(By::Us(Place::Enclave(settle()?)))
            }
            Mode::Netstack => configured(By::Us(Place::Netstack)),
            Mode::Kernel => configured(By::Kernel),
            Mode::Auto => Ok(Self::best()),
        }
    }

    /// The first that is open. The last always is.
    fn best() -> Self {
        let tun = match Tun::open(None, 1) {
            Ok(_) => {
                return Self { by: By::Us(Place::Host), reason: "this process may have a TUN interface".to_owned() };
            }
            Err(error) => error,
        };
        match enter_user_namespace().map_err(OverlayError::from).and_then(|()| settle()) {
            Ok(enclave) => {
                Self { by: By::Us(Place::Enclave(enclave)), reason: format!("no interface of the host ({tun})") }
            }
            Err(error) => {
                let reason = format!("no interface of the host ({tun}), and none in a namespace ({error})");
                Self { by: By::Us(Place::Netstack), reason }
            }
        }
    }

    /// As the configuration calls it.
    pub fn mode(&self) -> &'static str {
        match &self.by {
            By::Us(Place::Host) => "tun",
            By::Us(Place::Enclave(_)) => "userns",
            By::Us(Place::Netstack) => "netstack",
            By::Kernel => "kernel",
        }
    }
}

/// The network namespace, whose thread alone keeps what this one is allowed there.
fn settle() -> Result<Arc<Enclave>, OverlayError> {
    let enclave = Enclave::start()?;
    renounce(CapabilitySet::empty())?;
    Ok(enclave)
}

/// Why there is no overlay.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// No user namespace.
    #[error(transparent)]
    UserNamespace(#[from] UserNamespaceError),
    /// No network namespace.
    #[error(transparent)]
    Enclave(#[from] EnclaveError),
    /// No interface.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The interface cannot be configured.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// No WireGuard of the kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// No UDP socket or thread below.
    #[error("cannot listen on UDP port {port}: {error}")]
    Below {
        /// The port that was asked for.
        port: u16,
        /// Why not.
        error: io::Error,
    },
    /// The thread of the namespace, or the names.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A capability that is not needed cannot be given up.
    #[error("cannot give up capabilities: {0}")]
    Capabilities(#[from] rustix::io::Errno),
}

/// What a wg-quick file does not say. The kernel's WireGuard heeds none of it.
#[derive(Debug, Default)]
pub struct OverlaySettings {
    /// Packets of one peer for another are passed on.
    pub forward: bool,
    /// Who has nothing to do with whom.
    pub tenants: Tenants,
    /// Threads that encrypt; 0: one per core.
    pub threads: usize,
    /// Who is registered beside the peers of the file, and how many of them are awake at most.
    pub directory: Option<(Arc<dyn Directory>, usize)>,
}

/// A running overlay. It ends when dropped.
pub struct Overlay {
    /// Who does WireGuard.
    pub engine: Arc<Engine>,
    /// Where sockets inside it come from.
    pub sockets: Sockets,
    /// How they are had, and why so.
    pub way: Way,
    /// The interface's name, in its namespace; "netstack" where a stack stands for one.
    pub interface: String,
    /// Our own addresses.
    pub addresses: Vec<IpNet>,
    /// Looks after endpoints that are names.
    _names: Names,
    /// Answers the `wg` tool.
    _uapi: Option<Uapi>,
}

impl Overlay {
    /// Brings it up as a wg-quick file says.
    ///
    /// # Errors
    /// What is missing, and what to do about it.
    pub fn start(config: &WgQuick, way: Way, settings: OverlaySettings) -> Result<Self, OverlayError> {
        let interface = &config.interface;
        let mtu = interface.mtu.unwrap_or(MTU);
        let addresses: Vec<IpNet> =
            interface.addresses.iter().filter_map(|(ip, length)| IpNet::new(*ip, *length).ok()).collect();
        let link = LinkSettings { addresses: addresses.clone(), mtu: mtu.into(), routes: routes(config, &way.by) };
        let (engine, sockets, name, uapi) = match &way.by {
            By::Kernel => {
                let peers: Vec<PeerSettings> = config.peers.iter().map(peer_settings).collect();
                let device = KernelDevice::start(&interface.private_key, interface.listen_port, &peers, &link)?;
                let name = device.name().to_owned();
                // The `wg` tool asks the kernel itself.
                (Engine::Kernel(Box::new(device)), Sockets::Host, name, None)
            }
            By::Us(place) => {
                let (device, sockets, name) = start_device(config, link, place, settings)?;
                // An ordinary user may not write there; all else works.
                let uapi = Uapi::start(&device, Path::new(uapi::DIRECTORY), &name)
                    .inspect_err(|error| tracing::info!(%error, "`wg show` and `wg set` will not work on this overlay"))
                    .ok();
                (Engine::Device(device), sockets, name, uapi)
            }
        };
        let engine = Arc::new(engine);
        let names = config.peers.iter().filter_map(|peer| match &peer.endpoint {
            Some(Endpoint { host: Host::Name(name), port }) => Some((peer.public_key, name.clone(), *port)),
            _ => None,
        });
        let names = Names::start(&engine, names.collect())?;
        Ok(Self { engine, sockets, way, interface: name, addresses, _names: names, _uapi: uapi })
    }

    /// Whether an address is our own inside it.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.addr() == address)
    }

    /// Whether an address is reached through it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.contains(&address)) || self.engine.has_route(address)
    }
}

/// Threads of this process, and the interface or the stack above them, with its name.
fn start_device(
    config: &WgQuick,
    link: LinkSettings,
    place: &Place,
    settings: OverlaySettings,
) -> Result<(Arc<Device>, Sockets, String), OverlayError> {
    let OverlaySettings { forward, tenants, threads, directory } = settings;
    let (directory, awake_most) = directory.unzip();
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let mtu = usize::try_from(link.mtu).unwrap_or(MTU.into());
    let addresses = link.addresses.iter().map(IpNet::addr).collect();
    let (sockets, name, queues) = match place {
        Place::Netstack => {
            let (netstack, queues) = Netstack::start(&link.addresses, mtu, threads)?;
            (Sockets::Netstack(netstack), "netstack".to_owned(), queues)
        }
        Place::Enclave(enclave) => {
            let (name, queues) = enclave.within(move || raise(&link, threads))??;
            enclave.within(disarm)??;
            (Sockets::Enclave(Arc::clone(enclave)), name, queues)
        }
        Place::Host => {
            let (name, queues) = raise(&link, threads)?;
            (Sockets::Host, name, queues)
        }
    };
    let port = config.interface.listen_port.unwrap_or(0);
    let private = config.interface.private_key.clone();
    let awake_most = awake_most.unwrap_or(AWAKE_MOST);
    let end = DeviceSettings::new(private, mtu, addresses);
    let settings = DeviceSettings { port, forward, tenants, directory, awake_most, ..end };
    let device = Device::start(settings, queues).map_err(|error| OverlayError::Below { port, error })?;
    for peer in &config.peers {
        device.set_peer(peer_settings(peer));
    }
    Ok((Arc::new(device), sockets, name))
}

/// An interface in the network namespace of the calling thread.
fn raise(link: &LinkSettings, queues: usize) -> Result<(String, Vec<Queue>), OverlayError> {
    let tun = Tun::open(None, queues)?;
    configure(tun.name(), link)?;
    Ok((tun.name().to_owned(), tun.into_queues()))
}

/// Takes from the thread of a network namespace what it needs no more once the interface stands. Services of the overlay
/// may have any port: that is made free for all there, and where it cannot be the thread keeps this one capability.
fn disarm() -> rustix::io::Result<()> {
    let free = std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0").is_ok();
    renounce(if free { CapabilitySet::empty() } else { CapabilitySet::NET_BIND_SERVICE })
}

/// What is routed into the interface. The host's default route stays where it is: to take it away from a machine that is
/// reached from outside is no small thing.
fn routes(config: &WgQuick, by: &By) -> Vec<IpNet> {
    let prefixes = config.peers.iter().flat_map(|peer| &peer.allowed_ips);
    let is_apart = matches!(by, By::Us(Place::Enclave(_) | Place::Netstack));
    let wanted = prefixes.filter(|prefix| is_apart || prefix.length() > 0);
    wanted.filter_map(|prefix| IpNet::new(prefix.address(), prefix.length()).ok()).collect()
}

/// What a file says of a peer, as the device takes it. An endpoint that is a name is looked up later.
pub(crate) fn peer_settings(peer: &PeerConfig) -> PeerSettings {
    let endpoint = peer.endpoint.as_ref().and_then(|endpoint| match endpoint.host {
        Host::Ip(ip) => Some(SocketAddr::new(ip, endpoint.port)),
        Host::Name(_) => None,
    });
    let allowed_ips: Vec<Prefix> = peer.allowed_ips.clone();
    PeerSettings {
        public: peer.public_key,
        preshared: peer.preshared_key.clone().unwrap_or_default(),
        endpoint,
        keepalive: peer.persistent_keepalive.map(|seconds| Duration::from_secs(seconds.get().into())),
        allowed_ips,
    }
}
