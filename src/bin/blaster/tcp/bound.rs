//! Connections from a local address of our choice, which std and tokio-uring leave to the kernel.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use tokio::net::TcpSocket;
use tubular_echo::sys::{self, IntOption};

/// A socket at this address, with no port yet.
pub(super) fn bind(local: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if local.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    sys::set_option(socket.as_fd(), IntOption::BIND_ADDRESS_NO_PORT, 1)?;
    socket.bind(local)?;
    Ok(socket)
}

/// Connects it.
pub(super) async fn connect(socket: TcpSocket, peer: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let connected = tokio::time::timeout(timeout, socket.connect(peer)).await;
    let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?.into_std()?;
    // operations on the ring would not wait for one that must not block
    stream.set_nonblocking(false)?;
    Ok(stream)
}
