//! The groups of one socket, in the buffers that their datagrams were received into.
//!
//! A group is a chain of buffers in the order of arrival. The number of the first buffer is also the group's number and
//! that of its message, so nothing is allocated and no byte is copied.

use super::egress::Egress;
use super::group::{Arrival, Group};
use super::progress::{Next, Progress};
use crate::kernel::ring::{
    BufferConfig, BufferRing, DATAGRAM_HEADER_BYTES, Message, Messages, PinnedBytes, ReceivedPart, Ring,
    RingError, SEGMENTS_MAX, Transmit,
};
use crate::policy::flow::{Flow, HashKey};

/// A buffer holds the largest train. Its size is an odd number of cache lines, so that the headers of
/// all buffers spread over the cache instead of falling into the same set.
const BUFFER_BYTES: u32 = {
    let lines = (DATAGRAM_HEADER_BYTES + 65_535).div_ceil(64);
    ((lines | 1) * 64) as u32
};
/// Places of the table that finds a flow's group.
const FLOW_PLACES: usize = 256;
/// No buffer.
const NONE: u16 = u16::MAX;

/// The datagram or train in a buffer, until the buffer goes back to the kernel.
#[derive(Debug)]
struct Received {
    part: ReceivedPart,
    payload: PinnedBytes,
}

/// A buffer, and the group that begins with it.
#[derive(Debug)]
struct Entry {
    received: Option<Received>,
    /// The next buffer of the same group.
    next: u16,
    /// Without meaning while `progress` is [`Progress::Free`].
    group: Group,
    progress: Progress,
}

/// The group that a flow has begun last, and in which turn.
#[derive(Clone, Copy, Debug)]
struct Place {
    turn: u64,
    first: u16,
}

/// Buffers, messages and groups of a socket.
pub(super) struct Groups {
    pub(super) buffers: BufferRing,
    messages: Messages<SEGMENTS_MAX>,
    entries: Vec<Entry>,
    /// This turn's groups by their first buffers, in the order of arrival.
    pub(super) gathered: Vec<u16>,
    /// By the hash of the flow. Two flows that share a place split each other's groups; which ones do depends on the key.
    places: Box<[Place; FLOW_PLACES]>,
    places_key: HashKey,
}

impl Groups {
    /// Groups in `count` buffers, which are registered with the ring.
    pub(super) fn new(ring: &mut Ring, count: u16) -> Result<Self, RingError> {
        let config = BufferConfig { count, buffer_bytes: BUFFER_BYTES, incremental: false };
        let nobody = ([0; 4], 0).into();
        let empty = Group::new(Flow { peer: nobody, origdst: nobody }, Arrival::new(0, None, 0), NONE);
        let entry = || Entry { received: None, next: NONE, group: empty, progress: Progress::Free };
        Ok(Self {
            buffers: BufferRing::new(ring, config)?,
            messages: Messages::new(count.into()),
            entries: (0..count).map(|_| entry()).collect(),
            gathered: Vec::with_capacity(count.into()),
            places: Box::new([Place { turn: 0, first: NONE }; FLOW_PLACES]),
            places_key: HashKey::draw(),
        })
    }

    pub(super) fn group(&self, first: u16) -> &Group {
        &self.entries[usize::from(first)].group
    }

    /// The group, and how far it is on its way out.
    pub(super) fn get(&self, first: u16) -> (&Group, Progress) {
        let Entry { group, progress, .. } = &self.entries[usize::from(first)];
        (group, *progress)
    }

    /// Puts an arrival into this turn's group of its flow, or begins a group with it. `refuses_trains`: nothing must join
    /// it, since the path of its peer takes no trains.
    pub(super) fn add(
        &mut self,
        part: ReceivedPart,
        payload: PinnedBytes,
        flow: Flow,
        arrival: Arrival,
        turn: u64,
        refuses_trains: impl FnOnce() -> bool,
    ) {
        let buffer = part.buffer();
        let place = &mut self.places[flow.hash(&self.places_key) as usize % FLOW_PLACES];
        let entry = &mut self.entries[usize::from(buffer)];
        debug_assert!(
            entry.received.is_none() && entry.progress == Progress::Free,
            "buffer {buffer} is used"
        );
        entry.received = Some(Received { part, payload });
        entry.next = NONE;
        if place.turn == turn {
            let first = place.first;
            let Entry { group, progress, .. } = &mut self.entries[usize::from(first)];
            debug_assert_eq!(*progress, Progress::Gathering, "a group of this turn gathers until its end");
            if group.flow == flow && group.join(arrival) {
                let last = std::mem::replace(&mut group.last, buffer);
                self.entries[usize::from(last)].next = buffer;
                self.messages.push(first.into(), payload);
                return;
            }
        }
        let mut group = Group::new(flow, arrival, buffer);
        group.closed |= refuses_trains();
        let entry = &mut self.entries[usize::from(buffer)];
        entry.group = group;
        entry.progress.gather();
        *place = Place { turn, first: buffer };
        self.gathered.push(buffer);
        self.messages.clear(buffer.into());
        self.messages.push(buffer.into(), payload);
    }

    /// The group waits to be sent as single datagrams.
    pub(super) fn await_split(&mut self, first: u16) {
        self.entries[usize::from(first)].progress.await_split();
    }

    /// All datagrams of the group are sent: the message for that.
    pub(super) fn send_whole(&mut self, first: u16, egress: Egress) -> Message {
        let Entry { group, progress, .. } = &mut self.entries[usize::from(first)];
        progress.send_whole(egress);
        let segment_bytes = (group.datagrams > 1).then_some(group.segment_bytes as u16);
        let transmit = Transmit { segment_bytes, ..single(group, egress) };
        self.messages.finish(first.into(), &transmit)
    }

    /// Each datagram of the group is sent by itself, in order: gives them to `send`.
    pub(super) fn send_split(
        &mut self,
        first: u16,
        egress: Egress,
        mut send: impl FnMut(PinnedBytes, &Transmit),
    ) {
        let group = self.group(first);
        let (datagrams, transmit) = (group.datagrams, single(group, egress));
        self.entries[usize::from(first)].progress.send_split(egress, datagrams as u16);
        let mut given = 0;
        self.for_each_datagram(first, |datagram| {
            send(datagram, &transmit);
            given += 1;
        });
        debug_assert_eq!(given, datagrams, "the buffers of a group hold its datagrams");
    }

    /// The datagrams of the group are sent one after the other: the message for the first one.
    pub(super) fn send_one_by_one(&mut self, first: u16, egress: Egress) -> Message {
        self.entries[usize::from(first)].progress.send_one_by_one(egress);
        self.datagram(first, 0, egress)
    }

    /// A message of the group is through. What follows it; with the last one the buffers go back to the kernel.
    pub(super) fn complete(&mut self, first: u16) -> Next {
        let Entry { group, progress, .. } = &mut self.entries[usize::from(first)];
        let next = progress.complete(group.datagrams);
        if next == Next::Recycle {
            self.recycle(first);
        }
        next
    }

    /// The message for one datagram of the group.
    pub(super) fn datagram(&mut self, first: u16, number: u16, egress: Egress) -> Message {
        let (mut count, mut wanted) = (0, None);
        self.for_each_datagram(first, |datagram| {
            if count == number {
                wanted = Some(datagram);
            }
            count += 1;
        });
        let transmit = single(self.group(first), egress);
        self.messages.clear(first.into());
        self.messages.push(first.into(), wanted.expect("a group has so many"));
        self.messages.finish(first.into(), &transmit)
    }

    /// The group's message as it was sent, to send it once more.
    pub(super) fn again(&self, first: u16) -> Message {
        self.messages.again(first.into())
    }

    /// There is no way out for the group.
    pub(super) fn drop_unsent(&mut self, first: u16) {
        self.entries[usize::from(first)].progress.drop_unsent();
        self.recycle(first);
    }

    /// Gives each datagram of a group to `visit`, in order.
    fn for_each_datagram(&self, first: u16, mut visit: impl FnMut(PinnedBytes)) {
        let segment_bytes = self.group(first).segment_bytes;
        let mut buffer = first;
        while buffer != NONE {
            let entry = &self.entries[usize::from(buffer)];
            let mut rest = entry.received.as_ref().expect("a buffer of a group is ours").payload;
            while rest.bytes() > segment_bytes {
                visit(rest.part(0, segment_bytes));
                rest = rest.skip(segment_bytes);
            }
            visit(rest);
            buffer = entry.next;
        }
    }

    /// Gives all buffers of a group back to the kernel.
    fn recycle(&mut self, first: u16) {
        let mut buffer = first;
        while buffer != NONE {
            let entry = &mut self.entries[usize::from(buffer)];
            let received = entry.received.take().expect("a buffer of a group is ours");
            self.buffers.recycle(received.part);
            buffer = entry.next;
        }
    }

    /// All buffers are the kernel's: there is no group.
    pub(super) fn is_empty(&self) -> bool {
        self.buffers.available() == self.buffers.count()
    }
}

/// How one datagram of a group is sent.
fn single(group: &Group, egress: Egress) -> Transmit {
    let Group { flow, dscp, hops, .. } = *group;
    Transmit { peer: flow.peer, source: egress.source(&flow), segment_bytes: None, dscp, hops }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Groups {
        /// A group that was never received.
        pub(in crate::echo::udp) fn pretend(&mut self, first: u16, group: Group) {
            let entry = &mut self.entries[usize::from(first)];
            entry.group = group;
            entry.progress.gather();
        }
    }
}
