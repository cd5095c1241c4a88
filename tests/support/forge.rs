//! Datagrams with a forged source: any address of this network and any port, even if a process has bound it. Also TCP
//! segments that no kernel would send.
#![allow(unsafe_code, reason = "std has no raw sockets")]

use std::io::{Error, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use tubular_echo::kernel::sys::{self as server_sys, IntOption};

use super::sys;

/// Sends one datagram to `to` that claims to come from `from` (raw(7), ipv6(7)). Needs root.
pub fn forge(from: SocketAddr, to: SocketAddr, payload: &[u8]) {
    try_forge(from, to, payload)
        .unwrap_or_else(|error| panic!("forge a datagram from {from} to {to}: {error}"));
}

/// Like the function above, but returns an error, for networks that may be down.
pub fn try_forge(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Result<()> {
    /// Offset of the checksum in a UDP header.
    const CHECKSUM_OFFSET: i32 = 6;
    let socket = raw_socket(to, libc::IPPROTO_UDP, CHECKSUM_OFFSET)?;
    server_sys::bind(socket.as_fd(), SocketAddr::new(from.ip(), 0))?;
    // RFC 768: source, destination, length, checksum; zero means none in IPv4, for IPv6 the kernel sets it.
    let mut packet = Vec::from(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend((8 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    // for a raw socket, the port of the destination would mean a protocol
    let sent = UdpSocket::from(socket).send_to(&packet, SocketAddr::new(to.ip(), 0))?;
    assert_eq!(sent, packet.len());
    Ok(())
}

/// Sends an ICMP error of this type and code to a socket at `to`. The error claims that a datagram from `to` to `peer`
/// caused it (RFC 792, RFC 4443). Needs root.
pub fn forge_icmp(to: SocketAddr, peer: SocketAddr, kind: u8, code: u8) {
    forge_icmp_error(to, peer, kind, code, 1_500);
}

/// The same for a datagram that is too large, with this MTU.
pub fn forge_too_large(to: SocketAddr, peer: SocketAddr, mtu: u16) {
    let (kind, code) = if to.is_ipv4() { (3, 4) } else { (2, 0) };
    forge_icmp_error(to, peer, kind, code, mtu);
}

fn forge_icmp_error(to: SocketAddr, peer: SocketAddr, kind: u8, code: u8, mtu: u16) {
    const UDP: u8 = 17;
    const HOPS: u8 = 64;
    // the quoted datagram: an IP header, and a UDP header with ports, length and no checksum
    let mut about = Vec::new();
    match (to, peer) {
        (SocketAddr::V4(to), SocketAddr::V4(peer)) => {
            about.extend([0x45, 0, 0, 28, 0, 0, 0, 0, HOPS, UDP, 0, 0]);
            about.extend([to.ip().octets(), peer.ip().octets()].concat());
        }
        (SocketAddr::V6(to), SocketAddr::V6(peer)) => {
            about.extend([0x60, 0, 0, 0, 0, 8, UDP, HOPS]);
            about.extend([to.ip().octets(), peer.ip().octets()].concat());
        }
        _ => panic!("{to} and {peer} are of two families"),
    }
    about.extend([to.port(), peer.port(), 8, 0].map(u16::to_be_bytes).concat());
    // the rest of the ICMP header holds an MTU, or the position of an error
    let mut packet = vec![kind, code, 0, 0, 0, 0];
    packet.extend(mtu.to_be_bytes());
    packet.extend(about);
    let protocol = if to.is_ipv4() { libc::IPPROTO_ICMP } else { libc::IPPROTO_ICMPV6 };
    let socket = UdpSocket::from(plain_raw_socket(to, protocol).expect("a raw socket"));
    if to.is_ipv4() {
        let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        packet[2..4].copy_from_slice(&(!(folded as u16 + (folded >> 16) as u16)).to_be_bytes());
    }
    let sent = socket.send_to(&packet, SocketAddr::new(to.ip(), 0)).expect("send an ICMP error");
    assert_eq!(sent, packet.len());
}

/// Sends a complete IPv4 packet with its header. The kernel fills in the length and the checksum, and the source and the
/// identification if they are zero (raw(7)). Packets that the kernel refuses to send are ignored.
pub fn send_packet(to: Ipv4Addr, packet: &[u8]) {
    let to = SocketAddr::new(to.into(), 0);
    let socket = raw_socket(to, libc::IPPROTO_RAW, 0).expect("a raw socket");
    let _ = UdpSocket::from(socket).send_to(packet, to);
}

/// Sends an urgent byte on an IPv6 connection, behind a gap of one byte that is never filled. So the peer's kernel knows
/// of urgent data, but has no data to read (RFC 9293, 3.8.5). Needs root.
pub fn forge_urgent_behind_a_gap(stream: &TcpStream) {
    /// Offset of the checksum in a TCP header.
    const CHECKSUM_OFFSET: i32 = 16;
    const OFF_WITHOUT_PROBE: i32 = -1;
    const QUEUES: [i32; 2] = [2, 1]; // TCP_SEND_QUEUE, TCP_RECV_QUEUE
    const ACK_PSH_URG: u8 = 0x38;
    let (from, to) = (stream.local_addr().expect("a name"), stream.peer_addr().expect("a peer"));
    let option = |name, value| sys::set_option(stream, libc::IPPROTO_TCP, name, value).expect("TCP_REPAIR");
    option(libc::TCP_REPAIR, 1);
    let [next, acknowledged] = QUEUES.map(|queue| {
        option(libc::TCP_REPAIR_QUEUE, queue);
        sys::option(stream, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ).expect("TCP_QUEUE_SEQ") as u32
    });
    option(libc::TCP_REPAIR, OFF_WITHOUT_PROBE);

    let socket = raw_socket(to, libc::IPPROTO_TCP, CHECKSUM_OFFSET).expect("a raw socket");
    server_sys::bind(socket.as_fd(), SocketAddr::new(from.ip(), 0)).expect("bind a raw socket");
    // RFC 9293, 3.1: ports, sequence and acknowledgment, 5 words and flags, window, checksum, urgent pointer.
    let mut segment = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    segment.extend(next.wrapping_add(1).to_be_bytes());
    segment.extend(acknowledged.to_be_bytes());
    segment.extend([5 << 4, ACK_PSH_URG, 0x02, 0, 0, 0, 0, 1, b'!']);
    let sent =
        UdpSocket::from(socket).send_to(&segment, SocketAddr::new(to.ip(), 0)).expect("send a segment");
    assert_eq!(sent, segment.len());
}

/// A raw socket for packets to `to`.
fn plain_raw_socket(to: SocketAddr, protocol: i32) -> Result<OwnedFd> {
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: socket(2) takes no memory; a result that is no error is a new descriptor, ours alone.
    unsafe {
        let fd = libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
        if fd < 0 { Err(Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// A raw socket for packets to `to`. For IPv6 the kernel writes the checksum.
fn raw_socket(to: SocketAddr, protocol: i32, checksum_offset: i32) -> Result<OwnedFd> {
    let socket = plain_raw_socket(to, protocol)?;
    if to.is_ipv6() {
        server_sys::set_option(socket.as_fd(), IntOption::FREEBIND_V6, 1)?;
        let checksum = IntOption(libc::SOL_IPV6, libc::IPV6_CHECKSUM);
        server_sys::set_option(socket.as_fd(), checksum, checksum_offset)?;
    }
    Ok(socket)
}
