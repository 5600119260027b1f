//! iperf3 at both ends, and what its client reports.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::failure::{Context, Failure};
use crate::peer::is_listening;

const PORT: u16 = 5201;
const START: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);

/// A server; dropping it ends it.
pub(super) struct Server {
    child: Child,
}

impl Server {
    /// In the network namespace of the calling thread.
    pub(super) fn start(at: Ipv4Addr) -> Result<Self, Failure> {
        let mut command = Command::new("iperf3");
        command.args(["-s", "-B", &at.to_string()]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self { child: command.spawn().context("cannot run iperf3")? };
        let began = Instant::now();
        while !is_listening(SocketAddrV4::new(at, PORT)) {
            if began.elapsed() > START {
                return Err(Failure::new("the iperf3 server does not listen"));
            }
            std::thread::sleep(LOOK);
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What arrived, as the receiving end counts it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Transfer {
    pub(super) bytes: f64,
    pub(super) bits_per_second: f64,
    pub(super) retransmits: f64,
}

/// Sends to `to` from the network namespace of the calling thread, and gives up after `timeout_s`: a tunnel may hang.
pub(super) fn send(to: Ipv4Addr, streams: u32, seconds: u32, timeout_s: u64) -> Result<Transfer, Failure> {
    let (to, limit) = (to.to_string(), timeout_s.to_string());
    let (streams, seconds) = (streams.to_string(), seconds.to_string());
    let output = Command::new("timeout")
        .args(["-k", "1", &limit, "iperf3", "-J", "-c", &to, "-P", &streams, "-t", &seconds])
        .stdin(Stdio::null())
        .output()
        .context("cannot run iperf3")?;
    if output.status.code() == Some(124) {
        return Err(Failure::new(format!("iperf3 did not end within {limit} s")));
    }
    parse(&String::from_utf8_lossy(&output.stdout))
}

#[derive(Deserialize)]
struct Report {
    error: Option<String>,
    end: Option<End>,
}

#[derive(Deserialize)]
struct End {
    sum_sent: Option<Sum>,
    sum_received: Option<Sum>,
}

#[derive(Deserialize)]
struct Sum {
    bytes: f64,
    bits_per_second: f64,
    #[serde(default)]
    retransmits: f64,
}

fn parse(text: &str) -> Result<Transfer, Failure> {
    let report: Report = serde_json::from_str(text).context("iperf3 wrote no report")?;
    if let Some(error) = report.error {
        return Err(Failure::new(format!("iperf3: {error}")));
    }
    let end = report.end.context("iperf3 reports no end")?;
    let received = end.sum_received.filter(|sum| sum.bytes > 0.0).context("iperf3: nothing arrived")?;
    let retransmits = end.sum_sent.map_or(0.0, |sum| sum.retransmits);
    Ok(Transfer { bytes: received.bytes, bits_per_second: received.bits_per_second, retransmits })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_what_arrived() {
        let text = r#"{"start":{},"end":{"sum_sent":{"bytes":9,"bits_per_second":3.5,"retransmits":2,"sender":true},
            "sum_received":{"bytes":8,"bits_per_second":3.25}}}"#;
        assert_eq!(parse(text).unwrap(), Transfer { bytes: 8.0, bits_per_second: 3.25, retransmits: 2.0 });
    }

    #[test]
    fn an_error_is_none() {
        let text = r#"{"start":{},"end":{},"error":"unable to connect"}"#;
        assert_eq!(parse(text).unwrap_err().to_string(), "iperf3: unable to connect");
        assert!(parse("").is_err());
    }
}
