//! The flows of a world, and what was not answered yet. Each reply is checked against that: its bytes, its marks, and the
//! order of its flow.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::simulation::abi::Marks;
use crate::simulation::content;
use crate::simulation::scene::Expected;

/// How many datagrams the oldest kernel takes in one message (`UDP_MAX_SEGMENTS`).
const SEGMENTS_MAX: usize = 64;

/// A flow, and its datagrams that were not answered yet.
#[derive(Debug)]
pub(in crate::simulation) struct Flow {
    pub(in crate::simulation) peer: SocketAddr,
    pub(in crate::simulation) origdst: SocketAddr,
    pub(in crate::simulation) socket: usize,
    pub(in crate::simulation) expected: Expected,
    /// The errno that the path answers to a train.
    pub(in crate::simulation) refuses_trains: Option<i32>,
    /// Datagrams that the process has received and not sent back, in order.
    pub(super) unanswered: VecDeque<Datagram>,
    pub(super) sent: u64,
    /// The datagrams that were sent back, each with the turn in which the process queued it, and the highest one.
    pub(super) answered: Vec<(u64, u64)>,
    pub(super) latest: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Datagram {
    /// Its number in the flow.
    pub(super) sequence: u64,
    pub(super) id: u64,
    pub(super) bytes: usize,
    /// The traffic class that it came with.
    pub(super) traffic_class: u8,
    /// The hop limit that it came with.
    pub(super) hops: u8,
    /// A send of it failed, so that it may come late or not at all.
    pub(super) failed: bool,
    /// It found the send buffer full before the process knew of that. Replies that were queued up to this turn may overtake
    /// it.
    pub(super) passable: Option<u64>,
}

impl Flow {
    /// Takes a reply that the process queued in this turn, and returns how many datagrams it has. Panics unless its payload
    /// was received and not sent back, and is in order.
    pub(super) fn take(
        &mut self,
        payload: &[u8],
        segment_bytes: Option<u16>,
        marks: Marks,
        turn: u64,
    ) -> u64 {
        let mut count = 0;
        for datagram in segments(payload, segment_bytes) {
            let place = find(&self.unanswered, datagram, marks).unwrap_or_else(|| {
                panic!(
                    "{} bytes with {marks:?} that {} never sent, or that were echoed before",
                    datagram.len(),
                    self.peer
                )
            });
            let Datagram { sequence, bytes, failed, passable, .. } =
                self.unanswered.remove(place).expect("it is there");
            if bytes >= content::ID_BYTES {
                let may_pass = |&(other, other_turn): &(u64, u64)| {
                    other < sequence || passable.is_some_and(|until| other_turn <= until)
                };
                if !failed && sequence < self.latest {
                    let passed_by = self.answered.iter().find(|answered| !may_pass(answered));
                    assert!(passed_by.is_none(), "{}'s {sequence} is echoed behind {passed_by:?}", self.peer);
                }
                self.latest = sequence.max(self.latest);
                self.answered.push((sequence, turn));
            }
            count += 1;
        }
        count
    }
}

/// The datagrams of a payload. Panics if it is longer than a kernel sends.
pub(super) fn segments(payload: &[u8], segment_bytes: Option<u16>) -> Vec<&[u8]> {
    assert!(payload.len() <= 65_527, "a message of {} bytes", payload.len());
    match segment_bytes {
        None => vec![payload],
        Some(segment_bytes) => {
            let segments: Vec<_> = payload.chunks(segment_bytes.into()).collect();
            assert!(segments.len() <= SEGMENTS_MAX, "a train of {} datagrams", segments.len());
            segments
        }
    }
}

/// The place of the datagram with these bytes and marks. Short datagrams may be equal: then one that did not fail.
pub(super) fn find(unanswered: &VecDeque<Datagram>, bytes: &[u8], marks: Marks) -> Option<usize> {
    let is_it = |datagram: &Datagram| {
        datagram.traffic_class & 0xfc == marks.dscp
            && (marks.hops == 0 || marks.hops == datagram.hops - 1)
            && datagram.bytes == bytes.len()
            && content::is_datagram(bytes, datagram.id)
    };
    let sound = unanswered.iter().position(|datagram| !datagram.failed && is_it(datagram));
    sound.or_else(|| unanswered.iter().position(is_it))
}
