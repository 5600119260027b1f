//! What a peer has to know, given to whoever asked for it: as a file, as text, as a picture, or as JSON.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde_json::Value;
use zeroize::Zeroizing;

use super::keys::Keys;
use super::{odd_answer, qr};
use crate::commands::keygen::warn_of_readers;
use crate::commands::{Failure, say};

/// For its owner alone.
const FILE_MODE: u32 = 0o600;
/// Parts of an answer that are nobody else's.
const SECRETS: [&str; 3] = ["private_key", "preshared_key", "config"];

/// Flags of every action that prints a wg-quick file.
#[derive(clap::Args)]
pub(super) struct HandoverFlags {
    /// Write the file there, for its owner alone, and print the peer's number; never overwrites
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the file as a QR code, as apps on telephones read it
    #[arg(long, conflicts_with = "json")]
    qr: bool,
    /// Answer in JSON; with --out the secrets are in the file alone
    #[arg(long)]
    json: bool,
}

/// Ready to hand over, before there is a peer that could be lost.
pub(super) struct Handover {
    out: Option<Place>,
    qr: bool,
    json: bool,
}

impl Handover {
    /// Takes the place of the file.
    ///
    /// # Errors
    /// It is taken already, or cannot be written to.
    pub(super) fn open(flags: HandoverFlags) -> Result<Self, Failure> {
        let HandoverFlags { out, qr, json } = flags;
        let out = out.map(Place::take).transpose().map_err(Failure::Failed)?;
        Ok(Self { out, qr, json })
    }

    /// `answer` is what the API says of a peer that has a new key.
    pub(super) fn give(self, mut answer: Value, keys: &Keys) -> Result<(), Failure> {
        let text =
            |field: &str| answer.get(field).and_then(Value::as_str).ok_or_else(|| odd_answer(format!("no {field}")));
        let id = text("id")?.to_owned();
        let config = whole(text("config")?, keys).ok_or_else(|| odd_answer("its config has no [Interface]"))?;
        if !config.contains("\nEndpoint = ") {
            say::note("the gateway does not say where it is: put its Endpoint in, or set gateway.endpoint there");
        }
        let addresses = answer.get("addresses").and_then(Value::as_array).into_iter().flatten();
        let addresses: Vec<&str> = addresses.filter_map(Value::as_str).collect();
        let introduction = format!("peer {id}: {}", addresses.join(", "));
        let is_in_file = self.out.is_some();
        if let Some(place) = self.out {
            place.fill(&config).map_err(|error| {
                Failure::Failed(format!("{error}; the peer is there without it: `edgeproxy peer rm {id}` removes it"))
            })?;
        }
        if self.json {
            complete(&mut answer, keys, &config, is_in_file);
            say::json(&answer);
            return Ok(());
        }
        say::aside(introduction);
        match (self.qr, is_in_file) {
            (true, _) => say::line(qr::picture(&config)?.trim_end_matches('\n')),
            (false, true) => say::line(id),
            (false, false) => {
                warn_of_readers();
                say::line(config.trim_end_matches('\n'));
            }
        }
        Ok(())
    }
}

/// The file with the private key in it, where that is known here.
fn whole(config: &str, keys: &Keys) -> Option<Zeroizing<String>> {
    let Keys::Here(private) = keys else { return Some(Zeroizing::new(config.to_owned())) };
    let private = private.to_base64();
    // Room for all of it at once: a text that grows leaves copies of the key behind.
    let mut text = Zeroizing::new(String::with_capacity(config.len() + 64));
    let mut has_interface = false;
    // In its place there is a comment that says what is missing.
    for line in config.lines().filter(|line| !line.starts_with("# PrivateKey")) {
        text.push_str(line);
        text.push('\n');
        if line == "[Interface]" {
            has_interface = true;
            for part in ["PrivateKey = ", &private, "\n"] {
                text.push_str(part);
            }
        }
    }
    has_interface.then_some(text)
}

/// What only this side knows is part of the answer; what is in a file is not.
fn complete(answer: &mut Value, keys: &Keys, config: &str, is_in_file: bool) {
    let Some(fields) = answer.as_object_mut() else { return };
    if is_in_file {
        SECRETS.iter().for_each(|secret| drop(fields.remove(*secret)));
        return;
    }
    fields.insert("config".to_owned(), config.into());
    if let Keys::Here(private) = keys {
        fields.insert("private_key".to_owned(), private.to_base64().as_str().into());
    }
}

/// A new, empty file; gone again unless it is filled.
struct Place {
    path: PathBuf,
    file: File,
    is_filled: bool,
}

impl Place {
    fn take(path: PathBuf) -> Result<Self, String> {
        let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path);
        match file {
            Ok(file) => Ok(Self { path, file, is_filled: false }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(format!(
                "{}: already there, and keys are never overwritten, so nothing was done; move it away or name another \
                 file",
                path.display()
            )),
            Err(error) => Err(cannot_write(&path.display(), &error)),
        }
    }

    fn fill(mut self, text: &str) -> Result<(), String> {
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_all());
        written.map_err(|error| cannot_write(&self.path.display(), &error))?;
        self.is_filled = true;
        Ok(())
    }
}

fn cannot_write(path: &dyn fmt::Display, error: &io::Error) -> String {
    format!("{path}: cannot be written: {error}")
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_filled {
            // If it cannot be removed, an empty file stays, which says so itself.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use edgeproxy_tunnel::PrivateKey;

    use super::*;

    #[test]
    fn a_private_key_that_was_made_here_is_put_in() {
        let private = PrivateKey::from_bytes([7; 32]);
        let line = format!("PrivateKey = {}\n", *private.to_base64());
        let theirs =
            "[Interface]\n# PrivateKey = the private key of X\nAddress = 10.0.0.2/32\n\n[Peer]\nPublicKey = Y\n";
        let text = whole(theirs, &Keys::Here(private.clone())).unwrap();
        assert_eq!(*text, format!("[Interface]\n{line}Address = 10.0.0.2/32\n\n[Peer]\nPublicKey = Y\n"));
        assert_eq!(text.capacity(), theirs.len() + 64, "a text that grew leaves copies of the key behind");
        assert!(whole("nothing", &Keys::Here(private.clone())).is_none());
        assert_eq!(*whole(theirs, &Keys::Elsewhere(private.public())).unwrap(), theirs);
    }

    #[test]
    fn a_place_is_taken_once_and_left_if_not_filled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wg0.conf");
        drop(Place::take(path.clone()).unwrap());
        assert!(!path.exists());
        let place = Place::take(path.clone()).unwrap();
        assert!(Place::take(path.clone()).err().unwrap().contains("never overwritten"));
        place.fill("text").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o7777, FILE_MODE);
        let nowhere = Place::take(folder.path().join("no/where")).err().unwrap();
        assert!(nowhere.contains("cannot be written: No such file"), "{nowhere}");
    }
}
