//! As much HTTP as it takes to ask a POP for its metrics.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// GET over HTTP/1.1: status and body.
///
/// # Errors
/// Those of the connection; `InvalidData` for an answer that is no HTTP.
pub(crate) async fn get(addr: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(addr).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let parsed = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        Some((status, body.to_owned()))
    });
    parsed.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP answer: {answer:?}")))
}

/// The sum of a metric's samples that carry these labels; 0 when there are none.
pub(crate) fn sum(metrics: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let samples = metrics.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, rest) = series.split_once('{').unwrap_or((series, ""));
            let carries = labels.iter().all(|(label, value)| rest.contains(&format!("{label}=\"{value}\"")));
            (found == name && carries).then(|| value.parse::<f64>().ok())?
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let text =
            "# HELP a x\na_total{l=\"1\",r=\"x\"} 3\na_total{l=\"2\",r=\"x\"} 4\na_total{l=\"1\",r=\"y\"} 5\nb 6.5\n";
        assert!((sum(text, "a_total", &[("r", "x")]) - 7.0).abs() < 1e-9);
        assert!((sum(text, "a_total", &[("l", "1"), ("r", "y")]) - 5.0).abs() < 1e-9);
        assert!((sum(text, "b", &[]) - 6.5).abs() < 1e-9);
        assert!(sum(text, "a", &[]).abs() < 1e-9);
    }
}
