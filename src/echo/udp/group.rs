//! Which datagrams leave together: what one GSO send can carry. Arithmetic on sizes and counts, without sockets.
//!
//! A group has one flow, one DSCP and one hop limit. All its datagrams have one size but the last, which may be shorter
//! and closes the group. A received train (GRO) joins like the datagrams that it consists of.

use std::net::SocketAddr;

use crate::kernel::addr::datagram_bytes_max;
use crate::kernel::cmsg::DSCP_BITS;
use crate::kernel::ring::SEGMENTS_MAX;
use crate::policy::flow::Flow;

/// Datagrams that arrived one by one become a train only up to a size that fits every Ethernet path.
fn coalesced_bytes_max(peer: SocketAddr) -> u32 {
    if peer.is_ipv4() { 1472 } else { 1452 }
}

/// Datagrams of one flow that leave together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub(super) flow: Flow,
    /// The DSCP that they leave with, in its place in the traffic class.
    pub(super) dscp: u8,
    /// The hop limit that they leave with; 0 leaves it to the socket.
    pub(super) hops: u8,
    /// Bytes of each datagram but perhaps the last.
    pub(super) segment_bytes: u32,
    /// How many they are.
    pub(super) datagrams: u32,
    /// Bytes of all payloads.
    pub(super) bytes: u32,
    /// No more datagrams may join.
    pub(super) closed: bool,
    /// The last buffer of its chain.
    pub(super) last: u16,
}

/// One datagram or a train, received into one buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// Bytes of each datagram but perhaps the last.
    pub(super) segment_bytes: u32,
    /// How many datagrams.
    pub(super) datagrams: u32,
    /// Bytes of all payloads.
    pub(super) bytes: u32,
    /// The DSCP that it came with, in its place in the traffic class.
    pub(super) dscp: u8,
    /// The hop limit that its reply leaves with; 0 leaves it to the socket.
    pub(super) hops: u8,
}

impl Arrival {
    /// A payload of `bytes`; with `segment_bytes` (`UDP_GRO`) a train of datagrams of that size. All datagrams of a train
    /// have the same `traffic_class`: the kernel merges no others.
    pub(super) fn new(bytes: u32, segment_bytes: Option<u16>, traffic_class: u8) -> Self {
        let dscp = traffic_class & DSCP_BITS;
        match segment_bytes.map(u32::from) {
            Some(segment_bytes) if segment_bytes > 0 && segment_bytes < bytes => {
                Self { segment_bytes, datagrams: bytes.div_ceil(segment_bytes), bytes, dscp, hops: 0 }
            }
            _ => Self { segment_bytes: bytes, datagrams: 1, bytes, dscp, hops: 0 },
        }
    }

    /// All datagrams have the full size.
    fn is_even(self) -> bool {
        self.bytes == self.datagrams * self.segment_bytes
    }
}

impl Group {
    /// The group that `arrival`, received into `buffer`, opens.
    pub(super) fn new(flow: Flow, arrival: Arrival, buffer: u16) -> Self {
        let Arrival { segment_bytes, datagrams, bytes, dscp, hops } = arrival;
        let closed = bytes == 0
            || !arrival.is_even()
            || datagrams == 1 && segment_bytes > coalesced_bytes_max(flow.peer);
        Self { flow, dscp, hops, segment_bytes, datagrams, bytes, closed, last: buffer }
    }

    /// Takes `arrival` in behind the other datagrams, if one GSO send can still carry all of them.
    pub(super) fn join(&mut self, arrival: Arrival) -> bool {
        let Arrival { segment_bytes, datagrams, bytes, dscp, hops } = arrival;
        let same_size = segment_bytes == self.segment_bytes;
        let shorter_last = datagrams == 1 && bytes < self.segment_bytes;
        let fits = !self.closed
            && bytes > 0
            && (dscp, hops) == (self.dscp, self.hops)
            && (same_size || shorter_last)
            && (self.datagrams + datagrams) as usize <= SEGMENTS_MAX
            && (self.bytes + bytes) as usize <= datagram_bytes_max(self.flow.peer.ip());
        if fits {
            self.datagrams += datagrams;
            self.bytes += bytes;
            self.closed = !same_size || !arrival.is_even();
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        Flow { peer: "192.0.2.1:9".parse().unwrap(), origdst: "192.0.2.2:1234".parse().unwrap() }
    }

    fn group(bytes: u32, segment_bytes: Option<u16>) -> Group {
        Group::new(flow(), Arrival::new(bytes, segment_bytes, 0), 0)
    }

    #[test]
    fn an_arrival_is_counted_in_datagrams() {
        for (bytes, segment_bytes, datagrams) in
            [(0, None, 1), (100, None, 1), (100, Some(100), 1), (101, Some(100), 2), (300, Some(100), 3)]
        {
            assert_eq!(
                Arrival::new(bytes, segment_bytes, 0).datagrams,
                datagrams,
                "{bytes} / {segment_bytes:?}"
            );
        }
        assert_eq!(Arrival::new(100, Some(0), 0), Arrival::new(100, None, 0), "a size of zero is no size");
    }

    #[test]
    fn equal_sizes_join_and_a_shorter_one_closes() {
        let mut open = group(100, None);
        assert!(open.join(Arrival::new(100, None, 0)));
        assert!(open.join(Arrival::new(300, Some(100), 0)));
        assert!(!open.join(Arrival::new(101, None, 0)), "a larger one never joins");
        assert!(!open.join(Arrival::new(0, None, 0)), "an empty one never joins");
        assert!(!open.join(Arrival::new(80, Some(40), 0)), "a train of another size never joins");
        assert!(open.join(Arrival::new(99, None, 0)));
        assert!(!open.join(Arrival::new(100, None, 0)), "behind a shorter one nothing joins");
        assert_eq!((open.datagrams, open.bytes), (6, 599));
    }

    #[test]
    fn a_group_has_one_dscp_and_no_ecn() {
        let (ef, ef_and_ce, af) = (0xb8, 0xbb, 0x28);
        let mut open = Group::new(flow(), Arrival::new(100, None, ef_and_ce), 0);
        assert_eq!(open.dscp, ef);
        assert!(!open.join(Arrival::new(100, None, 0)));
        assert!(!open.join(Arrival::new(200, Some(100), af)));
        assert!(open.join(Arrival::new(200, Some(100), ef)));
    }

    #[test]
    fn a_group_has_one_hop_limit() {
        let with = |hops| Arrival { hops, ..Arrival::new(100, None, 0) };
        let mut open = Group::new(flow(), with(63), 0);
        assert!(!open.join(with(62)) && !open.join(with(0)) && open.join(with(63)));
        assert_eq!(open.hops, 63);
    }

    #[test]
    fn a_train_with_a_short_tail_is_closed() {
        let mut open = group(250, Some(100));
        assert!(!open.join(Arrival::new(100, None, 0)));
        let mut open = group(200, Some(100));
        assert!(open.join(Arrival::new(250, Some(100), 0)));
        assert!(!open.join(Arrival::new(100, None, 0)));
        assert_eq!((open.datagrams, open.bytes), (5, 450));
    }

    #[test]
    fn one_send_carries_so_many_datagrams_and_bytes() {
        let mut open = group(1, None);
        let joined = (0..100).filter(|_| open.join(Arrival::new(1, None, 0))).count();
        assert_eq!(joined + 1, SEGMENTS_MAX);
        let mut open = group(1400, None);
        let joined = (0..100).filter(|_| open.join(Arrival::new(1400, None, 0))).count();
        assert_eq!(joined + 1, 65_507 / 1400);
    }

    #[test]
    fn datagrams_that_may_not_fit_a_path_form_no_train() {
        assert!(!group(1473, None).join(Arrival::new(1473, None, 0)));
        assert!(group(1472, None).join(Arrival::new(1472, None, 0)));
        assert!(
            group(4000, Some(2000)).join(Arrival::new(4000, Some(2000), 0)),
            "what came as a train may leave so"
        );
        assert!(!group(0, None).join(Arrival::new(0, None, 0)));
    }
}
