//! System calls that std does not offer, each once, as safe functions.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::mem::zeroed;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::kernel::addr::{self, RawAddr};
use crate::kernel::cmsg::{self, NetworkError};
#[cfg(test)]
use crate::simulation;
use crate::values::ports::Ports;

/// The two kinds of socket that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `SOCK_STREAM`.
    Tcp,
    /// `SOCK_DGRAM`.
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A socket option that takes an int: level and name (socket(7), ip(7), ipv6(7), tcp(7), udp(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntOption(pub i32, pub i32);

impl IntOption {
    /// Bind although the address is in `TIME_WAIT`.
    pub const REUSE_ADDR: Self = Self(libc::SOL_SOCKET, libc::SO_REUSEADDR);
    /// An urgent byte stays in the stream, where it was sent (tcp(7), "urgent data").
    pub const OOB_INLINE: Self = Self(libc::SOL_SOCKET, libc::SO_OOBINLINE);
    /// Send to broadcast addresses.
    pub const BROADCAST: Self = Self(libc::SOL_SOCKET, libc::SO_BROADCAST);
    /// Share the address with sockets of the same user.
    pub const REUSE_PORT: Self = Self(libc::SOL_SOCKET, libc::SO_REUSEPORT);
    /// Receive buffer, bytes; the kernel doubles it and caps it by `net.core.rmem_max`.
    pub const RECEIVE_BUFFER: Self = Self(libc::SOL_SOCKET, libc::SO_RCVBUF);
    /// The same without the cap; `CAP_NET_ADMIN`.
    pub const RECEIVE_BUFFER_FORCE: Self = Self(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE);
    /// Send buffer, bytes.
    pub const SEND_BUFFER: Self = Self(libc::SOL_SOCKET, libc::SO_SNDBUF);
    /// The same without the cap; `CAP_NET_ADMIN`.
    pub const SEND_BUFFER_FORCE: Self = Self(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE);
    /// Original destination with each datagram, IPv4.
    pub const ORIGDST_V4: Self = Self(libc::SOL_IP, libc::IP_RECVORIGDSTADDR);
    /// Original destination with each datagram, IPv6.
    pub const ORIGDST_V6: Self = Self(libc::SOL_IPV6, libc::IPV6_RECVORIGDSTADDR);
    /// Times of sending and receiving.
    pub const TIMESTAMPING: Self = Self(libc::SOL_SOCKET, libc::SO_TIMESTAMPING);
    /// The error that is to be told next; reading takes it away.
    pub const ERROR: Self = Self(libc::SOL_SOCKET, libc::SO_ERROR);
    /// Send from addresses that are not local.
    pub const FREEBIND_V6: Self = Self(libc::SOL_IPV6, libc::IPV6_FREEBIND);
    /// No IPv4 through an IPv6 socket.
    pub const ONLY_V6: Self = Self(libc::SOL_IPV6, libc::IPV6_V6ONLY);
    /// Whether datagrams may be cut on their way, IPv4 (ip(7)); see [`Self::MTU_DISCOVER_NEVER`].
    pub const MTU_DISCOVER_V4: Self = Self(libc::SOL_IP, libc::IP_MTU_DISCOVER);
    /// TOS with each datagram, IPv4.
    pub const RECEIVE_TOS_V4: Self = Self(libc::SOL_IP, libc::IP_RECVTOS);
    /// Traffic class with each datagram, IPv6.
    pub const RECEIVE_CLASS_V6: Self = Self(libc::SOL_IPV6, libc::IPV6_RECVTCLASS);
    /// Receive trains of datagrams (Linux 5.0).
    pub const GRO: Self = Self(libc::SOL_UDP, libc::UDP_GRO);
    /// Send trains: cut what is sent into datagrams of so many bytes (Linux 4.18); 0: don't.
    pub const SEGMENT: Self = Self(libc::SOL_UDP, libc::UDP_SEGMENT);
    /// Keep ICMP errors in the socket's error queue, IPv4; see [`next_icmp_error`].
    pub const RECEIVE_ERRORS_V4: Self = Self(libc::SOL_IP, libc::IP_RECVERR);
    /// The same, IPv6.
    pub const RECEIVE_ERRORS_V6: Self = Self(libc::SOL_IPV6, libc::IPV6_RECVERR);
    /// Bind to an address alone: connect(2) finds a port, which need be free only for connections to that peer
    /// (Linux 4.2). For IPv6 sockets, too.
    pub const BIND_ADDRESS_NO_PORT: Self = Self(libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT);
    /// No waiting for more bytes to send.
    pub const NO_DELAY: Self = Self(libc::IPPROTO_TCP, libc::TCP_NODELAY);
    /// The interface that it is bound to, by number (Linux 5.1): `SO_BINDTODEVICE`, which one has; 0: any.
    pub const BOUND_INTERFACE: Self = Self(libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX);
    /// The mark of what is sent, for routing and filters; `CAP_NET_ADMIN` to set it.
    pub const MARK: Self = Self(libc::SOL_SOCKET, libc::SO_MARK);
    /// The priority of what is sent, for queues.
    pub const PRIORITY: Self = Self(libc::SOL_SOCKET, libc::SO_PRIORITY);
    /// The interface that what is sent leaves by, IPv4.
    pub const UNICAST_INTERFACE_V4: Self = Self(libc::SOL_IP, libc::IP_UNICAST_IF);
    /// The same, IPv6.
    pub const UNICAST_INTERFACE_V6: Self = Self(libc::SOL_IPV6, libc::IPV6_UNICAST_IF);
    /// Hop limit with each datagram, IPv4.
    pub const RECEIVE_HOPS_V4: Self = Self(libc::SOL_IP, libc::IP_RECVTTL);
    /// The same, IPv6.
    pub const RECEIVE_HOPS_V6: Self = Self(libc::SOL_IPV6, libc::IPV6_RECVHOPLIMIT);
    /// How many hops what is sent may take, IPv4.
    pub const HOPS_V4: Self = Self(libc::SOL_IP, libc::IP_TTL);
    /// The same, IPv6.
    pub const HOPS_V6: Self = Self(libc::SOL_IPV6, libc::IPV6_UNICAST_HOPS);
    /// Use addresses that are not this host's, IPv4; `CAP_NET_ADMIN` or `CAP_NET_RAW` to set it.
    pub const TRANSPARENT_V4: Self = Self(libc::SOL_IP, libc::IP_TRANSPARENT);
    /// The same, IPv6.
    pub const TRANSPARENT_V6: Self = Self(libc::SOL_IPV6, libc::IPV6_TRANSPARENT);
    /// Bind to addresses that are not local, IPv4.
    pub const FREEBIND_V4: Self = Self(libc::SOL_IP, libc::IP_FREEBIND);
    /// Milliseconds that a peer may leave what was sent unacknowledged, or its window closed, before the
    /// connection is given up; 0: as long as `net.ipv4.tcp_retries2` says. Connections inherit it.
    pub const USER_TIMEOUT: Self = Self(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT);
    /// Ask a peer that says nothing for a sign of life. Connections inherit it, and the three numbers.
    pub const KEEP_ALIVE: Self = Self(libc::SOL_SOCKET, libc::SO_KEEPALIVE);
    /// Seconds without a word from the peer before it is asked.
    pub const KEEP_ALIVE_IDLE: Self = Self(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE);
    /// Seconds from one question to the next.
    pub const KEEP_ALIVE_INTERVAL: Self = Self(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL);
    /// Questions that may stay unanswered, where there is no [`Self::USER_TIMEOUT`].
    pub const KEEP_ALIVE_COUNT: Self = Self(libc::IPPROTO_TCP, libc::TCP_KEEPCNT);

    /// For [`Self::MTU_DISCOVER_V4`]: DF is never set, so any router may cut what is too large for its next link.
    pub const MTU_DISCOVER_NEVER: i32 = libc::IP_PMTUDISC_DONT;
}

/// A new socket for `addr`'s family, close-on-exec. Errors as socket(2): `EAFNOSUPPORT` when the host
/// lacks the family.
pub fn socket(protocol: Protocol, addr: SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = match protocol {
        Protocol::Tcp => libc::SOCK_STREAM,
        Protocol::Udp => libc::SOCK_DGRAM,
    };
    // SAFETY: socket(2) takes no memory; a result that is no error is a new descriptor of ours
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::socket(family, kind | libc::SOCK_CLOEXEC, 0))?)) }
}

/// setsockopt(2) with an int.
pub fn set_option(socket: BorrowedFd<'_>, option: IntOption, value: i32) -> io::Result<()> {
    let IntOption(level, name) = option;
    // SAFETY: setsockopt(2) reads `size_of::<i32>()` bytes from a live i32
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size_of::<i32>() as u32)
    })
    .map(drop)
}

/// getsockopt(2) of an int.
pub fn option(socket: BorrowedFd<'_>, option: IntOption) -> io::Result<i32> {
    let IntOption(level, name) = option;
    let mut value = 0_i32;
    let mut len = size_of::<i32>() as u32;
    // SAFETY: getsockopt(2) writes at most `len` bytes to a live i32, and the length to a live u32
    check(unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len)
    })?;
    Ok(value)
}

/// The number of an interface of the calling thread's network namespace (if_nametoindex(3)). `ENODEV`: there is none
/// of this name.
pub fn interface_index(name: &CStr) -> io::Result<u32> {
    // SAFETY: if_nametoindex(3) reads a string that ends with a zero
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// bind(2).
pub fn bind(socket: BorrowedFd<'_>, addr: SocketAddr) -> io::Result<()> {
    let raw = RawAddr::from(addr);
    let bytes = raw.as_bytes();
    // SAFETY: bind(2) reads `bytes.len()` bytes from `bytes`
    check(unsafe { libc::bind(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len() as u32) }).map(drop)
}

/// Whether a network of this host has `ip` as its broadcast address. The kernel lets nobody who has not asked for it
/// connect a UDP socket there (`SO_BROADCAST`, ip(7)); no datagram is sent.
pub fn is_broadcast(ip: Ipv4Addr) -> io::Result<bool> {
    const ANY_PORT: u16 = 9;
    #[cfg(test)]
    if let Some(answer) = simulation::ask(|_| false) {
        return Ok(answer);
    }
    let addr = SocketAddr::from((ip, ANY_PORT));
    let socket = socket(Protocol::Udp, addr)?;
    match connect(socket.as_fd(), addr) {
        // a filter would say so again
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            set_option(socket.as_fd(), IntOption::BROADCAST, 1)?;
            Ok(connect(socket.as_fd(), addr).is_ok())
        }
        _ => Ok(false),
    }
}

/// connect(2).
fn connect(socket: BorrowedFd<'_>, addr: SocketAddr) -> io::Result<()> {
    let raw = RawAddr::from(addr);
    let bytes = raw.as_bytes();
    // SAFETY: connect(2) reads `bytes.len()` bytes from `bytes`
    check(unsafe { libc::connect(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len() as u32) }).map(drop)
}

/// listen(2); the kernel caps `backlog` by `net.core.somaxconn`.
pub fn listen(socket: BorrowedFd<'_>, backlog: u32) -> io::Result<()> {
    // SAFETY: listen(2) takes no memory
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog as i32) }).map(drop)
}

/// getsockname(2): where the socket is bound.
pub fn local_addr(socket: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let mut bytes = [0_u8; addr::SOCKADDR_V6_BYTES];
    let mut len = bytes.len() as u32;
    // SAFETY: getsockname(2) writes at most `len` bytes to `bytes`, and the length to a live u32
    check(unsafe { libc::getsockname(socket.as_raw_fd(), bytes.as_mut_ptr().cast(), &raw mut len) })?;
    let len = bytes.len().min(len as usize);
    addr::decode(&bytes[..len]).ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}

/// socketpair(2): the two ends of a stream inside the process.
pub fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    #[cfg(test)]
    if let Some(ends) = simulation::ask(simulation::World::stream_pair) {
        return Ok(ends);
    }
    UnixStream::pair().map(|(ours, theirs)| (ours.into(), theirs.into()))
}

/// send(2) without waiting for room; how many bytes found it.
pub fn send_now(stream: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    #[cfg(test)]
    if let Some(()) = simulation::ask(|world| world.send_now(stream, bytes)) {
        return Ok(bytes.len());
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: send(2) reads `bytes.len()` bytes from `bytes`
    let sent = unsafe { libc::send(stream.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// shutdown(2): nothing more is sent.
pub fn end_stream(stream: BorrowedFd<'_>) -> io::Result<()> {
    #[cfg(test)]
    if let Some(()) = simulation::ask(|world| world.end_stream(stream)) {
        return Ok(());
    }
    // SAFETY: shutdown(2) takes no memory
    check(unsafe { libc::shutdown(stream.as_raw_fd(), libc::SHUT_WR) }).map(drop)
}

/// Lets nothing new into the socket's receive queue or accept queue; what is queued stays
/// (`SO_ATTACH_FILTER`, socket(7), with a program that keeps zero bytes of anything).
pub fn drop_incoming(socket: BorrowedFd<'_>) -> io::Result<()> {
    #[cfg(test)]
    if let Some(()) = simulation::ask(|world| world.drop_incoming(socket)) {
        return Ok(());
    }
    let mut program = [libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }];
    let filter = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    // SAFETY: setsockopt(2) copies a sock_fprog and the one instruction it points at, both alive
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as u32,
        )
    })
    .map(drop)
}

/// Bytes that the kernel holds in a UDP socket's receive queue, overhead included (`SO_MEMINFO`, Linux
/// 4.12): zero exactly when nothing is queued, empty datagrams count too.
pub fn receive_queue_bytes(socket: BorrowedFd<'_>) -> io::Result<u32> {
    const RMEM_ALLOC: usize = 0; // SK_MEMINFO_RMEM_ALLOC
    #[cfg(test)]
    if let Some(bytes) = simulation::ask(|world| world.receive_queue_bytes(socket)) {
        return Ok(bytes);
    }
    Ok(memory_info(socket)?[RMEM_ALLOC])
}

/// Datagrams that the kernel dropped at the socket, mostly because its receive buffer was full
/// (`SO_MEMINFO`). It wraps at 32 bits.
pub fn socket_drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    const DROPS: usize = 8; // SK_MEMINFO_DROPS
    #[cfg(test)]
    if let Some(drops) = simulation::ask(|world| world.socket_drops(socket)) {
        return Ok(drops);
    }
    Ok(memory_info(socket)?[DROPS])
}

/// `SK_MEMINFO_VARS` of them.
fn memory_info(socket: BorrowedFd<'_>) -> io::Result<[u32; 9]> {
    let mut info = [0_u32; 9];
    let mut len = size_of_val(&info) as u32;
    // SAFETY: getsockopt(2) writes at most `len` bytes to `info`, and the length to a live u32
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    })?;
    Ok(info)
}

/// An ICMP error from a socket's error queue (ip(7), ipv6(7): `IP_RECVERR`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// What the host or router that complains says.
    pub report: NetworkError,
    /// Where the datagram that it complains about was sent to.
    pub destination: SocketAddr,
    /// How many bytes of that datagram's payload were quoted.
    pub quoted_bytes: usize,
}

/// Takes the oldest error out of the socket's error queue; what is quoted of the datagram's payload goes
/// to `quoted`. `None`: the queue is empty. Errors that did not come by ICMP are skipped.
pub fn next_icmp_error(socket: BorrowedFd<'_>, quoted: &mut [u8]) -> io::Result<Option<IcmpError>> {
    loop {
        let mut name = [0_u8; addr::SOCKADDR_V6_BYTES];
        let mut control = [0_u8; cmsg::CONTROL_IN_BYTES];
        let mut part = libc::iovec { iov_base: quoted.as_mut_ptr().cast(), iov_len: quoted.len() };
        // SAFETY: msghdr is plain data
        let mut header: libc::msghdr = unsafe { zeroed() };
        header.msg_name = name.as_mut_ptr().cast();
        header.msg_namelen = name.len() as u32;
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = control.len() as _;
        // SAFETY: recvmsg(2) writes to the buffers that the header names, within the lengths it gives
        let received = unsafe {
            libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
        };
        if received < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
        }
        let report = cmsg::decode_error(&control[..control.len().min(header.msg_controllen as usize)]);
        let destination = addr::decode(&name[..name.len().min(header.msg_namelen as usize)]);
        if let (Some(report), Some(destination)) = (report, destination) {
            let quoted_bytes = quoted.len().min(received as usize);
            return Ok(Some(IcmpError { report, destination, quoted_bytes }));
        }
    }
}

/// Connections in a listener's accept queue (`TCP_INFO`; the kernel reports it as `tcpi_unacked`).
pub fn accept_queue_len(listener: BorrowedFd<'_>) -> io::Result<u32> {
    #[cfg(test)]
    if let Some(connections) = simulation::ask(|world| world.accept_queue_len(listener)) {
        return Ok(connections);
    }
    Ok(tcp_info(listener)?.tcpi_unacked)
}

/// Connections that a listener's accept queue may hold (`TCP_INFO`; the kernel reports it as `tcpi_sacked`):
/// what listen(2) was asked for, cut down to `net.core.somaxconn`.
pub fn accept_queue_max(listener: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(tcp_info(listener)?.tcpi_sacked)
}

fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
    // SAFETY: tcp_info is plain data
    let mut info: libc::tcp_info = unsafe { zeroed() };
    let mut len = size_of_val(&info) as u32;
    // SAFETY: getsockopt(2) writes at most `len` bytes to `info`, and the length to a live u32
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    })?;
    Ok(info)
}

/// What a socket is that somebody else made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketKind {
    /// `None` if it is neither TCP nor UDP over IPv4 or IPv6.
    pub protocol: Option<Protocol>,
    /// TCP: it listens.
    pub listens: bool,
    /// It is connected to a peer.
    pub connected: bool,
    /// Tells whether two descriptors are the same socket (`SO_COOKIE`, Linux 4.12).
    pub cookie: u64,
}

/// Looks at a socket that was passed in. `ENOTSOCK` for anything else.
pub fn socket_kind(fd: BorrowedFd<'_>) -> io::Result<SocketKind> {
    let number = |name| option(fd, IntOption(libc::SOL_SOCKET, name));
    let internet = matches!(number(libc::SO_DOMAIN)?, libc::AF_INET | libc::AF_INET6);
    let protocol = match number(libc::SO_PROTOCOL)? {
        libc::IPPROTO_TCP if internet => Some(Protocol::Tcp),
        libc::IPPROTO_UDP if internet => Some(Protocol::Udp),
        _ => None,
    };
    let listens = number(libc::SO_ACCEPTCONN)? != 0;
    let mut name = [0_u8; size_of::<libc::sockaddr_storage>()];
    let mut len = name.len() as u32;
    // SAFETY: getpeername(2) writes at most `len` bytes to `name`, and the length to a live u32
    let connected = unsafe { libc::getpeername(fd.as_raw_fd(), name.as_mut_ptr().cast(), &raw mut len) } == 0;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as u32;
    // SAFETY: getsockopt(2) writes at most `len` bytes to a live u64, and the length to a live u32
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    })?;
    Ok(SocketKind { protocol, listens, connected, cookie })
}

/// Takes over the descriptors that were passed to the process at its start: `LISTEN_FDS` says how many there are
/// (sd_listen_fds(3)). They can be taken once: later calls get nothing, nor do numbers that were not passed or are not
/// open.
pub fn take_passed(numbers: &[RawFd]) -> Vec<OwnedFd> {
    const FIRST: RawFd = 3; // SD_LISTEN_FDS_START
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let passed = std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    let passed = FIRST..FIRST.saturating_add(passed);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    // SAFETY: fcntl(2) with F_GETFD takes no memory. Each number is taken once, and whoever started the process says
    // that it was open before the process opened anything itself
    unsafe {
        numbers.retain(|number| passed.contains(number) && libc::fcntl(*number, libc::F_GETFD) >= 0);
        numbers.into_iter().map(|number| OwnedFd::from_raw_fd(number)).collect()
    }
}

/// A counter that wakes whoever polls it (eventfd(2)).
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: eventfd(2) takes no memory; a result that is no error is a new descriptor of ours
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?)) }
}

/// Makes an eventfd readable.
pub fn wake(eventfd: BorrowedFd<'_>) {
    let one = 1_u64;
    // SAFETY: write(2) reads 8 bytes from a live u64. It can only fail when the counter is near its
    // maximum, and then the descriptor is readable already
    unsafe { libc::write(eventfd.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
}

/// Raises the soft limit of open files to the hard one, if it may, and returns what holds then (getrlimit(2)).
pub fn raise_open_files() -> io::Result<u64> {
    // SAFETY: rlimit is plain data
    let mut limit: libc::rlimit = unsafe { zeroed() };
    // SAFETY: getrlimit(2) writes to a live rlimit
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: setrlimit(2) reads a live rlimit
    let outcome = check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) });
    Ok(if outcome.is_ok() { raised.rlim_cur } else { limit.rlim_cur })
}

/// Limits of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLimit {
    /// `RLIMIT_AS`.
    AddressSpace,
    /// `RLIMIT_DATA`.
    Data,
    /// `RLIMIT_MEMLOCK`.
    Locked,
}

/// Whether there is such a limit (getrlimit(2)).
pub fn is_limited(limit: MemoryLimit) -> bool {
    let resource = match limit {
        MemoryLimit::AddressSpace => libc::RLIMIT_AS,
        MemoryLimit::Data => libc::RLIMIT_DATA,
        MemoryLimit::Locked => libc::RLIMIT_MEMLOCK,
    };
    // SAFETY: rlimit is plain data
    let mut limit: libc::rlimit = unsafe { zeroed() };
    // SAFETY: getrlimit(2) writes to a live rlimit
    check(unsafe { libc::getrlimit(resource, &raw mut limit) }).is_ok()
        && limit.rlim_cur != libc::RLIM_INFINITY
}

/// The ports that the kernel gives to clients if nobody says otherwise (ip(7)).
pub const LOCAL_PORTS_DEFAULT: RangeInclusive<u16> = 32_768..=60_999;

/// The ports that the kernel gives to clients (`net.ipv4.ip_local_port_range`, ip(7)). Only a file tells: there is no
/// system call for it.
pub fn local_ports() -> io::Result<RangeInclusive<u16>> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next(), ports.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok(first..=last),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The ports that the kernel gives to nobody who leaves the choice to it (`net.ipv4.ip_local_reserved_ports`):
/// others count on them. There is no other way to ask for them than this file.
pub fn reserved_ports() -> io::Result<Ports> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports")?;
    text.parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// A name of this system (uname(2)).
fn system_name(of: impl Fn(&libc::utsname) -> &[libc::c_char]) -> String {
    // SAFETY: utsname is plain data
    let mut name: libc::utsname = unsafe { zeroed() };
    // SAFETY: uname(2) writes to a live utsname; it can't fail otherwise
    unsafe { libc::uname(&raw mut name) };
    let bytes: Vec<u8> =
        of(&name).iter().map(|&letter| letter as u8).take_while(|&letter| letter != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The kernel's release, such as `6.1.0-49-cloud-amd64`.
pub fn kernel_release() -> String {
    system_name(|name| &name.release)
}

/// The host's name.
pub fn host_name() -> String {
    system_name(|name| &name.nodename)
}

/// The processors that this process may run on (sched_getaffinity(2)).
pub fn processors() -> io::Result<Vec<usize>> {
    processors_told_by(|mask| {
        // SAFETY: sched_getaffinity(2) writes at most the size of a live mask of unsigned longs
        check(unsafe { libc::sched_getaffinity(0, size_of_val(mask), mask.as_mut_ptr().cast()) }).map(drop)
    })
}

/// Processors in one word of a mask.
const MASK_BITS: usize = libc::c_ulong::BITS as usize;

/// The same with a mask that grows while the kernel says `EINVAL`: it knows of more processors, and `cpu_set_t` ends
/// at 1,024.
fn processors_told_by(ask: impl Fn(&mut [libc::c_ulong]) -> io::Result<()>) -> io::Result<Vec<usize>> {
    const WORDS_MAX: usize = (1 << 20) / MASK_BITS;
    let mut mask = vec![0; 1024 / MASK_BITS];
    loop {
        match ask(&mut mask) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && mask.len() < WORDS_MAX => {
                mask.resize(2 * mask.len(), 0);
            }
            outcome => break outcome?,
        }
    }
    let is_set = |&processor: &usize| mask[processor / MASK_BITS] >> (processor % MASK_BITS) & 1 != 0;
    Ok((0..mask.len() * MASK_BITS).filter(is_set).collect())
}

/// Keeps the calling thread on one processor (sched_setaffinity(2)).
pub fn pin_thread(processor: usize) -> io::Result<()> {
    let mut mask: Vec<libc::c_ulong> = vec![0; processor / MASK_BITS + 1];
    mask[processor / MASK_BITS] = 1 << (processor % MASK_BITS);
    // SAFETY: sched_setaffinity(2) reads a live mask of unsigned longs, in its length
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&mask[..]), mask.as_ptr().cast()) }).map(drop)
}

/// The processor time that the calling thread has used so far (clock_gettime(2),
/// `CLOCK_THREAD_CPUTIME_ID`).
pub fn thread_cpu_time() -> Duration {
    cpu_time(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The processor time that all threads have used so far (clock_gettime(2), `CLOCK_PROCESS_CPUTIME_ID`).
pub fn process_cpu_time() -> Duration {
    cpu_time(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn cpu_time(clock: libc::clockid_t) -> Duration {
    // SAFETY: timespec is plain data
    let mut time: libc::timespec = unsafe { zeroed() };
    // SAFETY: clock_gettime(2) writes to a live timespec; these clocks always exist
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Gives the calling thread a table of descriptors of its own (close_range(2), `CLOSE_RANGE_UNSHARE`, Linux
/// 5.9): with standard input, output and error, and nothing else. What it opens from then on, the other threads
/// don't have.
///
/// # Safety
///
/// The calling thread has just begun, and uses no other descriptor that was opened before: it would be closed for this
/// thread, or be another file's.
///
/// ```compile_fail,E0133
/// tubular_echo::kernel::sys::own_descriptors();
/// ```
pub unsafe fn own_descriptors() -> io::Result<()> {
    const FIRST: u32 = 3;
    // SAFETY: close_range(2) takes no memory. The range is closed in a copy of the table that nobody else has; that
    // the calling thread needs none of it is the caller's promise
    let closed = unsafe { libc::syscall(libc::SYS_close_range, FIRST, u32::MAX, libc::CLOSE_RANGE_UNSHARE) };
    check(closed as i32).map(drop)
}

/// Lets the calling thread's sleeps end on time instead of up to 50 microseconds later (prctl(2),
/// `PR_SET_TIMERSLACK`).
pub fn wake_punctually() {
    // SAFETY: PR_SET_TIMERSLACK takes a number and no memory; it can't fail for 1 nanosecond
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64, 0_u64, 0_u64, 0_u64) };
}

/// What time it is (clock_gettime(2), `CLOCK_MONOTONIC`).
#[inline]
pub fn now() -> Instant {
    #[cfg(test)]
    if let Some(now) = simulation::now() {
        return now;
    }
    Instant::now()
}

/// Sleeps, for want of anything else that can be done.
pub fn sleep(time: Duration) {
    #[cfg(test)]
    if simulation::ask(|world| world.sleep(time)).is_some() {
        return;
    }
    std::thread::sleep(time);
}

/// write(2), once; `EINTR` and a part of the bytes are results like any other.
pub fn write(file: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: write(2) reads `bytes.len()` bytes from `bytes`
    let written = unsafe { libc::write(file.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    if written < 0 { Err(io::Error::last_os_error()) } else { Ok(written as usize) }
}

/// Waits until something can be written, or the other end is gone, but for `timeout` at the most (poll(2)).
pub fn wait_writable(file: BorrowedFd<'_>, timeout: Duration) -> bool {
    let mut entry = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    let timeout_ms = timeout.as_millis().min(i32::MAX as u128) as i32;
    // SAFETY: poll(2) reads and writes one live pollfd
    unsafe { libc::poll(&raw mut entry, 1, timeout_ms) > 0 }
}

/// The signals that end a program: SIGTERM, SIGINT and SIGHUP.
///
/// A SIGHUP that was ignored at the start, as by nohup(1), stays ignored. SIGTERM and SIGINT are heard all the same: a
/// shell without job control ignores SIGINT for all that it starts in the background. SIGQUIT keeps its default action,
/// which ends the process at once. SIGPIPE is ignored by Rust's runtime.
pub struct EndSignals(libc::sigset_t);

impl EndSignals {
    /// Blocks them for this thread and all that it starts, so that no system call is interrupted and
    /// [`Self::wait`] gets them. SIGXFSZ is blocked with them and never heard: a file that may not grow any further
    /// (`ulimit -f`) is an error of a write, and no end.
    pub fn block() -> io::Result<Self> {
        // SAFETY: sigset_t is plain data; each call writes or reads a live one
        unsafe {
            let mut set: libc::sigset_t = zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            // a blocked signal would be heard although it is ignored
            if !is_ignored(libc::SIGHUP)? {
                libc::sigaddset(&raw mut set, libc::SIGHUP);
            }
            let mut blocked = set;
            libc::sigaddset(&raw mut blocked, libc::SIGXFSZ);
            match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const blocked, std::ptr::null_mut()) {
                0 => Ok(Self(set)),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        }
    }

    /// Sleeps until one of them asks for the end, or asks again: returns for the first of them, whichever it is, and
    /// then for each SIGTERM and SIGINT. A SIGHUP beside another signal asks for nothing new: a shell passes on the one
    /// that it got, and systemd sends one right behind SIGTERM (`SendSIGHUP=`).
    pub fn wait(&mut self) {
        let mut signal = 0;
        // SAFETY: sigwait(3) reads a live set and writes a live int; it fails for an invalid set only
        unsafe { libc::sigwait(&raw const self.0, &raw mut signal) };
        // SAFETY: sigdelset(3) writes a live set. From now on a SIGHUP stays pending, which is as good as ignored
        unsafe { libc::sigdelset(&raw mut self.0, libc::SIGHUP) };
        if signal == libc::SIGHUP {
            // of several that wait, the one with the lowest number comes first
            let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: sigtimedwait(2) reads a live set and a live timespec; a null info is allowed
            unsafe { libc::sigtimedwait(&raw const self.0, std::ptr::null_mut(), &raw const at_once) };
        }
    }
}

/// Whether the process ignores a signal (sigaction(2)).
fn is_ignored(signal: i32) -> io::Result<bool> {
    // SAFETY: sigaction is plain data
    let mut action: libc::sigaction = unsafe { zeroed() };
    // SAFETY: sigaction(2) changes nothing without a new action, and writes the present one to a live structure
    check(unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) })?;
    Ok(action.sa_sigaction == libc::SIG_IGN)
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_that_was_not_passed_is_not_taken() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert!(take_passed(&[ours.as_raw_fd(), theirs.as_raw_fd()]).is_empty());
        assert_eq!(send_now(ours.as_fd(), b"open").unwrap(), 4, "nobody has closed them");
    }

    #[test]
    fn a_mask_of_processors_grows_with_the_machine() {
        for processors in [2, 1024, 1025, 5000] {
            let told = processors_told_by(|mask| {
                if mask.len() * MASK_BITS < processors {
                    return Err(io::Error::from_raw_os_error(libc::EINVAL));
                }
                for processor in [1, processors - 1] {
                    mask[processor / MASK_BITS] |= 1 << (processor % MASK_BITS);
                }
                Ok(())
            });
            let mut expected = vec![1, processors - 1];
            expected.dedup();
            assert_eq!(told.unwrap(), expected);
        }
        let never = processors_told_by(|_| Err(io::Error::from_raw_os_error(libc::EINVAL)));
        assert_eq!(never.unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
