//! Socket addresses as the kernel reads and writes them: `struct sockaddr_in` and `sockaddr_in6`.
//!
//! Plain byte layout, no `unsafe`: RFC 3493 fixes the fields, the kernel's headers fix their places.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Bytes of a `struct sockaddr_in`.
pub const SOCKADDR_V4_BYTES: usize = size_of::<libc::sockaddr_in>();
/// Bytes of a `struct sockaddr_in6`, the larger of the two.
pub const SOCKADDR_V6_BYTES: usize = size_of::<libc::sockaddr_in6>();

const FAMILY_V4: u16 = libc::AF_INET as u16;
const FAMILY_V6: u16 = libc::AF_INET6 as u16;

/// The family of a socket's addresses, called as tubular calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Domain {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The one that an address belongs to.
    pub fn of(addr: SocketAddr) -> Self {
        if addr.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// `ipv4` or `ipv6`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// A socket address in the kernel's layout, ready for `msg_name`, bind(2) or connect(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct RawAddr {
    bytes: [u8; SOCKADDR_V6_BYTES],
    len: u32,
}

impl RawAddr {
    /// No address; what an empty message slot holds.
    pub const EMPTY: Self = Self { bytes: [0; SOCKADDR_V6_BYTES], len: 0 };

    /// The bytes that the kernel reads.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }
}

impl From<SocketAddr> for RawAddr {
    fn from(addr: SocketAddr) -> Self {
        let mut raw = Self::EMPTY;
        raw.bytes[2..4].copy_from_slice(&addr.port().to_be_bytes());
        match addr {
            SocketAddr::V4(v4) => {
                raw.bytes[..2].copy_from_slice(&FAMILY_V4.to_ne_bytes());
                raw.bytes[4..8].copy_from_slice(&v4.ip().octets());
                raw.len = SOCKADDR_V4_BYTES as u32;
            }
            SocketAddr::V6(v6) => {
                raw.bytes[..2].copy_from_slice(&FAMILY_V6.to_ne_bytes());
                raw.bytes[4..8].copy_from_slice(&v6.flowinfo().to_ne_bytes());
                raw.bytes[8..24].copy_from_slice(&v6.ip().octets());
                raw.bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                raw.len = SOCKADDR_V6_BYTES as u32;
            }
        }
        raw
    }
}

/// Decodes what the kernel wrote as a socket address. `None` for another family or too few bytes.
pub fn decode(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    if family == FAMILY_V4 {
        let ip: [u8; 4] = *bytes.get(4..)?.first_chunk()?;
        Some(SocketAddrV4::new(Ipv4Addr::from(ip), port).into())
    } else if family == FAMILY_V6 {
        let flowinfo = u32::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let ip: [u8; 16] = *bytes.get(8..)?.first_chunk()?;
        let scope_id = u32::from_ne_bytes(*bytes.get(24..)?.first_chunk()?);
        Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, flowinfo, scope_id).into())
    } else {
        None
    }
}

/// The interface that a link-local address is meant on; zero for any other address.
pub fn scope_id(addr: SocketAddr) -> u32 {
    match addr {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(addr) => addr.scope_id(),
    }
}

/// The largest payload of one datagram in bytes: 65,535 less the headers that count into the length
/// field (IPv4 header and UDP header; IPv6: UDP header only).
pub fn datagram_bytes_max(ip: IpAddr) -> usize {
    match ip {
        IpAddr::V4(_) => 65_507,
        IpAddr::V6(_) => 65_527,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_survive_the_round_trip() {
        for text in ["192.0.2.7:1", "0.0.0.0:0", "[2001:db8::7]:65535"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(decode(RawAddr::from(addr).as_bytes()), Some(addr));
        }
        let scoped = SocketAddr::from(SocketAddrV6::new("fe80::1".parse().unwrap(), 9, 0x0102_0304, 5));
        assert_eq!(decode(RawAddr::from(scoped).as_bytes()), Some(scoped));
    }

    #[test]
    fn the_layout_is_the_kernels() {
        let raw = RawAddr::from("1.2.3.4:513".parse::<SocketAddr>().unwrap());
        assert_eq!(raw.as_bytes().len(), 16);
        assert_eq!(&raw.as_bytes()[2..8], [2, 1, 1, 2, 3, 4]);
    }

    #[test]
    fn short_or_foreign_bytes_are_no_address() {
        let raw = RawAddr::from("[::1]:1".parse::<SocketAddr>().unwrap());
        for len in 0..SOCKADDR_V6_BYTES {
            assert_eq!(decode(&raw.as_bytes()[..len]), None, "{len} bytes");
        }
        assert_eq!(decode(&[0xff; 28]), None);
    }
}
