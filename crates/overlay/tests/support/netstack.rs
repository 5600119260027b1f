//! The kernel's TCP on one side of a tunnel, the stack of this process on the other.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use edgeproxy_overlay::{
    Acceptor, Device, DeviceSettings, Enclave, Line, LinkSettings, ListenSettings, Netstack, PeerSettings, Queue,
    Sockets, Stream,
};
use edgeproxy_tunnel::{PresharedKey, PrivateKey};

use super::{PATIENCE, accept, open};

const BULK: usize = 10_000_000;

pub(crate) fn check_against_kernel() {
    let kernel = Sockets::Enclave(Enclave::start().unwrap());
    let link = LinkSettings { addresses: vec!["10.50.0.1/24".parse().unwrap()], mtu: 1420, routes: vec![] };
    let near = device(1, open(&kernel, 1, link).into_queues());
    let (netstack, queues) = Netstack::start(&["10.50.0.2/24".parse().unwrap()], 1420, 1).unwrap();
    let far = device(2, queues);
    for (one, other, ip) in [(&near, &far, "10.50.0.2"), (&far, &near, "10.50.0.1")] {
        one.set_peer(PeerSettings {
            public: other.public(),
            preshared: PresharedKey::default(),
            endpoint: Some(SocketAddr::from(([127, 0, 0, 1], other.port()))),
            keepalive: None,
            allowed_ips: vec![ip.parse().unwrap()],
        });
    }
    let at: SocketAddr = "10.50.0.1:5432".parse().unwrap();
    let listening = listen(&kernel, at);
    let echo = thread::spawn(move || {
        let mut client = TcpStream::from(accept(&listening).0.fd);
        client.set_nonblocking(false).unwrap();
        std::io::copy(&mut client.try_clone().unwrap(), &mut client).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        // The next is closed with bytes unread, which resets it.
        let client = TcpStream::from(accept(&listening).0.fd);
        client.set_nonblocking(false).unwrap();
        client.peek(&mut [0]).unwrap();
    });

    let started = Instant::now();
    let (stream, line) = dialled(netstack.dial(at).unwrap());
    let sent: Vec<u8> = (0..u32::try_from(BULK / 4).unwrap()).flat_map(u32::to_le_bytes).collect();
    let mut writing = stream.try_clone().unwrap();
    let copy = sent.clone();
    let writer = thread::spawn(move || {
        writing.write_all(&copy).unwrap();
        writing.shutdown(Shutdown::Write).unwrap();
    });
    let mut came = Vec::new();
    (&stream).read_to_end(&mut came).unwrap();
    writer.join().unwrap();
    assert!(came == sent, "{} bytes of {BULK} came back, or others", came.len());
    assert!(line.error().is_none());
    println!("{BULK} bytes to the kernel and back in {:?}", started.elapsed());

    let (mut stream, line) = dialled(netstack.dial(at).unwrap());
    stream.write_all(b"never read").unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert_eq!(line.error().unwrap().kind(), std::io::ErrorKind::ConnectionReset);
    echo.join().unwrap();

    let stream = netstack.dial(SocketAddr::new(at.ip(), 9)).unwrap();
    let line = stream.line.clone().unwrap();
    let mut stream = UnixStream::from(stream.fd);
    stream.set_nonblocking(false).unwrap();
    let refused = line.settled(stream.read(&mut [0]).unwrap()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    // The kernel dials, and asks whether somebody is there.
    let stack = Sockets::Netstack(netstack);
    let acceptor = listen(&stack, "10.50.0.2:80".parse().unwrap());
    let client = kernel.within(|| TcpStream::connect("10.50.0.2:80")).unwrap().unwrap();
    let (accepted, from) = accept(&acceptor);
    assert_eq!(from, client.local_addr().unwrap());
    let mut accepted = UnixStream::from(accepted.fd);
    accepted.write_all(b"welcome").unwrap();
    drop(accepted);
    let mut heard = Vec::new();
    (&client).read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"welcome");
    let refused = kernel.within(|| TcpStream::connect("10.50.0.2:81")).unwrap().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

fn listen(sockets: &Sockets, at: SocketAddr) -> Acceptor {
    sockets.listen(&ListenSettings::at(at)).unwrap().1.pop().unwrap()
}

fn device(number: u8, queues: Vec<Queue>) -> Device {
    let settings =
        DeviceSettings::new(PrivateKey::from_bytes([number; 32]), 1420, vec![IpAddr::from([10, 50, 0, number])]);
    Device::start(settings, queues).unwrap()
}

fn dialled(stream: Stream) -> (UnixStream, Line) {
    let (mut socket, line) = (UnixStream::from(stream.fd), stream.line.unwrap());
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    line.settled(socket.read(&mut [0]).unwrap()).unwrap();
    (socket, line)
}
