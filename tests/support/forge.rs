//! Datagrams with a forged source: any address of this network, any port, whoever is bound to it.
#![allow(unsafe_code, reason = "std has no raw sockets")]

use std::io::{Error, Result};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use tubular_echo::sys::{self as server_sys, IntOption};

/// Sends one datagram to `to` that claims to come from `from` (raw(7), ipv6(7)). Needs root.
pub fn forge(from: SocketAddr, to: SocketAddr, payload: &[u8]) {
    try_forge(from, to, payload)
        .unwrap_or_else(|error| panic!("forge a datagram from {from} to {to}: {error}"));
}

/// The same where it may fail: the network may be down.
pub fn try_forge(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Result<()> {
    /// Where the checksum stands in a UDP header.
    const CHECKSUM_OFFSET: i32 = 6;
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: socket(2) takes no memory; a result that is no error is a new descriptor, ours alone.
    let socket = unsafe {
        let fd = libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_UDP);
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    if to.is_ipv6() {
        server_sys::set_option(socket.as_fd(), IntOption::FREEBIND_V6, 1)?;
        server_sys::set_option(
            socket.as_fd(),
            IntOption(libc::SOL_IPV6, libc::IPV6_CHECKSUM),
            CHECKSUM_OFFSET,
        )?;
    }
    server_sys::bind(socket.as_fd(), SocketAddr::new(from.ip(), 0))?;
    // RFC 768: source, destination, length, checksum; zero means none in IPv4, for IPv6 the kernel sets it.
    let mut packet = Vec::from(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend((8 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    // For a raw socket a port in the destination would be a protocol.
    let sent = UdpSocket::from(socket).send_to(&packet, SocketAddr::new(to.ip(), 0))?;
    assert_eq!(sent, packet.len());
    Ok(())
}
