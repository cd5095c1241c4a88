//! What the routing table says of a destination.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use crate::model::packet_options::PacketOptions;
use crate::workers::socket_options::{self, SocketOptionError};

#[derive(Debug, thiserror::Error)]
pub(crate) enum RouteError {
    #[error(transparent)]
    Option(#[from] SocketOptionError),
    #[error(transparent)]
    Refused(#[from] io::Error),
}

impl RouteError {
    /// Whether it is a lack of a route, or of the whole address family.
    pub(crate) fn is_no_route(&self) -> bool {
        let Self::Refused(error) = self else { return false };
        // EINVAL: a link-local address without its interface
        matches!(
            error.raw_os_error(),
            Some(
                libc::ENETUNREACH
                    | libc::EHOSTUNREACH
                    | libc::EADDRNOTAVAIL
                    | libc::EAFNOSUPPORT
                    | libc::EINVAL
            )
        )
    }
}

/// The local address, with port 0, that the kernel chooses for `peer`. This sends nothing.
pub(crate) fn local_addr(peer: SocketAddr, packets: &PacketOptions) -> Result<SocketAddr, RouteError> {
    let mut local = connected(peer, packets)?.local_addr()?;
    local.set_port(0);
    Ok(local)
}

/// A socket that is connected to `peer`, to ask the kernel for the route. This sends nothing.
pub(crate) fn connected(peer: SocketAddr, packets: &PacketOptions) -> Result<UdpSocket, RouteError> {
    let socket = UdpSocket::bind(any(peer))?;
    socket_options::set_route(socket.as_fd(), packets)?;
    socket.connect(peer)?;
    Ok(socket)
}

/// The wildcard address of the family of `peer`, with port 0.
pub(crate) fn any(peer: SocketAddr) -> SocketAddr {
    if peer.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() }
}
