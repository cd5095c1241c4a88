//! What waits in a socket's queues, and what was dropped there.

use std::io;
use std::mem::offset_of;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use super::datagrams;
use super::options;
use crate::kernel::cmsg::{self, NetworkError, QueuedError};
use crate::kernel::seam;

/// Lets nothing new into the socket's receive queue or accept queue; what is queued stays
/// (`SO_ATTACH_FILTER`, socket(7), with a program that keeps zero bytes of anything).
pub fn drop_incoming(socket: BorrowedFd<'_>) -> io::Result<()> {
    if seam::drop_incoming(socket).is_some() {
        return Ok(());
    }
    let mut program = [libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }];
    let filter = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    options::set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}

/// Bytes that the kernel holds in a UDP socket's receive queue, overhead included (`SO_MEMINFO`, Linux
/// 4.12): zero exactly when nothing is queued, empty datagrams count too.
pub fn receive_queue_bytes(socket: BorrowedFd<'_>) -> io::Result<u32> {
    const RMEM_ALLOC: usize = 0; // SK_MEMINFO_RMEM_ALLOC
    if let Some(bytes) = seam::receive_queue_bytes(socket) {
        return Ok(bytes);
    }
    memory_info(socket, RMEM_ALLOC)
}

/// Datagrams that the kernel dropped at the socket, mostly because its receive buffer was full
/// (`SO_MEMINFO`). It wraps at 32 bits.
pub fn socket_drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    const DROPS: usize = 8; // SK_MEMINFO_DROPS
    if let Some(drops) = seam::socket_drops(socket) {
        return Ok(drops);
    }
    memory_info(socket, DROPS)
}

/// Bytes in a TCP socket's send queue that the peer has not acknowledged, overhead included (`SO_MEMINFO`).
pub fn send_queue_bytes(socket: BorrowedFd<'_>) -> io::Result<u32> {
    const WMEM_QUEUED: usize = 5; // SK_MEMINFO_WMEM_QUEUED
    if let Some(bytes) = seam::send_queue_bytes(socket) {
        return Ok(bytes);
    }
    memory_info(socket, WMEM_QUEUED)
}

/// One of the numbers of `SO_MEMINFO`.
fn memory_info(socket: BorrowedFd<'_>, number: usize) -> io::Result<u32> {
    const NUMBERS: usize = 9; // SK_MEMINFO_VARS
    let info: [u8; NUMBERS * size_of::<u32>()] = options::get(socket, libc::SOL_SOCKET, libc::SO_MEMINFO)?;
    Ok(u32_at(&info, number * size_of::<u32>()))
}

/// Connections in a listener's accept queue (`TCP_INFO`; the kernel reports it as `tcpi_unacked`).
pub fn accept_queue_len(listener: BorrowedFd<'_>) -> io::Result<u32> {
    if let Some(connections) = seam::accept_queue_len(listener) {
        return Ok(connections);
    }
    tcp_info(listener, offset_of!(libc::tcp_info, tcpi_unacked))
}

/// Connections that a listener's accept queue may hold (`TCP_INFO`; the kernel reports it as `tcpi_sacked`):
/// what listen(2) was asked for, cut down to `net.core.somaxconn`.
pub fn accept_queue_max(listener: BorrowedFd<'_>) -> io::Result<u32> {
    tcp_info(listener, offset_of!(libc::tcp_info, tcpi_sacked))
}

/// The number that stands at this place of `TCP_INFO`.
fn tcp_info(socket: BorrowedFd<'_>, offset: usize) -> io::Result<u32> {
    let info: [u8; size_of::<libc::tcp_info>()] = options::get(socket, libc::IPPROTO_TCP, libc::TCP_INFO)?;
    Ok(u32_at(&info, offset))
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes(
        *bytes[offset..].first_chunk().expect("the number is one of those that were asked for"),
    )
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
    while let Some(SocketError { error, destination, quoted_bytes }) = next_error(socket, quoted)? {
        if let QueuedError::Network(report, _) = error {
            return Ok(Some(IcmpError { report, destination, quoted_bytes }));
        }
    }
    Ok(None)
}

/// An error from a socket's error queue, by ICMP or of the local host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketError {
    /// What it says.
    pub error: QueuedError,
    /// As in [`IcmpError`].
    pub destination: SocketAddr,
    /// As in [`IcmpError`].
    pub quoted_bytes: usize,
}

/// The same as [`next_icmp_error`], with those of the local host.
pub fn next_error(socket: BorrowedFd<'_>, quoted: &mut [u8]) -> io::Result<Option<SocketError>> {
    while let Some(message) = datagrams::receive(socket, libc::MSG_ERRQUEUE, quoted)? {
        let error = cmsg::decode_queued_error(message.control());
        if let (Some(error), Some(destination)) = (error, message.name()) {
            return Ok(Some(SocketError { error, destination, quoted_bytes: message.bytes }));
        }
    }
    Ok(None)
}
