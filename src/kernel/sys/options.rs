//! Socket options.

#![allow(unsafe_code)] // one getsockopt(2), one setsockopt(2)

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;

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
    /// The same, IPv6 (ipv6(7)).
    pub const MTU_DISCOVER_V6: Self = Self(libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER);
    /// The MTU of the path that a connected socket sends on, as this host believes, IPv4 (ip(7)).
    pub const MTU_V4: Self = Self(libc::SOL_IP, libc::IP_MTU);
    /// The same, IPv6 (ipv6(7)).
    pub const MTU_V6: Self = Self(libc::SOL_IPV6, libc::IPV6_MTU);
    /// The size of the largest fragment with each datagram that came in fragments, IPv4 (Linux 4.13).
    pub const RECEIVE_FRAGMENT_SIZE_V4: Self = Self(libc::SOL_IP, libc::IP_RECVFRAGSIZE);
    /// The same, IPv6.
    pub const RECEIVE_FRAGMENT_SIZE_V6: Self = Self(libc::SOL_IPV6, libc::IPV6_RECVFRAGSIZE);
    /// The TOS of what is sent, IPv4: DSCP and ECN.
    pub const TOS_V4: Self = Self(libc::SOL_IP, libc::IP_TOS);
    /// The traffic class of what is sent, IPv6.
    pub const CLASS_V6: Self = Self(libc::SOL_IPV6, libc::IPV6_TCLASS);
    /// TOS with each datagram, IPv4.
    pub const RECEIVE_TOS_V4: Self = Self(libc::SOL_IP, libc::IP_RECVTOS);
    /// Traffic class with each datagram, IPv6.
    pub const RECEIVE_CLASS_V6: Self = Self(libc::SOL_IPV6, libc::IPV6_RECVTCLASS);
    /// Receive trains of datagrams (Linux 5.0).
    pub const GRO: Self = Self(libc::SOL_UDP, libc::UDP_GRO);
    /// Send trains: cut what is sent into datagrams of so many bytes (Linux 4.18); 0: don't.
    pub const SEGMENT: Self = Self(libc::SOL_UDP, libc::UDP_SEGMENT);
    /// Keep ICMP errors in the socket's error queue, IPv4; see [`super::next_icmp_error`].
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
    /// The mark of what is sent, for routing and filters; `CAP_NET_ADMIN` to set it (since Linux 5.17 `CAP_NET_RAW` will do).
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
    /// Send with the flow label of the address that is sent to, or connected to.
    pub const FLOW_LABEL_OF_ADDRESS: Self = Self(libc::SOL_IPV6, libc::IPV6_FLOWINFO_SEND);
    /// Send with a flow label of the kernel's choice, if the address has none.
    pub const AUTO_FLOW_LABEL: Self = Self(libc::SOL_IPV6, libc::IPV6_AUTOFLOWLABEL);
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
    /// For both families: what is larger than the path MTU is refused, and routers must not cut it (IPv4: DF).
    pub const MTU_DISCOVER_ALWAYS: i32 = libc::IP_PMTUDISC_DO;
    /// The same, but only what is larger than the interface's MTU is refused: for a search of the path MTU.
    pub const MTU_DISCOVER_PROBE: i32 = libc::IP_PMTUDISC_PROBE;
}

/// setsockopt(2) with an int.
pub fn set_option(socket: BorrowedFd<'_>, option: IntOption, value: i32) -> io::Result<()> {
    let IntOption(level, name) = option;
    set(socket, level, name, &value)
}

/// getsockopt(2) of an int.
pub fn option(socket: BorrowedFd<'_>, option: IntOption) -> io::Result<i32> {
    let IntOption(level, name) = option;
    get(socket, level, name).map(i32::from_ne_bytes)
}

/// `SO_COOKIE`, socket(7): the socket's number, the same for all its descriptors (Linux 4.12).
pub fn cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    get(socket, libc::SOL_SOCKET, libc::SO_COOKIE).map(u64::from_ne_bytes)
}

/// getsockopt(2): so many bytes at the most; what the kernel leaves out is zero.
pub(super) fn get<const BYTES: usize>(
    socket: BorrowedFd<'_>,
    level: i32,
    name: i32,
) -> io::Result<[u8; BYTES]> {
    let mut value = [0; BYTES];
    let mut len = BYTES as u32;
    // SAFETY: getsockopt(2) writes at most `len` bytes to live bytes, and the length to a live u32
    check(unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut len)
    })?;
    Ok(value)
}

/// setsockopt(2) with a value as it lies in memory. The kernel reads it, and what it points at, and writes nothing.
pub(super) fn set<T>(socket: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> io::Result<()> {
    let bytes = size_of::<T>() as u32;
    // SAFETY: setsockopt(2) reads `bytes` bytes from a live value
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), bytes)
    })
    .map(drop)
}
