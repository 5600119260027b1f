//! A little disorder, so that what began together does not end together.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Between three quarters of `duration` and all of it.
pub(crate) fn jittered(duration: Duration) -> Duration {
    // The standard library's only source of chance: each state is keyed anew.
    let chance = RandomState::new().hash_one(0u8) % 1024;
    duration.mul_f64(0.75 + 0.25 * f64::from(u32::try_from(chance).unwrap_or(0)) / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_within_its_bounds_and_not_always_the_same() {
        let whole = Duration::from_secs(4);
        let several: Vec<Duration> = (0..50).map(|_| jittered(whole)).collect();
        assert!(several.iter().all(|pause| (Duration::from_secs(3)..=whole).contains(pause)), "{several:?}");
        assert!(several.iter().any(|pause| *pause != several[0]));
    }
}
