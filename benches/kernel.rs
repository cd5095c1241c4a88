//! The system calls that peers and load client are made of. Bare on purpose: nothing here is shared with
//! the server, so that no mistake is either.
#![allow(unsafe_code, reason = "batched system calls have no safe wrapper; they all live in this room")]

mod datagrams;
mod process;
mod streams;

use std::io::{Error, Result};
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use libc::c_int;

pub(crate) use self::datagrams::{
    Batch, Group, MESSAGE_BYTES_MAX, Message, Origin, SEGMENTS_MAX, STRIDE_BYTES,
};
pub(crate) use self::process::{
    cores, cpu_time, end_with_parent, inherit, is_root, pin, raise_open_files, signal,
};
pub(crate) use self::streams::{Epoll, accept, reset_on_close, splice};

/// What one socket of a server asks for, the same for every server in a comparison.
pub(crate) const RECEIVE_BUFFER_BYTES: c_int = 4 << 20;
/// Connections that may wait to be accepted.
pub(crate) const BACKLOG: c_int = 4096;

fn check(result: c_int) -> Result<usize> {
    usize::try_from(result).map_err(|_| Error::last_os_error())
}

/// Sets an `int` socket option.
pub(crate) fn set_option(socket: &impl AsFd, level: c_int, name: c_int, value: c_int) -> Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), size_of::<c_int>() as u32) })
        .map(drop)
}

/// Asks for a receive buffer beyond the system's limit if we may, within it otherwise.
pub(crate) fn receive_buffer(socket: &impl AsFd, bytes: c_int) -> Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
        .or_else(|_| set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes))
}

/// A bound socket of this kind (`SOCK_…`) whose address other sockets of this user may have, too.
pub(crate) fn bound(to: SocketAddr, kind: c_int) -> Result<OwnedFd> {
    let name = Name::from(to);
    // SAFETY: no memory is passed; the descriptor is new and owned here alone.
    let socket = unsafe {
        OwnedFd::from_raw_fd(check(libc::socket(name.family(), kind | libc::SOCK_CLOEXEC, 0))? as c_int)
    };
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    if kind == libc::SOCK_STREAM {
        set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    }
    // SAFETY: `name` holds `len` bytes of a socket address and outlives the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), name.bytes.as_ptr().cast(), name.len) })?;
    Ok(socket)
}

/// Turns the backlog of a listening socket up: std chooses a small one.
pub(crate) fn listen(socket: &impl AsFd) -> Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::listen(socket.as_fd().as_raw_fd(), BACKLOG) }).map(drop)
}

/// Binds an IPv4 stream socket to `from` without choosing its port yet, so that every destination has all
/// ports of that address (`IP_BIND_ADDRESS_NO_PORT`, ip(7)); connecting is left to the caller.
pub(crate) fn stream_from(from: IpAddr) -> Result<OwnedFd> {
    let name = Name::from(SocketAddr::new(from, 0));
    // SAFETY: no memory is passed; the descriptor is new and owned here alone.
    let socket = unsafe {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        OwnedFd::from_raw_fd(check(libc::socket(name.family(), kind, 0))? as c_int)
    };
    set_option(&socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    // SAFETY: `name` holds `len` bytes of a socket address and outlives the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), name.bytes.as_ptr().cast(), name.len) })?;
    Ok(socket)
}

/// Connects a blocking socket.
pub(crate) fn connect(socket: &impl AsFd, to: &Name) -> Result<()> {
    // SAFETY: `to` holds `len` bytes of a socket address and outlives the call.
    check(unsafe { libc::connect(socket.as_fd().as_raw_fd(), to.bytes.as_ptr().cast(), to.len) }).map(drop)
}

/// A socket address as the kernel wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Name {
    bytes: [u8; 28],
    len: u32,
}

impl Name {
    const EMPTY: Self = Self { bytes: [0; 28], len: 0 };

    /// The bytes that mean something.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }

    fn family(&self) -> c_int {
        u16::from_ne_bytes([self.bytes[0], self.bytes[1]]).into()
    }

    /// Mixes the bytes that differ between peers: port and address.
    pub(crate) fn hash(&self) -> u64 {
        let word = |at: usize| u64::from_ne_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes"));
        (word(0) ^ word(16).rotate_left(23)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl From<SocketAddr> for Name {
    fn from(address: SocketAddr) -> Self {
        let mut name = Self::EMPTY;
        name.bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        let family = match address.ip() {
            IpAddr::V4(ip) => {
                name.bytes[4..8].copy_from_slice(&ip.octets());
                name.len = size_of::<libc::sockaddr_in>() as u32;
                libc::AF_INET
            }
            IpAddr::V6(ip) => {
                name.bytes[8..24].copy_from_slice(&ip.octets());
                name.len = size_of::<libc::sockaddr_in6>() as u32;
                libc::AF_INET6
            }
        };
        name.bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        name
    }
}
