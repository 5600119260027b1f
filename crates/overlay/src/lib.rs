//! The address space inside WireGuard, carried over UDP by threads of our own.

mod clock;
mod counters;
mod device;
mod mailbox;
mod outbox;
pub mod packet;
mod random;
mod reception;
mod region_file;
mod registry;
mod tun;
mod udp;
mod wg_quick;
mod worker;

pub use counters::{Counters, Loss};
pub use device::{Device, DeviceSettings};
pub use region_file::{HUB, RegionFileError, is_region, region_file};
pub use registry::{PeerSettings, PeerStatus};
pub use tun::Queue;
pub use wg_quick::{Endpoint, EndpointError, Host, Interface, Mistake, PeerConfig, RoutingTable, WgQuick};
