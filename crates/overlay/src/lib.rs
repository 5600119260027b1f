//! The address space inside WireGuard, carried over UDP by threads of our own.

mod acceptor;
mod change;
mod clock;
mod counters;
mod destination;
mod device;
mod directory;
mod enclave;
mod engine;
mod kernel;
mod link;
mod mailbox;
mod manners;
mod names;
mod namespace;
mod netstack;
mod outbox;
mod overlay;
pub mod packet;
mod random;
mod reception;
mod region_file;
mod registry;
mod roster;
mod sockets;
mod stream;
mod tenants;
mod tun;
pub mod uapi;
mod udp;
mod wg_quick;
mod worker;

pub use acceptor::{Acceptor, ListenSettings};
pub use change::{AllowedIp, ChangeError, DeviceChange, PeerChange};
pub use counters::{Counters, Loss};
pub use device::{AWAKE_MOST, Device, DeviceSettings};
pub use directory::Directory;
pub use enclave::{Enclave, EnclaveError};
pub use engine::Engine;
pub use kernel::{KernelDevice, KernelError};
pub use link::{Change, LinkError, LinkSettings, configure, raise_loopback, segments_per_send};
pub use namespace::{Step, UserNamespaceError, enter_user_namespace};
pub use netstack::Netstack;
pub use overlay::{Mode, Overlay, OverlayError, OverlaySettings, Way};
pub use random::OsRandom;
pub use region_file::{HUB, RegionFileError, is_region, region_file};
pub use registry::{PeerSettings, PeerStatus};
pub use sockets::{Family, Sockets};
pub use stream::{Line, Stream};
pub use tenants::Tenants;
pub use tun::{Call, HEADER, LARGEST, Offload, Queue, Tun, TunError};
pub use wg_quick::{
    Endpoint, EndpointError, FoundPeer, Host, Interface, Mistake, PeerConfig, PeersOf, RoutingTable, WgQuick,
};
