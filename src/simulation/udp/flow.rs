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
    /// The datagrams that were sent back, and the highest number of them.
    answered: Vec<Answered>,
    latest: u64,
}

/// A datagram that was sent back.
#[derive(Clone, Copy, Debug)]
struct Answered {
    sequence: u64,
    /// The turn in which the process queued it, for the last and for the first time.
    queued: u64,
    first_queued: u64,
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
    /// The path refused it as part of a train before the process knew of that. Replies that were queued up to this turn, for
    /// the first time, may overtake it.
    pub(super) split: Option<u64>,
    /// The turn in which it was queued for the first time, if it has come back since.
    pub(super) first_queued: Option<u64>,
}

impl Flow {
    pub(super) fn new(
        peer: SocketAddr,
        origdst: SocketAddr,
        socket: usize,
        expected: Expected,
        refuses_trains: Option<i32>,
    ) -> Self {
        let (unanswered, answered) = (VecDeque::new(), Vec::new());
        Self { peer, origdst, socket, expected, refuses_trains, unanswered, sent: 0, answered, latest: 0 }
    }

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
            let Datagram { sequence, bytes, failed, passable, split, first_queued, .. } =
                self.unanswered.remove(place).expect("it is there");
            if bytes >= content::ID_BYTES {
                let may_pass = |other: &&Answered| {
                    other.sequence < sequence
                        || passable.is_some_and(|until| other.queued <= until)
                        || split.is_some_and(|until| other.first_queued <= until)
                };
                if !failed && sequence < self.latest {
                    let passed_by = self.answered.iter().find(|answered| !may_pass(answered));
                    assert!(passed_by.is_none(), "{}'s {sequence} is echoed behind {passed_by:?}", self.peer);
                }
                self.latest = sequence.max(self.latest);
                let first_queued = first_queued.unwrap_or(turn);
                self.answered.push(Answered { sequence, queued: turn, first_queued });
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
