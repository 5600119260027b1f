//! The address space inside WireGuard, carried over UDP by threads of our own.

mod clock;
mod counters;
mod device;
mod enclave;
mod link;
mod mailbox;
mod manners;
mod names;
mod namespace;
mod outbox;
mod overlay;
pub mod packet;
mod random;
mod reception;
mod region_file;
mod registry;
mod sockets;
mod tenants;
mod tun;
mod udp;
mod wg_quick;
mod worker;

pub use counters::{Counters, Loss};
pub use device::{Device, DeviceSettings};
pub use enclave::{Enclave, EnclaveError};
pub use link::{Change, LinkError, LinkSettings, configure, raise_loopback, segments_per_send};
pub use namespace::{Step, UserNamespaceError, enter_user_namespace};
pub use overlay::{Mode, Overlay, OverlayError, OverlaySettings, Way};
pub use region_file::{HUB, RegionFileError, is_region, region_file};
pub use registry::{PeerSettings, PeerStatus};
pub use sockets::{Family, Sockets};
pub use tenants::Tenants;
pub use tun::{Call, HEADER, LARGEST, Offload, Queue, Tun, TunError};
pub use wg_quick::{Endpoint, EndpointError, Host, Interface, Mistake, PeerConfig, RoutingTable, WgQuick};
