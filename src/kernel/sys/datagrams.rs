//! Datagrams, and messages of error queues, with their control messages.

#![allow(unsafe_code)] // one recvmsg(2)

use std::io;
use std::mem::zeroed;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::kernel::addr;
use crate::kernel::cmsg::{self, Receipt};

/// What recvmsg(2) has received beside the bytes.
pub(super) struct Message {
    /// The bytes that went to the buffer.
    pub(super) bytes: usize,
    name: [u8; addr::SOCKADDR_V6_BYTES],
    name_bytes: usize,
    control: [u8; cmsg::CONTROL_IN_BYTES],
    control_bytes: usize,
}

impl Message {
    /// The address that came with it.
    pub(super) fn name(&self) -> Option<SocketAddr> {
        addr::decode(&self.name[..self.name_bytes])
    }

    pub(super) fn control(&self) -> &[u8] {
        &self.control[..self.control_bytes]
    }
}

/// recvmsg(2) without waiting. `None`: nothing is there.
pub(super) fn receive(socket: BorrowedFd<'_>, flags: i32, buffer: &mut [u8]) -> io::Result<Option<Message>> {
    let mut name = [0_u8; addr::SOCKADDR_V6_BYTES];
    let mut control = [0_u8; cmsg::CONTROL_IN_BYTES];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain data
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = name.len() as u32;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = control.len() as _;
    // SAFETY: recvmsg(2) writes to the buffers that the header names, within the lengths it gives
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags | libc::MSG_DONTWAIT) };
    if received < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
    }
    Ok(Some(Message {
        bytes: buffer.len().min(received as usize),
        name_bytes: name.len().min(header.msg_namelen as usize),
        control_bytes: control.len().min(header.msg_controllen as usize),
        name,
        control,
    }))
}

/// A received datagram. Its bytes are in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The number of its bytes, as far as the buffer has room.
    pub bytes: usize,
    /// Its source.
    pub from: SocketAddr,
    /// What the kernel tells of it.
    pub receipt: Receipt,
}

/// Receives a datagram without waiting. `None`: none is there. An error that waits at the socket is returned, and gone.
pub fn receive_datagram(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<Received>> {
    let Some(message) = receive(socket, 0, buffer)? else { return Ok(None) };
    let from = message.name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Some(Received { bytes: message.bytes, from, receipt: cmsg::decode_receipt(message.control()) }))
}
