//! From what stands behind a `=` to a value, or to the rule it breaks.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::str::FromStr;

use edgeproxy_tunnel::{KeyError, Prefix, PresharedKey, PrivateKey, PublicKey};

use super::{Endpoint, RoutingTable};

/// What every IPv4 host is able to take (RFC 791, section 3.1).
const LEAST_MTU: u64 = 576;
/// Largest IP packet, less the headers around it: IPv6 40, UDP 8, WireGuard 32.
const MOST_MTU: u64 = 65_535 - 80;
/// Text of a key of zeros: WireGuard's word for none.
const NO_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
/// Longer ones that are no address could be a key in the wrong place.
const LONGEST_SHOWN: usize = 24;

/// A value in a message: quoted, unless it could be a secret.
pub(super) fn quoted(value: &str) -> String {
    let is_address = value.contains(['.', ':']) && value.len() <= 128;
    if is_address || value.len() <= LONGEST_SHOWN { format!("{value:?}") } else { "this value".to_owned() }
}

/// Whether a comment names a peer.
pub(super) fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=32).contains(&text.len()) && text.bytes().all(plain)
}

// Of keys nothing is shown, also not of broken ones: whoever reads the message could guess the rest.

pub(super) fn private_key(value: &str) -> Result<PrivateKey, String> {
    match value {
        NO_KEY => Err("is all zeros, which everybody knows; make one with `edgeproxy keygen`".to_owned()),
        _ => value.parse().map_err(|error| format!("{error}; make one with `edgeproxy keygen`")),
    }
}

pub(super) fn public_key(value: &str) -> Result<PublicKey, String> {
    match value {
        NO_KEY => Err("is all zeros, which nobody has; put in the peer's".to_owned()),
        _ => {
            let advice = "`edgeproxy pubkey` tells that of a private key";
            let key: PublicKey = value.parse().map_err(|error| format!("{error}; {advice}"))?;
            if key.is_of_low_order() { Err(format!("{}; {advice}", KeyError::LowOrder)) } else { Ok(key) }
        }
    }
}

/// `None`: all zeros.
pub(super) fn preshared_key(value: &str) -> Result<Option<PresharedKey>, String> {
    let key: PresharedKey =
        value.parse().map_err(|error| format!("{error}; make one with `edgeproxy keygen --psk`"))?;
    Ok(key.is_set().then_some(key))
}

pub(super) fn addresses(value: &str) -> Result<Vec<(IpAddr, u8)>, String> {
    list(value, |item| {
        let prefix = prefix(item)?;
        let address = item.split('/').next().and_then(|address| address.parse().ok());
        Ok((address.unwrap_or(prefix.address()), prefix.length()))
    })
}

pub(super) fn prefixes(value: &str) -> Result<Vec<Prefix>, String> {
    // A peer may have none: then nothing is sent to it.
    if value.is_empty() { Ok(Vec::new()) } else { list(value, prefix) }
}

fn prefix(item: &str) -> Result<Prefix, String> {
    item.parse().map_err(|_| {
        format!("{} is not an IP address, alone or with a length its family has (such as 10.50.0.0/24)", quoted(item))
    })
}

pub(super) fn endpoint(value: &str) -> Result<Endpoint, String> {
    value.parse().map_err(|error| format!("{}: {error}", quoted(value)))
}

/// `None`: 0, any port.
pub(super) fn port(value: &str) -> Result<Option<u16>, String> {
    number(value, 0, u16::MAX.into()).map(|port| (port != 0).then_some(port))
}

pub(super) fn mtu(value: &str) -> Result<u16, String> {
    number(value, LEAST_MTU, MOST_MTU)
}

/// `None`: off.
pub(super) fn keepalive(value: &str) -> Result<Option<NonZeroU16>, String> {
    if value.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let seconds = number(value, 0, u16::MAX.into()).map_err(|rule| format!("{rule} seconds, nor off"))?;
    Ok(NonZeroU16::new(seconds))
}

/// `None`: off.
pub(super) fn fwmark(value: &str) -> Result<Option<u32>, String> {
    let hex = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X"));
    let mark = match hex {
        _ if value.eq_ignore_ascii_case("off") => Some(0),
        Some(digits) => digits_of(digits, 16).and_then(|digits| u32::from_str_radix(digits, 16).ok()),
        None => digits_of(value, 10).and_then(|digits| digits.parse().ok()),
    };
    let mark = mark.ok_or_else(|| format!("{} is not a 32-bit number (such as 0xca6c), nor off", quoted(value)))?;
    Ok((mark != 0).then_some(mark))
}

pub(super) fn table(value: &str) -> Result<RoutingTable, String> {
    match value {
        _ if value.eq_ignore_ascii_case("auto") => Ok(RoutingTable::Auto),
        _ if value.eq_ignore_ascii_case("off") => Ok(RoutingTable::Off),
        _ if is_name(value) => Ok(RoutingTable::Other(value.to_owned())),
        _ => Err(format!("{} is not auto, off or a table of routes", quoted(value))),
    }
}

pub(super) fn flag(value: &str) -> Result<bool, String> {
    match value {
        _ if value.eq_ignore_ascii_case("true") => Ok(true),
        _ if value.eq_ignore_ascii_case("false") => Ok(false),
        _ => Err(format!("{} is not true or false", quoted(value))),
    }
}

/// What to write instead of a command that `wg-quick` would run. The command is not shown: it may hold a key.
pub(super) fn instead_of_command(command: &str) -> String {
    let command = command.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| command.contains(word));
    let publish = "a hub publishes a port of its overlay address by a [[publish]] table in edgeproxy.toml";
    let forward = "a hub forwards between its peers by itself";
    let instead = match (has(&["dnat", "redirect"]), has(&["masquerade", "snat", "forward"])) {
        (true, _) => publish.to_owned(),
        (_, true) => format!("{forward}, without iptables or sysctl"),
        _ => format!("{forward}, and {publish}"),
    };
    format!("edgeproxy runs no commands: remove this line; {instead}")
}

/// All items of a list, or what is wrong with each bad one.
fn list<T>(value: &str, item: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for text in value.split(',') {
        match item(text.trim()) {
            Ok(value) => good.push(value),
            Err(rule) => bad.push(rule),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(bad.join("; ")) }
}

fn number<T: TryFrom<u64>>(value: &str, least: u64, most: u64) -> Result<T, String> {
    let number = digits_of(value, 10).and_then(|digits| u64::from_str(digits).ok());
    let number = number.filter(|number| (least..=most).contains(number)).and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("{} is not in {least} to {most}", quoted(value)))
}

/// The text, if it is digits alone: the number parsers take a sign as well.
fn digits_of(text: &str, radix: u32) -> Option<&str> {
    (!text.is_empty() && text.chars().all(|letter| letter.is_digit(radix))).then_some(text)
}
