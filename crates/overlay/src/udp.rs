//! The sockets below: one per worker and one for handshakes, all on one port.
//!
//! The kernel is told by a few instructions which socket a datagram is for. A transport message goes to the worker that
//! owns its session, whatever address it comes from; everything else goes to the handshakes' socket, whose buffer is the
//! queue that a flood fills, while sessions are served from theirs.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use edgeproxy_tunnel::Owners;
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
    state: UdpSocketState,
    six: bool,
}

/// Room for what is received at once.
pub(crate) struct Inbox {
    buffers: Vec<Vec<u8>>,
    metas: [RecvMeta; RECEIVED_AT_ONCE],
}

/// Datagrams of one sender that came as one: each but the last is `stride` bytes long.
pub(crate) struct Run<'a> {
    pub(crate) from: SocketAddr,
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
        Ok(Self { socket, state, six })
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
            match self.state.recv(UdpSockRef::from(&self.socket), &mut slices, metas) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        };
        // Nobody can be answered at port 0; to try would be an error, upon which the socket gives up sending runs as one.
        let runs = buffers.iter_mut().zip(metas.iter()).take(count).filter(|(_, meta)| meta.addr.port() != 0);
        Ok(Some(runs.map(|(buffer, meta)| Run {
            from: match meta.addr.ip().to_canonical() {
                IpAddr::V4(ip) => SocketAddr::new(ip.into(), meta.addr.port()),
                // With its scope, without which a link-local address leads nowhere.
                IpAddr::V6(_) => meta.addr,
            },
            bytes: &mut buffer[..meta.len],
            stride: meta.stride.max(1),
        })))
    }

    /// Sends datagrams to one receiver, each but the last `stride` bytes long.
    pub(crate) fn send(&self, to: SocketAddr, bytes: &[u8], stride: usize) -> io::Result<()> {
        let destination = match to {
            SocketAddr::V4(to) if self.six => SocketAddr::new(to.ip().to_ipv6_mapped().into(), to.port()),
            to => to,
        };
        let most = self.state.max_gso_segments().max(1) * stride;
        for part in bytes.chunks(most) {
            let segment_size = (part.len() > stride).then_some(stride);
            let transmit = Transmit { destination, ecn: None, contents: part, segment_size, src_ip: None };
            self.state.try_send(UdpSockRef::from(&self.socket), &transmit)?;
        }
        Ok(())
    }
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

    #[test]
    fn many_datagrams_go_out_and_come_in_as_one() {
        let (port, sockets) = Udp::bind_all(0, 1).unwrap();
        let (_, senders) = Udp::bind_all(0, 1).unwrap();
        let mut bytes = vec![4; 40 * 1400 + 30];
        bytes[..40 * 1400].chunks_mut(1400).for_each(|datagram| datagram[4] = 0);
        senders[0].send(SocketAddr::from(([127, 0, 0, 1], port)), &bytes, 1400).unwrap();
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
