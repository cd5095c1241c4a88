//! The local end of a connection. With `--source` it has an address that std and tokio-uring can't set. And it is never the
//! other end as well.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::sys::socket::{self, SockaddrStorage};
use tokio::net::TcpSocket;
use tubular_echo::kernel::sys::{self, IntOption};

/// A socket for a connection to `peer`, from `local` if that is set.
pub(super) fn socket(peer: SocketAddr, local: Option<SocketAddr>) -> io::Result<TcpSocket> {
    match local {
        Some(local) => bind(local),
        None if peer.is_ipv4() => TcpSocket::new_v4(),
        None => TcpSocket::new_v6(),
    }
}

/// A socket with this local address and no port yet.
pub(super) fn bind(local: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if local.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    sys::set_option(socket.as_fd(), IntOption::BIND_ADDRESS_NO_PORT, 1)?;
    socket.bind(local)?;
    Ok(socket)
}

pub(super) async fn connect(socket: TcpSocket, peer: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let connected = tokio::time::timeout(timeout, socket.connect(peer)).await;
    let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?.into_std()?;
    refuse_itself(&stream, peer)?;
    // tokio-uring needs a socket that blocks: else its operations fail with EAGAIN and do not wait
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Refuses a connection to itself. If nobody listens, the kernel may choose the destination port as the local port: such
/// a connection echoes everything, without a server.
pub(super) fn refuse_itself(stream: &impl AsRawFd, peer: SocketAddr) -> io::Result<()> {
    let local: SockaddrStorage = socket::getsockname(stream.as_raw_fd())?;
    let is_itself = match peer {
        SocketAddr::V4(peer) => local.as_sockaddr_in().is_some_and(|local| peer == (*local).into()),
        SocketAddr::V6(peer) => local
            .as_sockaddr_in6()
            .is_some_and(|local| (local.ip(), local.port()) == (*peer.ip(), peer.port())),
    };
    if is_itself { Err(io::Error::from_raw_os_error(libc::ECONNREFUSED)) } else { Ok(()) }
}
