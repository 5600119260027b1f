//! Why a store, or the way to it, did not do what was asked, and what to look at.

use std::error::Error;
use std::fmt;

/// What was being done when it failed; for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Name look-up, TCP, TLS.
    Connect,
    /// The multipart upload is begun.
    Create,
    /// A part, by its number.
    Part(u32),
    /// The object in one request.
    Object,
    /// The parts are joined.
    Complete,
    /// The multipart upload is given up.
    Abort,
    /// The object is read back.
    ReadBack,
    /// The object is deleted.
    Delete,
    /// What earlier runs left is looked for.
    List,
}

impl Step {
    fn uploads(&self) -> bool {
        matches!(self, Self::Create | Self::Part(_) | Self::Object | Self::Complete)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Connect => "connecting",
            Self::Create => "beginning the multipart upload",
            Self::Part(number) => return write!(f, "uploading part {number}"),
            Self::Object => "uploading the object",
            Self::Complete => "completing the multipart upload",
            Self::Abort => "aborting the multipart upload",
            Self::ReadBack => "reading the object back",
            Self::Delete => "deleting the object",
            Self::List => "listing what earlier runs left",
        };
        f.write_str(text)
    }
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The store answered, and not with success. A success with an error in its body counts too, under its own status.
    Answered {
        /// HTTP status.
        status: u16,
        /// The store's word for it, e.g. `AccessDenied`; the status in words where it sent none.
        code: String,
        /// The store's sentence.
        message: String,
    },
    /// No address for the host's name.
    Name(String),
    /// No TCP connection.
    Refused(String),
    /// No TLS session.
    Tls(String),
    /// The connection ended in the middle.
    Cut(String),
    /// Nothing moved for the time that is allowed; seconds.
    Stalled(u64),
    /// The request took longer than the time that is allowed; seconds.
    Late(u64),
    /// An answer that makes no sense.
    Odd(String),
    /// What was read back is not what was sent.
    Corrupted {
        /// Part, and the offset in it of the 128 KiB that differ.
        part: u32,
        /// See `part`.
        offset: u64,
    },
}

/// One failure, told with the step it came at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When it happened.
    pub step: Step,
    /// What happened.
    pub reason: Reason,
}

impl Failure {
    pub(super) fn new(step: Step, reason: Reason) -> Self {
        Self { step, reason }
    }

    /// A class for programs: `Error` is an answer of the store, as the published service has it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.reason {
            Reason::Answered { .. } => "Error",
            Reason::Stalled(_) | Reason::Late(_) => "TimeoutError",
            Reason::Name(_) | Reason::Refused(_) | Reason::Tls(_) | Reason::Cut(_) => "NetworkError",
            Reason::Odd(_) => "AnswerError",
            Reason::Corrupted { .. } => "DataError",
        }
    }

    /// The store's code, or a word of ours for what never reached it.
    #[must_use]
    pub fn code(&self) -> &str {
        match &self.reason {
            Reason::Answered { code, .. } => code,
            Reason::Name(_) => "NoAddress",
            Reason::Refused(_) => "NoConnection",
            Reason::Tls(_) => "NoTls",
            Reason::Cut(_) => "ConnectionCut",
            Reason::Stalled(_) => "Stalled",
            Reason::Late(_) => "TimedOut",
            Reason::Odd(_) => "OddAnswer",
            Reason::Corrupted { .. } => "Corrupted",
        }
    }

    /// Whether the same request may succeed in a moment.
    pub(super) fn is_passing(&self) -> bool {
        match &self.reason {
            Reason::Answered { status, code, .. } => {
                matches!(status, 408 | 429 | 500 | 502 | 503 | 504) || (*status == 200) || code == "RequestTimeout"
            }
            Reason::Refused(_) | Reason::Cut(_) | Reason::Stalled(_) => true,
            Reason::Name(_) | Reason::Tls(_) | Reason::Late(_) | Reason::Odd(_) | Reason::Corrupted { .. } => false,
        }
    }

    /// Whether it says that no upload can succeed, whatever was asked.
    pub(super) fn is_decisive(&self) -> bool {
        const CODES: [&str; 5] = [
            "NoSuchBucket",
            "SignatureDoesNotMatch",
            "InvalidAccessKeyId",
            "RequestTimeTooSkewed",
            "AuthorizationHeaderMalformed",
        ];
        matches!(&self.reason, Reason::Answered { code, .. } if CODES.contains(&code.as_str()))
    }

    /// What to look at, one sentence or two.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match &self.reason {
            Reason::Answered { status, code, .. } => of_answer(*status, code),
            Reason::Name(_) => {
                "Check the host in AWS_ENDPOINT_URL_S3, and whether this machine can look up names. With virtual-hosted \
                 addressing the bucket is part of the name: try path addressing."
            }
            Reason::Refused(_) => {
                "Check host and port of AWS_ENDPOINT_URL_S3, and that a firewall lets this machine out."
            }
            Reason::Tls(_) => {
                "Check that the endpoint speaks TLS (https://) and that its certificate is of an authority this machine \
                 knows; a private one is named with --ca-file. With virtual-hosted addressing and a bucket name with \
                 dots no certificate fits: try path addressing."
            }
            Reason::Cut(_) => {
                "The store or something between closed the connection: look for limits on request size or time in \
                 proxies, and for restarts of the store."
            }
            Reason::Stalled(_) => {
                "The store stopped taking bytes, or did not answer: check its load and the path to it; fewer streams or \
                 smaller parts need less of it at once."
            }
            Reason::Late(_) => {
                "Raise --timeout, or upload less: smaller parts, a smaller object. A client in front of this service may \
                 need more patience too (curl -m 300)."
            }
            Reason::Odd(_) => {
                "Check that AWS_ENDPOINT_URL_S3 is the S3 endpoint of the store and not its console or a proxy."
            }
            Reason::Corrupted { .. } => "The store gave back other bytes than it was sent: tell whoever runs it.",
        }
    }
}

fn of_answer(status: u16, code: &str) -> &'static str {
    match (status, code) {
        (_, "SignatureDoesNotMatch" | "InvalidAccessKeyId") => {
            "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: both of one key, of this store, without spaces. Then the \
             region: AWS_REGION is `auto` for Tigris, and the bucket's own for others."
        }
        (_, "RequestTimeTooSkewed") => "Set this machine's clock: it differs from the store's by more than it accepts.",
        (_, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            "AWS_REGION is not the bucket's region; the store's message names the one it expects."
        }
        (_, "NoSuchBucket") => "Check S3_BUCKET (or BUCKET_NAME): the bucket does not exist at this endpoint.",
        (_, "NoSuchUpload") => "Something ended the upload meanwhile: a lifecycle rule, or another run's sweep.",
        (_, "EntityTooSmall" | "EntityTooLarge") => {
            "Stores take parts of 5 MiB to 5 GiB, the last may be smaller: change the part size."
        }
        (301 | 307, _) => {
            "The bucket lives at another endpoint or in another region: set AWS_REGION and the endpoint to it."
        }
        (403, _) => {
            "Check that the key may write, read, list and delete in this bucket, and that both variables belong to one key."
        }
        (404, _) => "Check S3_BUCKET (or BUCKET_NAME) and the addressing: path or virtual-hosted.",
        (411, _) => "The store wants a length it was given: look for a proxy between that takes Content-Length away.",
        (429 | 503, _) => "The store asks to slow down: fewer streams, a pause between runs, or ask for higher limits.",
        (500.., _) => "The store failed: try again, then look at its status page or log.",
        (200, _) => "The store took the parts and failed to join them: try again.",
        _ => "The store refused the request; its message says why.",
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Reason::Answered { status, message, .. } if self.step.uploads() => {
                write!(f, "Upload failed: {status} - {message}")?;
            }
            Reason::Answered { status, message, .. } => write!(f, "the store answered {status} - {message}")?,
            Reason::Name(text) => write!(f, "the store's name has no address: {text}")?,
            Reason::Refused(text) => write!(f, "no connection to the store: {text}")?,
            Reason::Tls(text) => write!(f, "no TLS session with the store: {text}")?,
            Reason::Cut(text) => write!(f, "the connection to the store ended: {text}")?,
            Reason::Stalled(seconds) => write!(f, "nothing moved for {seconds} s")?,
            Reason::Late(seconds) => write!(f, "not done within {seconds} s")?,
            Reason::Odd(text) => write!(f, "the store's answer makes no sense: {text}")?,
            Reason::Corrupted { part, offset } => write!(f, "part {part} came back changed, from byte {offset} on")?,
        }
        if matches!(self.reason, Reason::Answered { .. }) && matches!(self.step, Step::Part(_) | Step::Object) {
            return Ok(());
        }
        write!(f, " ({})", self.step)
    }
}

impl Error for Failure {}
