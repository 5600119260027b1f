use std::time::{Duration, UNIX_EPOCH};

use edgeproxy_tunnel::{Prefix, PresharedKey, PrivateKey, PublicKey};

use super::*;
use crate::change::{AllowedIp, DeviceChange, PeerChange};
use crate::registry::{PeerSettings, PeerStatus};

/// Reads one request, all at once and byte by byte.
fn read(text: &str) -> Option<Result<Request, Refusal>> {
    let mut bytes = text.as_bytes();
    let whole = RequestReader::default().read(&mut bytes);
    let mut reader = RequestReader::default();
    let mut single = text.as_bytes().chunks(1).filter_map(|mut byte| reader.read(&mut byte));
    assert_eq!(single.next(), whole, "{text:?}");
    whole
}

fn change(lines: &str) -> DeviceChange {
    match read(&format!("set=1\n{lines}\n")) {
        Some(Ok(Request::Set(change))) => change,
        other => panic!("{lines:?}: {other:?}"),
    }
}

fn hex(byte: u8) -> String {
    format!("{byte:02x}").repeat(32)
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

#[test]
fn a_request_is_understood() {
    assert_eq!(read("get=1\n\n"), Some(Ok(Request::Get)));
    let text = format!(
        "private_key={}\nlisten_port=51820\nfwmark=51966\nreplace_peers=true\n\
         public_key={}\npreshared_key={}\nendpoint=[2001:db8::1]:7\npersistent_keepalive_interval=25\n\
         replace_allowed_ips=true\nallowed_ip=10.50.1.7/24\nallowed_ip=-2001:db8::/32\nprotocol_version=1\n\
         public_key={}\nremove=true\npublic_key={}\nupdate_only=true\nendpoint=[::ffff:192.0.2.1]:8\n\
         persistent_keepalive_interval=0\n",
        hex(1),
        hex(2),
        hex(3),
        hex(0xab).to_uppercase(),
        hex(5)
    );
    let first = PeerChange {
        preshared: Some(PresharedKey::from_bytes([3; 32])),
        endpoint: Some("[2001:db8::1]:7".parse().unwrap()),
        keepalive: Some(Some(Duration::from_secs(25))),
        replace_allowed_ips: true,
        allowed_ips: vec![AllowedIp::Added(prefix("10.50.1.0/24")), AllowedIp::Removed(prefix("2001:db8::/32"))],
        ..PeerChange::new(PublicKey([2; 32]))
    };
    let second = PeerChange { remove: true, ..PeerChange::new(PublicKey([0xab; 32])) };
    let third = PeerChange {
        update_only: true,
        endpoint: Some("192.0.2.1:8".parse().unwrap()),
        keepalive: Some(None),
        ..PeerChange::new(PublicKey([5; 32]))
    };
    let expected = DeviceChange {
        private: Some(Some(PrivateKey::from_bytes([1; 32]))),
        port: Some(51820),
        mark: Some(0xcafe),
        replace_peers: true,
        peers: vec![first, second, third],
    };
    assert_eq!(change(&text), expected);
    assert_eq!(change(""), DeviceChange::default());
    let silent = DeviceChange { private: Some(None), ..DeviceChange::default() };
    assert_eq!(change(&format!("private_key={}\n", hex(0))), silent);
}

#[test]
fn what_is_wrong_is_refused_by_the_number_of_its_kind() {
    let key = hex(7);
    let long = format!("allowed_ip=10.0.0.0/{}8", "0".repeat(LONGEST_LINE));
    let of_device = [
        "listen_port=65536",
        "listen_port=+1",
        "listen_port=",
        "listen_port=-1",
        "fwmark=4294967296",
        "fwmark=0x1",
        "replace_peers=false",
        "replace_peers=",
        "private_key=00",
        "private_key=zz",
        "allowed_ip=10.0.0.0/8",
        "remove=true",
        "Listen_Port=1",
        "=",
        "public_key=",
        // Of low order: 0, and p + 1.
        &format!("public_key={}", hex(0)),
        &format!("public_key=ee{}7f", "ff".repeat(30)),
        "protocol_version=1",
    ];
    let of_peer = [
        "listen_port=1",
        "remove=false",
        "update_only=1",
        "preshared_key=0",
        "endpoint=192.0.2.1",
        "endpoint=hub:7",
        "endpoint=192.0.2.1:65536",
        "endpoint=2001:db8::1:7",
        "persistent_keepalive_interval=65536",
        "persistent_keepalive_interval=off",
        "allowed_ip=10.0.0.0",
        "allowed_ip=10.0.0.0/33",
        "allowed_ip=+10.0.0.0/8",
        "allowed_ip=--10.0.0.0/8",
        "allowed_ip=",
        "protocol_version=2",
        "last_handshake_time_sec=0",
        "errno=0",
        &long,
    ];
    let device = of_device.iter().map(|line| format!("set=1\n{line}\n\n"));
    let peer = of_peer.iter().map(|line| format!("set=1\npublic_key={key}\n{line}\n\n"));
    let key_with = |tail: &str| format!("set=1\npublic_key={key}{tail}\n\n");
    for text in device.chain(peer).chain(["0", "\r", " "].map(key_with)).chain(["get=1\nx\n\n".to_owned()]) {
        assert_eq!(read(&text), Some(Err(Refusal::Invalid)), "{text:?}");
    }
    let long = "x".repeat(LONGEST_LINE + 1);
    for text in
        ["\n", "get=2\n\n", "GET / HTTP/1.1\n\n", "set=1 \n\n", "set=1\nlisten_port\n\n", &format!("set=1\n{long}\n\n")]
    {
        assert_eq!(read(text), Some(Err(Refusal::Protocol)), "{text:?}");
    }
    // Nothing is said before the blank line.
    for text in ["", "get=1\n", "set=1\nx=y\n", "set=1\nlisten_port=1\n", "\u{0}"] {
        assert_eq!(read(text), None, "{text:?}");
    }
    assert_eq!((Refusal::Protocol.errno(), Refusal::Invalid.errno(), Refusal::TooLong.errno()), (71, 22, 7));
    assert_eq!(Refusal::PortTaken.errno(), 98);
}

#[test]
fn a_request_follows_another_be_that_bad() {
    let text = "set=1\nfwmark=x\nlisten_port=1\n\nget=1\n\nset=1\nlisten_port=2\n\nset=1\n";
    let (mut bytes, mut reader) = (text.as_bytes(), RequestReader::default());
    assert_eq!(reader.read(&mut bytes), Some(Err(Refusal::Invalid)));
    assert!(!reader.is_within());
    assert_eq!(reader.read(&mut bytes), Some(Ok(Request::Get)));
    let change = DeviceChange { port: Some(2), ..DeviceChange::default() };
    assert_eq!(reader.read(&mut bytes), Some(Ok(Request::Set(change))));
    assert_eq!(reader.read(&mut bytes), None);
    assert!(bytes.is_empty() && reader.is_within());
}

#[test]
fn the_rest_of_an_endless_request_is_not_read() {
    let mut reader = RequestReader::default();
    let line = format!("public_key={}\n", hex(1));
    let chunk = line.repeat(10_000);
    let mut begin = "set=1\nx=y\n".as_bytes();
    assert_eq!(reader.read(&mut begin), None);
    let refused = (0..=LONGEST_REQUEST / chunk.len()).find_map(|_| reader.read(&mut chunk.as_bytes()));
    assert_eq!(refused, Some(Err(Refusal::TooLong)));
}

#[test]
fn an_answer_is_a_request_but_for_what_only_is() {
    let status = PeerStatus {
        settings: PeerSettings {
            public: PublicKey([2; 32]),
            preshared: PresharedKey::from_bytes([3; 32]),
            endpoint: Some("[2001:db8::1]:7".parse().unwrap()),
            keepalive: Some(Duration::from_secs(25)),
            allowed_ips: vec![prefix("10.50.1.0/24"), prefix("2001:db8::/32")],
        },
        last_handshake: Some(Duration::from_secs(1)),
        last_handshake_at: Some(UNIX_EPOCH + Duration::from_millis(1_700_000_000_250)),
        greatest: edgeproxy_tunnel::Tai64N::default(),
        received: 5,
        sent: 6,
    };
    let mut out = Vec::new();
    write_device(&mut out, Some(&PrivateKey::from_bytes([1; 32])), 51820, 9).unwrap();
    write_peer(&mut out, &status).unwrap();
    let text = String::from_utf8(out).unwrap();
    // Clamped, as a private key is.
    let private = format!("00{}41", "01".repeat(30));
    let expected = format!(
        "private_key={private}\nlisten_port=51820\nfwmark=9\npublic_key={}\npreshared_key={}\nprotocol_version=1\n\
         endpoint=[2001:db8::1]:7\nlast_handshake_time_sec=1700000000\nlast_handshake_time_nsec=250000000\ntx_bytes=6\n\
         rx_bytes=5\npersistent_keepalive_interval=25\nallowed_ip=10.50.1.0/24\nallowed_ip=2001:db8::/32\n",
        hex(2),
        hex(3)
    );
    assert_eq!(text, expected);
    let of_operator = |line: &&str| !["last_", "tx_", "rx_"].iter().any(|begin| line.starts_with(begin));
    let lines: Vec<&str> = text.lines().filter(of_operator).collect();
    let expected = PeerChange { replace_allowed_ips: false, ..status.settings.into() };
    assert_eq!(change(&format!("{}\n", lines.join("\n"))).peers, [expected]);

    let mut out = Vec::new();
    write_device(&mut out, None, 1, 0).unwrap();
    assert_eq!(out, b"listen_port=1\n");
}

#[test]
fn secrets_are_not_shown() {
    let (private, preshared) = (hex(0x41), hex(0x5a));
    let text = format!("set=1\nprivate_key={private}\npublic_key={}\npreshared_key={preshared}\n", hex(2));
    let mut reader = RequestReader::default();
    assert_eq!(reader.read(&mut format!("{text}preshared_key=5a5a").as_bytes()), None);
    let request = read(&format!("{text}\n"));
    let refused = read(&format!("{text}preshared_key={preshared}5a\n\n")).unwrap().unwrap_err();
    let shown = format!("{reader:?}{request:?}{refused:?}{refused}");
    for secret in ["4141", "5a5a", "65, 65", "90, 90"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(shown.contains("PresharedKey(set)"));
}
