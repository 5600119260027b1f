//! One connection to the bucket: request after request.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Fault, NOW, Object, Operation, Shared, Upload};

const HEAD_MOST: usize = 64 * 1024;
const BUFFER: usize = 256 * 1024;
/// A connection on which nothing happens ends.
const IDLE: Duration = Duration::from_secs(120);

struct Head {
    method: String,
    key: String,
    query: Vec<(String, String)>,
    length: u64,
    waits: bool,
    text: String,
}

/// Reads of the stream, and what has come too early.
struct Input {
    stream: TcpStream,
    buffer: Vec<u8>,
    from: usize,
    to: usize,
}

pub(super) fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    let mut output = stream.try_clone()?;
    let mut input = Input { stream, buffer: vec![0; BUFFER], from: 0, to: 0 };
    while let Some(head) = input.head()? {
        let operation = operation(&head);
        shared.requests.lock().push((operation, head.text.clone()));
        let fault = next_fault(shared, operation);
        if let Some(Fault::EarlyStatus(status, code)) = fault {
            output.write_all(refusal(status, code).as_bytes())?;
            return Ok(());
        }
        if head.waits {
            output.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = input.body(head.length, shared, fault.as_ref(), operation == Operation::Complete)?;
        let answer = match &fault {
            None | Some(Fault::Slow(_) | Fault::Dribble(_)) => answer(shared, operation, &head, &body),
            Some(Fault::Status(status, code) | Fault::EarlyStatus(status, code)) => refusal(*status, code),
            Some(Fault::ErrorInSuccess(code)) => document(200, &error(code)),
            Some(Fault::Untagged) => answer(shared, operation, &head, &body).replace("ETag:", "Other:"),
            Some(Fault::Rubbish) => "what?\r\n\r\n".to_owned(),
            Some(Fault::Reset(_) | Fault::Stall(_)) => return Ok(()),
        };
        match fault {
            Some(Fault::Dribble(pause)) => dribble(&mut output, answer.as_bytes(), pause)?,
            _ => output.write_all(answer.as_bytes())?,
        }
        if operation == Operation::Get && answer.starts_with("HTTP/1.1 20") {
            zeros(&mut output, shared, &head.key)?;
        }
    }
    Ok(())
}

impl Input {
    /// `None` at the end of the connection.
    fn head(&mut self) -> io::Result<Option<Head>> {
        let mut bytes = Vec::new();
        loop {
            if self.from == self.to && !self.read()? {
                return Ok(None);
            }
            bytes.push(self.buffer[self.from]);
            self.from += 1;
            if bytes.ends_with(b"\r\n\r\n") {
                break;
            }
            if bytes.len() > HEAD_MOST {
                return Err(io::Error::from(ErrorKind::InvalidData));
            }
        }
        parse(&String::from_utf8_lossy(&bytes)).ok_or(io::Error::from(ErrorKind::InvalidData)).map(Some)
    }

    /// Forgets a body, unless it is to be kept.
    fn body(&mut self, length: u64, shared: &Shared, fault: Option<&Fault>, keep: bool) -> io::Result<Vec<u8>> {
        let mut kept = Vec::new();
        let mut come = 0;
        let began = Instant::now();
        if length > 0 {
            shared.span.lock().0.get_or_insert(began);
        }
        while come < length {
            if self.from == self.to && !self.read()? {
                return Err(io::Error::from(ErrorKind::UnexpectedEof));
            }
            let rest = usize::try_from(length - come).unwrap_or(usize::MAX);
            let now = rest.min(self.to - self.from);
            if keep {
                kept.extend_from_slice(&self.buffer[self.from..self.from + now]);
            }
            self.from += now;
            come += now as u64;
            shared.received.fetch_add(now as u64, Ordering::Relaxed);
            match fault {
                Some(Fault::Reset(after)) if come >= *after => {
                    socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
                    return Err(io::Error::from(ErrorKind::ConnectionReset));
                }
                Some(Fault::Stall(after)) if come >= *after => {
                    while !shared.stopping.load(Ordering::Acquire) && began.elapsed() < IDLE {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    return Err(io::Error::from(ErrorKind::TimedOut));
                }
                Some(Fault::Slow(rate)) => {
                    let due = Duration::from_secs_f64(come as f64 / *rate as f64);
                    std::thread::sleep(due.saturating_sub(began.elapsed()));
                }
                _ => {}
            }
        }
        Ok(kept)
    }

    fn read(&mut self) -> io::Result<bool> {
        self.from = 0;
        self.to = self.stream.read(&mut self.buffer)?;
        Ok(self.to > 0)
    }
}

fn parse(text: &str) -> Option<Head> {
    let mut lines = text.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let header = |name: &str| {
        text.split("\r\n").skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let key = path.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key);
    let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_owned(), value.to_owned())
    });
    Some(Head {
        method,
        key: key.to_owned(),
        query: query.collect(),
        length: header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0),
        waits: header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")),
        text: text.to_owned(),
    })
}

impl Head {
    fn value(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

fn operation(head: &Head) -> Operation {
    let upload = head.value("uploadId").is_some();
    match (head.method.as_str(), upload) {
        ("POST", false) => Operation::Create,
        ("POST", true) => Operation::Complete,
        ("PUT", true) => Operation::Part,
        ("PUT", false) => Operation::Put,
        ("DELETE", true) => Operation::Abort,
        ("DELETE", false) => Operation::Delete,
        ("HEAD", _) => Operation::Head,
        _ if head.key.is_empty() => Operation::List,
        _ => Operation::Get,
    }
}

fn next_fault(shared: &Shared, operation: Operation) -> Option<Fault> {
    let mut faults = shared.faults.lock();
    let (_, times, fault) = faults.iter_mut().find(|(kind, times, _)| *kind == operation && *times > 0)?;
    *times -= 1;
    Some(fault.clone())
}

fn answer(shared: &Shared, operation: Operation, head: &Head, body: &[u8]) -> String {
    let id = head.value("uploadId").unwrap_or_default();
    match operation {
        Operation::Create => {
            let id = format!("upload-{}", shared.next.fetch_add(1, Ordering::Relaxed));
            let upload = Upload { key: head.key.clone(), parts: Default::default(), initiated: NOW.to_owned() };
            shared.uploads.lock().insert(id.clone(), upload);
            document(
                200,
                &format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"),
            )
        }
        Operation::Part => match shared.uploads.lock().get_mut(id) {
            None => refusal(404, "NoSuchUpload"),
            Some(upload) => {
                let number = head.value("partNumber").and_then(|number| number.parse().ok()).unwrap_or(0);
                upload.parts.insert(number, head.length);
                "HTTP/1.1 200 OK\r\nETag: \"0123456789abcdef0123456789abcdef\"\r\nContent-Length: 0\r\n\r\n".to_owned()
            }
        },
        Operation::Complete => match shared.uploads.lock().remove(id) {
            None => refusal(404, "NoSuchUpload"),
            Some(upload) => {
                let named = String::from_utf8_lossy(body).matches("<PartNumber>").count();
                if named != upload.parts.len() {
                    return refusal(400, "InvalidPart");
                }
                put(shared, upload.key, upload.parts.values().sum());
                document(
                    200,
                    "<CompleteMultipartUploadResult><ETag>&quot;0-1&quot;</ETag></CompleteMultipartUploadResult>",
                )
            }
        },
        Operation::Abort => match shared.uploads.lock().remove(id) {
            None => refusal(404, "NoSuchUpload"),
            Some(_) => NO_CONTENT.to_owned(),
        },
        Operation::Put => {
            put(shared, head.key.clone(), head.length);
            "HTTP/1.1 200 OK\r\nETag: \"0123456789abcdef0123456789abcdef\"\r\nContent-Length: 0\r\n\r\n".to_owned()
        }
        Operation::Delete => {
            shared.objects.lock().remove(&head.key);
            NO_CONTENT.to_owned()
        }
        Operation::Head | Operation::Get => match shared.objects.lock().get(&head.key) {
            _ if head.key.is_empty() => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
            None => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
            Some(object) => format!(
                "HTTP/1.1 200 OK\r\nETag: \"0-1\"\r\nLast-Modified: Wed, 01 Jan 2020 00:00:00 GMT\r\nContent-Length: {}\r\n\r\n",
                object.bytes
            ),
        },
        Operation::List => list(shared, head),
    }
}

const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";

fn put(shared: &Shared, key: String, bytes: u64) {
    shared.objects.lock().insert(key, Object { bytes, modified: NOW.to_owned() });
    shared.span.lock().1 = Some(Instant::now());
}

fn list(shared: &Shared, head: &Head) -> String {
    let mut text = String::new();
    if head.value("uploads").is_some() {
        for (id, upload) in shared.uploads.lock().iter() {
            let (key, initiated) = (&upload.key, &upload.initiated);
            text.push_str(&format!(
                "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>{initiated}</Initiated></Upload>"
            ));
        }
        return document(200, &format!("<ListMultipartUploadsResult>{text}</ListMultipartUploadsResult>"));
    }
    for (key, object) in shared.objects.lock().iter() {
        let (bytes, modified) = (object.bytes, &object.modified);
        text.push_str(&format!(
            "<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><Size>{bytes}</Size></Contents>"
        ));
    }
    document(200, &format!("<ListBucketResult><IsTruncated>false</IsTruncated>{text}</ListBucketResult>"))
}

fn refusal(status: u16, code: &str) -> String {
    document(status, &error(code))
}

fn error(code: &str) -> String {
    format!("<Error><Code>{code}</Code><Message>{code} it is</Message></Error>")
}

fn document(status: u16, text: &str) -> String {
    let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{text}");
    format!("HTTP/1.1 {status} Status\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

fn dribble(output: &mut TcpStream, bytes: &[u8], pause: Duration) -> io::Result<()> {
    for byte in bytes {
        output.write_all(&[*byte])?;
        std::thread::sleep(pause);
    }
    Ok(())
}

fn zeros(output: &mut TcpStream, shared: &Shared, key: &str) -> io::Result<()> {
    let bytes = shared.objects.lock().get(key).map_or(0, |object| object.bytes);
    io::copy(&mut io::repeat(0).take(bytes), output).map(drop)
}
