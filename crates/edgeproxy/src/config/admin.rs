//! Section `admin`: where the API listens, and who may use it.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aws_lc_rs::digest;
use subtle::ConstantTimeEq;

use super::problem::Origin;
use super::reader::{Reader, Section};

/// Longest token file; more is another file by mistake.
const MAX_TOKEN_FILE_BYTES: u64 = 64 * 1024;

/// Metrics, health and API.
#[derive(Clone, Debug)]
pub(crate) struct AdminSettings {
    /// Address and port.
    pub(crate) listen: SocketAddr,
    /// What API requests must carry; `None`: nothing, on loopback only.
    pub(crate) token: Option<Secret>,
}

/// A text that is never shown.
#[derive(Clone)]
pub(crate) struct Secret {
    text: String,
    digest: Digest,
}

/// What a text is compared by: as long for every text.
#[derive(Clone, Copy)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    /// Of a text that somebody claims to be a secret.
    pub(crate) fn of(text: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
        Self(bytes)
    }
}

impl Secret {
    pub(super) fn new(text: String) -> Self {
        Self { digest: Digest::of(&text), text }
    }

    /// Whether this is the secret; takes as long for a near miss as for a far one, and for a short one as for a long one.
    pub(crate) fn is(&self, candidate: &Digest) -> bool {
        self.digest.0.ct_eq(&candidate.0).into()
    }

    /// Whether both are the same.
    pub(super) fn equals(&self, other: &Self) -> bool {
        self.is(&other.digest)
    }

    /// The text itself, for a request to the API that it opens.
    pub(crate) fn reveal(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

pub(super) fn read(reader: &mut Reader<'_>) -> AdminSettings {
    let mut section = reader.section("admin");
    let problems = section.reader.problems.len();
    let listen = section.address("listen");
    let listen_is_good = section.reader.problems.len() == problems;
    let token = section.token("token_file");
    if token.is_none() && section.origin("token_file") == Origin::Default && listen_is_good && !is_loopback(listen) {
        let message = format!(
            "is not set, and must be as admin.listen is {listen} ({}), which is not a loopback address: \
             put a token into a file that only its owner can read",
            section.origin("listen")
        );
        section.complain("token_file", message);
    }
    AdminSettings { listen, token }
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

impl Section<'_, '_> {
    /// The token in the file that this key names.
    pub(super) fn token(&mut self, name: &str) -> Option<Secret> {
        self.secret(name, read_token).map(Secret::new)
    }

    /// The password in the file that this key names.
    pub(super) fn password(&mut self, name: &str) -> Option<String> {
        self.secret(name, |path| read_first_line(path, "password"))
    }

    fn secret(&mut self, name: &str, read: impl Fn(&Path) -> Result<String, String>) -> Option<String> {
        let path = self.path(name)?;
        match read(&path) {
            Ok(secret) => Some(secret),
            Err(rule) => {
                self.complain(name, format!("{} {rule}", path.display()));
                None
            }
        }
    }
}

fn read_token(path: &Path) -> Result<String, String> {
    let token = read_first_line(path, "token")?;
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("holds a token that no HTTP header can carry: use letters, digits and punctuation".to_owned());
    }
    Ok(token)
}

/// The secret on a file's first line; `what` it is, for messages.
fn read_first_line(path: &Path, what: &str) -> Result<String, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    // Before it is opened: that would wait for somebody to write into a pipe.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("is not a file".to_owned());
    }
    let file = File::open(path).map_err(unreadable)?;
    let facts = file.metadata().map_err(unreadable)?;
    let mode = facts.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("is open to its group or to others (mode {mode:04o}): chmod 600 {}", path.display()));
    }
    if facts.len() > MAX_TOKEN_FILE_BYTES {
        return Err(format!("has {} bytes, too many for a {what}", facts.len()));
    }
    let mut text = String::new();
    file.take(MAX_TOKEN_FILE_BYTES).read_to_string(&mut text).map_err(unreadable)?;
    let secret = text.lines().next().unwrap_or_default().trim();
    if secret.is_empty() {
        return Err(format!("has no {what} on its first line"));
    }
    Ok(secret.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_compared_and_never_shown() {
        let secret = Secret::new("s3cret".to_owned());
        assert!(secret.is(&Digest::of("s3cret")));
        for other in ["", "s3cre", "s3cret ", "S3cret"] {
            assert!(!secret.is(&Digest::of(other)), "{other:?}");
        }
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }
}
