//! The programs that upload, and what one upload costs each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use edgeproxy_world::Bucket;
use serde::Serialize;

use super::OBJECT;
use crate::cpu::waited_for;
use crate::failure::{Context, Failure};
use crate::peer::find_program;
use crate::site::Site;

/// No upload takes longer.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    /// Ten of 100 MB, five at once.
    Parts,
    /// One request.
    Single,
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Parts => "10 parts, 5 at once",
            Self::Single => "one request",
        }
    }
}

/// One program.
pub(super) struct Client {
    pub(super) label: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ours,
    OursWithChecksum,
    Aws,
    S5cmd,
    Rclone,
    Node,
}

pub(super) const CLIENTS: [Client; 6] = [
    Client { label: "edgeproxy", kind: Kind::Ours },
    Client { label: "edgeproxy, CRC64NVME", kind: Kind::OursWithChecksum },
    Client { label: "s5cmd", kind: Kind::S5cmd },
    Client { label: "rclone", kind: Kind::Rclone },
    Client { label: "aws-cli", kind: Kind::Aws },
    Client { label: "Node.js", kind: Kind::Node },
];

/// One upload.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sample {
    pub(super) client: &'static str,
    pub(super) mode: Mode,
    /// From the first byte that came to the object, as the store saw it.
    pub(super) mb_per_second: f64,
    /// The whole life of the process.
    pub(super) process_seconds: f64,
    pub(super) cpu_seconds_per_gb: f64,
    pub(super) peak_mb: f64,
}

impl Client {
    pub(super) fn is_ours(&self) -> bool {
        matches!(self.kind, Kind::Ours | Kind::OursWithChecksum)
    }

    /// `None`: it is not here.
    pub(super) fn program(&self, site: &Site, tools: &Path) -> Option<PathBuf> {
        let of_tools = |name: &str| Some(tools.join("bin").join(name)).filter(|path| path.exists());
        match self.kind {
            Kind::Ours | Kind::OursWithChecksum => Some(site.edgeproxy.clone()).filter(|path| path.exists()),
            Kind::Aws => of_tools("aws"),
            Kind::S5cmd => of_tools("s5cmd"),
            Kind::Rclone => find_program("rclone"),
            Kind::Node => find_program("node"),
        }
    }

    pub(super) fn measure(
        &self,
        site: &Site,
        tools: &Path,
        file: &Path,
        bucket: &Bucket,
        mode: Mode,
    ) -> Result<Sample, Failure> {
        let program = self.program(site, tools).context(format!("{} is not here", self.label))?;
        let output = site.scratch.join("client-output");
        let mut command = Command::new(&program);
        // Proxies, certificates and settings of whoever runs this are not part of the comparison.
        command.env_clear().env("HOME", &site.scratch).envs(std::env::vars_os().filter(|(name, _)| name == "PATH"));
        let errors = fs::File::create(&output).context("cannot write a file")?;
        command.stdin(Stdio::null()).stdout(errors.try_clone().context("no descriptor")?).stderr(errors);
        self.arguments(&mut command, site, file, bucket, mode)?;
        let (received, cpu) = (bucket.received(), waited_for());
        bucket.take_span();
        let began = Instant::now();
        let mut child = command.spawn().context(format!("cannot start {}", self.label))?;
        let mut peak = 0;
        let status = loop {
            peak = peak.max(peak_memory(child.id()));
            if let Some(status) = child.try_wait().context("cannot wait")? {
                break status;
            }
            if began.elapsed() > PATIENCE {
                // It may end at this moment.
                let _ = child.kill();
                let _ = child.wait();
                return Err(Failure::new(format!("{} has not ended", self.label)));
            }
            std::thread::sleep(LOOK);
        };
        let wall = began.elapsed();
        let span = bucket.take_span().unwrap_or(wall);
        let arrived = bucket.received() - received;
        if !status.success() || arrived < OBJECT {
            let told = fs::read_to_string(&output).unwrap_or_default();
            return Err(Failure::new(format!("{} failed: {status}, {arrived} bytes arrived\n{told}", self.label)));
        }
        let gb = OBJECT as f64 / 1e9;
        Ok(Sample {
            client: self.label,
            mode,
            mb_per_second: OBJECT as f64 / 1e6 / span.as_secs_f64(),
            process_seconds: wall.as_secs_f64(),
            cpu_seconds_per_gb: (waited_for() - cpu).as_secs_f64() / gb,
            peak_mb: peak as f64 / 1e6,
        })
    }

    /// Others need not sign: then they hash no body over plain HTTP either.
    fn arguments(
        &self,
        command: &mut Command,
        site: &Site,
        file: &Path,
        bucket: &Bucket,
        mode: Mode,
    ) -> Result<(), Failure> {
        let endpoint = format!("http://{}", bucket.address());
        let parts = mode == Mode::Parts;
        match self.kind {
            Kind::Ours | Kind::OursWithChecksum => {
                command.args([
                    "bench",
                    "storage",
                    "--repeat",
                    "1",
                    "--retries",
                    "0",
                    "--no-sweep-old",
                    "--json",
                    "--mode",
                ]);
                command.arg(if parts { "parts" } else { "single" });
                if self.kind == Kind::OursWithChecksum {
                    command.args(["--checksum", "crc64nvme"]);
                }
                store(command, &endpoint);
            }
            Kind::Aws => {
                let config = site.scratch.join("aws.conf");
                let threshold = if parts { "100000000" } else { "5000000000" };
                let text = format!(
                    "[default]\nregion = us-east-1\nrequest_checksum_calculation = when_required\ns3 =\n  \
                     multipart_chunksize = 100000000\n  multipart_threshold = {threshold}\n  max_concurrent_requests = 5\n  \
                     addressing_style = path\n"
                );
                fs::write(&config, text).context("cannot write aws.conf")?;
                command.env("AWS_CONFIG_FILE", config).env("AWS_EC2_METADATA_DISABLED", "true");
                command.args(["--endpoint-url", &endpoint, "--no-sign-request", "s3", "cp", "--only-show-errors"]);
                command.arg(file).arg("s3://speed/speed-test/aws");
            }
            Kind::S5cmd => {
                command.args([
                    "--endpoint-url",
                    &endpoint,
                    "--no-sign-request",
                    "--log",
                    "error",
                    "cp",
                    "-c",
                    "5",
                    "-p",
                ]);
                command.arg(if parts { "96" } else { "5000" }).arg(file).arg("s3://speed/speed-test/s5cmd");
            }
            Kind::Rclone => {
                command.env("RCLONE_CONFIG", "/dev/null").args(["copyto", "--retries", "1", "--ignore-checksum"]);
                command.args(["--s3-provider", "Other", "--s3-endpoint", &endpoint, "--s3-force-path-style"]);
                command.args(["--s3-no-check-bucket", "--s3-disable-checksum", "--s3-chunk-size", "96M"]);
                command.args(["--s3-upload-concurrency", "5", "--s3-upload-cutoff", if parts { "0" } else { "5G" }]);
                command.arg(file).arg(":s3:speed/speed-test/rclone");
            }
            Kind::Node => {
                command.arg(site.root.join("storage/upload.mjs")).arg(endpoint);
                command.arg(if parts { "parts" } else { "single" });
            }
        }
        Ok(())
    }
}

/// The store, for ours.
pub(super) fn store(command: &mut Command, endpoint: &str) {
    command
        .env("AWS_ENDPOINT_URL_S3", endpoint)
        .env("AWS_REGION", "auto")
        .env("AWS_ACCESS_KEY_ID", "benchmark")
        .env("AWS_SECRET_ACCESS_KEY", "benchmark")
        .env("S3_BUCKET", "speed");
}

/// Bytes; 0 once it has ended.
pub(super) fn peak_memory(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
