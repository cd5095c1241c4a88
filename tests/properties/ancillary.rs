//! Control messages and socket addresses: the decoders agree with others that read byte by byte, in both directions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use tubular_echo::kernel::addr::{self, Domain, RawAddr};
use tubular_echo::kernel::cmsg::{
    self, Ancillary, CONTROL_OUT_BYTES, Control, NetworkError, Receipt, ReceiveTimes,
};

/// Takes any bytes as the control area of a received datagram, and as a socket address.
pub fn check(data: &[u8]) {
    assert_eq!(cmsg::decode(data), ancillary(data));
    assert_eq!(cmsg::decode_receipt(data), receipt(data));
    assert_eq!(cmsg::decode_error(data), network_error(data));
    let decoded = addr::decode(data);
    assert_eq!(decoded, socket_addr(data));
    if let Some(addr) = decoded {
        let raw = RawAddr::from(addr);
        assert_eq!(addr::decode(raw.as_bytes()), Some(addr), "written and read again");
        reply(addr, data.last().map(|last| u16::from(*last) * 256 + 1), data[0]);
    }
}

/// The kernel's macros find the control messages that the server writes for a reply from `source`.
fn reply(source: SocketAddr, segment_bytes: Option<u16>, dscp: u8) {
    let scope_id = if let SocketAddr::V6(v6) = source { v6.scope_id() } else { 0 };
    let mut control = Control::EMPTY;
    control.encode(Some(source.ip()), scope_id, segment_bytes);
    control.push_dscp(Domain::of(source), dscp);
    control.push_hops(Domain::of(source), !dscp);
    assert!(control.as_bytes().len() <= CONTROL_OUT_BYTES);
    let mut found = (None, None, None);
    let mut hops = None;
    for (level, kind, data) in messages(control.as_bytes()) {
        match (level, kind) {
            (libc::SOL_IP, libc::IP_PKTINFO) => {
                assert_eq!(data[..4], [0; 4], "no interface");
                found.0 = Some((IpAddr::from([data[4], data[5], data[6], data[7]]), 0));
            }
            (libc::SOL_IPV6, libc::IPV6_PKTINFO) => {
                let ip: [u8; 16] = data[..16].try_into().unwrap();
                found.0 = Some((IpAddr::from(ip), u32::from_ne_bytes(data[16..20].try_into().unwrap())));
            }
            (libc::SOL_UDP, libc::UDP_SEGMENT) => {
                found.1 = Some(u16::from_ne_bytes(data.try_into().unwrap()));
            }
            (libc::SOL_IP, libc::IP_TOS) if source.is_ipv4() => found.2 = Some(data),
            (libc::SOL_IPV6, libc::IPV6_TCLASS) if source.is_ipv6() => found.2 = Some(data),
            (libc::SOL_IP, libc::IP_TTL) if source.is_ipv4() => hops = Some(data),
            (libc::SOL_IPV6, libc::IPV6_HOPLIMIT) if source.is_ipv6() => hops = Some(data),
            other => panic!("{other:?} was not asked for"),
        }
    }
    let scope_id = if source.is_ipv4() { 0 } else { scope_id };
    let class = i32::from(dscp).to_ne_bytes();
    assert_eq!(found, (Some((source.ip(), scope_id)), segment_bytes, Some(&class[..])));
    assert_eq!(hops, Some(&i32::from(!dscp).to_ne_bytes()[..]));
}

/// Level, type and data of each control message of a `struct msghdr`. The header is a size_t and two ints, the size
/// counts header and data, and the next header begins at the next multiple of a size_t (cmsg(3)).
fn messages(control: &[u8]) -> impl Iterator<Item = (i32, i32, &[u8])> {
    const WORD: usize = size_of::<usize>();
    const HEADER: usize = WORD + 8;
    let int = |at: usize| i32::from_ne_bytes(control[at..at + 4].try_into().unwrap());
    let mut at = 0;
    std::iter::from_fn(move || {
        if at + HEADER > control.len() {
            return None;
        }
        let len = usize::from_ne_bytes(control[at..at + WORD].try_into().unwrap());
        if len < HEADER || len > control.len() - at {
            return None;
        }
        let found = (int(at + WORD), int(at + WORD + 4), &control[at + HEADER..at + len]);
        at += len.div_ceil(WORD) * WORD;
        Some(found)
    })
}

fn ancillary(control: &[u8]) -> Ancillary {
    let mut wanted = Ancillary::default();
    for (level, kind, data) in messages(control) {
        let v4 = (level, kind) == (libc::SOL_IP, libc::IP_ORIGDSTADDR);
        let v6 = (level, kind) == (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR);
        if v4 || v6 {
            wanted.origdst = socket_addr(data);
        }
        if (level, kind) == (libc::SOL_IP, libc::IP_TOS) {
            wanted.traffic_class = if data.is_empty() { 0 } else { data[0] };
        }
        if (level, kind) == (libc::SOL_IPV6, libc::IPV6_TCLASS) {
            let class = data.get(..4).map_or(0, |bytes| i32::from_ne_bytes(bytes.try_into().unwrap()));
            wanted.traffic_class = class.rem_euclid(256) as u8;
        }
        if [(libc::SOL_IP, libc::IP_TTL), (libc::SOL_IPV6, libc::IPV6_HOPLIMIT)].contains(&(level, kind)) {
            let hops = data.get(..4).map(|bytes| i32::from_ne_bytes(bytes.try_into().unwrap()));
            wanted.hops = hops.filter(|hops| (0..=255).contains(hops)).map(|hops| hops as u8);
        }
        if (level, kind) == (libc::SOL_UDP, libc::UDP_GRO) {
            let size = data.get(..4).map(|bytes| i32::from_ne_bytes(bytes.try_into().unwrap()));
            wanted.segment_bytes = size.filter(|size| (0..=65_535).contains(size)).map(|size| size as u16);
        }
    }
    wanted
}

/// `struct scm_timestamping` is three pairs of seconds and nanoseconds: by the kernel, nothing, by the NIC.
fn receipt(control: &[u8]) -> Receipt {
    let Ancillary { segment_bytes, hops, .. } = ancillary(control);
    let mut wanted = Receipt { segment_bytes, hops, ..Receipt::default() };
    for (level, kind, data) in messages(control) {
        if (level, kind) == (libc::SOL_IP, libc::IP_TOS) {
            wanted.traffic_class = data.first().copied();
        }
        if (level, kind) == (libc::SOL_IPV6, libc::IPV6_TCLASS) {
            let class = data.get(..4).map(|bytes| i32::from_ne_bytes(bytes.try_into().unwrap()));
            wanted.traffic_class = class.map(|class| class.rem_euclid(256) as u8);
        }
        if [(libc::SOL_IP, libc::IP_RECVFRAGSIZE), (libc::SOL_IPV6, libc::IPV6_RECVFRAGSIZE)]
            .contains(&(level, kind))
        {
            wanted.fragment_bytes = data.get(..4).map(|bytes| u32::from_ne_bytes(bytes.try_into().unwrap()));
        }
        if (level, kind) == (libc::SOL_SOCKET, libc::SO_TIMESTAMPING) {
            let word = |nth: usize| {
                data.chunks_exact(8).nth(nth).map(|word| i64::from_ne_bytes(word.try_into().unwrap()))
            };
            let time = |nth: usize| {
                let ns = i128::from(word(nth)?) * 1_000_000_000 + i128::from(word(nth + 1)?);
                // the seconds alone fit, too
                i64::try_from(i128::from(word(nth)?) * 1_000_000_000).ok()?;
                i64::try_from(ns).ok().filter(|ns| *ns != 0)
            };
            wanted.times = ReceiveTimes { software_ns: time(0), hardware_ns: time(4) };
        }
    }
    wanted
}

fn network_error(control: &[u8]) -> Option<NetworkError> {
    let v4 = (libc::SOL_IP, libc::IP_RECVERR);
    let v6 = (libc::SOL_IPV6, libc::IPV6_RECVERR);
    let (_, _, data) = messages(control).find(|(level, kind, _)| [v4, v6].contains(&(*level, *kind)))?;
    // struct sock_extended_err is 16 bytes: errno, origin, type, code, padding, two numbers
    if data.len() < 16 || !(data[4] == 2 || data[4] == 3) {
        return None;
    }
    Some(NetworkError {
        errno: i32::from_ne_bytes(data[..4].try_into().unwrap()),
        icmp_type: data[5],
        icmp_code: data[6],
        offender: socket_addr(&data[16..]).map(|addr| addr.ip()),
    })
}

/// `struct sockaddr_in` and `sockaddr_in6`, by the offsets of their fields.
fn socket_addr(bytes: &[u8]) -> Option<SocketAddr> {
    if bytes.len() < 2 {
        return None;
    }
    let port = |bytes: &[u8]| u16::from(bytes[2]) * 256 + u16::from(bytes[3]);
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    match i32::from(u16::from_ne_bytes([bytes[0], bytes[1]])) {
        libc::AF_INET if bytes.len() >= 8 => {
            Some((Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]), port(bytes)).into())
        }
        libc::AF_INET6 if bytes.len() >= 28 => {
            let groups: [u16; 8] =
                std::array::from_fn(|nth| u16::from_be_bytes([bytes[8 + nth * 2], bytes[9 + nth * 2]]));
            Some(SocketAddrV6::new(Ipv6Addr::from(groups), port(bytes), word(4), word(24)).into())
        }
        _ => None,
    }
}
