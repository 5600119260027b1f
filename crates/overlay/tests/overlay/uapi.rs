//! The protocol over its socket, by hand and by the `wg` tool.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use edgeproxy_overlay::uapi::{CONNECTIONS_MOST, Uapi, UapiError};
use edgeproxy_tunnel::{PresharedKey, PrivateKey, PublicKey};
use parking_lot::Mutex;
use tempfile::TempDir;
use tracing::level_filters::LevelFilter;

use crate::support::{Host, LONG, eventually, packet, private};

/// Long enough for a packet that was let through to come, if one was.
const A_WHILE: Duration = Duration::from_millis(200);

/// A host that is steered over its socket.
struct Steered {
    host: Host,
    uapi: Uapi,
    directory: TempDir,
}

impl Steered {
    fn start(number: u8) -> Self {
        let (host, directory) = (Host::start(number, false), TempDir::new().unwrap());
        let uapi = Uapi::start(&host.device, directory.path(), "wg0").unwrap();
        Self { host, uapi, directory }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.uapi.path()).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    fn ask(&self, request: &str) -> String {
        ask(&mut self.connect(), request)
    }

    /// What is set, and `errno` of the answer.
    fn set(&self, lines: &str) -> i32 {
        let answer = self.ask(&format!("set=1\n{lines}\n"));
        answer.strip_prefix("errno=").and_then(|rest| rest.strip_suffix("\n\n")).unwrap().parse().unwrap()
    }

    fn get(&self) -> String {
        self.ask("get=1\n\n")
    }

    /// Runs `wg`, which looks for sockets in one directory only. `None`: this system does not let us make it ours.
    fn wg(&self, arguments: &[&str]) -> Option<String> {
        let script = "mount -t tmpfs none /run && mkdir /run/wireguard && mount --bind \"$0\" /run/wireguard || exit 77
            exec wg \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(self.directory.path()).args(arguments);
        let Output { status, stdout, stderr } = command.env("WG_HIDE_KEYS", "never").output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        if status.code() == Some(77) || stderr.starts_with("unshare:") {
            println!("skipped: no mount namespace here ({stderr})");
            return None;
        }
        assert!(status.success(), "wg {arguments:?}: {stderr}");
        Some(String::from_utf8(stdout).unwrap())
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.directory.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn ask(stream: &mut UnixStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.ends_with(b"\n\n") {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "hung up after {:?}", answer.escape_ascii().to_string());
        answer.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(answer).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn public(number: u8) -> PublicKey {
    private(number).public()
}

fn public_hex(number: u8) -> String {
    hex(&public(number).0)
}

#[test]
fn a_device_tells_what_it_was_told() {
    let steered = Steered::start(1);
    let port = steered.host.device.port();
    let head = format!("private_key={}\nlisten_port={port}\n", hex(private(1).bytes()));
    assert_eq!(steered.get(), format!("{head}errno=0\n\n"));
    let peer = |number: u8| format!("public_key={}\n", public_hex(number));
    let secret = hex(&[7; 32]);
    let said = format!("{}preshared_key={secret}\nendpoint=[::1]:9\npersistent_keepalive_interval=0\n", peer(2));
    assert_eq!(steered.set(&format!("{said}allowed_ip=10.50.0.2/32\nallowed_ip=fd50::/64\n")), 0);
    let after = |key: &str, endpoint: &str| {
        format!(
            "{}preshared_key={key}\nprotocol_version=1\n{endpoint}last_handshake_time_sec=0\n\
             last_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\npersistent_keepalive_interval=0\n",
            peer(2)
        )
    };
    let told = after(&secret, "endpoint=[::1]:9\n");
    assert_eq!(steered.get(), format!("{head}{told}allowed_ip=10.50.0.2/32\nallowed_ip=fd50::/64\nerrno=0\n\n"));

    // What is not named stays; a prefix is moved, taken away, given anew.
    assert_eq!(steered.set(&format!("{}allowed_ip=-fd50::/64\nallowed_ip=10.50.0.3/32\n", peer(2))), 0);
    assert!(steered.get().contains(&format!("{told}allowed_ip=10.50.0.2/32\nallowed_ip=10.50.0.3/32\nerrno=0")));
    assert_eq!(steered.set(&format!("{}allowed_ip=10.50.0.2/32\n{}allowed_ip=-10.50.0.2/32\n", peer(3), peer(2))), 0);
    assert!(steered.get().contains(&format!("{told}allowed_ip=10.50.0.3/32\n")));
    assert!(steered.host.device.peer(&public(3)).unwrap().settings.allowed_ips.len() == 1);
    assert_eq!(steered.set(&format!("{}replace_allowed_ips=true\npreshared_key={}\n", peer(2), hex(&[0; 32]))), 0);
    assert!(steered.get().contains(&after(&hex(&[0; 32]), "endpoint=[::1]:9\n")));
    assert!(
        !steered.host.device.has_route([10, 50, 0, 3].into()) && steered.host.device.has_route([10, 50, 0, 2].into())
    );

    // A bad line at the end, and nothing of it all is done.
    let before = steered.get();
    let good = format!("fwmark=0\nreplace_peers=true\n{}allowed_ip=10.50.0.2/32\n", peer(4));
    assert_eq!(steered.set(&format!("{good}allowed_ip=10.50.0.2/33\n")), 22);
    assert_eq!(steered.set(&format!("{good}nonsense\n")), 71);
    let other = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    assert_eq!(
        steered.set(&format!("listen_port={}\n{}", other.local_addr().unwrap().port(), &good["fwmark=0\n".len()..])),
        98
    );
    assert_eq!(steered.get(), before);

    assert_eq!(steered.set(&format!("{}update_only=true\nallowed_ip=10.50.0.2/32\n", peer(4))), 0);
    assert_eq!(steered.get(), before, "it is not there");
    assert_eq!(steered.set(&format!("{}remove=true\n{}remove=true\n", peer(3), peer(4))), 0);
    assert_eq!(steered.host.device.peers().len(), 1);
    assert_eq!(steered.set(&format!("{good}{}{}", peer(5), peer(4))), 0);
    let keys: Vec<_> = steered.host.device.peers().into_iter().map(|peer| peer.settings.public).collect();
    assert!(keys.len() == 2 && keys.contains(&public(4)) && keys.contains(&public(5)));
    assert!(!steered.host.device.has_route([10, 50, 0, 3].into()));
}

#[test]
fn a_peer_with_our_own_key_is_none() {
    let steered = Steered::start(1);
    let own = format!("public_key={}\nallowed_ip=10.50.0.1/32\n", public_hex(1));
    assert_eq!(steered.set(&own), 0);
    assert_eq!(steered.host.device.peers().len(), 0);
    assert_eq!(steered.set(&format!("public_key={}\n", public_hex(2))), 0);
    assert_eq!(steered.set(&format!("private_key={}\n", hex(private(2).bytes()))), 0);
    assert_eq!((steered.host.device.peers().len(), steered.host.device.public()), (0, public(2)));
    assert_eq!(steered.set(&own), 0);
    assert_eq!(steered.host.device.peers().len(), 1, "it is another's now");
}

#[test]
fn another_private_key_ends_all_sessions_at_once() {
    let (a, b) = (Steered::start(1), Host::start(2, false));
    a.host.know(&b, true, &["10.50.0.2"]);
    b.know(&a.host, false, &["10.50.0.1"]);
    let there = packet(a.host.ip, b.ip, b"there");
    let back = packet(b.ip, a.host.ip, b"back");
    a.host.send(&there);
    assert_eq!(b.receive(), there);
    b.send(&back);
    assert_eq!(a.host.receive(), back);

    // The same key again is no change.
    let established = b.device.peer(&public(1)).unwrap().last_handshake_at;
    assert_eq!(a.set(&format!("private_key={}\n", hex(private(1).bytes()))), 0);
    b.send(&back);
    assert_eq!(a.host.receive(), back);
    assert_eq!(b.device.peer(&public(1)).unwrap().last_handshake_at, established);

    assert_eq!(a.set(&format!("private_key={}\n", hex(private(3).bytes()))), 0);
    let sent = a.host.device.peer(&public(2)).unwrap().sent;
    b.send(&back);
    a.host.send(&there);
    assert_eq!((a.host.receive_within(A_WHILE), b.receive_within(A_WHILE)), (None, None));
    // An initiation under the new key is all that left.
    assert_eq!(a.host.device.peer(&public(2)).unwrap().sent, sent + 148);

    // Known by the new key, the packet that waited comes with the next attempt.
    b.know(&a.host, false, &["10.50.0.1"]);
    assert_eq!(b.receive(), there);
    b.send(&back);
    assert_eq!(a.host.receive(), back);

    // Nobody at all: nothing is sent or answered.
    assert_eq!(a.set(&format!("private_key={}\n", hex(&[0; 32]))), 0);
    assert!(!a.get().contains("private_key"));
    let sent = a.host.device.peer(&public(2)).unwrap().sent;
    a.host.send(&there);
    b.send(&back);
    assert_eq!((a.host.receive_within(A_WHILE), b.receive_within(A_WHILE)), (None, None));
    assert_eq!(a.host.device.peer(&public(2)).unwrap().sent, sent);
    assert_eq!(a.set(&format!("private_key={}\n", hex(private(3).bytes()))), 0);
    assert_eq!(b.receive_within(LONG).as_ref(), Some(&there), "what waited is sent, as somebody again");
}

#[test]
fn a_device_moves_to_another_port_with_its_sessions() {
    let (a, b) = (Steered::start(1), Host::start(2, false));
    a.host.know(&b, true, &["10.50.0.2"]);
    b.know(&a.host, false, &["10.50.0.1"]);
    let (there, back) = (packet(a.host.ip, b.ip, b"there"), packet(b.ip, a.host.ip, b"back"));
    a.host.send(&there);
    assert_eq!(b.receive(), there);
    let before = a.host.address();
    let free = std::net::UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    assert_eq!(a.set(&format!("listen_port={free}\n")), 0);
    assert!(a.get().contains(&format!("listen_port={free}\n")));
    assert_ne!(a.host.address(), before);
    for _ in 0..20 {
        a.host.send(&there);
        assert_eq!(b.receive(), there);
        b.send(&back);
        assert_eq!(a.host.receive(), back);
    }
    assert_eq!(b.device.peer(&public(1)).unwrap().settings.endpoint, Some(a.host.address()));
    // The old one is free again.
    std::net::UdpSocket::bind(before).unwrap();
    // What the peer is told of leaves it where it was heard.
    assert_eq!(a.set(&format!("public_key={}\nallowed_ip=10.50.0.7/32\n", public_hex(2))), 0);
    assert_eq!(a.host.device.peer(&public(2)).unwrap().settings.endpoint, Some(b.address()));
}

#[test]
fn a_mark_needs_a_privilege() {
    let steered = Steered::start(1);
    assert_eq!(steered.set("fwmark=0\n"), 0);
    match steered.set("fwmark=51966\n") {
        0 => {
            assert!(steered.get().contains("\nfwmark=51966\n"));
            assert_eq!(steered.set("fwmark=0\n"), 0);
        }
        errno => assert_eq!(errno, 1),
    }
    assert!(!steered.get().contains("fwmark"));
}

#[test]
fn a_handshake_is_told_by_the_wall_clock() {
    let (a, b) = (Steered::start(1), Host::start(2, false));
    a.host.know(&b, true, &["10.50.0.2"]);
    b.know(&a.host, false, &["10.50.0.1"]);
    a.host.send(&packet(a.host.ip, b.ip, b"there"));
    b.receive();
    // What was sent is counted right after.
    eventually("the count", || a.host.device.peer(&public(2)).unwrap().sent >= 148 + 32);
    let told = a.get();
    let value = |name: &str| -> u64 { told.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap() };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!((now - 5..=now).contains(&value("last_handshake_time_sec=")));
    assert!(value("last_handshake_time_nsec=") < 1_000_000_000);
    assert!(value("tx_bytes=") >= 148 + 32 && value("rx_bytes=") >= 92, "handshakes count");
    std::thread::sleep(Duration::from_millis(20));
    // Whatever else happens to the peer, that stays.
    b.send(&packet(b.ip, a.host.ip, b"back"));
    a.host.receive();
    assert_eq!(a.set(&format!("public_key={}\npersistent_keepalive_interval=60\n", public_hex(2))), 0);
    let time =
        |told: &str| told.lines().filter(|line| line.starts_with("last_")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(time(&a.get()), time(&told));
}

#[test]
fn a_client_that_does_nothing_stops_nobody() {
    let steered = Steered::start(1);
    let mut idle: Vec<_> = (2..CONNECTIONS_MOST).map(|_| steered.connect()).collect();
    idle[0].write_all(b"set=1\nlisten_port=").unwrap();
    assert!(steered.get().ends_with("errno=0\n\n"));
    // Several requests on one connection.
    let mut stream = steered.connect();
    for _ in 0..3 {
        assert!(ask(&mut stream, "get=1\n\n").starts_with("private_key="));
    }
    let more = Mutex::new(Vec::new());
    eventually("a connection too many is closed", || {
        let mut further = steered.connect();
        let is_served =
            further.write_all(b"get=1\n\n").is_ok() && further.read(&mut [0; 16]).is_ok_and(|count| count > 0);
        more.lock().push(further);
        !is_served
    });
    assert!((1..4).contains(&more.lock().len()));
    drop(more);
    drop(idle);
    eventually("there is room again", || {
        let mut stream = steered.connect();
        stream.write_all(b"get=1\n\n").is_ok() && stream.read(&mut [0; 16]).is_ok_and(|count| count > 0)
    });
    // Cut off in the middle: nothing is done.
    let mut cut = steered.connect();
    cut.write_all(format!("set=1\npublic_key={}\n", public_hex(2)).as_bytes()).unwrap();
    cut.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    cut.read_to_string(&mut answer).unwrap();
    assert_eq!((answer.as_str(), steered.host.device.peers().len()), ("errno=71\n\n", 0));
    // The server ends while clients are connected.
    let started = Instant::now();
    let Steered { host, uapi, directory } = steered;
    drop(uapi);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(Arc::strong_count(&host.device), 1);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0);
}

#[test]
fn the_socket_is_its_owners_alone_and_replaces_none_that_lives() {
    let (host, directory) = (Host::start(1, false), TempDir::new().unwrap());
    let folder = directory.path().join("run/wireguard");
    let uapi = Uapi::start(&host.device, &folder, "wg0").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(uapi.path()), mode(&folder)), (0o600, 0o755));
    let again = Uapi::start(&host.device, &folder, "wg0");
    assert!(matches!(again.err(), Some(UapiError::Live(path)) if path == uapi.path()));
    let path = uapi.path().to_owned();
    drop(uapi);
    assert!(!path.exists());

    // A process that ended without a word.
    drop(UnixListener::bind(&path).unwrap());
    let uapi = Uapi::start(&host.device, &folder, "wg0").unwrap();
    // Somebody else's in its place is left alone.
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    drop(uapi);
    assert!(path.exists());
    drop(other);

    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    assert!(matches!(Uapi::start(&host.device, &folder, "wg0").err(), Some(UapiError::NoSocket(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let error = Uapi::start(&host.device, &path, "wg0").err().unwrap();
    assert!(matches!(&error, UapiError::Directory(_, error) if error.kind() == ErrorKind::AlreadyExists), "{error}");
}

#[test]
fn very_many_peers_are_set_and_told() {
    let (steered, many) = (Steered::start(1), 100_000_u32);
    let mut request = "set=1\nreplace_peers=true\n".to_owned();
    for number in 0..many {
        let key = [&number.to_be_bytes()[..], &[9; 28]].concat();
        let [_, a, b, c] = number.to_be_bytes();
        let lines = format!("public_key={}\nendpoint=192.0.2.1:7\nallowed_ip=10.{a}.{b}.{c}/32\n", hex(&key));
        request.push_str(&lines);
    }
    request.push('\n');
    let started = Instant::now();
    assert_eq!(steered.ask(&request), "errno=0\n\n");
    println!("{many} peers set in {:?}", started.elapsed());
    let started = Instant::now();
    let told = steered.get();
    println!("and told in {:?}", started.elapsed());
    assert_eq!(told.matches("allowed_ip=10.").count(), many as usize);
    let started = Instant::now();
    assert_eq!(steered.set("replace_peers=true\n"), 0);
    println!("and removed in {:?}", started.elapsed());
    assert_eq!(steered.host.device.peers().len(), 0);
}

#[test]
fn logs_hold_no_secrets() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::clone(&log);
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(move || Log(Arc::clone(&writer)))
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let (own, shared) = (PrivateKey::from_bytes([0xd3; 32]), PresharedKey::from_bytes([0x5c; 32]));
    let steered = Steered::start(1);
    let keys =
        format!("private_key={}\npublic_key={}\npreshared_key={}\n", hex(own.bytes()), public_hex(2), hex(&[0x5c; 32]));
    assert_eq!(steered.set(&keys), 0);
    assert_eq!(steered.set(&format!("{keys}preshared_key={}5c\n", hex(&[0x5c; 32]))), 22);
    assert_eq!(steered.set(&format!("{keys}{}\n", hex(&[0x5c; 32]))), 71);
    steered.get();
    drop(steered);
    let log = String::from_utf8(log.lock().clone()).unwrap();
    assert!(log.contains("our own key is changed") && log.contains("refused"), "{log}");
    let base64 = [own.to_base64(), shared.to_base64()];
    for secret in ["d3d3d3d3", "5c5c5c5c", "211, 211", "92, 92", base64[0].as_str(), base64[1].as_str()] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

/// Keeps what is logged.
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_wg_tool_shows_and_sets() {
    let (a, b) = (Steered::start(1), Host::start(2, false));
    b.know(&a.host, false, &["10.50.0.1"]);
    let Some(shown) = a.wg(&["show", "wg0"]) else { return };
    let head = format!("interface: wg0\n  public key: {}\n  private key: {}\n", public(1), *private(1).to_base64());
    assert_eq!(shown, format!("{head}  listening port: {}\n", a.host.device.port()));
    assert_eq!(a.wg(&["show", "interfaces"]).unwrap(), "wg0\n");

    let (key, endpoint) = (public(2).to_string(), b.address().to_string());
    let none = a.file("none", "");
    let set = ["set", "wg0", "peer", &key, "endpoint", &endpoint, "allowed-ips", "10.50.0.2/32,fd50::/64"];
    a.wg(&[&set[..], &["persistent-keepalive", "25", "preshared-key", &none]].concat()).unwrap();
    let there = packet(a.host.ip, b.ip, b"there");
    a.host.send(&there);
    assert_eq!(b.receive(), there);
    let shown = a.wg(&["show", "wg0"]).unwrap();
    let peer = format!("\npeer: {key}\n  endpoint: {endpoint}\n  allowed ips: 10.50.0.2/32, fd50::/64\n");
    assert!(shown.contains(&peer) && shown.contains("latest handshake: "), "{shown}");
    assert!(shown.contains("  persistent keepalive: every 25 seconds\n"), "{shown}");
    let handshakes = a.wg(&["show", "wg0", "latest-handshakes"]).unwrap();

    // What it shows as a file it takes as one, without an end to sessions.
    let shown = a.wg(&["showconf", "wg0"]).unwrap();
    let file = a.file("shown.conf", &shown);
    a.wg(&["syncconf", "wg0", &file]).unwrap();
    assert_eq!(a.wg(&["showconf", "wg0"]).unwrap(), shown);
    assert_eq!(a.wg(&["show", "wg0", "latest-handshakes"]).unwrap(), handshakes);
    let back = packet(b.ip, a.host.ip, b"back");
    b.send(&back);
    assert_eq!(a.host.receive(), back);

    let other = public(3).to_string();
    let more = a.file("more.conf", &format!("[Peer]\nPublicKey = {other}\nAllowedIPs = 10.50.0.3/32\n"));
    a.wg(&["addconf", "wg0", &more]).unwrap();
    assert_eq!(a.host.device.peers().len(), 2);
    a.wg(&["syncconf", "wg0", &file]).unwrap();
    assert_eq!(a.wg(&["showconf", "wg0"]).unwrap(), shown);
    a.wg(&["setconf", "wg0", &file]).unwrap();
    assert_eq!(a.wg(&["showconf", "wg0"]).unwrap(), shown);
    a.wg(&["set", "wg0", "peer", &key, "remove"]).unwrap();
    assert_eq!(a.host.device.peers().len(), 0);
    let own = a.file("own", &PrivateKey::from_bytes([4; 32]).to_base64());
    a.wg(&["set", "wg0", "private-key", &own]).unwrap();
    assert_eq!(a.host.device.public(), public(4));
}
