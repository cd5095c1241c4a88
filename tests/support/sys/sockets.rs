//! Sockets, and what they send and receive.

use std::ffi::{c_int, c_long};
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use super::checked;

/// Sets a socket option whose value is an int.
pub fn set_option(socket: &impl AsFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    set_option_bytes(socket, level, name, &value.to_ne_bytes())
}

/// Sets a socket option of any shape.
pub fn set_option_bytes(socket: &impl AsFd, level: c_int, name: c_int, value: &[u8]) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    unsafe { checked(libc::setsockopt(fd, level, name, value.as_ptr().cast(), value.len() as u32).into()) }
        .map(drop)
}

/// A socket option whose value is an int.
pub fn option(socket: &impl AsFd, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value = [0; 4];
    option_bytes(socket, level, name, &mut value)?;
    Ok(c_int::from_ne_bytes(value))
}

/// The socket's `SO_COOKIE`: all descriptors of one socket have the same number, and no other socket has it.
pub fn socket_identity(socket: &impl AsFd) -> io::Result<u64> {
    let mut value = [0; 8];
    option_bytes(socket, libc::SOL_SOCKET, libc::SO_COOKIE, &mut value)?;
    Ok(u64::from_ne_bytes(value))
}

fn option_bytes(socket: &impl AsFd, level: c_int, name: c_int, value: &mut [u8]) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let mut len = value.len() as u32;
    // SAFETY: the pointer and the length describe `value`; both outlive the call.
    unsafe { checked(libc::getsockopt(fd, level, name, value.as_mut_ptr().cast(), &raw mut len).into()) }
        .map(drop)
}

/// Makes `close` send a reset instead of a FIN: `SO_LINGER` with a time of zero (socket(7)).
pub fn reset_on_close(socket: &impl AsFd) {
    let on_and_zero = [1_i32.to_ne_bytes(), 0_i32.to_ne_bytes()].concat();
    set_option_bytes(socket, libc::SOL_SOCKET, libc::SO_LINGER, &on_and_zero).expect("SO_LINGER");
}

/// Bytes in a connection's send buffer that the peer's kernel has not acknowledged yet (`SIOCOUTQ`, tcp(7)).
pub fn unacknowledged_bytes(stream: &impl AsFd) -> usize {
    let mut bytes: c_int = 0;
    // SAFETY: SIOCOUTQ, which has the number of TIOCOUTQ, writes one int, which outlives the call.
    unsafe { checked(libc::ioctl(stream.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes).into()) }
        .expect("SIOCOUTQ");
    bytes as usize
}

/// Sends one urgent byte, `MSG_OOB` (tcp(7)).
pub fn send_urgent(stream: &impl AsFd, byte: u8) -> io::Result<()> {
    let fd = stream.as_fd().as_raw_fd();
    // SAFETY: send(2) reads one byte from a local that outlives the call.
    unsafe { checked(libc::send(fd, (&raw const byte).cast(), 1, libc::MSG_OOB) as i64) }.map(drop)
}

/// Room for the control messages of one datagram, aligned as cmsg(3) asks.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Sends one message that the kernel cuts into datagrams of `segment_bytes` each (`UDP_SEGMENT`, udp(7)). The last one may
/// be shorter.
pub fn send_train(
    socket: &impl AsFd,
    to: SocketAddr,
    payload: &[u8],
    segment_bytes: u16,
) -> io::Result<usize> {
    let (mut name, name_len) = to_kernel(to);
    let mut control = Control([0; 64]);
    let mut bytes = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    // SAFETY: msghdr is plain data, for which all zeroes is a valid value. Every pointer in it is to a
    // local or to `payload` and outlives the call. cmsg(3): CMSG_FIRSTHDR is not null, because
    // msg_controllen has room for one header and a u16, and CMSG_DATA points into `control`.
    unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_name = (&raw mut name).cast();
        message.msg_namelen = name_len;
        message.msg_iov = &raw mut bytes;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_UDP;
        (*header).cmsg_type = libc::UDP_SEGMENT;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as usize;
        libc::CMSG_DATA(header).cast::<u16>().write_unaligned(segment_bytes);
        checked(libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, 0) as c_long)
            .map(|sent| sent as usize)
    }
}

/// The result of one `recvmsg(2)`: the payload, its sender, and the size of the datagrams in it if the kernel delivered a
/// train (`UDP_GRO`).
pub struct Arrival {
    pub payload: Vec<u8>,
    pub from: SocketAddr,
    pub segment_bytes: Option<usize>,
    /// Its TOS or traffic class, if the socket asks for it (`IP_RECVTOS`, `IPV6_RECVTCLASS`).
    pub traffic_class: Option<u8>,
    /// When the kernel received it (`CLOCK_REALTIME`), in nanoseconds, if the socket asks for it (`SO_TIMESTAMPNS`).
    pub received_ns: Option<i64>,
}

/// Receives one message. The buffer is large enough for any datagram and any train.
pub fn receive(socket: &impl AsFd) -> io::Result<Arrival> {
    let mut payload = vec![0; 1 << 16];
    let mut control = Control([0; 64]);
    let mut bytes = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    // SAFETY: msghdr and sockaddr_storage are plain data, for which all zeroes is a valid value.
    // Every pointer in the message is to a local that outlives the call. The headers are walked by the
    // macros of cmsg(3), within what the kernel says it wrote; UDP_GRO and IPV6_TCLASS carry an int,
    // IP_TOS a byte, SCM_TIMESTAMPNS a timespec.
    unsafe {
        let mut name: libc::sockaddr_storage = mem::zeroed();
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_name = (&raw mut name).cast();
        message.msg_namelen = size_of::<libc::sockaddr_storage>() as u32;
        message.msg_iov = &raw mut bytes;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        let len = checked(libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, 0) as c_long)?;
        assert_eq!(message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC), 0, "a reply was cut short");
        payload.truncate(len as usize);
        let (mut segment_bytes, mut traffic_class, mut received_ns) = (None, None, None);
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if ((*header).cmsg_level, (*header).cmsg_type) == (libc::SOL_UDP, libc::UDP_GRO) {
                segment_bytes = Some(libc::CMSG_DATA(header).cast::<c_int>().read_unaligned() as usize);
            }
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::SOL_IP, libc::IP_TOS) => traffic_class = Some(libc::CMSG_DATA(header).read()),
                (libc::SOL_IPV6, libc::IPV6_TCLASS) => {
                    traffic_class = Some(libc::CMSG_DATA(header).cast::<c_int>().read_unaligned() as u8);
                }
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    let time = libc::CMSG_DATA(header).cast::<libc::timespec>().read_unaligned();
                    received_ns = Some(time.tv_sec * 1_000_000_000 + time.tv_nsec);
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
        Ok(Arrival { payload, from: from_kernel(&name), segment_bytes, traffic_class, received_ns })
    }
}

/// An address as the kernel wants it, and its length.
fn to_kernel(address: SocketAddr) -> (libc::sockaddr_storage, u32) {
    // SAFETY: sockaddr_storage is plain data, larger than and aligned for every socket address.
    unsafe {
        let mut storage: libc::sockaddr_storage = mem::zeroed();
        let len = match address {
            SocketAddr::V4(v4) => {
                let name = &mut *(&raw mut storage).cast::<libc::sockaddr_in>();
                name.sin_family = libc::AF_INET as u16;
                name.sin_port = v4.port().to_be();
                name.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let name = &mut *(&raw mut storage).cast::<libc::sockaddr_in6>();
                name.sin6_family = libc::AF_INET6 as u16;
                name.sin6_port = v6.port().to_be();
                name.sin6_addr.s6_addr = v6.ip().octets();
                name.sin6_scope_id = v6.scope_id();
                size_of::<libc::sockaddr_in6>()
            }
        };
        (storage, len as u32)
    }
}

/// The address that the kernel wrote.
fn from_kernel(storage: &libc::sockaddr_storage) -> SocketAddr {
    // SAFETY: the family says which socket address the storage holds; it has room for either.
    unsafe {
        if c_int::from(storage.ss_family) == libc::AF_INET {
            let name = &*ptr::from_ref(storage).cast::<libc::sockaddr_in>();
            let ip = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
            SocketAddr::new(IpAddr::V4(ip), u16::from_be(name.sin_port))
        } else {
            let name = &*ptr::from_ref(storage).cast::<libc::sockaddr_in6>();
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            SocketAddrV6::new(ip, u16::from_be(name.sin6_port), 0, name.sin6_scope_id).into()
        }
    }
}

/// The local address of a socket (`getsockname(2)`).
pub fn local_address(socket: &impl AsFd) -> io::Result<SocketAddr> {
    // SAFETY: sockaddr_storage is plain data; the pointers are to locals that outlive the call.
    unsafe {
        let mut name: libc::sockaddr_storage = mem::zeroed();
        let mut len = size_of::<libc::sockaddr_storage>() as u32;
        let fd = socket.as_fd().as_raw_fd();
        checked(libc::getsockname(fd, (&raw mut name).cast(), &raw mut len).into())?;
        Ok(from_kernel(&name))
    }
}

/// Connects a socket, `connect(2)`.
pub fn connect(socket: &impl AsFd, target: SocketAddr) -> io::Result<()> {
    let (name, len) = to_kernel(target);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer and the length describe a local that outlives the call.
    unsafe { checked(libc::connect(fd, (&raw const name).cast(), len).into()) }.map(drop)
}

/// Whether the socket has a peer (`getpeername(2)`).
pub fn has_peer(socket: &impl AsFd) -> bool {
    // SAFETY: as in `local_address`.
    unsafe {
        let mut name: libc::sockaddr_storage = mem::zeroed();
        let mut len = size_of::<libc::sockaddr_storage>() as u32;
        libc::getpeername(socket.as_fd().as_raw_fd(), (&raw mut name).cast(), &raw mut len) == 0
    }
}
