//! `edgeproxy backend` beside a bucket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use edgeproxy_world::Bucket;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// As far as a test waits for what should be at once.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// The binary, with a store and nothing else of this process's environment that would matter.
pub(crate) fn edgeproxy(bucket: &Bucket) -> Command {
    edgeproxy_at(bucket.address(), ("tid_example", "tsec_very_secret"))
}

/// The same with the store at this address, reached with this key and secret.
pub(crate) fn edgeproxy_at(store: SocketAddr, (key, secret): (&str, &str)) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgeproxy"));
    for name in ["FLY_REGION", "DB_HOST", "DATABASE_URL", "BUCKET_NAME", "AWS_SESSION_TOKEN", "EDGEPROXY_STORAGE_TOKEN"]
    {
        command.env_remove(name);
    }
    command
        .env("AWS_ENDPOINT_URL_S3", format!("http://{store}"))
        .env("AWS_ACCESS_KEY_ID", key)
        .env("AWS_SECRET_ACCESS_KEY", secret)
        .env("AWS_REGION", "auto")
        .env("S3_BUCKET", "speed")
        .stdin(Stdio::null());
    command
}

/// A running service.
pub(crate) struct Service {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Service {
    pub(crate) fn start(mut command: Command) -> Self {
        command.arg("backend").env("PORT", "0").env("EDGEPROXY_LOG", "info");
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (sender, port) = channel();
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if line.contains("backend running") {
                    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
                    let after = ["port=", "\"port\":"].iter().find_map(|name| line.split_once(name));
                    let _ = sender.send(digits(after.unwrap().1).parse::<u16>().unwrap());
                }
            }
        });
        let port = port.recv_timeout(LONG).expect("it says which port it has");
        Self { child, address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) }
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// Status, head and body.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &str) -> (u16, String, Vec<u8>) {
        let mut bytes = Vec::new();
        self.send(method, path, headers).read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, bytes.split_off(end))
    }

    pub(crate) fn json(&self, method: &str, path: &str, headers: &str) -> (u16, Value) {
        let (status, head, body) = self.ask(method, path, headers);
        assert!(head.contains("content-type: application/json"), "{head}");
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// Tells it to end, and waits for that.
    pub(crate) fn stop(mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let end = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Most memory it has had, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
