//! Addresses, MTU and routes of an interface, and interfaces of the kernel's own kinds, set by rtnetlink: no program is
//! run for it.
//!
//! Nothing is ever taken back: all of it goes with the interface.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType, netdevice};

/// Bytes of the largest UDP datagram over IPv4, and so of one send that the kernel cuts (UDP_SEGMENT).
const LARGEST_SEND: u32 = 65_507;
/// Datagrams that one such send may be cut into (UDP_MAX_SEGMENTS; newer kernels take twice as many).
const MOST_SEGMENTS: u32 = 64;
/// What WireGuard adds to a packet (header and tag).
const WIREGUARD: u32 = 32;
/// Bytes of a reply we wait for: an error with the request it answers.
const REPLY: usize = 8192;
/// Interfaces of the kernel that we create are called so, with a number below [`MOST_NUMBERED`] behind.
const NUMBERED: &str = "edge";
const MOST_NUMBERED: u32 = 64;

/// How an interface is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSettings {
    /// Its own addresses, each with the prefix that is reached through it.
    pub addresses: Vec<IpNet>,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// More prefixes that are reached through it.
    pub routes: Vec<IpNet>,
}

/// One thing that is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing yet: the interface was looked for.
    Find,
    /// There is one.
    Create,
    /// There is none any more.
    Delete,
    /// The MTU.
    Mtu(u32),
    /// The interface is put into use.
    Up,
    /// One of its own addresses.
    Address(IpNet),
    /// A prefix reached through it.
    Route(IpNet),
}

/// Why an interface is not as it has to be.
#[derive(Debug, thiserror::Error)]
#[error("interface {name}: cannot {change}: {error}{}", hint(*change, *error))]
pub struct LinkError {
    /// The interface.
    pub name: String,
    /// What could not be set.
    pub change: Change,
    /// Why not.
    pub error: Errno,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Find => write!(f, "find it"),
            Self::Create => write!(f, "create it"),
            Self::Delete => write!(f, "delete it"),
            Self::Mtu(mtu) => write!(f, "set the MTU to {mtu}"),
            Self::Up => write!(f, "put it into use"),
            Self::Address(address) => write!(f, "give it the address {address}"),
            Self::Route(prefix) => write!(f, "route {prefix} through it"),
        }
    }
}

fn hint(change: Change, error: Errno) -> &'static str {
    match (change, error) {
        (_, Errno::PERM) => " (needs CAP_NET_ADMIN, or the overlay's mode \"userns\")",
        (Change::Route(_), Errno::EXIST) => " (another interface has that route: remove it there, or here)",
        (Change::Address(IpNet::V6(_)) | Change::Route(IpNet::V6(_)), Errno::ACCESS | Errno::OPNOTSUPP) => {
            " (IPv6 is switched off: sysctl net.ipv6.conf.default.disable_ipv6)"
        }
        (Change::Address(IpNet::V6(_)), Errno::INVAL | Errno::NODEV) => " (IPv6 needs an MTU of 1280 at least)",
        // That of WireGuard takes its port only then.
        (Change::Up, Errno::ADDRINUSE) => " (its UDP port is taken: choose another by ListenPort)",
        (Change::Mtu(_), Errno::INVAL) => " (it lies between 68 and 65535)",
        _ => "",
    }
}

/// Gives an interface in the calling thread's network namespace its addresses, MTU and routes, and puts it into use.
///
/// # Errors
/// The first thing that cannot be set.
pub fn configure(name: &str, settings: &LinkSettings) -> Result<(), LinkError> {
    let mut link = Link::find(name)?;
    link.change(Change::Mtu(settings.mtu), vec![LinkAttribute::Mtu(settings.mtu)], LinkFlags::empty())?;
    // What follows makes things better and is wanted of no kernel: the one saves a second send for a few segments, the
    // other keeps the interface from asking the tunnel for IPv6 routers.
    let segments = LinkAttribute::GsoMaxSegs(segments_per_send(settings.mtu));
    let _: Result<(), LinkError> = link.change(Change::Up, vec![segments], LinkFlags::empty());
    let no_address = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    let quiet = LinkAttribute::AfSpecUnspec(vec![no_address]);
    let _: Result<(), LinkError> = link.change(Change::Up, vec![quiet], LinkFlags::empty());
    link.up()?;
    for address in &settings.addresses {
        link.add_address(*address)?;
    }
    for prefix in settings.routes.iter().map(IpNet::trunc) {
        // Its own prefixes have been routed with its addresses.
        if !settings.addresses.iter().any(|address| address.trunc() == prefix) {
            link.add_route(prefix)?;
        }
    }
    Ok(())
}

/// Puts the loopback interface of the calling thread's network namespace into use: a new one has it down.
///
/// # Errors
/// This namespace is not ours to change.
pub fn raise_loopback() -> Result<(), LinkError> {
    Link::find("lo")?.up()
}

/// Creates an interface of this kind in the calling thread's network namespace, under the first free number. Gives its
/// name and index.
///
/// # Errors
/// There is no such kind, or this namespace is not ours to change.
pub(crate) fn create(kind: InfoKind) -> Result<(String, u32), LinkError> {
    let mut refused = None;
    for number in 0..MOST_NUMBERED {
        let name = format!("{NUMBERED}{number}");
        let mut message = LinkMessage::default();
        message.attributes =
            vec![LinkAttribute::IfName(name.clone()), LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind.clone())])];
        let mut link = Link::none(&name, Change::Create)?;
        match link.request(Change::Create, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => return Link::find(&name).map(|link| (name, link.index)),
            Err(error) if error.error == Errno::EXIST => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    let none = || LinkError { name: NUMBERED.into(), change: Change::Create, error: Errno::EXIST };
    Err(refused.unwrap_or_else(none))
}

/// Names and indices of interfaces that [`create`] may have created.
pub(crate) fn numbered() -> Vec<(String, u32)> {
    let names = (0..MOST_NUMBERED).map(|number| format!("{NUMBERED}{number}"));
    names.filter_map(|name| Link::find(&name).ok().map(|link| (name, link.index))).collect()
}

/// Deletes an interface. The name is for messages alone: another may have it by now.
///
/// # Errors
/// There is none with this index, or it is not ours to delete.
pub(crate) fn delete(name: &str, index: u32) -> Result<(), LinkError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Link::none(name, Change::Delete)?.request(Change::Delete, RouteNetlinkMessage::DelLink(message), 0)
}

/// The most segments that, encrypted, still leave by one send.
pub fn segments_per_send(mtu: u32) -> u32 {
    (LARGEST_SEND / mtu.saturating_add(WIREGUARD)).clamp(1, MOST_SEGMENTS)
}

/// An interface and the socket by which the kernel is told what to do with it.
struct Link {
    name: String,
    index: u32,
    socket: OwnedFd,
    sent: u32,
}

impl Link {
    fn find(name: &str) -> Result<Self, LinkError> {
        let link = Self::none(name, Change::Find)?;
        let index = netdevice::name_to_index(&link.socket, name);
        let index = index.map_err(|error| LinkError { name: name.into(), change: Change::Find, error })?;
        Ok(Self { index, ..link })
    }

    /// One that is not there yet, or need not be looked for.
    fn none(name: &str, change: Change) -> Result<Self, LinkError> {
        // Protocol 0 is NETLINK_ROUTE.
        let socket =
            rustix::net::socket_with(rustix::net::AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
                .map_err(|error| LinkError { name: name.into(), change, error })?;
        Ok(Self { name: name.into(), index: 0, socket, sent: 0 })
    }

    fn up(&mut self) -> Result<(), LinkError> {
        self.change(Change::Up, Vec::new(), LinkFlags::Up)
    }

    fn change(&mut self, change: Change, attributes: Vec<LinkAttribute>, up: LinkFlags) -> Result<(), LinkError> {
        let mut message = LinkMessage::default();
        message.header.index = self.index;
        message.header.flags = up;
        message.header.change_mask = up;
        message.attributes = attributes;
        self.request(change, RouteNetlinkMessage::SetLink(message), 0)
    }

    fn add_address(&mut self, address: IpNet) -> Result<(), LinkError> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = address.prefix_len();
        message.header.scope = AddressScope::Universe;
        message.header.index = self.index;
        message.attributes = vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
        if address.addr().is_ipv6() {
            // Nobody else in the tunnel can have it: it is in use at once.
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.request(Change::Address(address), RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    fn add_route(&mut self, prefix: IpNet) -> Result<(), LinkError> {
        let to = match prefix.addr() {
            IpAddr::V4(address) => RouteAddress::Inet(address),
            IpAddr::V6(address) => RouteAddress::Inet6(address),
        };
        let mut message = RouteMessage::default();
        message.header.address_family = family(prefix);
        message.header.destination_prefix_length = prefix.prefix_len();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = if prefix.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![RouteAttribute::Destination(to), RouteAttribute::Oif(self.index)];
        self.request(Change::Route(prefix), RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Sends a request and waits until the kernel has done it.
    fn request(&mut self, change: Change, message: RouteNetlinkMessage, flags: u16) -> Result<(), LinkError> {
        self.exchange(message, flags).map_err(|error| LinkError { name: self.name.clone(), change, error })
    }

    fn exchange(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Errno> {
        self.sent += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        header.sequence_number = self.sent;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        retry_on_intr(|| rustix::net::send(&self.socket, &bytes, SendFlags::empty()))?;
        let mut reply = [0; REPLY];
        loop {
            let (count, _) = retry_on_intr(|| rustix::net::recv(&self.socket, &mut reply[..], RecvFlags::empty()))?;
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply[..count]).or(Err(Errno::BADMSG))?;
            match answer.payload {
                NetlinkPayload::Error(answered) if answer.header.sequence_number == self.sent => {
                    return match answered.code {
                        None => Ok(()),
                        Some(_) => Err(errno(&answered.to_io())),
                    };
                }
                _ => {}
            }
        }
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::BADMSG)
}

fn family(net: IpNet) -> AddressFamily {
    if net.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_send_holds_a_super_packet() {
        assert_eq!(segments_per_send(1420), 45);
        for mtu in [68, 576, 1280, 1420, 1500, 9000, 65_475, 65_535] {
            let segments = segments_per_send(mtu);
            assert!(segments == 1 || segments * (mtu + WIREGUARD) <= LARGEST_SEND, "{mtu}: {segments}");
            assert!(
                segments == MOST_SEGMENTS || (segments + 1) * (mtu + WIREGUARD) > LARGEST_SEND,
                "{mtu}: {segments}"
            );
        }
    }

    #[test]
    fn a_refusal_tells_what_to_do() {
        let route = Change::Route("10.60.0.0/16".parse().unwrap());
        let error = LinkError { name: "edge0".into(), change: route, error: Errno::EXIST };
        assert!(error.to_string().starts_with("interface edge0: cannot route 10.60.0.0/16 through it: "), "{error}");
        assert!(error.to_string().ends_with("(another interface has that route: remove it there, or here)"), "{error}");
    }
}
