//! What a run uploads, and within which bounds that may be asked for.

use serde::{Deserialize, Serialize};

/// 1,000,000 bytes.
pub const MB: u64 = 1_000_000;
/// 1,048,576 bytes.
pub const MIB: u64 = 1 << 20;
/// 1,000,000,000 bytes.
pub(super) const GB: u64 = 1000 * MB;

/// What S3 takes as a part that is not the last.
pub(super) const PART_LEAST: u64 = 5 * MIB;
/// What S3 takes as a part.
pub(super) const PART_MOST: u64 = 5 * 1024 * MIB;
/// What S3 takes as parts of one object.
pub(super) const PARTS_MOST: u32 = 10_000;
/// Connections to a store at once.
pub const STREAMS_MOST: usize = 64;
/// Connections of the service.
pub(super) const POOL: usize = 10;

/// One upload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// In parts or in one request.
    pub shape: Shape,
    /// Gives the data.
    pub seed: u64,
    /// The object stays.
    pub keep: bool,
    /// The object is read again, and compared.
    pub read_back: bool,
    /// What earlier runs left is removed first.
    pub sweep: bool,
}

/// How an object goes to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Multipart.
    Parts {
        /// How many.
        count: u32,
        /// Of each.
        bytes: u64,
        /// At once, each on a connection of its own.
        streams: usize,
    },
    /// One request.
    Single {
        /// Of the object.
        bytes: u64,
    },
}

impl Default for Plan {
    fn default() -> Self {
        Self { shape: Shape::PARTS, seed: 1, keep: false, read_back: false, sweep: true }
    }
}

impl Shape {
    /// Ten parts of 100 MB, five at once.
    pub const PARTS: Self = Self::Parts { count: 10, bytes: 100 * MB, streams: 5 };
    /// 1 GB in one request.
    pub const SINGLE: Self = Self::Single { bytes: GB };

    /// Of the object.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match *self {
            Self::Parts { count, bytes, .. } => u64::from(count) * bytes,
            Self::Single { bytes } => bytes,
        }
    }

    /// Connections that are used.
    #[must_use]
    pub fn streams(&self) -> usize {
        match *self {
            Self::Parts { count, streams, .. } => streams.min(count as usize),
            Self::Single { .. } => 1,
        }
    }

    /// # Errors
    ///
    /// A sentence: what is out of bounds, and the bounds. An object has at most `most` bytes.
    pub fn check(&self, most: u64) -> Result<(), String> {
        if let Self::Parts { count, bytes, streams } = *self {
            if !(1..=PARTS_MOST).contains(&count) {
                return Err(format!("{count} parts: there are 1 to {PARTS_MOST}"));
            }
            if bytes > PART_MOST || bytes == 0 || (bytes < PART_LEAST && count > 1) {
                return Err(format!("parts of {bytes} bytes: stores take {PART_LEAST} to {PART_MOST}"));
            }
            if !(1..=STREAMS_MOST).contains(&streams) {
                return Err(format!("{streams} streams: there are 1 to {STREAMS_MOST}"));
            }
        }
        match self.bytes() {
            0 => Err("an object of 0 bytes has no rate".to_owned()),
            bytes if bytes > most => Err(format!("an object of {bytes} bytes: at most {most} are allowed")),
            _ => Ok(()),
        }
    }

    /// The rate as the published benchmark tells it, e.g. `90.20 MB/s`: its objects count as 1,024 "MB" whatever their size
    /// in bytes, so for the two default sizes it is 1024 by the seconds, and MiB by the seconds for all others.
    #[must_use]
    pub fn published_rate(&self, seconds: f64) -> String {
        let size = match *self {
            Self::PARTS | Self::SINGLE => 1024.0,
            _ => self.bytes() as f64 / MIB as f64,
        };
        format!("{:.2} MB/s", size / seconds.max(1e-6))
    }
}

/// Reads a size: `100MB`, `8MiB`, `1GB`, `65536`.
///
/// # Errors
///
/// A sentence.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|character: char| character.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "kib" => 1024,
        "mb" => MB,
        "mib" => MIB,
        "gb" => GB,
        "gib" => 1024 * MIB,
        _ => return Err(format!("{text:?} is no size: it looks like 100MB, 8MiB or 1GB")),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no size: it looks like 100MB, 8MiB or 1GB"))?;
    number.checked_mul(unit).ok_or_else(|| format!("{text:?} is too much"))
}

/// The shortest way to write a size that [`parse_size`] reads as the same.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = [(GB, "GB"), (1024 * MIB, "GiB"), (MIB, "MiB"), (MB, "MB"), (1024, "KiB"), (1000, "KB")];
    let fitting = units.into_iter().find(|(unit, _)| bytes != 0 && bytes.is_multiple_of(*unit));
    fitting.map_or_else(|| format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_figures_come_out_of_their_times() {
        assert_eq!(Shape::PARTS.published_rate(11.353), "90.20 MB/s");
        assert_eq!(Shape::SINGLE.published_rate(24.46), "41.86 MB/s");
        assert_eq!(Shape::Single { bytes: 10 * MIB }.published_rate(2.0), "5.00 MB/s");
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for text in ["100MB", "8MiB", "1GB", "1GiB", "5B", "3KiB"] {
            assert_eq!(size(parse_size(text).unwrap()), text);
        }
        for wrong in ["", "MB", "1.5GB", "1TB", "-1", "99999999999GB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_store_would_refuse_is_refused_before() {
        let parts = |count, bytes, streams| Shape::Parts { count, bytes, streams }.check(GB);
        assert_eq!(Shape::PARTS.check(GB), Ok(()));
        assert_eq!(parts(1, 10, 1), Ok(()));
        for wrong in [
            parts(0, MB, 1),
            parts(2, MB, 1),
            parts(1, 0, 1),
            parts(2, 10 * MB, 0),
            parts(2, 10 * MB, 65),
            parts(11, 100 * MB, 5),
        ] {
            assert!(wrong.is_err());
        }
    }
}
