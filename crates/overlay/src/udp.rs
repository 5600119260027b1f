//! The sockets below: one per worker and one for handshakes, all on one port.
//!
//! The kernel is told by a few instructions which socket a datagram is for. A transport message goes to the worker that
//! owns its session, whatever address it comes from; everything else goes to the handshakes' socket, whose buffer is the
//! queue that a flood fills, while sessions are served from theirs.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use edgeproxy_tunnel::{Owners, Path};
use parking_lot::RwLock;
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

/// Datagrams, or runs of them that came as one, received at once.
const RECEIVED_AT_ONCE: usize = 8;
/// The greatest run.
pub(crate) const RUN: usize = 65_535;
/// What the kernel may keep for us: enough for a few milliseconds at 10 Gbit/s. It grants no more than
/// net.core.rmem_max and wmem_max, unless we are privileged.
const KERNEL_BUFFER: usize = 7 * 1024 * 1024;

/// One of the sockets.
pub(crate) struct Udp {
    socket: Socket,
    /// What is known of the kernel; found out again after an error that looks as if the kernel could not do what it can.
    state: RwLock<UdpSocketState>,
    six: bool,
}

/// Room for what is received at once.
pub(crate) struct Inbox {
    buffers: Vec<Vec<u8>>,
    metas: [RecvMeta; RECEIVED_AT_ONCE],
}

/// Datagrams of one sender that came as one: each but the last is `stride` bytes long.
pub(crate) struct Run<'a> {
    pub(crate) from: Path,
    pub(crate) bytes: &'a mut [u8],
    pub(crate) stride: usize,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { buffers: vec![vec![0; RUN]; RECEIVED_AT_ONCE], metas: [RecvMeta::default(); RECEIVED_AT_ONCE] }
    }
}

impl Udp {
    /// Binds a socket for each worker and, last, the one for handshakes. With port 0, the kernel chooses one for all.
    pub(crate) fn bind_all(port: u16, workers: u32) -> io::Result<(u16, Vec<Self>)> {
        let mut port = port;
        let mut sockets = Vec::new();
        for _ in 0..=workers {
            let socket = Self::bind(port, !sockets.is_empty())?;
            port = socket.socket.local_addr()?.as_socket().map_or(port, |address| address.port());
            sockets.push(socket);
        }
        if let Some(socket) = sockets.first() {
            steer(&socket.socket, workers)?;
        }
        Ok((port, sockets))
    }

    /// What routing may tell its datagrams by; 0: nothing.
    pub(crate) fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.socket.set_mark(mark)
    }

    fn bind(port: u16, shared: bool) -> io::Result<Self> {
        // A machine without IPv6 has no such sockets.
        let (socket, six) = match Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)) {
            Ok(socket) => (socket, true),
            Err(_) => (Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?, false),
        };
        let any: IpAddr = if six { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        if six {
            socket.set_only_v6(false)?;
        }
        // The first takes the port for itself, so that a port that is taken is found so: shared from the start, it would
        // join the sockets of another process of the same user and take its datagrams.
        if shared {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&SocketAddr::new(any, port).into())?;
        socket.set_reuse_port(true)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        // As much as is granted.
        let _ = state.set_recv_buffer_size(UdpSockRef::from(&socket), KERNEL_BUFFER);
        let _ = state.set_send_buffer_size(UdpSockRef::from(&socket), KERNEL_BUFFER);
        Ok(Self { socket, state: RwLock::new(state), six })
    }

    /// Receives what is there. `None`: nothing.
    pub(crate) fn receive<'a>(
        &self,
        inbox: &'a mut Inbox,
    ) -> io::Result<Option<impl Iterator<Item = Run<'a>> + use<'a>>> {
        let Inbox { buffers, metas } = inbox;
        let count = {
            let mut slices: [IoSliceMut<'_>; RECEIVED_AT_ONCE] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
            slices.iter_mut().zip(buffers.iter_mut()).for_each(|(slice, buffer)| *slice = IoSliceMut::new(buffer));
            match self.state.read().recv(UdpSockRef::from(&self.socket), &mut slices, metas) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        };
        // Nobody can be answered at port 0; to try would be an error, upon which the socket gives up sending runs as one.
        let runs = buffers.iter_mut().zip(metas.iter()).take(count).filter(|(_, meta)| meta.addr.port() != 0);
        Ok(Some(runs.map(|(buffer, meta)| Run {
            from: Path { local: meta.dst_ip.and_then(own), ..Path::from(meta.addr) },
            bytes: &mut buffer[..meta.len],
            stride: meta.stride.max(1),
        })))
    }

    /// Sends datagrams to one receiver, each but the last `stride` bytes long. Where they cannot leave from the address of
    /// ours that the path names, as it is none any more, they leave from any, and the path no longer names it.
    pub(crate) fn send(&self, path: &mut Path, bytes: &[u8], stride: usize) -> io::Result<()> {
        let mut done = 0;
        match self.send_from(path, bytes, stride, &mut done) {
            Err(error) if path.local.is_some() && is_refused_source(&error) => {
                path.local = None;
                // This error alone would have it send one by one from now on, whomever it sends to.
                if error.raw_os_error() == Some(libc::EINVAL) {
                    *self.state.write() = UdpSocketState::new(UdpSockRef::from(&self.socket))?;
                }
                self.send_from(path, bytes, stride, &mut done)
            }
            sent => sent,
        }
    }

    /// Adds bytes that were sent to `done`, and leaves out those that were.
    fn send_from(&self, path: &Path, bytes: &[u8], stride: usize, done: &mut usize) -> io::Result<()> {
        let destination = match path.remote {
            SocketAddr::V4(to) if self.six => SocketAddr::new(to.ip().to_ipv6_mapped().into(), to.port()),
            to => to,
        };
        let state = self.state.read();
        let most = state.max_gso_segments().max(1) * stride;
        for part in bytes[*done..].chunks(most) {
            let segment_size = (part.len() > stride).then_some(stride);
            let transmit = Transmit { destination, ecn: None, contents: part, segment_size, src_ip: path.local };
            state.try_send(UdpSockRef::from(&self.socket), &transmit)?;
            *done += part.len();
        }
        Ok(())
    }
}

/// Our address that a datagram was sent to, if answers can leave from it. (Broadcasts of a network look like any other
/// address: the kernel refuses those.)
fn own(destination: IpAddr) -> Option<IpAddr> {
    let destination = destination.to_canonical();
    let is_own = match destination {
        IpAddr::V4(ip) => !ip.is_broadcast() && !ip.is_multicast() && !ip.is_unspecified(),
        // The scope of the other end says which of the link-local ones.
        IpAddr::V6(ip) => !ip.is_unicast_link_local() && !ip.is_multicast() && !ip.is_unspecified(),
    };
    is_own.then_some(destination)
}

/// The kernels differ in what they say to it.
fn is_refused_source(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH))
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Has the kernel choose the socket of the group by what a datagram says:
/// `type == 4 ? lowest byte of the receiver's index % workers : the last socket`.
fn steer(socket: &Socket, workers: u32) -> io::Result<()> {
    const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    let instruction = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt,
        jf,
        k,
    };
    let mut program = [
        instruction(LOAD_BYTE, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 3, 4),
        instruction(LOAD_BYTE, 0, 0, 4),
        instruction(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, 0, workers.clamp(1, Owners::MOST)),
        instruction(libc::BPF_RET | libc::BPF_A, 0, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, workers),
    ];
    let program =
        libc::sock_fprog { len: u16::try_from(program.len()).unwrap_or_default(), filter: program.as_mut_ptr() };
    // SAFETY: the option takes a sock_fprog (socket(7)); it and the instructions it points to live through the call, and
    // the kernel checks the program before it takes a copy.
    #[allow(unsafe_code, reason = "a system call without a wrapper")]
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            u32::try_from(size_of_val(&program)).unwrap_or_default(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// Which of the sockets a datagram comes to.
    fn arrives(sockets: &[Udp], inbox: &mut Inbox) -> usize {
        for _ in 0..1000 {
            for (number, socket) in sockets.iter().enumerate() {
                if socket.receive(inbox).unwrap().is_some() {
                    return number;
                }
            }
            std::thread::yield_now();
        }
        panic!("it came nowhere")
    }

    #[test]
    fn a_datagram_comes_to_the_worker_that_owns_its_session() {
        let (port, sockets) = Udp::bind_all(0, 3).unwrap();
        let mut inbox = Inbox::new();
        for client in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(client) = UdpSocket::bind(client) else { continue };
            let to = SocketAddr::new(client.local_addr().unwrap().ip(), port);
            for lowest in [0_u8, 1, 2, 3, 4, 200, 255] {
                let transport = [4, 0, 0, 0, lowest, 9, 9, 9, 0];
                client.send_to(&transport, to).unwrap();
                assert_eq!(arrives(&sockets, &mut inbox), usize::from(lowest % 3), "index {lowest}");
            }
            for other in [&[1, 0, 0, 0, 1, 1][..], &[2; 92], &[3; 64], &[0]] {
                client.send_to(other, to).unwrap();
                assert_eq!(arrives(&sockets, &mut inbox), 3);
            }
        }
    }

    #[test]
    fn a_port_that_is_taken_is_not_shared() {
        let (port, _sockets) = Udp::bind_all(0, 2).unwrap();
        assert_eq!(Udp::bind_all(port, 2).err().unwrap().kind(), io::ErrorKind::AddrInUse);
    }

    /// The next datagram that comes to any of the sockets: where it comes from.
    fn came_from(sockets: &[Udp], inbox: &mut Inbox) -> Path {
        for _ in 0..100_000 {
            for socket in sockets {
                if let Some(mut runs) = socket.receive(inbox).unwrap() {
                    return runs.next().unwrap().from;
                }
            }
            std::thread::yield_now();
        }
        panic!("it came nowhere")
    }

    #[test]
    fn senders_of_both_families_are_told_apart_in_one_batch() {
        let (port, sockets) = Udp::bind_all(0, 1).unwrap();
        let bind = |host: &str| UdpSocket::bind((host, 0)).ok();
        let clients: Vec<UdpSocket> =
            ["127.0.0.1", "::1", "127.0.0.2", "::1", "127.0.0.1"].iter().filter_map(|host| bind(host)).collect();
        for (number, client) in clients.iter().enumerate() {
            let to = SocketAddr::new(client.local_addr().unwrap().ip().to_canonical(), port);
            let to = if to.is_ipv4() { SocketAddr::from(([127, 0, 0, 1], port)) } else { to };
            client.send_to(&[4, 0, 0, 0, 0, u8::try_from(number).unwrap()], to).unwrap();
        }
        let (mut inbox, mut came) = (Inbox::new(), Vec::new());
        while came.len() < clients.len() {
            for run in sockets[0].receive(&mut inbox).unwrap().into_iter().flatten() {
                came.push((usize::from(run.bytes[5]), run.from.remote));
            }
        }
        for (number, from) in came {
            assert_eq!(from, clients[number].local_addr().unwrap());
        }
    }

    #[test]
    fn an_answer_leaves_from_the_address_that_was_asked() {
        let (port, sockets) = Udp::bind_all(0, 1).unwrap();
        let (mut inbox, mut buffer) = (Inbox::new(), [0; 16]);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        for asked in ["127.0.0.2", "127.0.0.3", "127.0.0.1"] {
            let asked = SocketAddr::new(asked.parse().unwrap(), port);
            client.send_to(&[1], asked).unwrap();
            let mut path = came_from(&sockets, &mut inbox);
            assert_eq!(path, Path { remote: client.local_addr().unwrap(), local: Some(asked.ip()) });
            sockets[0].send(&mut path, &[2; 4], 4).unwrap();
            assert_eq!(client.recv_from(&mut buffer).unwrap(), (4, asked));
        }
        // From one that is not ours (any more), nothing can leave: another is taken, and what the kernel can do is not
        // forgotten for that.
        let most = sockets[0].state.read().max_gso_segments();
        let mut path = Path { remote: client.local_addr().unwrap(), local: Some("192.0.2.77".parse().unwrap()) };
        sockets[0].send(&mut path, &[3; 5], 5).unwrap();
        assert_eq!(client.recv_from(&mut buffer).unwrap(), (5, SocketAddr::from(([127, 0, 0, 1], port))));
        assert_eq!((path.local, sockets[0].state.read().max_gso_segments()), (None, most));
        // An address of all hosts is none of ours, though datagrams come to it.
        let everybody = UdpSocket::bind("127.0.0.1:0").unwrap();
        everybody.set_broadcast(true).unwrap();
        everybody.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        everybody.send_to(&[1], SocketAddr::from(([127, 255, 255, 255], port))).unwrap();
        let mut path = came_from(&sockets, &mut inbox);
        sockets[0].send(&mut path, &[4; 6], 6).unwrap();
        assert_eq!(everybody.recv(&mut buffer).unwrap(), 6);
        assert_eq!(path.local, None);
    }

    #[test]
    fn many_datagrams_go_out_and_come_in_as_one() {
        let (port, sockets) = Udp::bind_all(0, 1).unwrap();
        let (_, senders) = Udp::bind_all(0, 1).unwrap();
        let mut bytes = vec![4; 40 * 1400 + 30];
        bytes[..40 * 1400].chunks_mut(1400).for_each(|datagram| datagram[4] = 0);
        senders[0].send(&mut SocketAddr::from(([127, 0, 0, 1], port)).into(), &bytes, 1400).unwrap();
        let (mut inbox, mut lengths) = (Inbox::new(), Vec::new());
        while lengths.len() < 41 {
            for run in sockets[0].receive(&mut inbox).unwrap().into_iter().flatten() {
                lengths.extend(run.bytes.chunks(run.stride).map(<[u8]>::len));
            }
        }
        assert_eq!(lengths[..40], [1400; 40]);
        assert_eq!(lengths[40..], [30]);
    }
}
