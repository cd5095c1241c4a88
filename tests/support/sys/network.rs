//! Network namespaces and their devices.

use std::ffi::{CStr, c_int};
use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::checked;

/// Moves the calling thread into a new network namespace.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: takes flags only; CLONE_NEWNET concerns the calling thread alone.
    unsafe { checked(libc::unshare(libc::CLONE_NEWNET).into()) }.map(drop)
}

/// Moves the calling thread into this network namespace.
pub fn join_network(namespace: &impl AsFd) -> io::Result<()> {
    // SAFETY: takes a descriptor that is open for the whole call, and a flag.
    unsafe { checked(libc::setns(namespace.as_fd().as_raw_fd(), libc::CLONE_NEWNET).into()) }.map(drop)
}

/// Brings the loopback device up, as `ip link set lo up` would.
pub fn raise_loopback() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: ifreq is plain data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
    // SAFETY: netdevice(7): SIOCSIFFLAGS reads an ifreq, which outlives the call.
    unsafe { checked(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request).into()) }
        .map(drop)
}

/// Switches an offload of a device of the calling thread's namespace on or off: `command` is one of ethtool's that set one
/// flag (linux/ethtool.h, `ETHTOOL_S…`).
pub fn set_offload(device: &str, command: u32, is_on: bool) -> io::Result<()> {
    /// The ioctl of all commands (linux/sockios.h).
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut value = [command, is_on.into()];
    // SAFETY: ifreq is plain data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(device.bytes().take(libc::IFNAMSIZ - 1)) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: netdevice(7): SIOCETHTOOL reads an ifreq and the `struct ethtool_value` of two words that it points to. Both
    // outlive the call.
    unsafe { checked(libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request).into()) }.map(drop)
}

/// The number of a network device, which is the scope of its link-local addresses.
pub fn device_number(name: &CStr) -> io::Result<u32> {
    // SAFETY: if_nametoindex(3) reads a C string, which outlives the call.
    let number = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if number == 0 { Err(io::Error::last_os_error()) } else { Ok(number) }
}

/// A socket that sees every packet that passes a device of the calling thread's namespace, with its link-layer
/// header (packet(7)). Needs root.
pub fn packet_socket(family: u16) -> io::Result<OwnedFd> {
    let protocol = c_int::from(family.to_be());
    // SAFETY: socket(2) takes no memory; a result that is not -1 is a new descriptor, ours alone.
    unsafe {
        let fd =
            checked(libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol).into())?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Whether any process has a UDP socket bound to exactly this address in the thread's network namespace (proc(5),
/// /proc/net/udp).
pub fn is_bound(address: SocketAddr) -> io::Result<bool> {
    let list = if address.is_ipv4() { "udp" } else { "udp6" };
    let list = std::fs::read_to_string(format!("/proc/thread-self/net/{list}"))?;
    // words of four bytes in host order, in hexadecimal
    let octets = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = octets.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().expect("four bytes")));
    let words: Vec<_> = words.map(|word| format!("{word:08X}")).collect();
    let name = format!("{}:{:04X}", words.concat(), address.port());
    Ok(list.lines().skip(1).any(|line| line.split_whitespace().nth(1) == Some(&name)))
}
