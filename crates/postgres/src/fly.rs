//! The way that platforms with a replaying proxy have for a write that came to the wrong region: the whole request is
//! answered with 409 and the region where it is to be sent again.

/// Status of such an answer: Conflict.
pub const REPLAY_STATUS: u16 = 409;
/// The header that the proxy looks for.
pub const REPLAY_HEADER: &str = "fly-replay";

/// The value of [`REPLAY_HEADER`] that sends a request to `region`; `None` for what is no name of one, which could say
/// something else to the proxy.
#[must_use]
pub fn replay_in(region: &str) -> Option<String> {
    let named = !region.is_empty() && region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    named.then(|| format!("region={region}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_names_a_region_and_nothing_else() {
        assert_eq!(replay_in("sjc").as_deref(), Some("region=sjc"));
        for region in ["", "sjc;app=other", "sjc\r\nx: y", "s c"] {
            assert_eq!(replay_in(region), None, "{region:?}");
        }
    }
}
