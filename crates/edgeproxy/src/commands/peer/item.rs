//! A peer as the API shows it.

use serde::Deserialize;

/// What the tables show. Times are texts in UTC.
#[derive(Deserialize)]
pub(super) struct Item {
    id: String,
    public_key: String,
    name: Option<String>,
    region: Option<String>,
    tags: Vec<String>,
    addresses: Vec<String>,
    prefixes: Vec<String>,
    created: String,
    expires: Option<String>,
    idle_ttl_s: Option<u64>,
    keep: bool,
    preshared: bool,
    former_public_key: Option<String>,
    awake: bool,
    last_handshake: Option<String>,
    endpoint: Option<String>,
    bytes_received: u64,
    bytes_sent: u64,
}

/// Names of the columns of a list.
pub(super) const COLUMNS: [&str; 9] =
    ["id", "name", "region", "addresses", "public key", "ends", "last handshake", "received", "sent"];
/// Those with numbers.
pub(super) const NUMERIC: [usize; 3] = [0, 7, 8];

impl Item {
    /// One row of a list.
    pub(super) fn row(self) -> [String; 9] {
        [
            self.id,
            or_dash(self.name),
            or_dash(self.region),
            joined(&self.addresses),
            self.public_key,
            or_dash(self.expires),
            or_dash(self.last_handshake),
            self.bytes_received.to_string(),
            self.bytes_sent.to_string(),
        ]
    }

    /// All there is to know, line by line.
    pub(super) fn lines(self) -> Vec<[String; 2]> {
        let yes = |value: bool| if value { "yes" } else { "no" }.to_owned();
        let idle = match (self.keep, self.idle_ttl_s) {
            (true, _) => "never ends it".to_owned(),
            (false, None) => "-".to_owned(),
            (false, Some(seconds)) => {
                format!("ends it after {}", humantime::format_duration(std::time::Duration::from_secs(seconds)))
            }
        };
        let lines = [
            ("id", self.id),
            ("public key", self.public_key),
            ("former public key", or_dash(self.former_public_key)),
            ("preshared key", yes(self.preshared)),
            ("name", or_dash(self.name)),
            ("region", or_dash(self.region)),
            ("tags", joined(&self.tags)),
            ("addresses", joined(&self.addresses)),
            ("prefixes", joined(&self.prefixes)),
            ("created", self.created),
            ("ends", or_dash(self.expires)),
            ("being idle", idle),
            ("awake", yes(self.awake)),
            ("last handshake", or_dash(self.last_handshake)),
            ("endpoint", or_dash(self.endpoint)),
            ("bytes received", self.bytes_received.to_string()),
            ("bytes sent", self.bytes_sent.to_string()),
        ];
        lines.into_iter().map(|(name, value)| [name.to_owned(), value]).collect()
    }
}

fn or_dash(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_owned())
}

fn joined(items: &[String]) -> String {
    if items.is_empty() { "-".to_owned() } else { items.join(", ") }
}
