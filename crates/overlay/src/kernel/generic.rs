//! Generic netlink: a conversation with a part of the kernel that has a name, in attributes.

use std::os::fd::OwnedFd;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use zeroize::Zeroizing;

// linux/netlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
/// Bytes of a message's header, and of what generic netlink puts behind it.
const HEADER: usize = 16;
const GENERIC: usize = 4;
/// Bytes of an attribute's header.
const ATTRIBUTE: usize = 4;
const ALIGN: usize = 4;
// linux/genetlink.h
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// Of the families we talk to.
const VERSION: u8 = 1;
/// Bytes of answers that are read at once; the kernel sends at most half of it.
const ANSWERS: usize = 65_536;

/// A conversation with one family.
pub(super) struct Conversation {
    socket: OwnedFd,
    family: u16,
    sent: u32,
}

impl Conversation {
    /// With the family of this name.
    pub(super) fn with(name: &str) -> Result<Self, Errno> {
        let protocol = Some(netlink::GENERIC);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        // To the kernel, and from nobody else.
        rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))?;
        let mut conversation = Self { socket, family: GENL_ID_CTRL, sent: 0 };
        let mut attributes = Attributes::default();
        attributes.add(CTRL_ATTR_FAMILY_NAME, &[name.as_bytes(), &[0]].concat());
        let answers = conversation.exchange(CTRL_CMD_GETFAMILY, &attributes.bytes, false)?;
        let mut words = answers.iter().flat_map(|answer| read(answer));
        let id = words.find_map(|(kind, value)| (kind == CTRL_ATTR_FAMILY_ID).then(|| number(value)));
        conversation.family = id.flatten().and_then(|id| u16::try_from(id).ok()).ok_or(Errno::BADMSG)?;
        Ok(conversation)
    }

    /// Sends a command and waits until the kernel has done it. Gives the attributes of each answer, of which there are
    /// many where all of something is to be told.
    pub(super) fn exchange(
        &mut self,
        command: u8,
        attributes: &[u8],
        all: bool,
    ) -> Result<Vec<Zeroizing<Vec<u8>>>, Errno> {
        self.sent = self.sent.wrapping_add(1);
        let length = HEADER + GENERIC + attributes.len();
        let mut message = Zeroizing::new(Vec::with_capacity(length));
        let flags = NLM_F_REQUEST | NLM_F_ACK | if all { NLM_F_DUMP } else { 0 };
        message.extend(u32::try_from(length).or(Err(Errno::MSGSIZE))?.to_ne_bytes());
        message.extend(self.family.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sent.to_ne_bytes());
        message.extend([0; 4]);
        message.extend([command, VERSION, 0, 0]);
        message.extend(attributes);
        retry_on_intr(|| rustix::net::send(&self.socket, &message, SendFlags::empty()))?;
        self.answers()
    }

    fn answers(&self) -> Result<Vec<Zeroizing<Vec<u8>>>, Errno> {
        let mut buffer = Zeroizing::new(vec![0; ANSWERS]);
        let mut answers = Vec::new();
        loop {
            let (count, _) = retry_on_intr(|| rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty()))?;
            let mut rest = buffer.get(..count).unwrap_or_default();
            while let Some((kind, sequence, body)) = split(&mut rest) {
                match kind {
                    // Of a request that was given up.
                    _ if sequence != self.sent => {}
                    NLMSG_ERROR | NLMSG_DONE => return ending(body).map(|()| answers),
                    _ => answers.push(Zeroizing::new(body.get(GENERIC..).unwrap_or_default().to_vec())),
                }
            }
        }
    }
}

/// Takes the next message: its kind, its number, and what follows its header.
fn split<'a>(rest: &mut &'a [u8]) -> Option<(u16, u32, &'a [u8])> {
    let length = number(rest.get(..4)?).and_then(|length| usize::try_from(length).ok())?;
    let kind = u16::try_from(number(rest.get(4..6)?)?).ok()?;
    let sequence = u32::try_from(number(rest.get(8..12)?)?).ok()?;
    let body = rest.get(HEADER..length)?;
    *rest = rest.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
    Some((kind, sequence, body))
}

/// How a request ended: 0, or a negative error.
fn ending(body: &[u8]) -> Result<(), Errno> {
    let code = body.get(..4).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code @ -4095..0) => Err(Errno::from_raw_os_error(-code)),
        _ => Err(Errno::BADMSG),
    }
}

/// Attributes that are written one after the other.
#[derive(Default)]
pub(super) struct Attributes {
    bytes: Zeroizing<Vec<u8>>,
}

impl Attributes {
    /// With room for so many bytes: one that grows leaves copies of keys behind.
    pub(super) fn with_room(bytes: usize) -> Self {
        Self { bytes: Zeroizing::new(Vec::with_capacity(bytes)) }
    }

    /// Adds one.
    pub(super) fn add(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        let padded = self.bytes.len().next_multiple_of(ALIGN);
        self.bytes.resize(padded, 0);
    }

    /// Adds one that is made of others.
    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let from = self.bytes.len();
        self.add(kind | NLA_F_NESTED, &[]);
        fill(self);
        let length = u16::try_from(self.bytes.len() - from).unwrap_or(u16::MAX);
        if let Some(place) = self.bytes.get_mut(from..from + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
    }

    /// All of them.
    pub(super) fn finish(self) -> Zeroizing<Vec<u8>> {
        self.bytes
    }
}

/// Kind and value of each attribute, up to the first that is cut off.
pub(super) fn read(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(number(rest.get(..2)?)?).ok()?;
        let kind = u16::try_from(number(rest.get(2..4)?)?).ok()?;
        let value = rest.get(ATTRIBUTE..length)?;
        rest = rest.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some((kind & NLA_TYPE_MASK, value))
    })
}

/// A number of one, two, four or eight bytes, in the order of this machine.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    match *bytes {
        [byte] => Some(byte.into()),
        [a, b] => Some(u16::from_ne_bytes([a, b]).into()),
        [a, b, c, d] => Some(u32::from_ne_bytes([a, b, c, d]).into()),
        _ => bytes.try_into().ok().map(u64::from_ne_bytes),
    }
}
