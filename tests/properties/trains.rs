//! Groups of datagrams: the kernel cuts what leaves in one GSO send into the datagrams that came in.

use tubular_echo::kernel::ring::SEGMENTS_MAX;
use tubular_echo::policy::flow::Flow;

use crate::group::{Arrival, Group};
use crate::input::Input;

/// Takes datagrams and trains of any sizes, and offers each to the group that the first one opens.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    let v4 = input.u8() & 1 == 0;
    let peer = if v4 { "192.0.2.1:9" } else { "[2001:db8::1]:9" }.parse().unwrap();
    let bytes_max = if v4 { 65_507 } else { 65_527 };
    let flow = Flow { peer, origdst: peer };
    let mut sent: Option<(Group, Vec<u32>)> = None;
    while !input.is_empty() {
        let (bytes, segment_bytes) = (u32::from(input.u16()), input.u16());
        let segment_bytes = (segment_bytes != u16::MAX).then_some(segment_bytes);
        // the kernel groups at most 64 datagrams
        if bytes > bytes_max || segment_bytes.is_some_and(|size| size > 0 && bytes / u32::from(size) > 100) {
            continue;
        }
        // one in eight has a DSCP, some have ECN bits
        let (dscp, ecn) = if bytes % 8 == 5 { (0xb8, 0) } else { (0, bytes as u8 & 3) };
        let arrival = Arrival::new(bytes, segment_bytes, dscp | ecn);
        assert_eq!(arrival.dscp, dscp);
        let datagrams = match segment_bytes.map(u32::from) {
            None | Some(0) => vec![bytes],
            Some(size) if size >= bytes => vec![bytes],
            Some(size) => cut(bytes, size),
        };
        assert_eq!((arrival.datagrams as usize, arrival.bytes), (datagrams.len(), bytes));
        let Some((group, before)) = &mut sent else {
            sent = Some((Group::new(flow, arrival, 0), datagrams));
            continue;
        };
        let (first, size) = (before[0], group.segment_bytes);
        let all: Vec<u32> = before.iter().chain(&datagrams).copied().collect();
        let total: u32 = all.iter().sum();
        // a datagram that came alone may be larger than the path allows in a train: it stays alone
        let alone = before.len() == 1 && first > if v4 { 1472 } else { 1452 };
        let wanted = first > 0
            && !alone
            && dscp == group.dscp
            && total <= bytes_max
            && all.len() <= SEGMENTS_MAX
            && all.iter().all(|bytes| *bytes > 0)
            && cut(total, size) == all;
        assert_eq!(group.join(arrival), wanted, "{before:?} and {datagrams:?}");
        if wanted {
            *before = all;
        }
        assert_eq!((group.datagrams as usize, group.bytes), (before.len(), before.iter().sum()));
    }
}

/// Sizes of the datagrams that the kernel cuts a payload of `bytes` into.
fn cut(bytes: u32, size: u32) -> Vec<u32> {
    (0..bytes).step_by(size as usize).map(|at| size.min(bytes - at)).collect()
}
