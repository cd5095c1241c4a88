//! A listening socket of the UDP datapath: its buffers, and what becomes of each.
//!
//! The buffers of a group are a chain by their numbers, from the first on, whose number is also that of the group
//! and of its message.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use super::Operations;
use super::drops::Drops;
use super::group::{Arrival, Group, Via};
use super::waiting::{Departure, Lanes};
use crate::echo::udp::reply_sockets::{ReplySockets, WayOut};
use crate::kernel::addr::{self, Domain};
use crate::kernel::cmsg;
use crate::kernel::pause::Failures;
use crate::kernel::ring::{
    BufferConfig, BufferRing, DATAGRAM_HEADER_BYTES, File, Messages, PinnedBytes, Quiet, ReceivedPart, Ring,
    RingError, SEGMENTS_MAX, Token, Transmit, Unusable,
};
use crate::kernel::sys;
use crate::policy::counters::Traffic;
use crate::policy::flow::{Flow, HashKey, Refusals};
use crate::policy::refuse::Gate;
use crate::sockets::listening::{Fate, Listening};

/// Buffers of all sockets of a worker, 64 MiB of them: the memory that peers can have it use.
const BUFFERS: usize = 1024;
/// Buffers of each socket, at the most: what one turn can receive.
const BUFFERS_MAX: usize = 128;
/// Buffers of each socket, at the least.
const BUFFERS_MIN: usize = 16;
/// A buffer holds the largest train. Its size is an odd number of cache lines, so that the headers of
/// all buffers spread over the cache instead of falling into the same set.
const BUFFER_BYTES: u32 = {
    let lines = (DATAGRAM_HEADER_BYTES + 65_535).div_ceil(64);
    ((lines | 1) * 64) as u32
};
/// Places of the table that finds a flow's open group.
const FLOW_PLACES: usize = 256;
/// No buffer.
const NONE: u16 = u16::MAX;

/// So many seconds without a datagram give a socket's memory back; tests have little time.
const IDLE_TICKS: u32 = if cfg!(test) { 1 } else { 5 };

/// How many buffers each of so many sockets has.
pub(super) fn buffers_each(sockets: usize) -> u16 {
    let each = (BUFFERS / sockets.max(1)).clamp(BUFFERS_MIN, BUFFERS_MAX);
    1 << each.ilog2()
}

/// What a socket's buffers hold of the system's memory, as far as a look now and then tells.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// The buffers' mark at the last look.
    mark: u16,
    /// Looks since something was received; `None`: everything was given back.
    idle: Option<u32>,
}

/// What becomes of one received buffer.
#[derive(Debug)]
pub(super) struct Reply {
    /// The buffer, until it goes back.
    part: Option<ReceivedPart>,
    /// Where its payload is.
    payload: Option<PinnedBytes>,
    /// The next buffer of the same group.
    next: u16,
    /// What the group is, if this buffer is its first.
    pub(super) group: Group,
}

/// How far receiving on a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    /// The multishot is in the kernel.
    Armed,
    /// It is, but a cancellation is under way.
    Cancelling,
    /// It has ended and wants to be armed again.
    Ended,
    /// It has ended too often in a row for nothing: it is armed again after a pause.
    Paused,
    /// For good.
    Off,
}

pub(super) struct Socket {
    /// `None` once it was retired.
    pub(super) listening: Option<Listening>,
    pub(super) addr: SocketAddr,
    pub(super) domain: Domain,
    pub(super) fate: Fate,
    pub(super) file: File,
    pub(super) number: u16,
    /// Which reply sockets answer for it.
    pub(super) way_out: WayOut,
    pub(super) buffers: BufferRing,
    pub(super) messages: Messages<SEGMENTS_MAX>,
    pub(super) replies: Vec<Reply>,
    pub(super) receiving: Receiving,
    /// Receives in a row that ended without anything received.
    pub(super) failures: Failures,
    /// What the kernel drops; `None` if a filter drops, too, and nobody can tell which it was.
    pub(super) drops: Option<Drops>,
    held: Held,
    /// First buffers of this turn's groups, in the order of arrival.
    pub(super) open: Vec<u16>,
    /// Where a flow's open group may be: the turn that wrote the place, and the group's first buffer.
    /// Two flows that share a place split each other's groups; which ones do depends on the key.
    places: Box<[(u64, u16); FLOW_PLACES]>,
    places_key: HashKey,
}

impl Socket {
    /// Registers `listening` as `file` and gives it buffers of its own, in a group of the same number.
    pub(super) fn new(
        ring: &mut Ring,
        listening: Listening,
        number: u16,
        file: File,
        way_out: WayOut,
        buffers: u16,
    ) -> Result<Self, RingError> {
        ring.register_file(file, listening.shared())?;
        let config = BufferConfig {
            group: file.0 as u16,
            count: buffers,
            buffer_bytes: BUFFER_BYTES,
            incremental: false,
        };
        let nobody = Flow { peer: listening.addr, origdst: listening.addr };
        let empty = Group::new(nobody, Arrival::new(0, None, 0), NONE);
        let ring_of_buffers = BufferRing::new(ring, config)?;
        Ok(Self {
            addr: listening.addr,
            domain: Domain::of(listening.addr),
            fate: listening.fate,
            // what retires has a filter already
            drops: Drops::new(listening.as_fd()).filter(|_| listening.fate != Fate::Retires),
            listening: Some(listening),
            file,
            number,
            way_out,
            held: Held { mark: ring_of_buffers.mark(), idle: None },
            buffers: ring_of_buffers,
            messages: Messages::new(buffers.into()),
            replies: (0..buffers)
                .map(|_| Reply { part: None, payload: None, next: NONE, group: empty })
                .collect(),
            receiving: Receiving::Ended,
            failures: Failures::default(),
            open: Vec::with_capacity(buffers.into()),
            places: Box::new([(0, NONE); FLOW_PLACES]),
            places_key: HashKey::draw(),
        })
    }

    /// Reads what came in, and puts it where it will be sent from.
    pub(super) fn arrived(
        &mut self,
        part: ReceivedPart,
        turn: u64,
        gate: &mut Gate,
        refusals: &mut Refusals,
        counters: &Traffic,
    ) {
        let datagram = match self.buffers.datagram(&part) {
            Ok(datagram) => datagram,
            Err(unusable) => {
                match unusable {
                    Unusable::PayloadTruncated | Unusable::ControlTruncated => counters.udp_truncated.add(1),
                    Unusable::Malformed => counters.udp_receive_errors.add(1),
                }
                self.buffers.recycle(part);
                return;
            }
        };
        let ancillary = cmsg::decode(datagram.control);
        let mut arrival =
            Arrival::new(datagram.payload_bytes, ancillary.segment_bytes, ancillary.traffic_class);
        let (Some(peer), Some(origdst)) = (addr::decode(datagram.name), ancillary.origdst) else {
            counters.udp_unaddressed.add(arrival.segments.into());
            self.buffers.recycle(part);
            return;
        };
        let payload = self.buffers.pinned(&part).part(datagram.payload_offset, datagram.payload_bytes);
        counters.udp_datagrams_in.add(arrival.segments.into());
        counters.udp_bytes_in.add(arrival.bytes.into());
        counters.udp_trains_in.add((arrival.segments > 1).into());

        let flow = Flow { peer, origdst };
        if gate.rules().is_exposed(&flow) {
            counters.udp_exposed.add(arrival.segments.into());
        }
        let refusal = gate.refuse(&flow, arrival.segments);
        match refusal.map_or_else(|| gate.rules().hops(&flow, ancillary.hops), Err) {
            Ok(hops) => arrival.hops = hops,
            Err(refusal) => {
                refusal.counter(counters).add(arrival.segments.into());
                self.buffers.recycle(part);
                return;
            }
        }
        let buffer = part.buffer();
        let place = &mut self.places[flow.hash(&self.places_key) as usize % FLOW_PLACES];
        let reply = &mut self.replies[usize::from(buffer)];
        reply.part = Some(part);
        reply.payload = Some(payload);
        reply.next = NONE;
        if place.0 == turn {
            let first = place.1;
            let group = &mut self.replies[usize::from(first)].group;
            if group.flow == flow && group.join(arrival) {
                let last = std::mem::replace(&mut group.last, buffer);
                self.replies[usize::from(last)].next = buffer;
                self.messages.push(first.into(), payload);
                return;
            }
        }
        let mut group = Group::new(flow, arrival, buffer);
        group.closed |= refusals.contains(peer.ip(), sys::now);
        self.replies[usize::from(buffer)].group = group;
        *place = (turn, buffer);
        self.open.push(buffer);
        self.messages.clear(buffer.into());
        self.messages.push(buffer.into(), payload);
    }

    /// Receiving has ended for nothing once more.
    pub(super) fn fail(&mut self, counters: &Traffic) {
        if self.failures.add() && self.receiving == Receiving::Ended {
            self.receiving = Receiving::Paused;
            counters.udp_receive_pauses.add(1);
        }
    }

    /// A second has passed: whether anything is left to give back.
    pub(super) fn look(&mut self) -> bool {
        let mark = self.buffers.mark();
        if mark != self.held.mark {
            self.held = Held { mark, idle: Some(0) };
        } else if let Some(idle) = &mut self.held.idle {
            *idle += 1;
        }
        self.held.idle.is_some()
    }

    /// Gives the memory of the buffers back, if nothing was received for a while.
    pub(super) fn give_back_idle(&mut self, quiet: Quiet<'_>) {
        let is_idle = self.held.idle.is_some_and(|idle| idle >= IDLE_TICKS);
        if is_idle && self.held.mark == self.buffers.mark() && self.buffers.give_back(quiet) {
            self.held.idle = None;
        }
    }

    /// Ends receiving, when nothing is queued. What another processor was just putting into the queue as
    /// the filter came shows up later, and is received all the same.
    pub(super) fn end_if_empty(&mut self, ring: &mut Ring, operations: Operations) -> io::Result<()> {
        let Some(listening) = &self.listening else { return Ok(()) };
        if sys::receive_queue_bytes(listening.as_fd())? == 0 {
            self.end(ring, operations);
        } else if self.receiving == Receiving::Off {
            self.receiving = Receiving::Ended;
        }
        Ok(())
    }

    /// Ends receiving for good.
    pub(super) fn end(&mut self, ring: &mut Ring, operations: Operations) {
        match self.receiving {
            Receiving::Armed => {
                self.receiving = Receiving::Cancelling;
                ring.cancel(operations.receive(self.number), Token::new(operations.cancel, 0, 0));
            }
            Receiving::Ended | Receiving::Paused => self.receiving = Receiving::Off,
            Receiving::Cancelling | Receiving::Off => {}
        }
    }

    /// Receives no more, and has sent all replies.
    pub(super) fn is_done(&self) -> bool {
        self.receiving == Receiving::Off && self.buffers.available() == self.buffers.count()
    }

    /// How a reply of `flow` gets out, if no new reply socket is needed for it.
    pub(super) fn via(&self, flow: &Flow, reply_sockets: &mut ReplySockets, turn: u64) -> Option<Via> {
        if flow.origdst.port() == self.addr.port() {
            Some(Via { file: self.file, tells_source: true })
        } else {
            reply_sockets.get(flow.origdst, self.way_out, turn).map(|file| Via { file, tells_source: false })
        }
    }

    /// Sends a group.
    pub(super) fn send(
        &mut self,
        first: u16,
        via: Via,
        lanes: &mut Lanes,
        ring: &mut Ring,
        operations: Operations,
    ) {
        let group = &mut self.replies[usize::from(first)].group;
        (group.in_flight, group.via) = (1, via);
        let transmit = Transmit {
            peer: group.flow.peer,
            source: via.source(&group.flow),
            segment_bytes: (group.segments > 1).then_some(group.segment_bytes as u16),
            dscp: group.dscp,
            hops: group.hops,
        };
        let message = self.messages.finish(first.into(), &transmit);
        let token = operations.group(self.number, first);
        lanes.send(via.file, Departure { token, message, flow: group.flow }, ring);
    }

    /// The `number`th datagram of a group, to be sent by itself.
    pub(super) fn departure_singly(
        &mut self,
        first: u16,
        via: Via,
        number: u16,
        operations: Operations,
    ) -> Departure {
        let (mut count, mut wanted) = (0, None);
        self.for_each_datagram(first, |datagram| {
            if count == number {
                wanted = Some(datagram);
            }
            count += 1;
        });
        let group = &mut self.replies[usize::from(first)].group;
        (group.in_flight, group.via, group.singly) = (1, via, Some(number));
        let Group { flow, dscp, hops, .. } = *group;
        let transmit =
            Transmit { peer: flow.peer, source: via.source(&flow), segment_bytes: None, dscp, hops };
        self.messages.clear(first.into());
        self.messages.push(first.into(), wanted.expect("a group has so many"));
        let message = self.messages.finish(first.into(), &transmit);
        Departure { token: operations.group(self.number, first), message, flow }
    }

    /// Gives each datagram of a group to `send`, in order.
    pub(super) fn for_each_datagram(&self, first: u16, mut send: impl FnMut(PinnedBytes)) {
        let segment_bytes = self.replies[usize::from(first)].group.segment_bytes;
        let mut buffer = first;
        while buffer != NONE {
            let reply = &self.replies[usize::from(buffer)];
            let mut rest = reply.payload.expect("a buffer of a group has a payload");
            while rest.bytes() > segment_bytes {
                send(rest.part(0, segment_bytes));
                rest = rest.skip(segment_bytes);
            }
            send(rest);
            buffer = reply.next;
        }
    }

    /// Gives all buffers of a group back to the kernel.
    pub(super) fn recycle(&mut self, first: u16) {
        let mut buffer = first;
        while buffer != NONE {
            let reply = &mut self.replies[usize::from(buffer)];
            self.buffers.recycle(reply.part.take().expect("a buffer of a group is out"));
            buffer = reply.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_sockets_share_what_one_worker_may_take() {
        assert_eq!([1, 2, 8, 9, 16, 64, 256].map(buffers_each), [128, 128, 128, 64, 64, 16, 16]);
        assert!((1..=64).all(|sockets| usize::from(buffers_each(sockets)) * sockets <= BUFFERS));
    }
}
