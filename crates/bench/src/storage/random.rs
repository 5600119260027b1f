//! Randomness: names of objects, lengths of pauses.

/// A version 4 UUID in its usual form.
pub(super) fn uuid() -> String {
    let mut bytes = bytes::<16>();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Whether this is one, as [`uuid`] writes them.
pub(super) fn is_uuid(text: &str) -> bool {
    let fits = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        14 => byte == b'4',
        19 => b"89ab".contains(&byte),
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    };
    text.len() == 36 && text.bytes().enumerate().all(fits)
}

/// From 0 up to 1.
pub(super) fn fraction() -> f64 {
    f64::from(u32::from_le_bytes(bytes())) / (f64::from(u32::MAX) + 1.0)
}

fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // A generator that does not work gives names that are met again at worst.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_uuid_says_that_it_is_random() {
        let (first, second) = (super::uuid(), super::uuid());
        assert_ne!(first, second);
        assert!(super::is_uuid(&first) && super::is_uuid(&second), "{first} {second}");
        assert!(super::is_uuid("936da01f-9abd-4d9d-80c7-02af85c822a8"));
        for other in [
            "",
            "936DA01F-9ABD-4D9D-80C7-02AF85C822A8",
            "936da01f-9abd-1d9d-80c7-02af85c822a8",
            "936da01f-9abd-4d9d-c0c7-02af85c822a8",
            "936da01f09abd-4d9d-80c7-02af85c822a8",
            "936da01f-9abd-4d9d-80c7-02af85c822a",
            "936da01f-9abd-4d9d-80c7-02af85c822a8.tar",
        ] {
            assert!(!super::is_uuid(other), "{other}");
        }
    }
}
