//! Checksums that S3 takes behind a body.

use base64ct::{Base64, Encoding};
use crc_fast::{CrcAlgorithm, Digest};

/// Which one a store is asked to check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// CRC-64/NVME.
    Crc64Nvme,
    /// CRC-32 as in zip.
    Crc32,
}

impl Checksum {
    /// Its name in `x-amz-checksum-algorithm`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc64Nvme => "CRC64NVME",
            Self::Crc32 => "CRC32",
        }
    }

    /// The header, here a trailer, that carries it.
    #[must_use]
    pub fn header(self) -> &'static str {
        match self {
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Crc32 => "x-amz-checksum-crc32",
        }
    }

    /// Whether the object's checksum is of the whole or of those of its parts.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Crc64Nvme => "FULL_OBJECT",
            Self::Crc32 => "COMPOSITE",
        }
    }

    pub(super) fn start(self) -> Running {
        let algorithm = match self {
            Self::Crc64Nvme => CrcAlgorithm::Crc64Nvme,
            Self::Crc32 => CrcAlgorithm::Crc32IsoHdlc,
        };
        Running { checksum: self, digest: Digest::new(algorithm) }
    }
}

/// A checksum while its bytes go by.
pub(super) struct Running {
    checksum: Checksum,
    digest: Digest,
}

impl Running {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
    }

    pub(super) fn header(&self) -> &'static str {
        self.checksum.header()
    }

    /// In base64 of its big-endian bytes.
    pub(super) fn value(&self) -> String {
        let bytes = self.digest.finalize().to_be_bytes();
        match self.checksum {
            Checksum::Crc64Nvme => Base64::encode_string(&bytes),
            Checksum::Crc32 => Base64::encode_string(&bytes[4..]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_values_of_the_catalogue_come_out() {
        let value = |checksum: Checksum| {
            let mut running = checksum.start();
            running.update(b"12345");
            running.update(b"6789");
            running.value()
        };
        assert_eq!(value(Checksum::Crc64Nvme), Base64::encode_string(&0xae8b_1486_0a79_9888_u64.to_be_bytes()));
        assert_eq!(value(Checksum::Crc32), Base64::encode_string(&0xcbf4_3926_u32.to_be_bytes()));
    }
}
