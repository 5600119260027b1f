//! The figures of one run.

use serde::{Deserialize, Serialize};

use super::connection::ConnectTimes;
use super::janitor::Swept;
use super::plan::Plan;
use super::socket_facts::SocketFacts;

/// One upload, and what was done beside it. Times are seconds unless the name says otherwise, rates are of 1,000,000 bytes
/// (MB) or of 1,048,576 (MiB).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What was asked for.
    pub plan: Plan,
    /// Of the object.
    pub key: String,
    /// Bytes of the object.
    pub bytes: u64,
    /// From the first request to the last answer, connecting apart.
    pub seconds: f64,
    /// The same without beginning and completing a multipart upload: goodput is bytes by it.
    pub data_seconds: f64,
    /// Beginning the multipart upload; 0 in one request.
    pub create_seconds: f64,
    /// Joining the parts; 0 in one request.
    pub complete_seconds: f64,
    /// Bytes by `seconds`.
    pub mb_per_second: f64,
    /// Bytes by `seconds`.
    pub mib_per_second: f64,
    /// Bytes by `data_seconds`.
    pub goodput_mb_per_second: f64,
    /// One a part, by number.
    pub parts: Vec<PartTimes>,
    /// Bytes handed to the network in each second, what was sent again included.
    pub series: Vec<u64>,
    /// Requests with data.
    pub attempts: u64,
    /// Bytes of attempts that failed.
    pub resent_bytes: u64,
    /// Failures that another attempt made good.
    pub troubles: u64,
    /// The first of them.
    pub trouble_texts: Vec<String>,
    /// What connecting cost before the run, one a stream.
    pub connect: Vec<ConnectTimes>,
    /// The kernel's view of each stream at its end.
    pub sockets: Vec<SocketFacts>,
    /// Who answered.
    pub server: Server,
    /// This process.
    pub process: Process,
    /// When the object was read back.
    pub read_back: Option<ReadBack>,
    /// The object is gone again.
    pub deleted: bool,
    /// What earlier runs had left.
    pub swept: Option<Swept>,
    /// What went wrong and does not touch the figures.
    pub notes: Vec<String>,
}

/// One part, in seconds since the run began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartTimes {
    /// From 1.
    pub number: u32,
    /// Which stream took it, from 1.
    pub stream: usize,
    /// Taken up.
    pub began: f64,
    /// The attempt that succeeded began.
    pub attempt_began: f64,
    /// Head of its answer.
    pub answered: f64,
    /// Done.
    pub ended: f64,
    /// 1 when the first succeeded.
    pub attempts: u32,
}

impl PartTimes {
    /// From taken up to done, retries included.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.ended - self.began
    }
}

/// What the store says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Address and port that were connected to.
    pub address: String,
    /// Header `Server`.
    pub software: Option<String>,
    /// Header `x-amz-bucket-region` or `x-tigris-served-from`, whichever there is.
    pub region: Option<String>,
}

/// What the run cost here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// CPU seconds of the whole process during the run.
    pub cpu_seconds: f64,
    /// Most memory of the process since it began, in bytes.
    pub peak_resident_bytes: u64,
}

/// The object came back, every byte the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReadBack {
    /// All of it.
    pub bytes: u64,
    /// First request to last byte.
    pub seconds: f64,
    /// Bytes by seconds.
    pub mb_per_second: f64,
    /// First byte of the first stream to have one.
    pub first_byte_ms: f64,
}

impl Outcome {
    /// The part that took longest.
    #[must_use]
    pub fn slowest_part(&self) -> Option<&PartTimes> {
        self.parts.iter().max_by(|one, other| one.seconds().total_cmp(&other.seconds()))
    }

    /// The shortest round trip of any stream, in ms.
    #[must_use]
    pub fn min_round_trip_ms(&self) -> Option<f64> {
        let known = self.sockets.iter().map(|socket| socket.min_round_trip_ms).filter(|millis| *millis > 0.0);
        known.min_by(f64::total_cmp)
    }

    /// CPU seconds by 1,000,000,000 bytes.
    #[must_use]
    pub fn cpu_seconds_per_gb(&self) -> f64 {
        self.process.cpu_seconds / (self.bytes.max(1) as f64 / 1e9)
    }
}
