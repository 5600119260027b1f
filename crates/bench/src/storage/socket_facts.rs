//! What the kernel knows of a TCP connection, and what that allows at most.

use std::fs;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::net::{AddressFamily, SocketType};
use serde::{Deserialize, Serialize};

/// One connection, at its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SocketFacts {
    /// Congestion control in use, e.g. `cubic`.
    pub congestion_control: String,
    /// Congestion window, in segments.
    pub congestion_window: u32,
    /// Bytes of a segment.
    pub segment_bytes: u32,
    /// Shortest round trip seen, in ms.
    pub min_round_trip_ms: f64,
    /// Smoothed round trip, in ms: with what waits in queues.
    pub round_trip_ms: f64,
    /// Segments sent again.
    pub retransmits: u32,
    /// Share of the busy time in which the send buffer was what limited it, in percent.
    pub send_buffer_limited_percent: f64,
    /// Share of the busy time in which the receiver's window was, in percent.
    pub receiver_limited_percent: f64,
    /// Send buffer at the end, in bytes.
    pub send_buffer_bytes: u64,
}

impl SocketFacts {
    /// `None` where the kernel does not tell.
    pub(super) fn read(socket: BorrowedFd<'_>) -> Option<Self> {
        let info = TcpInfo::read(socket)?;
        let busy = info.u64_at(TcpInfo::BUSY);
        let share = |micros: u64| if busy == 0 { 0.0 } else { 100.0 * micros as f64 / busy as f64 };
        Some(Self {
            congestion_control: rustix::net::sockopt::tcp_congestion(socket).unwrap_or_default(),
            congestion_window: info.u32_at(TcpInfo::WINDOW),
            segment_bytes: info.u32_at(TcpInfo::SEGMENT),
            // The kernel says ~0 before there was one.
            min_round_trip_ms: match info.u32_at(TcpInfo::MIN_ROUND_TRIP) {
                u32::MAX => 0.0,
                micros => f64::from(micros) / 1000.0,
            },
            round_trip_ms: f64::from(info.u32_at(TcpInfo::ROUND_TRIP)) / 1000.0,
            retransmits: info.u32_at(TcpInfo::RETRANSMITS),
            send_buffer_limited_percent: share(info.u64_at(TcpInfo::SEND_BUFFER_LIMITED)),
            receiver_limited_percent: share(info.u64_at(TcpInfo::RECEIVER_LIMITED)),
            send_buffer_bytes: rustix::net::sockopt::socket_send_buffer_size(socket).unwrap_or(0) as u64,
        })
    }
}

/// `struct tcp_info` of linux/tcp.h as bytes: kernels only ever append to it, and say how much they wrote.
struct TcpInfo([u8; 232]);

impl TcpInfo {
    const SEGMENT: usize = 16;
    const ROUND_TRIP: usize = 68;
    const WINDOW: usize = 80;
    const RETRANSMITS: usize = 100;
    const MIN_ROUND_TRIP: usize = 148;
    const BUSY: usize = 168;
    const RECEIVER_LIMITED: usize = 176;
    const SEND_BUFFER_LIMITED: usize = 184;

    #[allow(unsafe_code, reason = "a socket option without a wrapper")]
    fn read(socket: BorrowedFd<'_>) -> Option<Self> {
        let mut bytes = [0_u8; 232];
        let mut length = libc::socklen_t::try_from(bytes.len()).ok()?;
        // SAFETY: the kernel writes at most `length` bytes to `bytes`, which is as long and lives through the call, and the
        // number of them to `length`; the descriptor is borrowed, so it is open.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                bytes.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        // Fields an older kernel does not have stay 0.
        (result == 0).then_some(Self(bytes))
    }

    fn u32_at(&self, offset: usize) -> u32 {
        self.0[offset..offset + size_of::<u32>()].try_into().map_or(0, u32::from_ne_bytes)
    }

    fn u64_at(&self, offset: usize) -> u64 {
        self.0[offset..offset + size_of::<u64>()].try_into().map_or(0, u64::from_ne_bytes)
    }
}

/// A connection that was cut in the middle sends nothing more of what its buffer holds.
pub(super) fn forget_unsent(socket: impl AsFd) {
    // Without it the peer sees a shorter body end a little later.
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(std::time::Duration::ZERO));
}

/// What one stream can send at most on a path of `round_trip_ms`, in bytes per second: a send buffer per round trip.
pub(super) fn single_stream_bound(send_buffer: u64, round_trip_ms: f64) -> Option<f64> {
    (round_trip_ms > 0.0).then(|| send_buffer as f64 / (round_trip_ms / 1000.0))
}

/// The largest send buffer that this system lets TCP take by itself, in bytes.
pub(super) fn send_buffer_most() -> Option<u64> {
    fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").ok()?.split_whitespace().nth(2)?.parse().ok()
}

/// A sentence on why connections cannot have this congestion control, if so.
pub(super) fn refusal(congestion: &str) -> Option<String> {
    let tried = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)
        .and_then(|socket| rustix::net::sockopt::set_tcp_congestion(socket, congestion));
    let error = tried.err()?;
    let allowed = fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control").unwrap_or_default();
    Some(format!("congestion control {congestion}: {error}; everybody may have here: {}", allowed.trim()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernel_tells_of_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        ours.write_all(&[7; 100_000]).unwrap();
        theirs.read_exact(&mut [0; 100_000]).unwrap();
        let facts = SocketFacts::read(ours.as_fd()).unwrap();
        assert!(facts.congestion_window > 0 && facts.segment_bytes > 500 && facts.send_buffer_bytes > 0, "{facts:?}");
        assert!(facts.min_round_trip_ms > 0.0 && facts.min_round_trip_ms < 1000.0, "{facts:?}");
        assert!(!facts.congestion_control.is_empty() && facts.send_buffer_limited_percent <= 100.0, "{facts:?}");
    }

    #[test]
    fn a_congestion_control_that_is_not_there_is_told_with_those_that_are() {
        assert_eq!(refusal("reno"), None);
        let told = refusal("nagle").unwrap();
        assert!(told.starts_with("congestion control nagle: ") && told.contains("reno"), "{told}");
    }

    #[test]
    fn a_stream_sends_a_buffer_in_a_round_trip() {
        let bound = single_stream_bound(4 << 20, 38.0).unwrap();
        assert!((bound / 1e6 - 110.4).abs() < 0.1, "{bound}");
        assert_eq!(single_stream_bound(4 << 20, 0.0), None);
    }
}
