//! Control messages (cmsg(3)): the original destination, the traffic class and the GRO size in, the reply's
//! source, its DSCP and the GSO size out.
//!
//! The layout is a `struct cmsghdr` (length, level, type), then data, each padded to the size of a
//! machine word. Everything here works on byte slices, so hostile or misaligned bytes can only make a
//! control message unreadable, never a read out of bounds.

use std::net::{IpAddr, SocketAddr};

use crate::kernel::addr::{self, Domain};

const HEADER_BYTES: usize = size_of::<libc::cmsghdr>();
const LEVEL_AT: usize = size_of::<usize>();
const TYPE_AT: usize = LEVEL_AT + size_of::<i32>();

/// `CMSG_SPACE(data_bytes)`: header and data, padded.
const fn space(data_bytes: usize) -> usize {
    HEADER_BYTES + data_bytes.next_multiple_of(size_of::<usize>())
}

/// Room for every control message that Linux may add to a received datagram, whatever options an
/// inherited socket has on: origdst, pktinfo, tos, ttl, options, timestamps, drop counter, GRO, mark.
pub const CONTROL_IN_BYTES: usize = 512;

/// Room for what a reply carries: its source address, its DSCP, its hop limit and a GSO size.
pub const CONTROL_OUT_BYTES: usize =
    space(size_of::<libc::in6_pktinfo>()) + 2 * space(size_of::<i32>()) + space(size_of::<u16>());

/// The DSCP's bits in an IPv4 TOS or an IPv6 traffic class (RFC 2474); the other two are ECN's (RFC 3168).
pub const DSCP_BITS: u8 = 0xfc;

/// What the datapath wants to know of a received datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ancillary {
    /// Address and port that the peer aimed at (`IP_ORIGDSTADDR`, `IPV6_ORIGDSTADDR`; ip(7)).
    pub origdst: Option<SocketAddr>,
    /// Bytes of each datagram of a received train (`UDP_GRO`; udp(7), Linux 5.0). `None`: one datagram.
    pub segment_bytes: Option<u16>,
    /// The TOS or traffic class that it came with (`IP_TOS`, `IPV6_TCLASS`); 0 if none was told.
    pub traffic_class: u8,
    /// The hop limit that it came with (`IP_TTL`, `IPV6_HOPLIMIT`), if that was told.
    pub hops: Option<u8>,
}

/// Finds the original destination, the traffic class and the GRO size among whatever else stands in `control`. A
/// malformed length ends the scan.
pub fn decode(control: &[u8]) -> Ancillary {
    let mut found = Ancillary::default();
    let mut rest = control;
    while let Some(Message { level, kind, data, rest: next }) = Message::first_of(rest) {
        match (level, kind) {
            (libc::SOL_IP, libc::IP_ORIGDSTADDR) | (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR) => {
                found.origdst = addr::decode(data);
            }
            (libc::SOL_UDP, libc::UDP_GRO) => found.segment_bytes = segment_bytes(data),
            // one byte here, an int there
            (libc::SOL_IP, libc::IP_TOS) => found.traffic_class = data.first().copied().unwrap_or(0),
            (libc::SOL_IPV6, libc::IPV6_TCLASS) => found.traffic_class = class_of_int(data).unwrap_or(0),
            // an int in both
            (libc::SOL_IP, libc::IP_TTL) | (libc::SOL_IPV6, libc::IPV6_HOPLIMIT) => {
                found.hops = byte_of_int(data);
            }
            _ => {}
        }
        rest = next;
    }
    found
}

/// When a datagram was received (`SO_TIMESTAMPING`), in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveTimes {
    /// By the kernel, in `CLOCK_REALTIME`. A train has one time.
    pub software_ns: Option<i64>,
    /// By the NIC, in a clock of its own.
    pub hardware_ns: Option<i64>,
}

/// What a client wants to know of a received datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// As in [`Ancillary`].
    pub segment_bytes: Option<u16>,
    /// When it was received, if that was asked for.
    pub times: ReceiveTimes,
    /// The TOS or traffic class that it came with, if that was asked for.
    pub traffic_class: Option<u8>,
    /// As in [`Ancillary`].
    pub hops: Option<u8>,
    /// The size of its largest fragment as a packet (`IP_RECVFRAGSIZE`, `IPV6_RECVFRAGSIZE`, Linux 4.13), if that was asked
    /// for. `None`: it came whole.
    pub fragment_bytes: Option<u32>,
}

/// Finds what a client wants to know in `control`. A malformed length ends the scan.
pub fn decode_receipt(control: &[u8]) -> Receipt {
    const SCM_TIMESTAMPING: i32 = libc::SO_TIMESTAMPING;
    let mut found = Receipt::default();
    let mut rest = control;
    while let Some(Message { level, kind, data, rest: next }) = Message::first_of(rest) {
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => found.segment_bytes = segment_bytes(data),
            // struct scm_timestamping: three timespecs, the second of which has no meaning any more
            (libc::SOL_SOCKET, SCM_TIMESTAMPING) => {
                found.times = ReceiveTimes { software_ns: time_ns(data, 0), hardware_ns: time_ns(data, 2) };
            }
            (libc::SOL_IP, libc::IP_TOS) => found.traffic_class = data.first().copied(),
            (libc::SOL_IPV6, libc::IPV6_TCLASS) => found.traffic_class = class_of_int(data),
            (libc::SOL_IP, libc::IP_TTL) | (libc::SOL_IPV6, libc::IPV6_HOPLIMIT) => {
                found.hops = byte_of_int(data);
            }
            (libc::SOL_IP, libc::IP_RECVFRAGSIZE) | (libc::SOL_IPV6, libc::IPV6_RECVFRAGSIZE) => {
                found.fragment_bytes = data.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
            }
            _ => {}
        }
        rest = next;
    }
    found
}

/// The traffic class, which the kernel tells as an int.
fn class_of_int(data: &[u8]) -> Option<u8> {
    data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes) as u8)
}

/// A number of one byte that the kernel tells as an int.
fn byte_of_int(data: &[u8]) -> Option<u8> {
    data.first_chunk().and_then(|bytes| u8::try_from(i32::from_ne_bytes(*bytes)).ok())
}

/// An int in the kernel, though the option's name speaks of 16 bits everywhere else.
fn segment_bytes(data: &[u8]) -> Option<u16> {
    data.first_chunk().and_then(|bytes| u16::try_from(i32::from_ne_bytes(*bytes)).ok())
}

/// One `struct timespec` of several, in nanoseconds. `None`: the kernel leaves what it doesn't know at zero.
fn time_ns(data: &[u8], nth: usize) -> Option<i64> {
    const WORD_BYTES: usize = size_of::<i64>();
    let word = |at: usize| data.get(at..)?.first_chunk().map(|bytes| i64::from_ne_bytes(*bytes));
    let (seconds, ns) = (word(nth * 2 * WORD_BYTES)?, word((nth * 2 + 1) * WORD_BYTES)?);
    let ns = seconds.checked_mul(1_000_000_000)?.checked_add(ns)?;
    (ns != 0).then_some(ns)
}

/// What a host or router reports by ICMP about a datagram of ours (`struct sock_extended_err`, ip(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkError {
    /// The errno that the kernel translates it to.
    pub errno: i32,
    /// ICMP type (RFC 792; IPv6: RFC 4443).
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// Who reports it.
    pub offender: Option<IpAddr>,
}

/// Finds an ICMP error (`IP_RECVERR`, `IPV6_RECVERR`) in `control`. Errors of the local host's own making
/// are none.
pub fn decode_error(control: &[u8]) -> Option<NetworkError> {
    match decode_queued_error(control)? {
        QueuedError::Network(error, _) => Some(error),
        QueuedError::Local(_) => None,
    }
}

/// An error in a socket's error queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueuedError {
    /// By ICMP, and the number that came with it: the MTU, if a packet was too large.
    Network(NetworkError, u32),
    /// Of the local host.
    Local(LocalError),
}

/// Why the local host did not send a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalError {
    /// The errno of the send.
    pub errno: i32,
    /// The largest packet that it would send, if this one was too large (`EMSGSIZE`).
    pub mtu: u32,
}

/// Finds an error by ICMP or of the local host in `control`.
pub fn decode_queued_error(control: &[u8]) -> Option<QueuedError> {
    // struct sock_extended_err:
    // u32 ee_errno; u8 ee_origin, ee_type, ee_code, ee_pad; u32 ee_info, ee_data; then the offender
    const INFO_AT: usize = 8;
    const OFFENDER_AT: usize = size_of::<libc::sock_extended_err>();
    let mut rest = control;
    while let Some(Message { level, kind, data, rest: next }) = Message::first_of(rest) {
        if matches!((level, kind), (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR)) {
            let errno = u32::from_ne_bytes(*data.first_chunk()?) as i32;
            let [origin, icmp_type, icmp_code] = *data.get(4..)?.first_chunk()?;
            let offender = addr::decode(data.get(OFFENDER_AT..)?).map(|offender| offender.ip());
            let info = u32::from_ne_bytes(*data.get(INFO_AT..)?.first_chunk()?);
            return match origin {
                libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 => {
                    Some(QueuedError::Network(NetworkError { errno, icmp_type, icmp_code, offender }, info))
                }
                libc::SO_EE_ORIGIN_LOCAL => Some(QueuedError::Local(LocalError { errno, mtu: info })),
                _ => None,
            };
        }
        rest = next;
    }
    None
}

/// One control message as it lies in a received control area.
struct Message<'a> {
    level: i32,
    kind: i32,
    data: &'a [u8],
    /// The area behind it.
    rest: &'a [u8],
}

impl<'a> Message<'a> {
    /// The first control message of `bytes`; none where it is cut short.
    fn first_of(bytes: &'a [u8]) -> Option<Self> {
        let len = usize::from_ne_bytes(*bytes.first_chunk()?);
        let level = i32::from_ne_bytes(*bytes.get(LEVEL_AT..)?.first_chunk()?);
        let kind = i32::from_ne_bytes(*bytes.get(TYPE_AT..)?.first_chunk()?);
        let data = bytes.get(HEADER_BYTES..len)?;
        // the last one need not be padded
        let rest = bytes.get(len.checked_next_multiple_of(size_of::<usize>())?..).unwrap_or_default();
        Some(Self { level, kind, data, rest })
    }
}

/// The control area of one outgoing message.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct Control {
    bytes: [u8; CONTROL_OUT_BYTES],
    len: usize,
}

impl Control {
    /// No control message at all.
    pub const EMPTY: Self = Self { bytes: [0; CONTROL_OUT_BYTES], len: 0 };

    /// Lays out the reply's `source` (`IP_PKTINFO` with `ipi_spec_dst`, `IPV6_PKTINFO`; the interface
    /// only for a scoped address, given by `scope_id`) and `segment_bytes` (`UDP_SEGMENT`, Linux 4.18).
    pub fn encode(&mut self, source: Option<IpAddr>, scope_id: u32, segment_bytes: Option<u16>) {
        self.len = 0;
        match source {
            Some(IpAddr::V4(ip)) => {
                // struct in_pktinfo: int ipi_ifindex; struct in_addr ipi_spec_dst, ipi_addr
                let mut info = [0; size_of::<libc::in_pktinfo>()];
                info[4..8].copy_from_slice(&ip.octets());
                self.push(libc::SOL_IP, libc::IP_PKTINFO, &info);
            }
            Some(IpAddr::V6(ip)) => {
                // struct in6_pktinfo: struct in6_addr ipi6_addr; unsigned ipi6_ifindex
                let mut info = [0; size_of::<libc::in6_pktinfo>()];
                info[..16].copy_from_slice(&ip.octets());
                info[16..].copy_from_slice(&scope_id.to_ne_bytes());
                self.push(libc::SOL_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        if let Some(bytes) = segment_bytes {
            self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &bytes.to_ne_bytes());
        }
    }

    /// Adds the DSCP of a reply to this family, in its place in the traffic class (`IP_TOS`, `IPV6_TCLASS`).
    pub fn push_dscp(&mut self, domain: Domain, dscp: u8) {
        let (level, kind) = match domain {
            Domain::Ipv4 => (libc::SOL_IP, libc::IP_TOS),
            Domain::Ipv6 => (libc::SOL_IPV6, libc::IPV6_TCLASS),
        };
        self.push(level, kind, &i32::from(dscp).to_ne_bytes());
    }

    /// Adds the hop limit of a reply to this family (`IP_TTL`, `IPV6_HOPLIMIT`).
    pub fn push_hops(&mut self, domain: Domain, hops: u8) {
        let (level, kind) = match domain {
            Domain::Ipv4 => (libc::SOL_IP, libc::IP_TTL),
            Domain::Ipv6 => (libc::SOL_IPV6, libc::IPV6_HOPLIMIT),
        };
        self.push(level, kind, &i32::from(hops).to_ne_bytes());
    }

    // the lengths are known where it is called, so that copying takes a few instructions and no call
    #[inline]
    fn push<const BYTES: usize>(&mut self, level: i32, kind: i32, data: &[u8; BYTES]) {
        let room = &mut self.bytes[self.len..];
        room[..LEVEL_AT].copy_from_slice(&(HEADER_BYTES + data.len()).to_ne_bytes());
        room[LEVEL_AT..TYPE_AT].copy_from_slice(&level.to_ne_bytes());
        room[TYPE_AT..HEADER_BYTES].copy_from_slice(&kind.to_ne_bytes());
        room[HEADER_BYTES..][..data.len()].copy_from_slice(data);
        self.len += space(data.len());
    }

    /// The bytes that the kernel reads.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One control message, padded; what a kernel would write.
    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (HEADER_BYTES + data.len()).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(space(data.len()), 0);
        bytes
    }

    fn origdst(addr: &str) -> (Vec<u8>, SocketAddr) {
        let addr: SocketAddr = addr.parse().unwrap();
        let (level, kind) = if addr.is_ipv4() {
            (libc::SOL_IP, libc::IP_ORIGDSTADDR)
        } else {
            (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR)
        };
        (message(level, kind, addr::RawAddr::from(addr).as_bytes()), addr)
    }

    #[test]
    fn the_right_ones_are_found_among_others() {
        for text in ["127.0.0.129:4321", "[2001:db8::1]:53"] {
            let (wanted, addr) = origdst(text);
            let mut control = message(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &[7; 16]);
            control.extend(message(libc::SOL_UDP, libc::UDP_GRO, &1200_i32.to_ne_bytes()));
            control.extend(message(libc::SOL_IP, libc::IP_TTL, &64_i32.to_ne_bytes()));
            control.extend(if addr.is_ipv4() {
                message(libc::SOL_IP, libc::IP_TOS, &[0xb9])
            } else {
                message(libc::SOL_IPV6, libc::IPV6_TCLASS, &0xb9_i32.to_ne_bytes())
            });
            control.extend(wanted);
            control.extend(message(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &3_u32.to_ne_bytes()));
            let (level, kind) = if addr.is_ipv4() {
                (libc::SOL_IP, libc::IP_TTL)
            } else {
                (libc::SOL_IPV6, libc::IPV6_HOPLIMIT)
            };
            control.extend(message(level, kind, &57_i32.to_ne_bytes()));
            let found = Ancillary {
                origdst: Some(addr),
                segment_bytes: Some(1200),
                traffic_class: 0xb9,
                hops: Some(57),
            };
            assert_eq!(decode(&control), found);
        }
    }

    #[test]
    fn receive_times_are_found_beside_a_train() {
        let timespecs = |times: [[i64; 2]; 3]| -> Vec<u8> {
            times.iter().flatten().flat_map(|word| word.to_ne_bytes()).collect()
        };
        let times = |software_ns, hardware_ns| ReceiveTimes { software_ns, hardware_ns };
        for (told, wanted) in [
            (timespecs([[7, 5], [0, 0], [0, 0]]), times(Some(7_000_000_005), None)),
            (timespecs([[7, 5], [0, 0], [3, 1]]), times(Some(7_000_000_005), Some(3_000_000_001))),
            (timespecs([[0, 0], [0, 0], [3, 1]]), times(None, Some(3_000_000_001))),
            (timespecs([[i64::MAX, 5], [0, 0], [0, 0]]), times(None, None)),
            (timespecs([[7, 5], [0, 0], [0, 0]])[..20].to_vec(), times(Some(7_000_000_005), None)),
            (Vec::new(), times(None, None)),
        ] {
            let mut control = message(libc::SOL_UDP, libc::UDP_GRO, &1200_i32.to_ne_bytes());
            control.extend(message(libc::SOL_SOCKET, libc::SO_TIMESTAMPING, &told));
            assert_eq!(
                decode_receipt(&control),
                Receipt { segment_bytes: Some(1200), times: wanted, ..Receipt::default() }
            );
        }
        assert_eq!(decode_receipt(&[1, 2, 3]), Receipt::default());
    }

    #[test]
    fn headers_are_found_in_both_families() {
        let v4 = [
            message(libc::SOL_IP, libc::IP_TOS, &[0xb9]),
            message(libc::SOL_IP, libc::IP_TTL, &57_i32.to_ne_bytes()),
        ];
        let v6 = [
            message(libc::SOL_IPV6, libc::IPV6_TCLASS, &0xb9_i32.to_ne_bytes()),
            message(libc::SOL_IPV6, libc::IPV6_HOPLIMIT, &57_i32.to_ne_bytes()),
        ];
        for control in [v4.concat(), v6.concat()] {
            let wanted = Receipt { traffic_class: Some(0xb9), hops: Some(57), ..Receipt::default() };
            assert_eq!(decode_receipt(&control), wanted);
        }
    }

    #[test]
    fn the_largest_fragment_is_read_in_both_families() {
        for (level, kind) in
            [(libc::SOL_IP, libc::IP_RECVFRAGSIZE), (libc::SOL_IPV6, libc::IPV6_RECVFRAGSIZE)]
        {
            let control = message(level, kind, &1_396_i32.to_ne_bytes());
            assert_eq!(decode_receipt(&control).fragment_bytes, Some(1_396));
            assert_eq!(decode_receipt(&message(level, kind, &[1, 2])).fragment_bytes, None);
        }
        assert_eq!(decode_receipt(&[]).fragment_bytes, None);
    }

    #[test]
    fn an_icmp_error_is_read_and_a_local_one_is_none() {
        let error = |origin| {
            let mut data = (libc::ECONNREFUSED as u32).to_ne_bytes().to_vec();
            data.extend([origin, 3, 1, 0]);
            data.extend(1_400_u32.to_ne_bytes());
            data.extend([0; 4]);
            data.extend(addr::RawAddr::from("192.0.2.9:0".parse::<SocketAddr>().unwrap()).as_bytes());
            message(libc::SOL_IP, libc::IP_RECVERR, &data)
        };
        let wanted = NetworkError {
            errno: libc::ECONNREFUSED,
            icmp_type: 3,
            icmp_code: 1,
            offender: Some("192.0.2.9".parse().unwrap()),
        };
        assert_eq!(decode_error(&error(libc::SO_EE_ORIGIN_ICMP)), Some(wanted));
        assert_eq!(decode_error(&error(libc::SO_EE_ORIGIN_LOCAL)), None);
        let local = QueuedError::Local(LocalError { errno: libc::ECONNREFUSED, mtu: 1_400 });
        assert_eq!(decode_queued_error(&error(libc::SO_EE_ORIGIN_LOCAL)), Some(local));
        let by_icmp = QueuedError::Network(wanted, 1_400);
        assert_eq!(decode_queued_error(&error(libc::SO_EE_ORIGIN_ICMP)), Some(by_icmp));
        assert_eq!(decode_queued_error(&error(libc::SO_EE_ORIGIN_TIMESTAMPING)), None);
        assert_eq!(decode_error(&message(libc::SOL_IP, libc::IP_RECVERR, &[0; 8])), None);
        assert_eq!(decode_error(&[]), None);
    }

    #[test]
    fn nothing_wanted_is_nothing_found() {
        assert_eq!(decode(&[]), Ancillary::default());
        assert_eq!(decode(&message(libc::SOL_IP, libc::IP_OPTIONS, &[64, 0, 0, 0])), Ancillary::default());
    }

    #[test]
    fn hostile_lengths_end_the_scan() {
        let (wanted, _) = origdst("10.0.0.1:1");
        for len in [0, 1, HEADER_BYTES - 1, 10_000, usize::MAX, usize::MAX - 7] {
            let mut control = len.to_ne_bytes().to_vec();
            control.extend([0; 8]);
            control.extend(&wanted);
            assert_eq!(decode(&control), Ancillary::default(), "length {len}");
        }
        for cut in 0..wanted.len() - 1 {
            decode(&wanted[..cut]); // must not panic
        }
    }

    #[test]
    fn every_misalignment_reads_the_same() {
        let (wanted, addr) = origdst("[2001:db8::2]:7");
        for shift in 0..8 {
            let mut padded = vec![0; shift];
            padded.extend(&wanted);
            assert_eq!(decode(&padded[shift..]).origdst, Some(addr));
        }
    }

    #[test]
    fn a_reply_is_laid_out_as_the_kernel_wants_it() {
        let mut control = Control::EMPTY;
        control.encode(Some("192.0.2.1".parse().unwrap()), 0, Some(1200));
        let mut wanted = message(libc::SOL_IP, libc::IP_PKTINFO, &[0, 0, 0, 0, 192, 0, 2, 1, 0, 0, 0, 0]);
        wanted.extend(message(libc::SOL_UDP, libc::UDP_SEGMENT, &1200_u16.to_ne_bytes()));
        assert_eq!(control.as_bytes(), wanted);

        control.push_dscp(Domain::Ipv4, 0xb8);
        wanted.extend(message(libc::SOL_IP, libc::IP_TOS, &0xb8_i32.to_ne_bytes()));
        assert_eq!(control.as_bytes(), wanted);

        control.encode(Some("fe80::9".parse().unwrap()), 3, None);
        let Message { data, rest, .. } = Message::first_of(control.as_bytes()).unwrap();
        assert_eq!((data[15], &data[16..20], rest.len()), (9, &3_u32.to_ne_bytes()[..], 0));
        control.encode(Some("fe80::9".parse().unwrap()), 3, Some(1200));
        control.push_dscp(Domain::Ipv6, 0x28);
        assert!(control.as_bytes().ends_with(&message(
            libc::SOL_IPV6,
            libc::IPV6_TCLASS,
            &0x28_i32.to_ne_bytes()
        )));
        control.push_hops(Domain::Ipv6, 63);
        assert_eq!(control.as_bytes().len(), CONTROL_OUT_BYTES, "there is room for all of it");
        assert!(control.as_bytes().ends_with(&message(
            libc::SOL_IPV6,
            libc::IPV6_HOPLIMIT,
            &63_i32.to_ne_bytes()
        )));

        control.encode(None, 0, None);
        assert!(control.as_bytes().is_empty());
    }

    #[test]
    #[allow(unsafe_code)]
    fn sizes_are_those_of_libc() {
        for bytes in [1, 2, 4, 12, 20, 28] {
            // SAFETY: CMSG_SPACE is arithmetic on its argument
            assert_eq!(space(bytes as usize), unsafe { libc::CMSG_SPACE(bytes) } as usize);
        }
    }
}
