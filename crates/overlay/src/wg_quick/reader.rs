//! The file's form: sections, keys, comments; and what must hold across lines.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use edgeproxy_tunnel::{Prefix, PresharedKey, PrivateKey, PublicKey};

use super::{Endpoint, FoundPeer, Interface, Mistake, PeerConfig, RoutingTable, WgQuick, value};

pub(super) const INTERFACE_KEYS: [&str; 12] = [
    "PrivateKey",
    "Address",
    "ListenPort",
    "MTU",
    "FwMark",
    "Table",
    "DNS",
    "SaveConfig",
    "PreUp",
    "PostUp",
    "PreDown",
    "PostDown",
];
/// So many of them are told to who writes an unknown one: the rest is refused or ignored.
const INTERFACE_KEYS_OF_USE: usize = 6;
pub(super) const PEER_KEYS: [&str; 5] = ["PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive"];
/// Those that add up when they stand there again.
const REPEATABLE: [&str; 7] = ["Address", "AllowedIPs", "DNS", "PreUp", "PostUp", "PreDown", "PostDown"];
/// Longest word that is shown as a key nobody knows.
const LONGEST_KEY: usize = 20;

/// What the file says, or all its mistakes in the order of their lines.
pub(super) fn read(file: &str, bytes: &[u8]) -> Result<WgQuick, Vec<Mistake>> {
    let mut reader = Reader { file, ..Reader::default() };
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        reader.line(index + 1, line);
    }
    reader.check_whole();
    reader.finish()
}

#[derive(Default)]
pub(super) struct Reader<'a> {
    file: &'a str,
    section: Section,
    interface: InterfaceDraft,
    peers: Vec<PeerDraft>,
    /// The last line that was a comment alone.
    remark: Option<(usize, String)>,
    /// What a file says of its own machine is none of ours.
    peers_alone: bool,
    mistakes: Vec<Mistake>,
    notes: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Section {
    /// No header so far.
    #[default]
    None,
    Interface,
    /// The last one of the peers.
    Peer,
    /// Of its keys nothing is known, or wanted.
    Unknown,
}

/// Keys of a section that were met, and in which line.
type Seen = Vec<(&'static str, usize)>;
/// A note, where a key stops nothing and does nothing.
type Taken = Result<Option<&'static str>, String>;

#[derive(Default)]
struct InterfaceDraft {
    header: Option<usize>,
    seen: Seen,
    private_key: Option<PrivateKey>,
    addresses: Vec<(IpAddr, u8)>,
    listen_port: Option<u16>,
    mtu: Option<u16>,
    fwmark: Option<u32>,
    table: RoutingTable,
}

#[derive(Default)]
struct PeerDraft {
    header: usize,
    seen: Seen,
    name: Option<String>,
    /// The comment right below the header, else the one right above it.
    remark: Option<String>,
    public_key: Option<PublicKey>,
    preshared_key: Option<PresharedKey>,
    /// With the line of each.
    allowed_ips: Vec<(usize, Prefix)>,
    endpoint: Option<Endpoint>,
    persistent_keepalive: Option<NonZeroU16>,
}

impl<'a> Reader<'a> {
    /// For [`take_peer`](Self::take_peer).
    pub(super) fn of_peers(file: &'a str) -> Self {
        Self { file, peers_alone: true, ..Self::default() }
    }

    /// The peer that the lines so far tell of, or all that is wrong with them; then it is as if nothing had been read.
    pub(super) fn take_peer(&mut self) -> Option<Result<FoundPeer, Vec<Mistake>>> {
        self.section = Section::Unknown;
        let mut peer = self.peers.pop();
        if let Some(peer) = &peer {
            self.check_peer(peer);
        }
        self.notes.clear();
        let mut mistakes = std::mem::take(&mut self.mistakes);
        if !mistakes.is_empty() {
            mistakes.sort_by_key(|mistake| mistake.line);
            return Some(Err(mistakes));
        }
        let (line, remark) = peer.as_mut().map(|peer| (peer.header, peer.remark.take()))?;
        peer?.finish().map(|peer| Ok(FoundPeer { line, remark, peer }))
    }

    /// Whether the lines so far tell of no peer.
    pub(super) fn is_between_peers(&self) -> bool {
        self.peers.is_empty()
    }

    pub(super) fn has_mistakes(&self) -> bool {
        !self.mistakes.is_empty()
    }
}

impl Reader<'_> {
    /// `line` counts from 1.
    pub(super) fn line(&mut self, line: usize, bytes: &[u8]) {
        let mut parts = bytes.splitn(2, |byte| *byte == b'#');
        let (content, comment) = (parts.next().unwrap_or_default(), parts.next());
        let Ok(content) = std::str::from_utf8(content) else {
            return self.mistake(line, "is not text in UTF-8");
        };
        let content = content.trim();
        if let Some(header) = content.strip_prefix('[') {
            self.header(line, header);
        } else if !content.is_empty() {
            self.entry(line, content);
        } else if let Some(comment) = comment {
            self.comment(line, comment);
        }
    }

    fn header(&mut self, line: usize, rest: &str) {
        let name = rest.strip_suffix(']').map(str::trim);
        self.section = match name {
            Some(name) if name.eq_ignore_ascii_case("Interface") && self.peers_alone => Section::Unknown,
            Some(name) if name.eq_ignore_ascii_case("Interface") => {
                match self.interface.header {
                    Some(first) => {
                        self.mistake(line, format!("a second [Interface]: join it with that of line {first}"))
                    }
                    None => self.interface.header = Some(line),
                }
                Section::Interface
            }
            Some(name) if name.eq_ignore_ascii_case("Peer") => {
                let above = self.remark.take().filter(|(above, _)| above + 1 == line);
                let remark = above.map(|(_, remark)| remark);
                self.peers.push(PeerDraft { header: line, remark, ..PeerDraft::default() });
                Section::Peer
            }
            _ => {
                self.mistake(line, "unknown section: a wg-quick file has one [Interface], and a [Peer] for each peer");
                Section::Unknown
            }
        };
    }

    /// Right below `[Peer]` it may be the peer's name.
    fn comment(&mut self, line: usize, comment: &[u8]) {
        let text = std::str::from_utf8(comment).unwrap_or_default().trim();
        let peer = self.peers.last_mut().filter(|peer| self.section == Section::Peer && line == peer.header + 1);
        let Some(peer) = peer else {
            self.remark = self.peers_alone.then(|| (line, text.to_owned()));
            return;
        };
        if self.peers_alone {
            peer.remark = Some(text.to_owned());
        }
        if value::is_name(text) {
            peer.name = Some(text.to_owned());
        }
    }

    fn entry(&mut self, line: usize, content: &str) {
        if self.section == Section::Unknown {
            return;
        }
        // Not shown as it stands there: the line may be a key that was pasted, and a key ends in "=".
        let Some((key, value)) = content.split_once('=') else {
            return self.mistake(line, "is not \"key = value\", [section] or # comment");
        };
        let (key, value) = (key.trim(), value.trim());
        let known = |keys: &[&'static str]| keys.iter().copied().find(|known| known.eq_ignore_ascii_case(key));
        let found = match self.section {
            Section::None => {
                return self.mistake(line, "stands before the first section; begin the file with [Interface]");
            }
            Section::Unknown => None,
            Section::Interface => known(&INTERFACE_KEYS),
            Section::Peer => known(&PEER_KEYS),
        };
        let Some(key) = found else {
            let elsewhere = known(&INTERFACE_KEYS).or_else(|| known(&PEER_KEYS));
            return self.mistake(line, unknown_key(self.section, key, elsewhere));
        };
        let taken = match (self.section, self.peers.last_mut()) {
            (Section::Peer, Some(peer)) => once(&mut peer.seen, key, line).and_then(|()| peer.set(line, key, value)),
            _ => once(&mut self.interface.seen, key, line).and_then(|()| self.interface.set(key, value)),
        };
        match taken {
            Ok(None) => {}
            Ok(Some(note)) => self.note(line, note),
            Err(rule) => self.mistake(line, format!("{key}: {rule}")),
        }
    }

    /// What no single line tells.
    fn check_whole(&mut self) {
        let own = self.interface.private_key.as_ref().map(PrivateKey::public);
        match self.interface.header {
            None => {
                let text = "has no [Interface] section; it begins with one, and its PrivateKey";
                self.mistakes.push(Mistake::of_file(self.file, text));
            }
            Some(line) => {
                if first(&self.interface.seen, "PrivateKey").is_none() {
                    self.mistake(line, "[Interface] has no PrivateKey; make one with `edgeproxy keygen`");
                }
                if first(&self.interface.seen, "Address").is_none() {
                    self.note(
                        line,
                        "[Interface] has no Address, so this machine can be reached by nobody inside the tunnel",
                    );
                }
            }
        }
        let (mut keys, mut prefixes) = (HashMap::new(), HashMap::new());
        for peer in std::mem::take(&mut self.peers) {
            if let Some(line) = self.check_peer(&peer) {
                self.check_key(&peer, line, own, &mut keys);
            }
            for (line, prefix) in &peer.allowed_ips {
                let owner = *prefixes.entry(*prefix).or_insert(peer.header);
                if owner != peer.header {
                    let text =
                        format!("AllowedIPs: {prefix} belongs to the peer of line {owner}; leave it to one of them");
                    self.mistake(*line, text);
                }
            }
            self.peers.push(peer);
        }
    }

    /// The line of its key.
    fn check_peer(&mut self, peer: &PeerDraft) -> Option<usize> {
        let line = first(&peer.seen, "PublicKey");
        if line.is_none() {
            self.mistake(peer.header, "this [Peer] has no PublicKey; ask it for that, or remove it");
        } else if first(&peer.seen, "AllowedIPs").is_none() {
            self.note(peer.header, "this [Peer] has no AllowedIPs, so nothing goes to it or is accepted from it");
        }
        line
    }

    fn check_key(
        &mut self,
        peer: &PeerDraft,
        line: usize,
        own: Option<PublicKey>,
        keys: &mut HashMap<PublicKey, usize>,
    ) {
        let Some(key) = peer.public_key else { return };
        if own == Some(key) {
            self.mistake(line, "PublicKey: is that of this machine's own PrivateKey; put in the peer's");
        }
        let owner = *keys.entry(key).or_insert(peer.header);
        if owner != peer.header {
            self.mistake(line, format!("PublicKey: is that of the peer of line {owner}; join the two"));
        }
    }

    fn finish(mut self) -> Result<WgQuick, Vec<Mistake>> {
        self.mistakes.sort_by_key(|mistake| mistake.line);
        let InterfaceDraft { private_key, addresses, listen_port, mtu, fwmark, table, .. } = self.interface;
        match private_key {
            Some(private_key) if self.mistakes.is_empty() => Ok(WgQuick {
                interface: Interface { private_key, addresses, listen_port, mtu, fwmark, table },
                peers: self.peers.into_iter().filter_map(PeerDraft::finish).collect(),
                notes: self.notes,
            }),
            _ => Err(self.mistakes),
        }
    }

    pub(super) fn mistake(&mut self, line: usize, text: impl Into<String>) {
        self.mistakes.push(Mistake::of_line(self.file, line, text));
    }

    fn note(&mut self, line: usize, text: &str) {
        self.notes.push(Mistake::of_line(self.file, line, text).to_string());
    }
}

impl InterfaceDraft {
    fn set(&mut self, key: &str, value: &str) -> Taken {
        match key {
            "PrivateKey" => self.private_key = Some(value::private_key(value)?),
            "Address" => {
                for address in value::addresses(value)? {
                    if !self.addresses.contains(&address) {
                        self.addresses.push(address);
                    }
                }
            }
            "ListenPort" => self.listen_port = value::port(value)?,
            "MTU" => self.mtu = Some(value::mtu(value)?),
            "FwMark" => {
                self.fwmark = value::fwmark(value)?;
                return Ok(self.fwmark.map(|_| "ignored: FwMark, as the packets of edgeproxy carry no mark"));
            }
            "Table" => {
                self.table = value::table(value)?;
                let is_usual = self.table == RoutingTable::Auto;
                return Ok((!is_usual).then_some("ignored: Table, as edgeproxy leaves this machine's routes alone"));
            }
            "DNS" => return Ok(Some("ignored: DNS, as edgeproxy leaves this machine's resolver alone")),
            "SaveConfig" => {
                let note = "ignored: SaveConfig, as edgeproxy never writes to this file";
                return Ok(value::flag(value)?.then_some(note));
            }
            _ => return Err(value::instead_of_command(value)),
        }
        Ok(None)
    }
}

impl PeerDraft {
    fn set(&mut self, line: usize, key: &str, value: &str) -> Taken {
        match key {
            "PublicKey" => self.public_key = Some(value::public_key(value)?),
            "PresharedKey" => self.preshared_key = value::preshared_key(value)?,
            "AllowedIPs" => self.allowed_ips.extend(value::prefixes(value)?.into_iter().map(|prefix| (line, prefix))),
            "Endpoint" => self.endpoint = Some(value::endpoint(value)?),
            _ => self.persistent_keepalive = value::keepalive(value)?,
        }
        Ok(None)
    }

    fn finish(self) -> Option<PeerConfig> {
        let mut allowed_ips: Vec<Prefix> = self.allowed_ips.into_iter().map(|(_, prefix)| prefix).collect();
        let mut met = std::collections::HashSet::new();
        allowed_ips.retain(|prefix| met.insert(*prefix));
        Some(PeerConfig {
            name: self.name,
            public_key: self.public_key?,
            preshared_key: self.preshared_key,
            allowed_ips,
            endpoint: self.endpoint,
            persistent_keepalive: self.persistent_keepalive,
        })
    }
}

/// Takes note of a key; an `Err` where it would replace what was said before.
fn once(seen: &mut Seen, key: &'static str, line: usize) -> Result<(), String> {
    match first(seen, key) {
        Some(first) if !REPEATABLE.contains(&key) => {
            Err(format!("is set in line {first} of this section already; keep one of them"))
        }
        Some(_) => Ok(()),
        None => {
            seen.push((key, line));
            Ok(())
        }
    }
}

fn first(seen: &Seen, key: &str) -> Option<usize> {
    seen.iter().find(|(seen, _)| *seen == key).map(|(_, line)| *line)
}

fn unknown_key(section: Section, key: &str, elsewhere: Option<&str>) -> String {
    let (here, there, keys) = match section {
        Section::Peer => ("[Peer]", "[Interface]", &PEER_KEYS[..]),
        _ => ("[Interface]", "[Peer]", &INTERFACE_KEYS[..INTERFACE_KEYS_OF_USE]),
    };
    if let Some(key) = elsewhere {
        return format!("{key}: belongs to {there}, not to {here}; move it");
    }
    // Letters alone: anything else may be a private key that was put where a key's name belongs.
    let is_word = key.len() <= LONGEST_KEY && key.bytes().all(|byte| byte.is_ascii_alphabetic());
    let shown = if is_word && !key.is_empty() { format!(" {key:?}") } else { String::new() };
    format!("unknown key{shown}: {here} has {}; mend or remove it", keys.join(", "))
}
