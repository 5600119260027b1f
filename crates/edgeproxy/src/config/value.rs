//! From what somebody wrote to a value, or to the rule it breaks.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use edgeproxy_overlay::Endpoint;
use edgeproxy_route::Country;
use humantime::format_duration;
use ipnet::IpNet;
use toml::de::DeValue;
use tracing_subscriber::EnvFilter;

use super::kind::Kind;
use super::nearest::nearest;

/// Longest name, as in the routing table.
const MAX_NAME_BYTES: usize = 128;
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// A reader and its key disagree; the test that reads every key finds it.
const OTHER_KIND: &str = "is read as another kind than its key declares";

/// A value as somebody wrote it.
#[derive(Clone, Copy)]
pub(super) enum Raw<'a> {
    /// Flag, variable or default.
    Text(&'a str),
    /// Variable of the older tool, in whole seconds.
    Seconds(&'a str),
    /// Of the file.
    Toml(&'a DeValue<'a>),
}

/// As a message quotes it.
impl fmt::Display for Raw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Seconds(text) => write!(f, "{text:?}"),
            Self::Toml(DeValue::String(text)) => write!(f, "{text:?}"),
            Self::Toml(DeValue::Integer(number)) => write!(f, "{number}"),
            Self::Toml(DeValue::Float(number)) => write!(f, "{number}"),
            Self::Toml(DeValue::Boolean(flag)) => write!(f, "{flag}"),
            Self::Toml(DeValue::Datetime(date)) => write!(f, "{date}"),
            Self::Toml(DeValue::Array(_)) => f.write_str("a list"),
            Self::Toml(DeValue::Table(_)) => f.write_str("a table"),
        }
    }
}

impl<'a> Raw<'a> {
    /// As a summary shows it.
    pub(super) fn shown(self) -> String {
        match self {
            Self::Text(text) => text.to_owned(),
            Self::Seconds(text) => format!("{text}s"),
            Self::Toml(DeValue::String(text)) => text.to_string(),
            Self::Toml(DeValue::Array(items)) => {
                items.iter().map(|item| Raw::Toml(item.get_ref()).shown()).collect::<Vec<_>>().join(",")
            }
            Self::Toml(_) => self.to_string(),
        }
    }

    /// The items of a list; outside the file they are separated by commas.
    fn items(self) -> Result<Vec<Raw<'a>>, String> {
        match self {
            Self::Text(text) | Self::Seconds(text) => {
                Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Raw::Text).collect())
            }
            Self::Toml(DeValue::Array(items)) => Ok(items.iter().map(|item| Raw::Toml(item.get_ref())).collect()),
            Self::Toml(_) => Err(format!("{self} is not a list, such as [\"10.0.0.0/8\"]")),
        }
    }

    fn as_text(self) -> Option<&'a str> {
        match self {
            Self::Text(text) | Self::Seconds(text) => Some(text),
            Self::Toml(DeValue::String(text)) => Some(text),
            Self::Toml(_) => None,
        }
    }

    fn as_integer(self) -> Option<i128> {
        match self {
            Self::Text(text) | Self::Seconds(text) => text.trim().parse().ok(),
            Self::Toml(DeValue::Integer(number)) => i128::from_str_radix(number.as_str(), number.radix()).ok(),
            Self::Toml(_) => None,
        }
    }
}

pub(super) fn duration(raw: Raw<'_>, kind: Kind) -> Result<Duration, String> {
    let Kind::Duration { least, most, zero } = kind else { return Err(OTHER_KIND.to_owned()) };
    let value = match raw {
        Raw::Seconds(text) => text
            .trim()
            .parse()
            .map(Duration::from_secs)
            .map_err(|_| format!("{raw} is not a whole number of seconds (such as 60)"))?,
        _ => raw
            .as_text()
            .and_then(|text| humantime::parse_duration(text).ok())
            .ok_or_else(|| format!("{raw} is not a duration (such as {})", Quoted(raw, "500ms, 2s, 10m")))?,
    };
    if (least..=most).contains(&value) || (value.is_zero() && zero.is_some()) {
        return Ok(value);
    }
    let bounds = format!("{raw} is not in {} to {}", format_duration(least), format_duration(most));
    Err(zero.map_or_else(|| bounds.clone(), |zero| format!("{bounds}, nor 0s ({zero})")))
}

/// Examples as they must be written: in the file with quotes.
struct Quoted<'a>(Raw<'a>, &'static str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Raw::Text(_) | Raw::Seconds(_) | Raw::Toml(DeValue::String(_)) => f.write_str(self.1),
            Raw::Toml(_) => write!(f, "\"{}\", with the quotes", self.1.replace(", ", "\", \"")),
        }
    }
}

pub(super) fn count(raw: Raw<'_>, kind: Kind) -> Result<u64, String> {
    let Kind::Count { least, most } = kind else { return Err(OTHER_KIND.to_owned()) };
    let value = raw.as_integer().ok_or_else(|| format!("{raw} is not a whole number"))?;
    u64::try_from(value)
        .ok()
        .filter(|value| (least..=most).contains(value))
        .ok_or_else(|| format!("{raw} is not in {least} to {most}"))
}

pub(super) fn number(raw: Raw<'_>, kind: Kind) -> Result<f32, String> {
    let Kind::Number { least, most } = kind else { return Err(OTHER_KIND.to_owned()) };
    let value: Option<f32> = match raw {
        Raw::Text(text) | Raw::Seconds(text) => text.trim().parse().ok(),
        // By way of its digits in decimal: the text may be in another radix.
        Raw::Toml(DeValue::Integer(_)) => raw.as_integer().and_then(|number| number.to_string().parse().ok()),
        Raw::Toml(DeValue::Float(number)) => number.as_str().parse().ok(),
        Raw::Toml(_) => None,
    };
    let value = value.ok_or_else(|| format!("{raw} is not a number"))?;
    // A range holds no NaN.
    (least..=most).contains(&value).then_some(value).ok_or_else(|| format!("{raw} is not in {least} to {most}"))
}

pub(super) fn address(raw: Raw<'_>, _: Kind) -> Result<SocketAddr, String> {
    raw.as_text()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("{raw} is not an IP address with a port (such as 0.0.0.0:8080 or [::]:8080)"))
}

pub(super) fn networks(raw: Raw<'_>, _: Kind) -> Result<Vec<IpNet>, String> {
    let (networks, broken): (Vec<_>, Vec<_>) = raw.items()?.into_iter().map(network).partition(Result::is_ok);
    if broken.is_empty() {
        return Ok(networks.into_iter().flatten().collect());
    }
    Err(broken.into_iter().filter_map(Result::err).collect::<Vec<_>>().join("; "))
}

fn network(raw: Raw<'_>) -> Result<IpNet, String> {
    let text = raw.as_text().unwrap_or_default();
    let parsed = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let network =
        parsed.ok_or_else(|| format!("{raw} is not a network or an address (such as 10.0.0.0/8 or 192.0.2.7)"))?;
    if network != network.trunc() {
        return Err(format!("{raw} has bits beyond its prefix; the network is {}", network.trunc()));
    }
    Ok(network)
}

pub(super) fn country(raw: Raw<'_>, _: Kind) -> Result<Country, String> {
    raw.as_text().ok_or_else(|| format!("{raw} is not a country code, such as \"DE\""))?.parse()
}

pub(super) fn statuses(raw: Raw<'_>, _: Kind) -> Result<RangeInclusive<u16>, String> {
    let broken = || format!("{raw} is not a status or a range of statuses from 100 to 599 (such as 200-399)");
    let (first, last) = match raw.as_text() {
        Some(text) => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            (first.trim().parse().ok(), last.trim().parse().ok())
        }
        None => {
            let status = raw.as_integer().and_then(|status| u16::try_from(status).ok());
            (status, status)
        }
    };
    let (first, last) = first.zip(last).ok_or_else(broken)?;
    let known = |status: u16| (100..=599).contains(&status);
    if !known(first) || !known(last) || first > last {
        return Err(broken());
    }
    Ok(first..=last)
}

pub(super) fn bytes(raw: Raw<'_>, _: Kind) -> Result<Vec<u8>, String> {
    if let Some(text) = raw.as_text() {
        return Ok(text.as_bytes().to_owned());
    }
    let items = raw.items().map_err(|_| format!("{raw} is neither a text nor a list of byte values"))?;
    let byte = |item: Raw<'_>| item.as_integer().and_then(|value| u8::try_from(value).ok());
    items
        .into_iter()
        .map(|item| byte(item).ok_or_else(|| format!("{item} is not a byte value (0 to 255, or 0x00 to 0xFF)")))
        .collect()
}

/// A text, by the rule of its kind.
pub(super) fn text(raw: Raw<'_>, kind: Kind) -> Result<String, String> {
    let text = raw.as_text().ok_or_else(|| format!("{raw} is not a text in quotes"))?;
    let broken = match kind {
        Kind::Name => broken_name(text),
        Kind::Code => (text.is_empty() || text.len() > 32 || !text.bytes().all(is_code))
            .then(|| "is not a code of 1 to 32 lower-case letters, digits and '-'".to_owned()),
        Kind::Path | Kind::Output => (text.is_empty() || text.contains('\0')).then(|| "is not a path".to_owned()),
        Kind::Word(words) => (!words.contains(&text)).then(|| {
            let hint =
                nearest(text, words.iter().copied()).map_or(String::new(), |word| format!("; did you mean {word}?"));
            format!("is none of {}{hint}", words.join(", "))
        }),
        Kind::Filter => broken_filter(text),
        Kind::HttpPath => (!text.starts_with('/') || !text.bytes().all(|byte| byte.is_ascii_graphic()))
            .then(|| "is not a path: it begins with / and has no spaces (such as /healthz)".to_owned()),
        Kind::Host => (text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()))
            .then(|| "is not a host name (such as api.example.com or api.example.com:8443)".to_owned()),
        Kind::ServerName => (text.parse::<IpAddr>().is_err() && !is_dns_name(text))
            .then(|| "is not a DNS name or an IP address (such as db.example.com)".to_owned()),
        _ => return Err(OTHER_KIND.to_owned()),
    };
    match broken {
        Some(rule) => Err(format!("{raw} {rule}")),
        None => Ok(text.to_owned()),
    }
}

/// A host and a port.
pub(super) fn endpoint(raw: Raw<'_>, _: Kind) -> Result<Endpoint, String> {
    let text = raw.as_text().ok_or_else(|| format!("{raw} is not a text in quotes"))?;
    text.parse().map_err(|error| format!("{raw}: {error}"))
}

fn broken_name(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("is not a name".to_owned());
    }
    if text.len() > MAX_NAME_BYTES {
        return Some(format!("has {} bytes; a name has at most {MAX_NAME_BYTES}", text.len()));
    }
    text.chars().any(char::is_control).then(|| "holds a control character".to_owned())
}

fn broken_filter(text: &str) -> Option<String> {
    let unknown = |level: &str| !LEVELS.contains(&level.to_ascii_lowercase().as_str());
    // A lone word that is no level would be taken for the name of a target and switch everything else off.
    let stray = text.split(',').map(str::trim).find(|part| !part.contains('=') && unknown(part));
    if let Some(stray) = stray {
        let hint = nearest(stray, LEVELS).map_or(String::new(), |level| format!("; did you mean {level}?"));
        let which = if stray == text { String::new() } else { format!("not a log filter: {stray:?} is ") };
        return Some(format!("is {which}none of {} (nor target=level){hint}", LEVELS.join(", ")));
    }
    EnvFilter::builder().parse(text).err().map(|error| format!("is not a log filter: {error}"))
}

fn is_code(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let text = text.strip_suffix('.').unwrap_or(text);
    // As rustls has it: what ends in digits would be taken for an address.
    let last_is_number = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    text.len() <= 253 && text.split('.').all(label) && !last_is_number
}
