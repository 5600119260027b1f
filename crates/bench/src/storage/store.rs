//! Where the store is, and how it is spoken to: from the environment, flags above it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use super::checksum::Checksum;
use super::socket_facts;

/// How a bucket is named in a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Addressing {
    /// Virtual-hosted where the endpoint is a name and the bucket can be part of one, else by path.
    #[default]
    Auto,
    /// `https://host/bucket/key`.
    Path,
    /// `https://bucket.host/key`.
    VirtualHost,
}

/// Bounds on waiting.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For name look-up, TCP and TLS together. Default 10 s.
    pub connect: Duration,
    /// While nothing moves. Default 30 s.
    pub stall: Duration,
    /// For a request as a whole. Default 300 s; a larger body has more, as if it came at 1 MB/s.
    pub request: Duration,
}

/// Larger bodies have more time, as if they came at this rate: bytes per second.
const SLOWEST: u64 = 1_000_000;

impl Patience {
    /// For a request as a whole, with a body of so many bytes there or back.
    pub(super) fn for_bytes(&self, bytes: u64) -> Duration {
        self.request.max(Duration::from_secs(bytes / SLOWEST))
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), stall: Duration::from_secs(30), request: Duration::from_secs(300) }
    }
}

/// What is needed to speak to a bucket.
#[derive(Clone, Debug)]
pub struct Store {
    /// Scheme, host and port.
    pub endpoint: Endpoint,
    /// Region in signatures; `auto` where the store has no regions.
    pub region: String,
    /// Whose objects.
    pub bucket: String,
    /// How the bucket is named.
    pub addressing: Addressing,
    /// Who asks.
    pub keys: Keys,
    /// A checksum behind each body, if wanted.
    pub checksum: Option<Checksum>,
    /// Congestion control of the connections, when not the system's own.
    pub congestion: Option<String>,
    /// How long to wait.
    pub patience: Patience,
    /// How often a request is repeated after a failure that may pass.
    pub retries: u32,
    /// For `https` endpoints.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

/// Access key and secret. The secret is wiped from memory and never printed.
#[derive(Clone)]
pub struct Keys {
    /// Public half.
    pub id: String,
    /// The secret.
    pub secret: Zeroizing<String>,
    /// Of temporary keys.
    pub session: Option<Zeroizing<String>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

/// `https://host:port` and no more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// TLS or not.
    pub tls: bool,
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl std::str::FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // What was given is not shown: a secret may have come into the wrong variable.
        let wrong = |why: &str| format!("no endpoint: {why}; it looks like https://fly.storage.tigris.dev");
        let (tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err(wrong("it begins with neither https:// nor http://")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(wrong("there is more than host and port"));
        }
        let uri: hyper::http::uri::Authority = rest.parse().map_err(|_| wrong("the host cannot be read"))?;
        let port = match rest.rsplit_once(':') {
            Some((_, digits)) if !digits.contains(']') => {
                uri.port_u16().filter(|port| *port != 0).ok_or_else(|| wrong("the port cannot be read"))?
            }
            _ => {
                if tls {
                    443
                } else {
                    80
                }
            }
        };
        let host = uri.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(wrong("there is no host"));
        }
        Ok(Self { tls, host, port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority(&self.host))
    }
}

impl Endpoint {
    /// `host` with the port, when it is not the scheme's own.
    fn authority(&self, host: &str) -> String {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// What stays as it is in paths and queries when signatures are made.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const PLAIN_PATH: &AsciiSet = &PLAIN.remove(b'/');

impl Store {
    /// The name that is looked up, and that the certificate must have.
    pub(super) fn host(&self) -> String {
        match self.is_virtual() {
            true => format!("{}.{}", self.bucket, self.endpoint.host),
            false => self.endpoint.host.clone(),
        }
    }

    /// What `Host` says.
    pub(super) fn authority(&self) -> String {
        self.endpoint.authority(&self.host())
    }

    /// Path and query of a key, or of the bucket.
    pub(super) fn target(&self, key: Option<&str>, query: &[(&str, &str)]) -> String {
        let mut target = String::from("/");
        if !self.is_virtual() {
            target.extend(utf8_percent_encode(&self.bucket, PLAIN));
            if key.is_some() {
                target.push('/');
            }
        }
        target.extend(key.into_iter().flat_map(|key| utf8_percent_encode(key, PLAIN_PATH)));
        for (number, (name, value)) in query.iter().enumerate() {
            target.push(if number == 0 { '?' } else { '&' });
            target.push_str(name);
            target.push('=');
            target.extend(utf8_percent_encode(value, PLAIN));
        }
        target
    }

    fn is_virtual(&self) -> bool {
        match self.addressing {
            Addressing::Path => false,
            Addressing::VirtualHost => true,
            Addressing::Auto => {
                let host = &self.endpoint.host;
                let named = host.parse::<IpAddr>().is_err() && host.contains('.');
                let label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
                named && self.bucket.bytes().all(label)
            }
        }
    }
}

/// What the environment says of a store; see [`Settings::store`].
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `AWS_ENDPOINT_URL_S3`.
    pub endpoint: Option<String>,
    /// `AWS_REGION`, `auto` when unset.
    pub region: Option<String>,
    /// `S3_BUCKET`, else `BUCKET_NAME`.
    pub bucket: Option<String>,
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, and `AWS_SESSION_TOKEN` where keys are temporary.
    pub keys: Option<Keys>,
    /// An authority beside the system's, in PEM.
    pub ca_file: Option<std::path::PathBuf>,
    /// See [`Addressing`].
    pub addressing: Addressing,
    /// See [`Store::checksum`].
    pub checksum: Option<Checksum>,
    /// See [`Store::congestion`].
    pub congestion: Option<String>,
}

/// The variables, in the order in which they are told; `/env` shows which are set.
pub(super) const VARIABLES: [&str; 7] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "S3_BUCKET",
    "BUCKET_NAME",
];

/// Requests are repeated so often when nothing else is said.
pub const RETRIES: u32 = 4;

impl Settings {
    /// Reads the variables; `variable` gives one that is set to something.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let keys = variable("AWS_ACCESS_KEY_ID").zip(variable("AWS_SECRET_ACCESS_KEY"));
        Self {
            endpoint: variable("AWS_ENDPOINT_URL_S3"),
            region: variable("AWS_REGION"),
            bucket: variable("S3_BUCKET").or_else(|| variable("BUCKET_NAME")),
            keys: keys.map(|(id, secret)| Keys {
                id,
                secret: Zeroizing::new(secret),
                session: variable("AWS_SESSION_TOKEN").map(Zeroizing::new),
            }),
            ca_file: None,
            addressing: Addressing::Auto,
            checksum: None,
            congestion: None,
        }
    }

    /// The store that is meant.
    ///
    /// # Errors
    ///
    /// All that is missing or wrong, a sentence each.
    pub fn store(&self) -> Result<Store, Vec<String>> {
        let mut wrong = Vec::new();
        let missing = |what: &str, names: &str| format!("{what} is not set: {names}");
        let endpoint = match self.endpoint.as_deref().map(str::parse::<Endpoint>) {
            Some(Ok(endpoint)) => Some(endpoint),
            Some(Err(why)) => {
                wrong.push(format!("AWS_ENDPOINT_URL_S3: {why}"));
                None
            }
            None => {
                wrong.push(missing("the endpoint", "AWS_ENDPOINT_URL_S3, for example https://fly.storage.tigris.dev"));
                None
            }
        };
        if self.bucket.is_none() {
            wrong.push(missing("the bucket", "S3_BUCKET or BUCKET_NAME"));
        }
        if self.keys.is_none() {
            wrong.push(missing("the key", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, both"));
        }
        let tls = match endpoint.as_ref().filter(|endpoint| endpoint.tls) {
            Some(_) => super::tls::client(self.ca_file.as_deref()).map_err(|why| wrong.push(why)).ok(),
            None => None,
        };
        if let Some(name) = &self.congestion {
            wrong.extend(socket_facts::refusal(name));
        }
        let (Some(endpoint), Some(bucket), Some(keys), true) =
            (endpoint, self.bucket.clone(), self.keys.clone(), wrong.is_empty())
        else {
            return Err(wrong);
        };
        Ok(Store {
            endpoint,
            region: self.region.clone().unwrap_or_else(|| "auto".to_owned()),
            bucket,
            addressing: self.addressing,
            keys,
            checksum: self.checksum,
            congestion: self.congestion.clone(),
            patience: Patience::default(),
            retries: RETRIES,
            tls,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(endpoint: &str, bucket: &str) -> Store {
        let variables = |name: &str| {
            Some(match name {
                "AWS_ENDPOINT_URL_S3" => endpoint.to_owned(),
                "BUCKET_NAME" => bucket.to_owned(),
                "S3_BUCKET" => String::new(),
                "AWS_REGION" => String::new(),
                _ => "k".to_owned(),
            })
        };
        Settings::from_environment(variables).store().unwrap()
    }

    #[test]
    fn endpoints_are_scheme_host_and_port() {
        let endpoint = |text: &str| text.parse::<Endpoint>();
        let tls = |host: &str, port| Ok(Endpoint { tls: true, host: host.to_owned(), port });
        assert_eq!(endpoint("https://fly.storage.tigris.dev"), tls("fly.storage.tigris.dev", 443));
        assert_eq!(endpoint("https://[::1]:9000/"), tls("::1", 9000));
        for wrong in
            ["fly.dev", "ftp://a", "http://", "http://a/b", "http://a:0", "http://a:99999", "http://u@a", "http://a?b"]
        {
            assert!(endpoint(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_bucket_is_in_the_name_where_it_can_be() {
        let there = store("http://fly.storage.tigris.dev", "speed");
        assert_eq!(there.authority(), "speed.fly.storage.tigris.dev");
        assert_eq!(
            there.target(Some("speed-test/a b"), &[("partNumber", "1"), ("uploadId", "a+/=")]),
            "/speed-test/a%20b?partNumber=1&uploadId=a%2B%2F%3D"
        );
        for (endpoint, bucket) in
            [("http://127.0.0.1:9000", "speed"), ("http://localhost", "speed"), ("http://s3.example.com", "a.b")]
        {
            assert_eq!(store(endpoint, bucket).target(None, &[("uploads", "")]), format!("/{bucket}?uploads="));
        }
        assert_eq!(store("http://127.0.0.1:9000", "speed").authority(), "127.0.0.1:9000");
        assert_eq!(there.region, "auto");
    }

    #[test]
    fn all_that_is_missing_is_told_at_once_and_a_secret_never() {
        let wrong = Settings::from_environment(|_| None).store().unwrap_err();
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        assert!(!format!("{:?}", store("http://a.b", "c").keys).contains('k'.to_string().repeat(2).as_str()));
    }
}
