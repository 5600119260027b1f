//! The status line that a health check over HTTP reads.
//!
//! A status is three digits that stand in the line behind the version, and any such line gives its status.

use edgeproxy_proxy::parse_http_status;

/// Whatever bytes: see the head of this module.
pub fn http_status(data: &[u8]) {
    let line = data.split(|&byte| byte == b'\n').next().unwrap_or_default();
    if let Some(status) = parse_http_status(line) {
        let text = std::str::from_utf8(line).expect("a status was read from it");
        let (version, rest) = text.split_once(' ').expect("a status was read from it");
        assert!(version.starts_with("HTTP/1."), "{version:?}");
        assert_eq!(rest.get(..3), Some(format!("{status:03}").as_str()), "{text:?}");
    }
    if let [a, b, c, ..] = data {
        let digits: String = [a, b, c].map(|byte| char::from(b'0' + byte % 10)).iter().collect();
        for line in [format!("HTTP/1.1 {digits}"), format!("HTTP/1.0 {digits} Fine\r")] {
            assert_eq!(parse_http_status(line.as_bytes()), digits.parse().ok(), "{line:?}");
        }
    }
}
