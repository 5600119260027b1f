//! An overlay whole: a device, the interface above it, and the way to sockets inside.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use edgeproxy_tunnel::{GateSettings, Prefix};
use ipnet::IpNet;

use crate::device::{AWAKE_MOST, Device, DeviceSettings};
use crate::directory::Directory;
use crate::enclave::{Enclave, EnclaveError};
use crate::link::{LinkError, LinkSettings, configure};
use crate::names::Names;
use crate::namespace::{UserNamespaceError, enter_user_namespace};
use crate::netstack::Netstack;
use crate::registry::PeerSettings;
use crate::sockets::Sockets;
use crate::tenants::Tenants;
use crate::tun::{Queue, Tun, TunError};
use crate::uapi::{self, Uapi};
use crate::wg_quick::{Host, PeerConfig, WgQuick};

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
}

/// The way that was found.
#[derive(Clone, Debug)]
pub struct Way {
    place: Place,
    /// Why this one, in a sentence.
    pub reason: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Host,
    Enclave,
    Netstack,
}

impl Way {
    /// Finds it, and takes the first step of it. Has to be called while the process has but one thread.
    ///
    /// # Errors
    /// The way that was asked for is closed.
    pub fn find(mode: Mode) -> Result<Self, OverlayError> {
        let configured = |place| Ok(Self { place, reason: "as configured".to_owned() });
        match mode {
            Mode::Tun => configured(Place::Host),
            Mode::UserNamespace => {
                enter_user_namespace()?;
                configured(Place::Enclave)
            }
            Mode::Netstack => configured(Place::Netstack),
            Mode::Auto => Ok(Self::best()),
        }
    }

    /// The first that is open. The last always is.
    fn best() -> Self {
        let tun = match Tun::open(None, 1) {
            Ok(_) => {
                return Self { place: Place::Host, reason: "this process may have a TUN interface".to_owned() };
            }
            Err(error) => error,
        };
        match enter_user_namespace() {
            Ok(()) => Self { place: Place::Enclave, reason: format!("no interface of the host ({tun})") },
            Err(error) => {
                let reason = format!("no interface of the host ({tun}), and none in a namespace ({error})");
                Self { place: Place::Netstack, reason }
            }
        }
    }

    /// As the configuration calls it.
    pub fn mode(&self) -> &'static str {
        match self.place {
            Place::Host => "tun",
            Place::Enclave => "userns",
            Place::Netstack => "netstack",
        }
    }
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
}

/// What a wg-quick file does not say.
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
    /// The WireGuard device.
    pub device: Arc<Device>,
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
        let OverlaySettings { forward, tenants, threads, directory } = settings;
        let (directory, awake_most) = directory.unzip();
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let interface = &config.interface;
        let mtu = interface.mtu.unwrap_or(MTU);
        let addresses: Vec<IpNet> =
            interface.addresses.iter().filter_map(|(ip, length)| IpNet::new(*ip, *length).ok()).collect();
        let link = LinkSettings { addresses: addresses.clone(), mtu: mtu.into(), routes: routes(config, way.place) };
        let (sockets, name, queues) = match way.place {
            Place::Host => {
                let (name, queues) = raise(&link, threads)?;
                (Sockets::Host, name, queues)
            }
            Place::Enclave => {
                let enclave = Enclave::start()?;
                let (name, queues) = enclave.within(move || raise(&link, threads))??;
                (Sockets::Enclave(enclave), name, queues)
            }
            Place::Netstack => {
                let (netstack, queues) = Netstack::start(&addresses, mtu.into(), threads)?;
                (Sockets::Netstack(netstack), "netstack".to_owned(), queues)
            }
        };
        let port = interface.listen_port.unwrap_or(0);
        let settings = DeviceSettings {
            private: interface.private_key.clone(),
            port,
            mtu: mtu.into(),
            addresses: addresses.iter().map(IpNet::addr).collect(),
            forward,
            tenants,
            gate: GateSettings::default(),
            directory,
            awake_most: awake_most.unwrap_or(AWAKE_MOST),
        };
        let device = Device::start(settings, queues).map_err(|error| OverlayError::Below { port, error })?;
        let device = Arc::new(device);
        let mut names = Vec::new();
        for peer in &config.peers {
            device.set_peer(peer_settings(peer));
            if let Some(endpoint) = &peer.endpoint
                && let Host::Name(name) = &endpoint.host
            {
                names.push((peer.public_key, name.clone(), endpoint.port));
            }
        }
        let names = Names::start(&device, names)?;
        // An ordinary user may not write there; all else works.
        let uapi = Uapi::start(&device, Path::new(uapi::DIRECTORY), &name)
            .inspect_err(|error| tracing::info!(%error, "`wg show` and `wg set` will not work on this overlay"))
            .ok();
        Ok(Self { device, sockets, way, interface: name, addresses, _names: names, _uapi: uapi })
    }

    /// Whether an address is our own inside it.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.addr() == address)
    }

    /// Whether an address is reached through it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.contains(&address)) || self.device.has_route(address)
    }
}

/// An interface in the network namespace of the calling thread.
fn raise(link: &LinkSettings, queues: usize) -> Result<(String, Vec<Queue>), OverlayError> {
    let tun = Tun::open(None, queues)?;
    configure(tun.name(), link)?;
    Ok((tun.name().to_owned(), tun.into_queues()))
}

/// What is routed into the interface. The host's default route stays where it is: to take it away from a machine that is
/// reached from outside is no small thing.
fn routes(config: &WgQuick, place: Place) -> Vec<IpNet> {
    let prefixes = config.peers.iter().flat_map(|peer| &peer.allowed_ips);
    let wanted = prefixes.filter(|prefix| place != Place::Host || prefix.length() > 0);
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
