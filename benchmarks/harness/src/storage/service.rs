//! The regional service as a whole, during both uploads.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use edgeproxy_world::Bucket;
use serde::Serialize;

use super::client::{peak_memory, store};
use crate::failure::{Context, Failure};
use crate::site::Site;

const PORT: u16 = 7002;
const PATIENCE: Duration = Duration::from_secs(120);

/// Most memory of the process, in MB.
#[derive(Debug, Serialize)]
pub(super) struct Service {
    pub(super) started_mb: f64,
    pub(super) after_both_mb: f64,
}

struct Stop(Child);

impl Drop for Stop {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn measure(site: &Site, bucket: &Bucket) -> Result<Option<Service>, Failure> {
    if !site.edgeproxy.exists() {
        return Ok(None);
    }
    let mut command = Command::new(&site.edgeproxy);
    store(&mut command, &format!("http://{}", bucket.address()));
    command.arg("backend").env("PORT", PORT.to_string()).env("EDGEPROXY_LOG", "error");
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let service = Stop(child.context("cannot start the service")?);
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT);
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() {
        if Instant::now() > until {
            return Err(Failure::new("the service does not listen"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let mb = || peak_memory(service.0.id()) as f64 / 1e6;
    let started = mb();
    for path in ["/upload", "/upload-single"] {
        let mut stream = TcpStream::connect(address).context("no connection to the service")?;
        stream.set_read_timeout(Some(PATIENCE)).context("no timeout")?;
        let request = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).context("cannot ask the service")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("no answer of the service")?;
        if !answer.contains("\"success\":true") {
            return Err(Failure::new(format!("the service failed: {answer}")));
        }
    }
    Ok(Some(Service { started_mb: started, after_both_mb: mb() }))
}
