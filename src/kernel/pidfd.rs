//! Copies of another process's descriptors, and the questions that `tubectl register-pid` asks of each.
//!
//! Nothing here changes the other process: `pidfd_getfd(2)` (Linux 5.6) duplicates a descriptor, and every
//! question is a `getsockopt(2)` or its kin. What is asked, and in which order, follows tubular's
//! `internal/sysconn` and `internal/destination.go`.
#![allow(unsafe_code)] // bpf(2)

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{self, Pid, PidfdFlags, PidfdGetfdFlags};

use crate::kernel::sys::{self, IntOption, Protocol};

/// What the kernel tells about an internet socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InetSocket {
    /// Stream or datagram.
    pub protocol: Protocol,
    /// The number of a protocol that is neither TCP nor UDP, such as 262 for MPTCP.
    pub foreign_protocol: Option<i32>,
    /// The address it is bound to; port 0 while unbound. Its family is the socket's domain.
    pub local: SocketAddr,
    /// The peer, when connected.
    pub peer: Option<SocketAddr>,
    /// `SO_ACCEPTCONN`: a TCP socket in LISTEN.
    pub listening: bool,
    /// `IPV6_V6ONLY`; always true for IPv4.
    pub v6only: bool,
    /// `SO_REUSEPORT`.
    pub reuseport: bool,
    /// `SO_COOKIE`: two descriptors with one cookie are one socket.
    pub cookie: u64,
}

/// What stands behind a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// A TCP or UDP like socket of IPv4 or IPv6.
    Inet(InetSocket),
    /// Any other socket: another family, raw.
    OtherSocket,
    /// A file, a pipe, a ring.
    NotASocket,
}

/// A question that the kernel refused to answer: register-pid gives up here.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct Unanswered {
    /// The system call.
    pub step: &'static str,
    /// The file was opened with `O_PATH`, which answers every such question with EBADF.
    pub path_only: bool,
    /// The kernel's answer.
    pub source: io::Error,
}

/// A process, held by a descriptor so that its number cannot be reused meanwhile.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// `pidfd_open(2)`, Linux 5.3. ESRCH: no such process. EINVAL (ENOENT on newer kernels): `pid` is a
    /// thread, not a process.
    pub fn open(pid: u32) -> io::Result<Self> {
        // the kernel would say the same of 0 and of what is no number of a process
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::INVAL)?;
        Ok(Self(process::pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// A duplicate of the process's descriptor `fd`, by `pidfd_getfd(2)`; `None` where `fd` is closed.
    /// EPERM: no right to attach to the process (`ptrace(2)`, `PTRACE_MODE_ATTACH_REALCREDS`).
    pub fn duplicate(&self, fd: i32) -> Result<Option<OwnedFd>, Unanswered> {
        match process::pidfd_getfd(&self.0, fd, PidfdGetfdFlags::empty()) {
            Ok(copy) => Ok(Some(copy)),
            Err(Errno::BADF) => Ok(None),
            Err(error) => Err(Unanswered { step: "pidfd_getfd", path_only: false, source: error.into() }),
        }
    }
}

/// Asks everything that register-pid wants to know about `fd`.
pub fn describe(fd: BorrowedFd<'_>) -> Result<Descriptor, Unanswered> {
    let ask = |step, level, name| {
        sys::option(fd, IntOption(level, name)).map_err(|source| Unanswered {
            step,
            path_only: sys::is_path_only(fd),
            source,
        })
    };
    let domain = match ask("getsockopt(SO_DOMAIN)", libc::SOL_SOCKET, libc::SO_DOMAIN) {
        Ok(domain) => domain,
        Err(refused) if refused.source.raw_os_error() == Some(libc::ENOTSOCK) => {
            return Ok(Descriptor::NotASocket);
        }
        Err(refused) => return Err(refused),
    };
    if domain != libc::AF_INET && domain != libc::AF_INET6 {
        return Ok(Descriptor::OtherSocket);
    }
    let (protocol, plain) = match ask("getsockopt(SO_TYPE)", libc::SOL_SOCKET, libc::SO_TYPE)? {
        libc::SOCK_STREAM => (Protocol::Tcp, libc::IPPROTO_TCP),
        libc::SOCK_DGRAM => (Protocol::Udp, libc::IPPROTO_UDP),
        _ => return Ok(Descriptor::OtherSocket),
    };
    let number = ask("getsockopt(SO_PROTOCOL)", libc::SOL_SOCKET, libc::SO_PROTOCOL)?;
    let unanswered = |step| move |source| Unanswered { step, path_only: false, source };
    let v6only =
        domain == libc::AF_INET || ask("getsockopt(IPV6_V6ONLY)", libc::SOL_IPV6, libc::IPV6_V6ONLY)? == 1;
    Ok(Descriptor::Inet(InetSocket {
        protocol,
        foreign_protocol: (number != plain).then_some(number),
        local: sys::local_addr(fd).map_err(unanswered("getsockname"))?,
        peer: sys::peer_addr(fd).map_err(unanswered("getpeername"))?,
        listening: ask("getsockopt(SO_ACCEPTCONN)", libc::SOL_SOCKET, libc::SO_ACCEPTCONN)? == 1,
        v6only,
        reuseport: ask("getsockopt(SO_REUSEPORT)", libc::SOL_SOCKET, libc::SO_REUSEPORT)? == 1,
        cookie: sys::cookie(fd).map_err(unanswered("getsockopt(SO_COOKIE)"))?,
    }))
}

/// The tag that this kernel gives to the BPF program `r0 = 0; exit`: the first eight bytes of a hash over
/// its instructions. SHA-1 up to Linux 6.17, SHA-256 from 6.18 on. Needs `CAP_BPF` where unprivileged
/// BPF is off: EPERM.
pub fn kernel_program_tag() -> io::Result<[u8; 8]> {
    const BPF_PROG_LOAD: i32 = 5;
    const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
    const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;

    /// The head of `union bpf_attr` for `BPF_PROG_LOAD`, in the order of linux/bpf.h.
    #[repr(C)]
    struct Load {
        program_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
    }
    /// The same for `BPF_OBJ_GET_INFO_BY_FD`.
    #[repr(C)]
    struct InfoByFd {
        fd: u32,
        info_bytes: u32,
        info: u64,
    }
    /// The head of `struct bpf_prog_info`; the kernel fills as much as it is given room for.
    #[repr(C)]
    #[derive(Default)]
    struct ProgramInfo {
        program_type: u32,
        id: u32,
        tag: [u8; 8],
    }

    let program = TAG_PROGRAM;
    let load = Load {
        program_type: BPF_PROG_TYPE_SOCKET_FILTER,
        instruction_count: 2,
        instructions: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    // SAFETY: `load` is a complete head of union bpf_attr for this command, and what it points to outlives
    // the call.
    let fd =
        check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) })?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let mut info = ProgramInfo::default();
    let query = InfoByFd {
        fd: fd.as_raw_fd() as u32,
        info_bytes: size_of::<ProgramInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: `query` is a complete head of union bpf_attr for this command; the kernel writes at most
    // `info_bytes` bytes into `info`, which is valid for any bit pattern.
    check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw const query, size_of::<InfoByFd>())
    })?;
    Ok(info.tag)
}

/// `r0 = 0; exit`, two instructions of eight bytes: the opcode, then zeroes.
const TAG_PROGRAM: [u8; 16] = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// The tag of that program as tubectl would compute it, by SHA-1
/// (`printf '\xb7\0\0\0\0\0\0\0\x95\0\0\0\0\0\0\0' | sha1sum`).
pub const TAG_BY_SHA1: [u8; 8] = [0xa0, 0x4f, 0x5e, 0xef, 0x06, 0xa7, 0xf5, 0x55];

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsFd;

    impl InetSocket {
        /// A socket as a server should have it, bound to this address.
        pub(crate) fn serving(protocol: Protocol, local: &str) -> Self {
            Self {
                protocol,
                foreign_protocol: None,
                local: local.parse().unwrap(),
                peer: None,
                listening: protocol == Protocol::Tcp,
                v6only: true,
                reuseport: false,
                cookie: 1,
            }
        }
    }

    fn inet(fd: &impl AsFd) -> InetSocket {
        match describe(fd.as_fd()).unwrap() {
            Descriptor::Inet(socket) => socket,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn sockets_are_described_as_the_kernel_sees_them() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let described = inet(&listener);
        assert_eq!((described.protocol, described.foreign_protocol), (Protocol::Tcp, None));
        assert_eq!(described.local, listener.local_addr().unwrap());
        assert!(described.listening && described.v6only && !described.reuseport);
        assert_eq!(described.peer, None);
        assert_eq!(described.cookie, inet(&listener.try_clone().unwrap()).cookie);

        // At any other address the kernel sets IPV6_V6ONLY by itself, at bind.
        let socket = UdpSocket::bind("[::]:0").unwrap();
        assert!(!inet(&socket).v6only && !inet(&socket).listening);
        assert_ne!(described.cookie, inet(&socket).cookie);
        socket.connect("[::1]:9").unwrap();
        assert_eq!(inet(&socket).peer, Some("[::1]:9".parse().unwrap()));
    }

    #[test]
    fn other_descriptors_are_told_apart_and_path_only_files_refuse() {
        use std::os::unix::fs::OpenOptionsExt;
        let (pipe, _writer) = std::io::pipe().unwrap();
        assert_eq!(describe(pipe.as_fd()).unwrap(), Descriptor::NotASocket);
        let (unix, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(describe(unix.as_fd()).unwrap(), Descriptor::OtherSocket);

        let path = std::fs::File::options().read(true).custom_flags(libc::O_PATH).open("/").unwrap();
        let refused = describe(path.as_fd()).unwrap_err();
        assert!(refused.path_only, "{refused}");
        assert_eq!(refused.source.raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    #[ignore = "needs root"]
    fn the_tag_is_one_of_the_two_hashes() {
        const TAG_BY_SHA256: [u8; 8] = [0x59, 0xf4, 0xa9, 0x31, 0x74, 0x4d, 0xcd, 0xc6];
        let tag = kernel_program_tag().unwrap();
        assert!(tag == TAG_BY_SHA1 || tag == TAG_BY_SHA256, "{tag:x?}");
    }
}
