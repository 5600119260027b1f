//! Chance that can be repeated.

/// Numbers that look like chance and follow from a seed (SplitMix64).
#[derive(Debug)]
pub(super) struct Chance(u64);

impl Chance {
    /// Different ones for every `lane` of a seed.
    pub(super) fn new(seed: u64, lane: u64) -> Self {
        let mut mixed = Self(seed ^ lane.wrapping_mul(0xD134_2543_DE82_EF95));
        Self(mixed.word())
    }

    /// At least 0, less than 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are what fits")]
    pub(super) fn share(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }
}
