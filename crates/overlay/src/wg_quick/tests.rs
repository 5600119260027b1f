use super::*;

/// RFC 7748, section 6.1: Alice's private key, hers and Bob's public one.
const PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
const PEER: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";
const OTHER_PEER: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

fn parse(text: &str) -> Result<WgQuick, Vec<Mistake>> {
    WgQuick::parse("wg0.conf", text.as_bytes())
}

fn mistakes(text: &str) -> Vec<String> {
    parse(text).unwrap_err().iter().map(Mistake::to_string).collect()
}

/// A file that is sound but for these lines of its interface, which begin at line 3.
fn interface(lines: &str) -> String {
    format!("[Interface]\nPrivateKey = {PRIVATE}\n{lines}\nAddress = 10.50.3.2/32\n")
}

/// A file that is sound but for these lines of its peer, which begin at line 6.
fn peer(lines: &str) -> String {
    format!("{}[Peer]\nPublicKey = {PEER}\n{lines}\n", interface("MTU = 1420")).replace("32\n[", "32\n\n[")
}

#[test]
fn a_file_is_understood_as_it_stands() {
    let text = format!(
        "\u{feff}# of the old gateway, Süd\r\n[interface] # this machine\r\n  privatekey={PRIVATE}\r\n\
         ADDRESS = 10.50.3.2/24 , 2001:db8::2/64#both\r\nAddress = 10.50.9.9\r\nListenPort = 51820\r\nMTU=1380\r\n\
         FwMark = 0xCA6C\r\nTable = off\r\nDNS = 10.50.0.1\r\nDNS = 1.1.1.1, example.com\r\nSaveConfig = true\r\n\r\n\
         [ Peer ]\r\n# hub-1\r\nPublicKey = {PEER}\r\nPresharedKey = {OTHER_PEER}\r\n\
         AllowedIPs = 10.50.0.0/24, 10.50.1.7/24\r\nAllowedIPs = 10.50.0.0/24,2001:db8::/32\r\n\
         Endpoint = Hub.example.com:51820\r\nPersistentKeepalive = 25\r\n[PEER]\r\nPublicKey = {OTHER_PEER}\r\n\
         AllowedIPs =\r\nEndpoint = [2001:db8::1]:7\r\nPersistentKeepalive = off"
    );
    let config = parse(&text).unwrap();
    let interface = &config.interface;
    assert_eq!(interface.private_key.public().to_string(), PUBLIC);
    let addresses: Vec<String> = interface.addresses.iter().map(|(ip, length)| format!("{ip}/{length}")).collect();
    assert_eq!(addresses, ["10.50.3.2/24", "2001:db8::2/64", "10.50.9.9/32"], "with their host part");
    assert_eq!((interface.listen_port, interface.mtu, interface.fwmark), (Some(51820), Some(1380), Some(0xca6c)));
    assert_eq!(interface.table, RoutingTable::Off);

    let [hub, other] = &config.peers[..] else { panic!("{config:?}") };
    assert_eq!((hub.name.as_deref(), hub.public_key.to_string().as_str()), (Some("hub-1"), PEER));
    assert_eq!(*hub.preshared_key.as_ref().unwrap().to_base64(), OTHER_PEER);
    let prefixes: Vec<String> = hub.allowed_ips.iter().map(Prefix::to_string).collect();
    assert_eq!(prefixes, ["10.50.0.0/24", "10.50.1.0/24", "2001:db8::/32"], "each once, without bits beyond");
    let host = Host::Name("Hub.example.com".to_owned());
    assert_eq!(hub.endpoint, Some(Endpoint { host, port: 51820 }));
    assert_eq!(hub.persistent_keepalive, NonZeroU16::new(25));

    assert_eq!((other.name.as_deref(), other.preshared_key.is_some()), (None, false));
    assert_eq!((other.allowed_ips.len(), other.persistent_keepalive), (0, None));
    assert_eq!(other.endpoint.as_ref().unwrap().to_string(), "[2001:db8::1]:7");
    assert_eq!(
        config.notes,
        [
            "wg0.conf:8: ignored: FwMark, as the packets of edgeproxy carry no mark",
            "wg0.conf:9: ignored: Table, as edgeproxy leaves this machine's routes alone",
            "wg0.conf:10: ignored: DNS, as edgeproxy leaves this machine's resolver alone",
            "wg0.conf:11: ignored: DNS, as edgeproxy leaves this machine's resolver alone",
            "wg0.conf:12: ignored: SaveConfig, as edgeproxy never writes to this file",
        ]
    );
}

#[test]
fn what_says_nothing_is_taken_as_such() {
    let text = interface("ListenPort = 0\nFwMark = off\nTable = auto\nSaveConfig = false");
    let config = parse(&text).unwrap();
    assert_eq!((config.interface.listen_port, config.interface.fwmark), (None, None));
    assert_eq!((config.peers.len(), config.notes.len()), (0, 0));
    let zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let config = parse(&peer(&format!("PresharedKey = {zero}\nPersistentKeepalive = 0"))).unwrap();
    assert!(config.peers[0].preshared_key.is_none() && config.peers[0].persistent_keepalive.is_none());
    let note = "wg0.conf:6: this [Peer] has no AllowedIPs, so nothing goes to it or is accepted from it";
    assert_eq!(config.notes, [note]);
    let config = parse(&format!("[Interface]\nPrivateKey={PRIVATE}")).unwrap();
    assert!(config.notes[0].starts_with("wg0.conf:1: [Interface] has no Address"), "{:?}", config.notes);
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = format!(
        "MTU = 1420\n[Interface]\nListenPort = 65536\nAdress = 10.50.0.1/24\nno key\nPublicKey = {PEER}\n[Cluster]\n\
         Size = 3\n[Peer]\nAllowedIPs = 10.50.1.1/33, x, 10.50.1.2\nListenPort = 1\n[Peer]\nPublicKey = {PEER}\n\
         Endpoint = hub\n[Peer]\nPublicKey = {PEER}\nAllowedIPs = 10.50.1.2/32\n[Peer]\nPublicKey = {OTHER_PEER}\n\
         AllowedIPs = 10.50.1.2/32\n[Interface]\n"
    );
    let length = "is not an IP address, alone or with a length its family has (such as 10.50.0.0/24)";
    let expected = [
        "1: stands before the first section; begin the file with [Interface]".to_owned(),
        "2: [Interface] has no PrivateKey; make one with `edgeproxy keygen`".to_owned(),
        "3: ListenPort: \"65536\" is not in 0 to 65535".to_owned(),
        "4: unknown key \"Adress\": [Interface] has PrivateKey, Address, ListenPort, MTU, FwMark, Table; mend or remove it"
            .to_owned(),
        "5: is not \"key = value\", [section] or # comment".to_owned(),
        "6: PublicKey: belongs to [Peer], not to [Interface]; move it".to_owned(),
        "7: unknown section: a wg-quick file has one [Interface], and a [Peer] for each peer".to_owned(),
        "9: this [Peer] has no PublicKey; ask it for that, or remove it".to_owned(),
        format!("10: AllowedIPs: \"10.50.1.1/33\" {length}; \"x\" {length}"),
        "11: ListenPort: belongs to [Interface], not to [Peer]; move it".to_owned(),
        "14: Endpoint: \"hub\": an endpoint ends in a port of 1 to 65535, as in hub.example.com:51820".to_owned(),
        "16: PublicKey: is that of the peer of line 12; join the two".to_owned(),
        "20: AllowedIPs: 10.50.1.2/32 belongs to the peer of line 15; leave it to one of them".to_owned(),
        "21: a second [Interface]: join it with that of line 2".to_owned(),
    ];
    assert_eq!(mistakes(&text), expected.map(|line| format!("wg0.conf:{line}")));
}

#[test]
fn values_keep_their_bounds() {
    for (line, rule) in [
        ("ListenPort = -1", "ListenPort: \"-1\" is not in 0 to 65535"),
        ("ListenPort = +1", "ListenPort: \"+1\" is not in 0 to 65535"),
        ("ListenPort =", "ListenPort: \"\" is not in 0 to 65535"),
        ("MTU = 575", "MTU: \"575\" is not in 576 to 65455"),
        ("MTU = 65456", "MTU: \"65456\" is not in 576 to 65455"),
        ("FwMark = 0x1ffffffff", "FwMark: \"0x1ffffffff\" is not a 32-bit number (such as 0xca6c), nor off"),
        ("FwMark = 0x", "FwMark: \"0x\" is not a 32-bit number (such as 0xca6c), nor off"),
        ("SaveConfig = yes", "SaveConfig: \"yes\" is not true or false"),
        ("Table = a b", "Table: \"a b\" is not auto, off or a table of routes"),
        ("MTU = 1420\nmtu = 1380", "MTU: is set in line 3 of this section already; keep one of them"),
    ] {
        let line_of_it = 2 + line.lines().count();
        assert_eq!(mistakes(&interface(line)), [format!("wg0.conf:{line_of_it}: {rule}")]);
    }
    for (line, rule) in [
        ("PersistentKeepalive = 65536", "PersistentKeepalive: \"65536\" is not in 0 to 65535 seconds, nor off"),
        ("PersistentKeepalive = on", "PersistentKeepalive: \"on\" is not in 0 to 65535 seconds, nor off"),
        (
            "AllowedIPs = 10.50.1.1,",
            "AllowedIPs: \"\" is not an IP address, alone or with a length its family has (such as 10.50.0.0/24)",
        ),
    ] {
        assert_eq!(mistakes(&peer(&format!("\n{line}"))), [format!("wg0.conf:9: {rule}")]);
    }
    let own = format!("{}[Peer]\nPublicKey = {PUBLIC}\n", interface(""));
    let rule = "PublicKey: is that of this machine's own PrivateKey; put in the peer's";
    assert_eq!(mistakes(&own), [format!("wg0.conf:6: {rule}")]);
    let zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let zeros = mistakes(&format!("[Interface]\nPrivateKey = {zero}\n[Peer]\nPublicKey = {zero}"));
    assert!(zeros.len() == 2 && zeros.iter().all(|mistake| mistake.contains("is all zeros")), "{zeros:?}");
    // 1, p - 1, and the same with the bit that X25519 does not look at.
    for low in [
        "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "7P///////////////////////////////////////38=",
        "7P////////////////////////////////////////8=",
    ] {
        let told = mistakes(&format!("{}[Peer]\nPublicKey = {low}\nAllowedIPs =\n", interface("")));
        assert!(told.len() == 1 && told[0].contains("low order and protects nothing"), "{told:?}");
    }
    assert_eq!(mistakes("# nothing"), ["wg0.conf: has no [Interface] section; it begins with one, and its PrivateKey"]);
}

#[test]
fn commands_are_refused_with_what_replaces_them() {
    let text = interface(
        "PostUp = iptables -t nat -A POSTROUTING -o ens5 -j MASQUERADE; iptables -A FORWARD -j ACCEPT\n\
         PostUp = iptables -t nat -A PREROUTING -d 10.50.0.1 -p tcp --dport 5432 -j DNAT --to-destination 172.31.0.9\n\
         predown = wg set %i peer x preshared-key /root/psk",
    );
    let forward = "a hub forwards between its peers by itself";
    let publish = "a hub publishes a port of its overlay address by a [[publish]] table in edgeproxy.toml";
    let remove = "edgeproxy runs no commands: remove this line";
    let expected = [
        format!("wg0.conf:3: PostUp: {remove}; {forward}, without iptables or sysctl"),
        format!("wg0.conf:4: PostUp: {remove}; {publish}"),
        format!("wg0.conf:5: PreDown: {remove}; {forward}, and {publish}"),
    ];
    assert_eq!(mistakes(&text), expected);
}

#[test]
fn no_message_shows_what_could_be_a_key() {
    let secret = "yAnz5TFlXXJte14tuTFGVFOTlRl6dOVIbxrdBsCjcAB";
    for line in [
        format!("PrivateKey = {secret}"),
        format!("PrivateKey = {secret}=="),
        format!("PrivateKey: {secret}="),
        format!("{secret}="),
        secret.to_owned(),
        format!("Address = {secret}="),
        format!("DNS : {secret}="),
        format!("PostUp = wg set wg0 private-key <(echo {secret}=)"),
        format!("[{secret}]"),
        format!("[Peer]\nPublicKey = {secret}"),
        format!("[Peer]\nPresharedKey = {secret}"),
        format!("[Peer]\nEndpoint = {secret}="),
        format!("[Peer]\nAllowedIPs = {secret}="),
    ] {
        let told = mistakes(&format!("[Interface]\n{line}\n")).concat();
        assert!(!told.is_empty());
        for start in 0..secret.len() - 5 {
            assert!(!told.contains(&secret[start..start + 5]), "{line}: {told}");
        }
    }
    let config = parse(&format!("{}PresharedKey = {OTHER_PEER}", peer(""))).unwrap();
    let shown = format!("{config:?}");
    assert!(!shown.contains(PRIVATE) && !shown.contains(OTHER_PEER), "{shown}");
}

#[test]
fn what_is_written_is_read_again() {
    let text = format!(
        "[Interface]\nPrivateKey = {PRIVATE}\nAddress = 10.50.0.1/24, 2001:db8::1/64\nListenPort = 51820\nMTU = 1380\n\
         FwMark = 0xca6c\nTable = 51820\n\n[Peer]\n# gru\nPublicKey = {PEER}\nPresharedKey = {OTHER_PEER}\n\
         AllowedIPs = 10.50.1.1/32, 2001:db8:1::/48\nEndpoint = [2001:db8::1]:51820\nPersistentKeepalive = 25\n\n\
         [Peer]\nPublicKey = {OTHER_PEER}\n"
    );
    let config = parse(&text).unwrap();
    let written = config.to_text();
    // The same key with the bits set that X25519 sets anyway.
    let text = text.replace(PRIVATE, "cAdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LGo=");
    assert_eq!(*written, text);
    assert_eq!(written.capacity(), config.room(), "a text that grew leaves copies of the keys behind");
    let mut other = config.clone();
    other.peers[0].name = Some("x\nPostUp = rm".to_owned());
    assert_eq!(*other.to_text(), text.replace("# gru\n", ""), "a name ends no line");
    let mut bare = config;
    bare.interface = Interface { addresses: Vec::new(), listen_port: None, mtu: None, fwmark: None, ..bare.interface };
    bare.interface.table = RoutingTable::Off;
    bare.peers.clear();
    assert_eq!(
        *bare.to_text(),
        "[Interface]\nPrivateKey = cAdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LGo=\nTable = off\n"
    );
}

#[test]
fn keys_open_to_others_are_noted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wg0.conf");
    let missing = WgQuick::read(&path).unwrap_err();
    assert!(missing[0].to_string().contains("wg0.conf: cannot be read: No such file"), "{missing:?}");
    std::fs::write(&path, interface("")).unwrap();
    for (mode, count) in [(0o600, 0), (0o400, 0), (0o640, 1), (0o604, 1), (0o620, 1)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let notes = WgQuick::read(&path).unwrap().notes;
        assert_eq!(notes.len(), count, "{mode:o}");
        assert!(notes.iter().all(|note| note.contains("wg0.conf: holds a private key and is open")), "{notes:?}");
    }
}

/// Numbers that look random, the same in every run (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ z >> 31) % bound as u64).unwrap()
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }
}

fn found(text: &str) -> Vec<Result<FoundPeer, Vec<Mistake>>> {
    PeersOf::new("hub.conf", text.as_bytes()).collect()
}

#[test]
fn peers_come_one_by_one_from_files_of_any_machine() {
    let text = format!(
        "\u{feff}# of the old hub\r\n[Interface]\r\nListenPort = x\r\nPostUp = iptables\r\nnothing\r\n\r\n# Name = Ana's phone\r\n\
         [Peer]\r\nPublicKey = {PEER}\r\nPresharedKey = {OTHER_PEER}\r\nAllowedIPs = 10.50.1.7/32, 10.9.0.0/16\r\n\r\n\
         # far above\r\n\r\n[peer]\r\n# gru\r\nPublicKey = {OTHER_PEER}\r\n# Name = inside\r\nEndpoint = hub:1\r\n[Interface]\r\n\
         Nothing = to us\r\n[Peer]\r\nPublicKey = {PUBLIC}"
    );
    let found = found(&text);
    let peers: Vec<&FoundPeer> = found.iter().map(|found| found.as_ref().unwrap()).collect();
    let told: Vec<_> = peers.iter().map(|found| (found.line, found.remark.as_deref())).collect();
    assert_eq!(told, [(8, Some("Name = Ana's phone")), (15, Some("gru")), (22, None)]);
    assert_eq!(peers[0].peer.public_key.to_string(), PEER);
    assert!(peers[0].peer.preshared_key.is_some() && peers[0].peer.allowed_ips.len() == 2);
    assert_eq!((peers[1].peer.name.as_deref(), peers[1].peer.endpoint.is_some()), (Some("gru"), true));
    assert_eq!(PeersOf::new("hub.conf", text.as_bytes()).bytes(), 0);
    let mut all = PeersOf::new("hub.conf", text.as_bytes());
    assert_eq!(all.by_ref().count(), 3);
    assert_eq!(all.bytes(), text.len() as u64);
}

#[test]
fn a_bad_peer_spoils_no_other() {
    let long = "x".repeat(70_000);
    let text = format!(
        "before = all\nand = more\n[Peer]\nAllowedIPs = x\n[Peer]\nPublicKey = {PEER}\n[Cluster]\nSize = 3\n[Peer]\n\
         PublicKey = {PEER}\nAllowedIPs = 1.2.3.4, {long}\n[Peer]\nPublicKey = {OTHER_PEER}\n"
    );
    let told: Vec<String> = found(&text)
        .into_iter()
        .map(|found| match found {
            Ok(found) => format!("peer of {}", found.line),
            Err(mistakes) => mistakes.iter().map(|mistake| format!("{mistake};")).collect(),
        })
        .collect();
    let expected = [
        "hub.conf:1: stands before the first section; begin the file with [Interface];",
        "hub.conf:3: this [Peer] has no PublicKey; ask it for that, or remove it;hub.conf:4: AllowedIPs: \"x\" is not an IP \
         address, alone or with a length its family has (such as 10.50.0.0/24);",
        "peer of 5",
        "hub.conf:7: unknown section: a wg-quick file has one [Interface], and a [Peer] for each peer;",
        "hub.conf:11: is longer than 65536 bytes;",
        "peer of 12",
    ];
    assert_eq!(told, expected);
    assert_eq!(found("").len(), 0);
    let unread = PeersOf::new("f", std::io::BufReader::new(Broken)).map(|found| found.unwrap_err()[0].to_string());
    assert_eq!(unread.collect::<Vec<_>>(), ["f: cannot be read: gone"]);
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("gone"))
    }
}

/// Any input is refused in lines of text about lines of the file, or gives a configuration that is read as it is written.
fn check(bytes: &[u8]) {
    let mut alone = PeersOf::new("f", bytes);
    let peers: Vec<_> = alone.by_ref().collect();
    assert_eq!(alone.bytes(), bytes.len() as u64);
    match WgQuick::parse("f", bytes) {
        Ok(config) => {
            let peers: Vec<_> = peers.into_iter().map(|found| found.unwrap().peer).collect();
            assert_eq!(format!("{peers:?}"), format!("{:?}", config.peers), "one by one as all at once");
            let text = config.to_text();
            assert_eq!(text.capacity(), config.room());
            let again = WgQuick::parse("f", text.as_bytes()).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
            assert_eq!(*again.to_text(), *text);
            assert_eq!(
                format!("{:?}{:?}", again.interface, again.peers),
                format!("{:?}{:?}", config.interface, config.peers)
            );
        }
        Err(mistakes) => {
            assert!(!mistakes.is_empty() && mistakes.is_sorted_by_key(|mistake| mistake.line));
            let lines = bytes.split(|byte| *byte == b'\n').count();
            for mistake in mistakes {
                assert!(mistake.line.is_none_or(|line| (1..=lines).contains(&line)), "{mistake}");
                assert!(!mistake.to_string().chars().any(char::is_control), "{mistake:?}");
            }
        }
    }
}

#[test]
fn whatever_the_bytes_nothing_panics() {
    let keys = [&known_keys()[..], &["[Interface]", "[Peer]", "[", "]", "#", "", "\u{feff}", "PrivateKey"]].concat();
    let values = [
        PRIVATE,
        PEER,
        OTHER_PEER,
        PUBLIC,
        "10.50.0.1/24",
        "10.50.1.0/24, ::/0",
        "::1/129",
        "0",
        "1420",
        "65536",
        "off",
        "0xff",
        "auto",
        "true",
        "hub:51820",
        "[::1]:1",
        "[:]:",
        ",",
        "",
        "é",
        "\u{0}",
        "DNAT",
    ];
    let mut dice = Dice(7);
    let mut good = 0;
    for round in 0..20_000 {
        let mut bytes = Vec::new();
        if round % 2 == 0 {
            bytes.extend(format!("[Interface]\nPrivateKey={PRIVATE}\n").bytes());
        }
        for _ in 0..dice.below(6) {
            let line = match dice.below(4) {
                0 => format!("{}\n", dice.of(&["[Peer]", "[Peer]\nPublicKey=", "# x", "[interface]"])),
                1 => format!("[Peer]\nPublicKey={}\n", dice.of(&values)),
                _ => format!("{}{}{}\n", dice.of(&keys), dice.of(&["=", " = ", "", "=="]), dice.of(&values)),
            };
            bytes.extend(line.bytes());
        }
        if round % 5 == 0 && !bytes.is_empty() {
            for _ in 0..3 {
                let at = dice.below(bytes.len());
                bytes[at] = u8::try_from(dice.below(256)).unwrap();
            }
        }
        good += usize::from(WgQuick::parse("f", &bytes).is_ok());
        check(&bytes);
    }
    assert!(good > 1_000, "{good}: the dice make too few sound files");
    for _ in 0..2_000 {
        let bytes: Vec<u8> = (0..dice.below(200)).map(|_| u8::try_from(dice.below(256)).unwrap()).collect();
        check(&bytes);
    }
}

fn known_keys() -> Vec<&'static str> {
    [&reader::INTERFACE_KEYS[..], &reader::PEER_KEYS].concat()
}
