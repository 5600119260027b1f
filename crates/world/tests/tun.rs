//! The virtual WAN between two network namespaces, as an ordinary user has it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and tells what it measured")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use edgeproxy_overlay::enter_user_namespace;
use edgeproxy_world::Pattern;
use edgeproxy_world::wan::{Link, TunPath, Wan};

const ROUND_TRIP: Duration = Duration::from_millis(20);
const LENGTH: u32 = 2_000_000;
const PORT: u16 = 7;
const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

fn main() {
    // Before any thread is started; root needs none.
    if !rustix::process::geteuid().is_root()
        && let Err(error) = enter_user_namespace()
    {
        assert!(std::env::var_os("CI").is_none(), "{error}");
        println!("test a_whole_path ... skipped: {error}");
        return;
    }
    let wan = Wan::start(1).unwrap();
    match wan.tun(Link::half_of(ROUND_TRIP)) {
        Ok(path) => a_whole_path(&path),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "{error}");
            println!("test a_whole_path ... skipped: {error}");
        }
    }
}

fn a_whole_path(path: &TunPath) {
    let server = SocketAddr::from((path.far().address(), PORT));
    let listener = path.far().within(move || TcpListener::bind(server)).unwrap().unwrap();
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(PATIENCE).unwrap();
        let mut first = [0; 1];
        for _ in 0..3 {
            stream.read_exact(&mut first).unwrap();
            stream.write_all(&first).unwrap();
        }
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        stream.write_all(&rest).unwrap();
    });
    let started = Instant::now();
    let connecting = move || TcpStream::connect_timeout(&server, Duration::from_secs(20));
    let mut stream = path.near().within(connecting).unwrap().unwrap();
    let connect = started.elapsed();
    assert!(connect >= ROUND_TRIP, "a connect takes its round trip, not {connect:?}");
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(PATIENCE).unwrap();
    let mut least = connect;
    for _ in 0..3 {
        let asked = Instant::now();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
        assert!(asked.elapsed() >= ROUND_TRIP);
        least = least.min(asked.elapsed());
    }
    // Now and then a packet is lost, and TCP makes up for it.
    path.set(Link { loss: 0.005, ..Link::half_of(ROUND_TRIP / 10) });
    stream.write_all(&Pattern::new(5).take(LENGTH as usize)).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    assert_eq!((back.len(), Pattern::new(5).check(&back)), (LENGTH as usize, None));
    echo.join().unwrap();
    let counts = path.outward().counts();
    assert!(counts.lost > 0 && counts.carried > u64::from(LENGTH) / 1500, "{counts:?}");
    println!("round trip {ROUND_TRIP:?}: connect {connect:?}, echo {least:?}; {counts:?}");
    println!("test a_whole_path ... ok");
}
