//! The peers of a file one after the other, however many there are: of a hub's wg-quick file, or of what `wg showconf`
//! prints. What it says of its own machine is passed over.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};

use zeroize::Zeroizing;

use super::reader::Reader;
use super::{Mistake, PeerConfig};

/// Longest line that is read, in bytes: a hundred times what the networks of a peer take.
const LONGEST_LINE: u64 = 64 * 1024;

/// A peer, and what is known of where it stood.
#[derive(Clone, Debug)]
pub struct FoundPeer {
    /// Of its `[Peer]`, counted from 1.
    pub line: usize,
    /// The comment right below its `[Peer]`, else the one right above.
    pub remark: Option<String>,
    /// All else.
    pub peer: PeerConfig,
}

/// Reads a file peer by peer; takes memory for one. Each item is a peer or what is wrong with it; whether two are the
/// same is left to the caller.
pub struct PeersOf<'a, R> {
    input: R,
    name: &'a str,
    reader: Reader<'a>,
    line: usize,
    /// Used for every line: they may hold keys.
    buffer: Zeroizing<Vec<u8>>,
    ready: VecDeque<Result<FoundPeer, Vec<Mistake>>>,
    bytes: u64,
    has_ended: bool,
}

impl<'a, R: BufRead> PeersOf<'a, R> {
    /// `name` is what mistakes call the file.
    pub fn new(name: &'a str, input: R) -> Self {
        Self {
            input,
            name,
            reader: Reader::of_peers(name),
            line: 0,
            buffer: Zeroizing::new(Vec::new()),
            ready: VecDeque::new(),
            bytes: 0,
            has_ended: false,
        }
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_line(&mut self) {
        self.line += 1;
        match self.fill() {
            Ok(true) => {}
            Ok(false) => {
                self.has_ended = true;
                self.ready.extend(self.reader.take_peer());
                return;
            }
            Err(error) => {
                self.has_ended = true;
                self.ready.extend(self.reader.take_peer());
                let mistake = Mistake::of_file(self.name, format!("cannot be read: {error}"));
                self.ready.push_back(Err(vec![mistake]));
                return;
            }
        }
        let line = self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer);
        let line = line.strip_prefix(b"\xef\xbb\xbf").filter(|_| self.line == 1).unwrap_or(line);
        if line.trim_ascii_start().starts_with(b"[") {
            self.ready.extend(self.reader.take_peer());
        }
        if self.buffer.len() as u64 > LONGEST_LINE {
            self.reader.mistake(self.line, format!("is longer than {LONGEST_LINE} bytes"));
        } else {
            self.reader.line(self.line, line);
        }
        // Where no peer is, a mistake waits for nothing.
        if self.reader.is_between_peers() && self.reader.has_mistakes() {
            self.ready.extend(self.reader.take_peer());
        }
    }

    /// The next line, with its end, or so much of it that it is too long. Returns whether there is one.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.clear();
        let mut read = self.input.by_ref().take(LONGEST_LINE + 1).read_until(b'\n', &mut self.buffer)? as u64;
        if read > LONGEST_LINE && !self.buffer.ends_with(b"\n") {
            read += self.input.skip_until(b'\n')? as u64;
        }
        self.bytes += read;
        Ok(read > 0)
    }
}

impl<R: BufRead> Iterator for PeersOf<'_, R> {
    type Item = Result<FoundPeer, Vec<Mistake>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            if self.has_ended {
                return None;
            }
            self.read_line();
        }
    }
}
