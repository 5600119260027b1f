//! A peer as the file has it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use edgeproxy_tunnel::{Prefix, PresharedKey, PublicKey, Tai64N};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

/// The number of a peer; never given twice in one file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerId(pub u64);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl ToSql for PeerId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        i64::try_from(self.0)
            .map(ToSqlOutput::from)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
    }
}

impl FromSql for PeerId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let number = value.as_i64()?;
        u64::try_from(number).map(Self).map_err(|_| FromSqlError::OutOfRange(number))
    }
}

/// All that is kept of a peer. Times are seconds since 1970.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerRecord {
    /// What is asked on the way of packets.
    pub row: PeerRow,
    /// A name people know it by; need not be unique.
    pub name: Option<String>,
    /// The region it was made for.
    pub region: Option<String>,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Who had it made, by the name of its token; `None`: whoever runs the gateway.
    pub owner: Option<String>,
    /// Where it was when it last was heard.
    pub endpoint: Option<SocketAddr>,
    /// Bytes of datagrams from it.
    pub received: u64,
    /// Bytes of datagrams to it.
    pub sent: u64,
}

/// The part of a record that is kept in memory for each peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerRow {
    /// Its number.
    pub id: PeerId,
    /// Who it is.
    pub public: PublicKey,
    /// A secret mixed into its handshakes; all zero for none.
    pub preshared: PresharedKey,
    /// Its address of the old kind inside the overlay.
    pub v4: Option<Ipv4Addr>,
    /// Its address of the new kind.
    pub v6: Option<Ipv6Addr>,
    /// Networks behind it.
    pub prefixes: Vec<Prefix>,
    /// When it was made.
    pub created: u64,
    /// When it ends, whatever it does.
    pub expires: Option<u64>,
    /// After so many seconds without a handshake it ends.
    pub idle: Option<u64>,
    /// It is never collected for being idle.
    pub keep: bool,
    /// When its last handshake was complete.
    pub handshake: Option<u64>,
    /// The timestamp of its last initiation that was answered: none that is not later is answered again.
    pub greatest: Tai64N,
    /// The key it had before, while that still counts.
    pub former: Option<FormerKey>,
}

/// A key that was replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FormerKey {
    /// The key.
    pub public: PublicKey,
    /// Until when it counts.
    pub until: u64,
    /// As in [`PeerRow`].
    pub greatest: Tai64N,
}

/// What was seen of a peer since it was last written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// Which.
    pub id: PeerId,
    /// As in [`PeerRow`].
    pub handshake: Option<u64>,
    /// The key it had when it was seen, which may be its former one by the time this is written.
    pub public: PublicKey,
    /// As in [`PeerRow`], of that key.
    pub greatest: Tai64N,
    /// The key it had before that, while it counts.
    pub former: Option<FormerKey>,
    /// As in [`PeerRecord`].
    pub endpoint: Option<SocketAddr>,
    /// Bytes from it since then.
    pub received: u64,
    /// Bytes to it since then.
    pub sent: u64,
}

/// An address that is not to be given to anybody for a while: who had it before may still be spoken of by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Released {
    /// Which.
    pub address: IpAddr,
    /// Until when.
    pub until: u64,
}

/// Lists of texts without spaces are one text with spaces between.
pub(super) fn joined<T: ToString>(items: &[T]) -> Option<String> {
    (!items.is_empty()).then(|| items.iter().map(T::to_string).collect::<Vec<_>>().join(" "))
}

/// The list again.
pub(super) fn parted<T: FromStr>(text: Option<&str>) -> Result<Vec<T>, T::Err> {
    text.into_iter().flat_map(str::split_whitespace).map(str::parse).collect()
}
