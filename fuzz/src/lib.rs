//! Fuzz targets: one function for each parser of bytes from outside, and one that runs sequences of operations on the
//! routing state against a simple model of it.
//!
//! Each takes any bytes and panics when a property does not hold; the properties stand at the head of each module.
//! `fuzz_targets/` hands them to libFuzzer, `tests/replay.rs` runs the committed corpus through them on any compiler.

mod admin_request;
mod backend_row;
mod config;
mod datagram;
mod http_status;
mod import;
mod mmdb;
mod packet;
mod pg_first;
mod proxy_header;
mod route_sequence;
mod uapi;
mod wg_quick;

pub use admin_request::admin_request;
pub use backend_row::backend_row;
pub use config::config;
pub use datagram::datagram;
pub use http_status::http_status;
pub use import::import;
pub use mmdb::mmdb;
pub use packet::packet;
pub use pg_first::pg_first;
pub use proxy_header::proxy_header;
pub use route_sequence::route_sequence;
pub use uapi::uapi;
pub use wg_quick::wg_quick;

/// A target: the name of its corpus, and what runs an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 13] = [
    ("proxy_header", proxy_header),
    ("http_status", http_status),
    ("mmdb", mmdb),
    ("config", config),
    ("backend_row", backend_row),
    ("import", import),
    ("admin_request", admin_request),
    ("route_sequence", route_sequence),
    ("uapi", uapi),
    ("wg_quick", wg_quick),
    ("datagram", datagram),
    ("packet", packet),
    ("pg_first", pg_first),
];

/// What goes to a terminal or a log line must be one line: bytes from outside are quoted in it.
fn assert_one_line(message: &str) {
    assert!(!message.chars().any(char::is_control), "a message holds a control character: {message:?}");
}
