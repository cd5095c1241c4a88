//! Sockets: made, bound, connected, named; streams: sent on, and ended.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{self, AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType};

use super::options::{self, IntOption};
use crate::kernel::seam;

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

/// A new socket for `addr`'s family, close-on-exec. Errors as socket(2): `EAFNOSUPPORT` when the host
/// lacks the family.
pub fn socket(protocol: Protocol, addr: SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    Ok(net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?)
}

/// bind(2).
pub fn bind(socket: BorrowedFd<'_>, addr: SocketAddr) -> io::Result<()> {
    Ok(net::bind(socket, &addr)?)
}

/// Whether a network of this host has `ip` as its broadcast address. The kernel lets nobody who has not asked for it
/// connect a UDP socket there (`SO_BROADCAST`, ip(7)); no datagram is sent.
pub fn is_broadcast(ip: Ipv4Addr) -> io::Result<bool> {
    const ANY_PORT: u16 = 9;
    if seam::is_simulated() {
        return Ok(false);
    }
    let addr = SocketAddr::from((ip, ANY_PORT));
    let socket = socket(Protocol::Udp, addr)?;
    match net::connect(&socket, &addr) {
        // a filter would say so again
        Err(rustix::io::Errno::ACCESS) => {
            options::set_option(socket.as_fd(), IntOption::BROADCAST, 1)?;
            Ok(net::connect(&socket, &addr).is_ok())
        }
        _ => Ok(false),
    }
}

/// listen(2); the kernel caps `backlog` by `net.core.somaxconn`.
pub fn listen(socket: BorrowedFd<'_>, backlog: u32) -> io::Result<()> {
    Ok(net::listen(socket, backlog as i32)?)
}

/// getsockname(2): where the socket is bound. `EAFNOSUPPORT`: no internet address.
pub fn local_addr(socket: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    Ok(net::getsockname(socket)?.try_into()?)
}

/// getpeername(2); `None` while there is no peer with an internet address.
pub fn peer_addr(socket: BorrowedFd<'_>) -> io::Result<Option<SocketAddr>> {
    match net::getpeername(socket) {
        Ok(peer) => Ok(peer.and_then(|peer| peer.try_into().ok())),
        Err(rustix::io::Errno::NOTCONN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// socketpair(2): the two ends of a stream inside the process.
pub fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    if let Some(ends) = seam::stream_pair() {
        return Ok(ends);
    }
    UnixStream::pair().map(|(ours, theirs)| (ours.into(), theirs.into()))
}

/// send(2) without waiting for room; how many bytes found it.
pub fn send_now(stream: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    if seam::send_now(stream, bytes).is_some() {
        return Ok(bytes.len());
    }
    Ok(net::send(stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
}

/// shutdown(2): nothing more is sent.
pub fn end_stream(stream: BorrowedFd<'_>) -> io::Result<()> {
    if seam::end_stream(stream).is_some() {
        return Ok(());
    }
    Ok(net::shutdown(stream, Shutdown::Write)?)
}

/// What a socket is that somebody else made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketKind {
    /// `None` if it is neither TCP nor UDP over IPv4 or IPv6.
    pub protocol: Option<Protocol>,
    /// TCP: it listens.
    pub listens: bool,
    /// It is connected to an internet address.
    pub connected: bool,
    /// Tells whether two descriptors are the same socket.
    pub cookie: u64,
}

/// Looks at a socket that was passed in. `ENOTSOCK` for anything else.
pub fn socket_kind(fd: BorrowedFd<'_>) -> io::Result<SocketKind> {
    let number = |name| options::option(fd, IntOption(libc::SOL_SOCKET, name));
    let internet = matches!(number(libc::SO_DOMAIN)?, libc::AF_INET | libc::AF_INET6);
    let protocol = match number(libc::SO_PROTOCOL)? {
        libc::IPPROTO_TCP if internet => Some(Protocol::Tcp),
        libc::IPPROTO_UDP if internet => Some(Protocol::Udp),
        _ => None,
    };
    let listens = number(libc::SO_ACCEPTCONN)? != 0;
    let connected = peer_addr(fd).is_ok_and(|peer| peer.is_some());
    Ok(SocketKind { protocol, listens, connected, cookie: options::cookie(fd)? })
}
