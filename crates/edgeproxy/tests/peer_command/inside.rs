//! What is behind a wg-quick file: a TCP stack of this process, in the overlay by the library.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::spawn;
use std::time::Duration;

use edgeproxy_overlay::{Device, DeviceSettings, Host, ListenSettings, Netstack, PeerSettings, Sockets, WgQuick};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

const MTU: usize = 1420;
/// Where what is offered inside is.
pub(crate) const PORT: u16 = 5432;

/// A machine of the overlay.
pub(crate) struct Inside {
    pub(crate) ip: IpAddr,
    netstack: Arc<Netstack>,
    _device: Device,
}

impl Inside {
    /// As the file says. Its gateway hears from it every second, and so knows where it is.
    pub(crate) fn up(file: &Path) -> Self {
        let config = WgQuick::read(file).unwrap();
        assert_eq!(config.notes, [""; 0]);
        let ip = config.interface.addresses[0].0;
        let (netstack, queues) = Netstack::start(&[format!("{ip}/16").parse().unwrap()], MTU, 1).unwrap();
        let settings = DeviceSettings::new(config.interface.private_key, MTU, vec![ip]);
        let device = Device::start(settings, queues).unwrap();
        for peer in config.peers {
            let endpoint = peer.endpoint.map(|endpoint| match endpoint.host {
                Host::Ip(ip) => SocketAddr::new(ip, endpoint.port),
                Host::Name(name) => panic!("{name}"),
            });
            device.set_peer(PeerSettings {
                public: peer.public_key,
                preshared: peer.preshared_key.unwrap_or_default(),
                endpoint,
                keepalive: Some(Duration::from_secs(1)),
                allowed_ips: peer.allowed_ips,
            });
        }
        Self { ip, netstack, _device: device }
    }

    /// Sends back what it hears, at [`PORT`].
    pub(crate) fn echo(&self) {
        let sockets = Sockets::Netstack(Arc::clone(&self.netstack));
        let acceptor = sockets.listen(&ListenSettings::at((self.ip, PORT).into())).unwrap().1.pop().unwrap();
        spawn(move || {
            loop {
                match acceptor.accept() {
                    Ok((stream, _)) => {
                        let mut stream = UnixStream::from(stream.fd);
                        stream.set_nonblocking(false).unwrap();
                        spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut stream));
                    }
                    Err(Errno::AGAIN) => _ = poll(&mut [PollFd::new(&acceptor, PollFlags::IN)], None),
                    Err(_) => break,
                }
            }
        });
    }

    /// Whether what is said to that address comes back within that time.
    pub(crate) fn hears(&self, address: IpAddr, within: Duration) -> bool {
        let said = || -> io::Result<()> {
            let mut socket = UnixStream::from(self.netstack.dial((address, PORT).into())?.fd);
            socket.set_nonblocking(false)?;
            socket.set_read_timeout(Some(within))?;
            // The first byte says that the connection stands.
            socket.read_exact(&mut [0])?;
            socket.write_all(b"hello")?;
            socket.read_exact(&mut [0; 5])
        };
        said().is_ok()
    }
}
