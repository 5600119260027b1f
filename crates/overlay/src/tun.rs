//! A TUN interface: whole IP packets in and out of the kernel, many segments at once.
//!
//! Every packet has a virtio header before it that says how it is to be cut and which checksum is still missing. The
//! interface is there for as long as one of its queues is open.

use std::ffi::{c_int, c_uint};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::Poll;

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::ioctl::{self, IntegerSetter, Setter, Updater, opcode};

/// Bytes of the virtio header before each packet: the kernel's plain one. The longer one (12 bytes) ends in a count of
/// buffers that a TUN neither sets nor reads. Its numbers are little-endian whatever the machine.
pub const HEADER: usize = 10;
/// Bytes of the largest packet with its header; what does not fit a read is lost.
pub const LARGEST: usize = HEADER + 65_535;

const DEVICE: &str = "/dev/net/tun";
/// The kernel puts the first free number in.
pub(crate) const ANY_NAME: &str = "edge%d";
/// Bytes of an interface name, with the zero at its end (linux/if.h).
const NAME: usize = 16;

// linux/if_tun.h
const TUNSETIFF: ioctl::Opcode = opcode::write::<c_int>(b'T', 202);
const TUNSETOFFLOAD: ioctl::Opcode = opcode::write::<c_uint>(b'T', 208);
const TUNSETVNETHDRSZ: ioctl::Opcode = opcode::write::<c_int>(b'T', 216);
const TUNSETVNETLE: ioctl::Opcode = opcode::write::<c_int>(b'T', 220);
const IFF_TUN: u16 = 0x0001;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const IFF_TUN_EXCL: u16 = 0x8000;
const TUN_F_CSUM: usize = 0x01;
const TUN_F_TSO4: usize = 0x02;
const TUN_F_TSO6: usize = 0x04;
const TUN_F_USO4: usize = 0x20;
const TUN_F_USO6: usize = 0x40;

/// What the kernel hands over in one piece and leaves us to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// Segments of a TCP stream.
    Tcp,
    /// Those, and datagrams sent in one call (Linux 6.2 and newer).
    TcpAndUdp,
}

/// An open TUN interface.
#[derive(Debug)]
pub struct Tun {
    name: String,
    offload: Offload,
    queues: Vec<Queue>,
}

/// One of the interface's queues. The kernel keeps the packets of a flow on one of them.
#[derive(Debug)]
pub struct Queue(OwnedFd);

/// Which call to the device failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Opening the device.
    Open,
    /// Creating the interface or another queue of it.
    Attach,
    /// Setting the length of the header.
    HeaderLength,
    /// Setting the byte order of the header.
    HeaderOrder,
    /// Asking for packets in pieces larger than the MTU.
    Offload,
}

/// Why there is no TUN interface, and what to do about it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TunError {
    /// There is no such device.
    #[error("no {DEVICE}: load the kernel module (modprobe tun), or pass the device into the container")]
    DeviceMissing,
    /// This user may not open the device, whatever capabilities it has.
    #[error(
        "{DEVICE} may not be opened: make it readable and writable for all, as distributions have it (chmod 0666; to \
         open it gives no power yet), or let the container's device rules allow it"
    )]
    DeviceForbidden,
    /// Creating an interface is not for this user.
    #[error("a TUN interface needs CAP_NET_ADMIN: give it to the process, or set the overlay's mode to \"userns\"")]
    NotPermitted,
    /// Another interface has this name.
    #[error("interface {0} is there already: choose another name, or stop the process it belongs to")]
    NameTaken(String),
    /// No interface can have this name.
    #[error("{0:?} cannot be the name of an interface: up to 15 bytes without blanks, '/', ':' and '%'")]
    BadName(String),
    /// The kernel wants no more queues.
    #[error("{0} queues are more than a TUN interface can have")]
    TooManyQueues(usize),
    /// Anything else.
    #[error("the kernel refuses a TUN interface ({call:?}: {error})")]
    Refused {
        /// The call that failed.
        call: Call,
        /// How it failed.
        error: Errno,
    },
}

impl TunError {
    /// What it means that a call failed for an interface of this name and number of queues.
    pub(crate) fn of(call: Call, error: Errno, name: &str, queues: usize) -> Self {
        match (call, error) {
            (Call::Open, Errno::NOENT | Errno::NODEV | Errno::NXIO | Errno::NOTDIR) => Self::DeviceMissing,
            (Call::Open, Errno::ACCESS | Errno::PERM) => Self::DeviceForbidden,
            (Call::Attach, Errno::PERM) => Self::NotPermitted,
            // An interface of another kind is refused as not suitable, one of ours as busy.
            (Call::Attach, Errno::BUSY | Errno::EXIST | Errno::INVAL) if name != ANY_NAME => {
                Self::NameTaken(name.into())
            }
            (Call::Attach, Errno::TOOBIG | Errno::NOMEM) if queues > 1 => Self::TooManyQueues(queues),
            (call, error) => Self::Refused { call, error },
        }
    }
}

impl Tun {
    /// Creates an interface with this many queues (one at least) in the network namespace of the calling thread. The
    /// kernel numbers it where no name is given.
    ///
    /// # Errors
    /// Each says what is missing; nothing is left behind.
    pub fn open(name: Option<&str>, queues: usize) -> Result<Self, TunError> {
        let wanted = name.unwrap_or(ANY_NAME);
        if name.is_some_and(|name| !is_name(name)) {
            return Err(TunError::BadName(wanted.into()));
        }
        let failed = |(call, error)| TunError::of(call, error, wanted, queues);
        let (first, name, offload) = Queue::first(wanted).map_err(failed)?;
        let mut opened = vec![first];
        for _ in 1..queues {
            // The name is ours by now: what is refused is the number.
            let (queue, _) =
                Queue::open(&name, 0).map_err(|(call, error)| TunError::of(call, error, ANY_NAME, queues))?;
            opened.push(queue);
        }
        Ok(Self { name, offload, queues: opened })
    }

    /// Opens an interface and closes it again.
    pub(crate) fn attempt() -> Result<(), (Call, Errno)> {
        Queue::first(ANY_NAME).map(drop)
    }

    /// The name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What comes in pieces larger than the MTU.
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// The queues, one for each thread. The interface goes with the last of them.
    pub fn into_queues(self) -> Vec<Queue> {
        self.queues
    }
}

impl Queue {
    /// Creates the interface.
    fn first(name: &str) -> Result<(Self, String, Offload), (Call, Errno)> {
        // Without IFF_TUN_EXCL a second process would be given queues of the first one's interface.
        let (queue, name) = Self::open(name, IFF_TUN_EXCL)?;
        let offload = queue.prepare()?;
        Ok((queue, name, offload))
    }

    /// Returns the name of the interface as well, which the kernel may have completed.
    fn open(name: &str, flags: u16) -> Result<(Self, String), (Call, Errno)> {
        let access = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(DEVICE, access, Mode::empty()).map_err(|error| (Call::Open, error))?;
        let mut request = Request {
            name: [0; NAME],
            flags: IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE | flags,
            rest: [0; 22],
        };
        for (to, from) in request.name[..NAME - 1].iter_mut().zip(name.bytes()) {
            *to = from;
        }
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which `Request` is laid out as (netdevice(7)).
        #[allow(unsafe_code, reason = "a system call without a wrapper")]
        unsafe { ioctl::ioctl(&fd, Updater::<TUNSETIFF, Request>::new(&mut request)) }
            .map_err(|error| (Call::Attach, error))?;
        let length = request.name.iter().position(|byte| *byte == 0).unwrap_or(NAME);
        Ok((Self(fd), String::from_utf8_lossy(&request.name[..length]).into_owned()))
    }

    /// Sets what holds for the interface as a whole.
    fn prepare(&self) -> Result<Offload, (Call, Errno)> {
        let length = c_int::try_from(HEADER).unwrap_or(c_int::MAX);
        // SAFETY: both read one int and nothing else.
        #[allow(unsafe_code, reason = "system calls without a wrapper")]
        unsafe {
            ioctl::ioctl(&self.0, Setter::<TUNSETVNETHDRSZ, c_int>::new(length))
                .map_err(|error| (Call::HeaderLength, error))?;
            ioctl::ioctl(&self.0, Setter::<TUNSETVNETLE, c_int>::new(1)).map_err(|error| (Call::HeaderOrder, error))?;
        }
        let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
        match self.offload(tcp | TUN_F_USO4 | TUN_F_USO6) {
            Ok(()) => Ok(Offload::TcpAndUdp),
            // Kernels before 6.2 know no such thing.
            Err(Errno::INVAL) => self.offload(tcp).map(|()| Offload::Tcp).map_err(|error| (Call::Offload, error)),
            Err(error) => Err((Call::Offload, error)),
        }
    }

    fn offload(&self, flags: usize) -> Result<(), Errno> {
        // SAFETY: TUNSETOFFLOAD takes the flags as its argument and touches no memory.
        #[allow(unsafe_code, reason = "a system call without a wrapper")]
        unsafe {
            ioctl::ioctl(&self.0, IntegerSetter::<TUNSETOFFLOAD>::new_usize(flags))
        }
    }

    /// Takes the next packet with its header, if one waits. Room for [`LARGEST`] holds any.
    ///
    /// # Errors
    /// The interface is gone (EBADFD), or what stands for one (EPIPE); anything else is a shortage that passes.
    pub fn read(&self, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match retry_on_intr(|| rustix::io::read(&self.0, &mut *buffer)) {
            Ok(0) => Poll::Ready(Err(Errno::PIPE.into())),
            read => ready(read),
        }
    }

    /// Hands a packet to the kernel: all slices together are one header and one packet.
    ///
    /// # Errors
    /// The kernel does not take it: header and packet do not match (EINVAL), the interface is down (EIO) or gone
    /// (EBADFD), memory is short.
    pub fn write_vectored(&self, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready(retry_on_intr(|| rustix::io::writev(&self.0, parts)))
    }
}

/// What speaks like a queue of an interface: one packet with its header a read and a write.
impl From<OwnedFd> for Queue {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `struct ifreq` of linux/if.h, as far as TUNSETIFF uses it.
#[repr(C)]
struct Request {
    name: [u8; NAME],
    flags: u16,
    rest: [u8; 22],
}

fn ready(done: Result<usize, Errno>) -> Poll<io::Result<usize>> {
    match done {
        Err(Errno::AGAIN) => Poll::Pending,
        done => Poll::Ready(done.map_err(io::Error::from)),
    }
}

/// What the kernel takes for a name, less the `%` it would put a number in for.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%');
    (1..NAME).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_judged_before_the_kernel_sees_it() {
        for name in ["wg0", "edge-fra", "abcdefghijklmno"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "..", "abcdefghijklmnop", "a b", "a/b", "a:1", "edge%d", "käse"] {
            assert!(!is_name(name), "{name}");
            assert_eq!(Tun::open(Some(name), 1).unwrap_err(), TunError::BadName(name.into()));
        }
    }

    #[test]
    fn a_failed_call_tells_what_to_do() {
        let of = |call, error| TunError::of(call, error, "wg0", 1);
        assert_eq!(of(Call::Open, Errno::NOENT), TunError::DeviceMissing);
        assert_eq!(of(Call::Open, Errno::ACCESS), TunError::DeviceForbidden);
        assert_eq!(of(Call::Attach, Errno::PERM), TunError::NotPermitted);
        assert_eq!(of(Call::Attach, Errno::BUSY), TunError::NameTaken("wg0".into()));
        assert_eq!(TunError::of(Call::Attach, Errno::TOOBIG, ANY_NAME, 300), TunError::TooManyQueues(300));
        let other = TunError::Refused { call: Call::Offload, error: Errno::NOMEM };
        assert_eq!(of(Call::Offload, Errno::NOMEM), other);
    }
}
