//! What a client asks, read from bytes as they come.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use edgeproxy_tunnel::{KEY, Prefix, PresharedKey, PrivateKey, PublicKey};
use zeroize::{Zeroize, Zeroizing};

use super::refusal::Refusal;
use crate::change::{AllowedIp, DeviceChange, PeerChange};

/// Bytes of a line, without its end. No good one has more than 100; a longer one is refused like any other bad one.
pub const LONGEST_LINE: usize = 512;
/// Bytes of a request: some 400,000 peers with an endpoint and two prefixes each. The rest of a longer one is not read: it is
/// answered `errno=7` (E2BIG), and the connection ends. What was read takes about as much memory as its text.
pub const LONGEST_REQUEST: usize = 64 * 1024 * 1024;

/// What a client asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Tell everything.
    Get,
    /// Change this.
    Set(DeviceChange),
}

/// Reads one request after the other.
pub struct RequestReader {
    state: State,
    /// The line that is not whole yet. Never grows: that would leave copies of keys.
    line: Zeroizing<Vec<u8>>,
    /// Bytes of this request so far.
    length: usize,
}

enum State {
    /// Before a request.
    Begin,
    Get,
    Set(DeviceChange),
    /// It is bad; what still comes of it is passed over, for who writes would not read an answer before.
    Refused(Refusal),
}

impl Default for RequestReader {
    fn default() -> Self {
        Self { state: State::Begin, line: Zeroizing::new(Vec::with_capacity(LONGEST_LINE + 1)), length: 0 }
    }
}

impl fmt::Debug for RequestReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The line may be a key.
        f.debug_struct("RequestReader").field("length", &self.length).finish_non_exhaustive()
    }
}

impl RequestReader {
    /// Takes bytes up to the end of a request, which is returned if it is among them.
    ///
    /// # Errors
    /// The request is bad. After [`Refusal::TooLong`] there is nothing more to be read.
    pub fn read(&mut self, bytes: &mut &[u8]) -> Option<Result<Request, Refusal>> {
        while !bytes.is_empty() {
            let (part, is_whole) = match bytes.iter().position(|byte| *byte == b'\n') {
                Some(end) => (&bytes[..end], true),
                None => (*bytes, false),
            };
            *bytes = &bytes[part.len() + usize::from(is_whole)..];
            self.length = self.length.saturating_add(part.len() + usize::from(is_whole));
            // One byte more than a line may have tells that it has too many.
            let room = LONGEST_LINE + 1 - self.line.len();
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if self.length > LONGEST_REQUEST {
                *self = Self::default();
                return Some(Err(Refusal::TooLong));
            }
            if is_whole {
                let line = std::mem::replace(&mut self.line, Zeroizing::new(Vec::new()));
                let request = self.take_line(&line);
                self.line = line;
                self.line.as_mut_slice().zeroize();
                self.line.clear();
                if request.is_some() {
                    self.length = 0;
                    return request;
                }
            }
        }
        None
    }

    /// Whether a request was begun and not ended.
    pub fn is_within(&self) -> bool {
        self.length > 0
    }

    fn take_line(&mut self, line: &[u8]) -> Option<Result<Request, Refusal>> {
        if line.is_empty() {
            return Some(match std::mem::replace(&mut self.state, State::Begin) {
                State::Begin => Err(Refusal::Protocol),
                State::Get => Ok(Request::Get),
                State::Set(change) => Ok(Request::Set(change)),
                State::Refused(refusal) => Err(refusal),
            });
        }
        let next = match &mut self.state {
            State::Begin => match line {
                b"get=1" => State::Get,
                b"set=1" => State::Set(DeviceChange::default()),
                _ => State::Refused(Refusal::Protocol),
            },
            State::Get => State::Refused(Refusal::Invalid),
            State::Set(change) => match add(change, line) {
                Ok(()) => return None,
                Err(refusal) => State::Refused(refusal),
            },
            State::Refused(_) => return None,
        };
        self.state = next;
        None
    }
}

/// Adds what a line says. Lines of a peer follow the one with its key.
fn add(change: &mut DeviceChange, line: &[u8]) -> Result<(), Refusal> {
    let at = line.iter().position(|byte| *byte == b'=').ok_or(Refusal::Protocol)?;
    if line.len() > LONGEST_LINE {
        return Err(Refusal::Invalid);
    }
    let value = str::from_utf8(&line[at + 1..]).map_err(|_| Refusal::Invalid)?;
    match (&line[..at], change.peers.last_mut()) {
        (b"public_key", _) => change.peers.push(PeerChange::new(public_key(value)?)),
        (name, Some(peer)) => add_to_peer(peer, name, value)?,
        (b"private_key", None) => {
            let bytes = key(value)?;
            change.private = Some((*bytes != [0; KEY]).then(|| PrivateKey::from_bytes(*bytes)));
        }
        (b"listen_port", None) => change.port = Some(number(value)?),
        (b"fwmark", None) => change.mark = Some(number(value)?),
        (b"replace_peers", None) => change.replace_peers = is_true(value)?,
        _ => return Err(Refusal::Invalid),
    }
    Ok(())
}

fn add_to_peer(peer: &mut PeerChange, name: &[u8], value: &str) -> Result<(), Refusal> {
    match name {
        b"remove" => peer.remove = is_true(value)?,
        b"update_only" => peer.update_only = is_true(value)?,
        b"preshared_key" => peer.preshared = Some(PresharedKey::from_bytes(*key(value)?)),
        b"endpoint" => peer.endpoint = Some(endpoint(value)?),
        b"persistent_keepalive_interval" => {
            let seconds: u16 = number(value)?;
            peer.keepalive = Some((seconds > 0).then(|| Duration::from_secs(seconds.into())));
        }
        b"replace_allowed_ips" => {
            peer.replace_allowed_ips = is_true(value)?;
            // What was named before would be taken away again.
            peer.allowed_ips.clear();
        }
        b"allowed_ip" => peer.allowed_ips.push(match value.strip_prefix('-') {
            Some(value) => AllowedIp::Removed(prefix(value)?),
            None => AllowedIp::Added(prefix(value)?),
        }),
        b"protocol_version" if value == "1" => {}
        _ => return Err(Refusal::Invalid),
    }
    Ok(())
}

/// One of low order nobody has.
fn public_key(value: &str) -> Result<PublicKey, Refusal> {
    Some(PublicKey(*key(value)?)).filter(|key| !key.is_of_low_order()).ok_or(Refusal::Invalid)
}

fn key(value: &str) -> Result<Zeroizing<[u8; KEY]>, Refusal> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Zeroizing::new([0; KEY]);
    if value.len() != 2 * KEY {
        return Err(Refusal::Invalid);
    }
    for (byte, digits) in bytes.iter_mut().zip(value.as_bytes().chunks_exact(2)) {
        let both = digit(digits[0]).zip(digit(digits[1])).ok_or(Refusal::Invalid)?;
        *byte = both.0 << 4 | both.1;
    }
    Ok(bytes)
}

/// Digits and nothing else: no sign, as a parser of numbers would take.
fn number<T: FromStr>(value: &str) -> Result<T, Refusal> {
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| is_number).ok_or(Refusal::Invalid)
}

fn is_true(value: &str) -> Result<bool, Refusal> {
    if value == "true" { Ok(true) } else { Err(Refusal::Invalid) }
}

/// As datagrams give it: an address of IPv4 in the guise of IPv6 is one of IPv4.
fn endpoint(value: &str) -> Result<SocketAddr, Refusal> {
    let endpoint: SocketAddr = value.parse().map_err(|_| Refusal::Invalid)?;
    Ok(match endpoint {
        SocketAddr::V6(six) if six.ip().to_ipv4_mapped().is_some() => {
            SocketAddr::new(six.ip().to_canonical(), six.port())
        }
        other => other,
    })
}

/// With a length: an address alone is refused elsewhere as well.
fn prefix(value: &str) -> Result<Prefix, Refusal> {
    value.parse().ok().filter(|_| value.contains('/')).ok_or(Refusal::Invalid)
}
