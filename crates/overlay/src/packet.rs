//! Inner packets: read, cut, joined, forwarded, answered.
//!
//! ```text
//! TUN read   -> Offload + super-packet -> Split -> segments, each into the datagram it is sealed in
//! tunnel     -> datagrams, opened      -> View  -> Merger -> few gathered writes to the TUN device
//! peer, peer -> datagram, opened       -> View  -> decrement_hops -> sealed again where it lies
//! ```
//! All of it takes bytes of strangers, so nothing panics, whatever they are. Nothing allocates per packet.

mod checksum;
mod field;
mod flow;
mod forward;
mod icmp;
mod merge;
mod offload;
mod split;
#[cfg(test)]
mod tests;
mod transport;
mod view;

pub use checksum::{Change, Sum, ipv4_header_is_valid, transport_is_valid};
pub use forward::{HopError, decrement_hops};
pub use icmp::{ICMPV4_LONGEST, ICMPV6_LONGEST, Notice, Silence, Unreachable, notice};
pub use merge::{MergeSettings, Merged, Merger, SLICES_MOST, Write};
pub use offload::{Offload, OffloadError, Segmentation, VnetHeader};
pub use split::{NoRoom, Segment, Split, SplitError};
pub use view::{Fragment, Malformed, Upper, Version, View, protocol};
