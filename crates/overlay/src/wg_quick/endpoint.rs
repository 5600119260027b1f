//! Where a peer is found outside the tunnel.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// A host and a UDP port, as written: a name is not resolved here, because it may lead elsewhere tomorrow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Where.
    pub host: Host,
    /// Never 0.
    pub port: u16,
}

/// An address or a DNS name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Host {
    /// Of either family; in text an IPv6 address stands in brackets.
    Ip(IpAddr),
    /// Labels of letters, digits, `-` and `_`.
    Name(String),
}

/// Why a text is no endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EndpointError {
    /// No port behind a colon.
    #[error("an endpoint ends in a port of 1 to 65535, as in hub.example.com:51820")]
    Port,
    /// Neither an address nor a name before it.
    #[error(
        "an endpoint begins with a DNS name, an IPv4 address or an IPv6 address in brackets, as in [2001:db8::1]:51820"
    )]
    Host,
    /// `0.0.0.0` or `::`, which stand for every address of this machine.
    #[error("an endpoint is where others find it: the unspecified address is nowhere")]
    Unspecified,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let (host, port) = text.rsplit_once(':').ok_or(EndpointError::Port)?;
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port != 0).ok_or(EndpointError::Port)?;
        let host = match host.strip_prefix('[') {
            Some(six) => {
                let six = six.strip_suffix(']').and_then(|six| six.parse::<Ipv6Addr>().ok());
                Host::Ip(six.ok_or(EndpointError::Host)?.into())
            }
            // Without brackets the port could as well be the end of the address.
            None if host.contains(':') => return Err(EndpointError::Host),
            None => match host.parse::<IpAddr>() {
                Ok(four) => Host::Ip(four),
                Err(_) if is_dns_name(host) => Host::Name(host.to_owned()),
                Err(_) => return Err(EndpointError::Host),
            },
        };
        match host {
            Host::Ip(ip) if ip.is_unspecified() => Err(EndpointError::Unspecified),
            _ => Ok(Self { host, port }),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Ip(ip) => write!(f, "{ip}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let text = text.strip_suffix('.').unwrap_or(text);
    // What ends in digits is an address with a slip in it.
    let last_is_number = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    text.len() <= 253 && text.split('.').all(label) && !last_is_number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_an_endpoint_and_text_again() {
        for text in ["192.0.2.7:51820", "[2001:db8::1]:1", "hub.example.com:65535", "hub:51820", "Hub_1.example.:9"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        let name = Host::Name("hub.example.com".to_owned());
        assert_eq!("hub.example.com:51820".parse(), Ok(Endpoint { host: name, port: 51820 }));
    }

    #[test]
    fn what_leads_nowhere_is_refused() {
        for (text, expected) in [
            ("", EndpointError::Port),
            ("hub.example.com", EndpointError::Port),
            ("hub.example.com:", EndpointError::Port),
            ("hub.example.com:0", EndpointError::Port),
            ("hub.example.com:+1", EndpointError::Port),
            ("hub.example.com:65536", EndpointError::Port),
            ("hub.example.com:wireguard", EndpointError::Port),
            (":51820", EndpointError::Host),
            ("2001:db8::1:51820", EndpointError::Host),
            ("[2001:db8::1:51820", EndpointError::Host),
            ("[192.0.2.7]:51820", EndpointError::Host),
            ("[fe80::1%eth0]:51820", EndpointError::Host),
            ("192.0.2.256:51820", EndpointError::Host),
            ("hub..example:51820", EndpointError::Host),
            ("-hub:51820", EndpointError::Host),
            ("https://hub:51820", EndpointError::Host),
            ("0.0.0.0:51820", EndpointError::Unspecified),
            ("[::]:51820", EndpointError::Unspecified),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(expected), "{text}");
        }
    }
}
