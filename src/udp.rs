//! The UDP datapath: a datagram in, the same bytes out, from the address that was asked.
//!
//! ```text
//! completion ─► piece of a provided buffer ─► flow: peer, original destination
//!                                               │ join: same flow, same size, this turn
//!                                               ▼
//!                     group of buffers ─► one SENDMSG: PKTINFO, UDP_SEGMENT if more than one datagram;
//!                                         through a reply socket where another port was asked
//!                                               ▼
//! completion ─► all buffers of the group go back to the kernel
//! ```
//!
//! The reply state of buffer *b* is `replies[b]`, and the message slot of a group is the number of its
//! first buffer: nothing is allocated, no byte is copied. A reply is never larger than its request.
//!
//! A group is what one GSO send can carry: datagrams of one flow in the order of their arrival, all of
//! one size but the last, which may be shorter and closes the group. A received train (GRO) joins like
//! the datagrams it consists of. Groups are sent at the end of the turn that opened them; nothing waits.

mod group;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use self::group::{Arrival, Group};
use crate::addr::{self, Domain};
use crate::cmsg;
use crate::flow::{Flow, Refusals};
use crate::refuse::Gate;
use crate::reply_sockets::{Refused, ReplySockets};
use crate::ring::{
    BufferConfig, BufferRing, Completion, DATAGRAM_HEADER_BYTES, Errno, File, Messages, Patience, Piece,
    Ring, RingError, SEGMENTS_MAX, Span, Token, Transmit, Unusable,
};
use crate::sockets::{Fate, Listening};
use crate::stats::{Counters, Traffic};
use crate::sys;
use crate::verdict;

/// Buffers of each socket: what one turn can receive.
const BUFFERS: u16 = 128;
/// A buffer holds the largest train. Its size is an odd number of cache lines, so that the headers of
/// all buffers spread over the cache instead of falling into the same set.
const BUFFER_BYTES: u32 = {
    let lines = (DATAGRAM_HEADER_BYTES + 65_535).div_ceil(64);
    ((lines | 1) * 64) as u32
};
/// Places of the table that finds a flow's open group.
const FLOW_PLACES: usize = 256;
/// Messages that can be under way for trains that have to be sent singly.
const SINGLES: u16 = 256;

/// A group was sent, or one datagram of a group that was refused: what a completion's generation says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Group = 0,
    Single = 1,
}

/// The numbers of the operations that this datapath submits.
#[derive(Clone, Copy, Debug)]
pub struct Operations {
    /// Receive of datagrams; the index is the socket's.
    pub receive: u8,
    /// Send of a reply.
    pub send: u8,
    /// Cancellation of a receive.
    pub cancel: u8,
    /// A tick of the clock that finds idle reply sockets.
    pub tick: u8,
}

/// No buffer.
const NONE: u16 = u16::MAX;

/// What becomes of one received buffer.
#[derive(Debug)]
struct Reply {
    /// The buffer, until it goes back.
    piece: Option<Piece>,
    /// Where its payload is.
    payload: Option<Span>,
    /// The next buffer of the same group.
    next: u16,
    /// What the group is, if this buffer is its first.
    group: Group,
}

/// How a drain leaves the sockets that outlive us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// They are served on.
    NotYet,
    /// As soon as nothing is queued.
    WhenEmpty,
    /// At once: what is queued is the next process's.
    Now,
}

/// How far receiving on a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    /// The multishot is in the kernel.
    Armed,
    /// It is, but a cancellation is under way.
    Cancelling,
    /// It has ended and wants to be armed again.
    Ended,
    /// For good.
    Off,
}

struct Socket {
    /// `None` once it was retired.
    listening: Option<Listening>,
    addr: SocketAddr,
    domain: Domain,
    fate: Fate,
    file: File,
    number: u16,
    buffers: BufferRing,
    messages: Messages<SEGMENTS_MAX>,
    replies: Vec<Reply>,
    receiving: Receiving,
    /// First buffers of this turn's groups, in the order of arrival.
    open: Vec<u16>,
    /// Where a flow's open group may be: the turn that wrote the place, and the group's first buffer.
    places: Box<[(u64, u16); FLOW_PLACES]>,
}

/// Trains that a path refused, sent as the datagrams that they consist of.
struct Singles {
    messages: Messages<1>,
    free: Vec<u16>,
    /// Whose datagram a slot holds: socket and first buffer of the group.
    owners: Vec<(u16, u16)>,
    /// Groups that wait for slots.
    waiting: VecDeque<(u16, u16)>,
}

/// How a reply gets out: the listening socket, told the address to send from, or a reply socket, which
/// is bound to it.
#[derive(Clone, Copy)]
struct Via {
    file: File,
    source: Option<IpAddr>,
}

/// All UDP sockets of a worker.
pub struct Udp {
    operations: Operations,
    sockets: Vec<Socket>,
    singles: Singles,
    refusals: Refusals,
    gate: Gate,
    reply_sockets: ReplySockets,
    /// Groups that may need a new reply socket: socket and first buffer.
    deferred: Vec<(u16, u16)>,
    /// Sockets that are not wanted any more.
    retiring: Vec<usize>,
    turn: u64,
}

impl Udp {
    /// Registers `listening` from file `first` on and gives each socket buffers of its own, from group
    /// `first` on: a flooded socket must not take its neighbours' buffers.
    pub fn new(
        ring: &Ring,
        listening: Vec<Listening>,
        first: u32,
        reply_sockets: ReplySockets,
        gate: Gate,
        operations: Operations,
    ) -> Result<Self, RingError> {
        let mut sockets = Vec::new();
        for (number, listening) in listening.into_iter().enumerate() {
            let file = File(first + number as u32);
            ring.register_file(file, listening.as_fd())?;
            let config = BufferConfig {
                group: file.0 as u16,
                count: BUFFERS,
                buffer_bytes: BUFFER_BYTES,
                incremental: false,
            };
            let nobody = Flow { peer: listening.addr, origdst: listening.addr };
            let empty = Group::new(nobody, Arrival::new(0, None), NONE);
            sockets.push(Socket {
                addr: listening.addr,
                domain: Domain::of(listening.addr),
                fate: listening.fate,
                listening: Some(listening),
                file,
                number: number as u16,
                buffers: BufferRing::new(ring, config)?,
                messages: Messages::new(BUFFERS.into()),
                replies: (0..BUFFERS)
                    .map(|_| Reply { piece: None, payload: None, next: NONE, group: empty })
                    .collect(),
                receiving: Receiving::Ended,
                open: Vec::with_capacity(BUFFERS.into()),
                places: Box::new([(0, NONE); FLOW_PLACES]),
            });
        }
        let retires = |&number: &usize| sockets[number].fate == Fate::Retires;
        let retiring = (0..sockets.len()).filter(retires).collect();
        let singles = Singles {
            messages: Messages::new(SINGLES.into()),
            free: (0..SINGLES).collect(),
            owners: vec![(0, 0); SINGLES.into()],
            waiting: VecDeque::new(),
        };
        Ok(Self {
            operations,
            sockets,
            singles,
            refusals: Refusals::default(),
            gate,
            reply_sockets,
            deferred: Vec::new(),
            retiring,
            turn: 1,
        })
    }

    /// The socket that a receive's token means, for messages.
    pub fn addr(&self, token: Token) -> SocketAddr {
        self.sockets[token.index() as usize].addr
    }

    /// Handles the completion of a receive. An error is final for the worker: the socket or the ring is
    /// unusable.
    pub fn received(&mut self, completion: &Completion, counters: &Counters) -> Result<(), Errno> {
        let socket = &mut self.sockets[completion.token().index() as usize];
        let counters = &counters[socket.domain];
        if !completion.more() {
            let for_good = socket.receiving == Receiving::Cancelling;
            socket.receiving = if for_good { Receiving::Off } else { Receiving::Ended };
        }
        match (completion.result(), socket.buffers.take(completion)) {
            (Ok(_), Some(piece)) => {
                socket.arrived(piece, self.turn, &mut self.gate, &mut self.refusals, counters);
            }
            // no result without a buffer: nothing was received
            (Ok(_), None) => counters.udp_receive_errors.add(1),
            (Err(errno), piece) => {
                if let Some(piece) = piece {
                    socket.buffers.recycle(piece);
                }
                match verdict::of_datagrams(errno) {
                    verdict::Receive::Starved => counters.udp_no_buffers.add(1),
                    verdict::Receive::Cancelled => {}
                    verdict::Receive::Rearm | verdict::Receive::Reset => counters.udp_receive_errors.add(1),
                    verdict::Receive::Fatal => return Err(errno),
                }
            }
        }
        Ok(())
    }

    /// Handles the completion of a reply.
    pub fn sent(&mut self, completion: &Completion, ring: &mut Ring, counters: &Counters) {
        let index = completion.token().index();
        let single = completion.token().generation() == Sent::Single as u32;
        let (number, first) = if single {
            let slot = index as u16;
            self.singles.free.push(slot);
            self.singles.owners[usize::from(slot)]
        } else {
            ((index >> 16) as u16, index as u16)
        };
        let socket = &mut self.sockets[usize::from(number)];
        let counters = &counters[socket.domain];
        let Group { flow, segments, .. } = socket.replies[usize::from(first)].group;
        let train = !single && segments > 1;
        let splittable = train && segments <= SINGLES.into();
        match completion.result() {
            Ok(bytes) => {
                counters.udp_datagrams_out.add(if single { 1 } else { segments.into() });
                counters.udp_bytes_out.add(bytes.into());
                counters.udp_trains_out.add(train.into());
            }
            Err(errno) => match verdict::of_reply(errno, splittable) {
                verdict::Send::Wait if !single => {
                    counters.udp_send_waits.add(1);
                    if let Some(via) = socket.via(&flow, &mut self.reply_sockets, self.turn) {
                        let message = socket.messages.again(first.into());
                        let token = self.operations.group(number, first);
                        ring.send_message(via.file, message, Patience::Wait, token);
                        return;
                    }
                    // its reply socket has gone meanwhile
                    counters.udp_send_errors.add(segments.into());
                }
                verdict::Send::Split => {
                    counters.udp_trains_refused.add(1);
                    self.refusals.remember(flow.peer.ip(), sys::now());
                    self.singles.waiting.push_back((number, first));
                    return;
                }
                refused => {
                    let counter = match refused {
                        verdict::Send::Unreachable => &counters.udp_send_unreachable,
                        verdict::Send::Forbidden => &counters.udp_send_forbidden,
                        verdict::Send::BadSource => &counters.udp_send_bad_source,
                        _ => &counters.udp_send_errors,
                    };
                    counter.add(if single { 1 } else { segments.into() });
                }
            },
        }
        let in_flight = &mut socket.replies[usize::from(first)].group.in_flight;
        *in_flight -= 1;
        if *in_flight == 0 {
            socket.recycle(first);
        }
    }

    /// Ends the turn: sends what its datagrams ask for, and arms what has ended.
    pub fn finish_turn(&mut self, ring: &mut Ring, counters: &Counters) {
        // refused trains first: they are older than what this turn brought
        self.send_singly(ring, counters);
        for number in 0..self.sockets.len() {
            self.send_groups(number, ring);
        }
        self.send_deferred(ring, counters);
        self.send_singly(ring, counters);
        self.reply_sockets.run_clock(ring, self.operations.tick());
        // the first one armed is the first one served: take turns
        let count = self.sockets.len();
        for offset in 0..count {
            let socket = &mut self.sockets[(self.turn as usize + offset) % count];
            // arming with no buffer would fail at once, again and again
            if socket.receiving == Receiving::Ended && socket.buffers.available() > 0 {
                socket.receiving = Receiving::Armed;
                ring.receive_datagrams(socket.file, &socket.buffers, self.operations.receive(socket.number));
            }
        }
        self.gate.end_turn();
        self.turn += 1;
    }

    /// Handles a tick of the clock: closes the reply sockets that were idle for too long.
    pub fn ticked(&mut self, ring: &mut Ring) {
        self.reply_sockets.ticked(ring);
    }

    /// Sends this turn's groups in the order of their first datagrams; what may need a new reply socket
    /// comes after everybody else's.
    fn send_groups(&mut self, number: usize, ring: &mut Ring) {
        let socket = &mut self.sockets[number];
        let mut open = std::mem::take(&mut socket.open);
        for first in open.drain(..) {
            let group = &socket.replies[usize::from(first)].group;
            // its single datagrams, too: they must not overtake its trains
            let splittable = group.segments <= SINGLES.into();
            if splittable && self.refusals.contains(group.flow.peer.ip(), sys::now) {
                self.singles.waiting.push_back((socket.number, first));
            } else if let Some(via) = socket.via(&group.flow, &mut self.reply_sockets, self.turn) {
                socket.send(first, via, ring, self.operations);
            } else {
                self.deferred.push((socket.number, first));
            }
        }
        socket.open = open;
    }

    /// Sends the groups whose reply socket was not there yet.
    fn send_deferred(&mut self, ring: &mut Ring, counters: &Counters) {
        if self.deferred.is_empty() {
            return;
        }
        // making sockets takes time that nobody else shall wait
        ring.flush();
        let mut deferred = std::mem::take(&mut self.deferred);
        for (number, first) in deferred.drain(..) {
            if let Some(via) = self.make_via(number, first, ring, counters) {
                self.sockets[usize::from(number)].send(first, via, ring, self.operations);
            }
        }
        self.deferred = deferred;
    }

    /// How a group gets out, with a new reply socket if need be. `None`: not at all; it is dropped.
    fn make_via(&mut self, number: u16, first: u16, ring: &mut Ring, counters: &Counters) -> Option<Via> {
        let socket = &self.sockets[usize::from(number)];
        let counters = &counters[socket.domain];
        let Group { flow, segments, .. } = socket.replies[usize::from(first)].group;
        if let Some(via) = socket.via(&flow, &mut self.reply_sockets, self.turn) {
            return Some(via);
        }
        // a socket of ours that listens on the port answers from every address; one that shared the port
        // with it would take its datagrams
        let port_and_family = |addr: SocketAddr| (addr.port(), addr.is_ipv4());
        let own = |other: &&Socket| {
            other.listening.is_some() && port_and_family(other.addr) == port_and_family(flow.origdst)
        };
        if let Some(own) = self.sockets.iter().find(own) {
            return Some(Via { file: own.file, source: Some(flow.origdst.ip()) });
        }
        let counter = match self.reply_sockets.get_or_make(flow.origdst, ring, self.turn, sys::now()) {
            Ok(file) => {
                counters.udp_reply_sockets_made.add(1);
                return Some(Via { file, source: None });
            }
            Err(Refused::Limited) => &counters.udp_reply_sockets_limited,
            Err(Refused::Privileged) => &counters.udp_reply_port_privileged,
            Err(Refused::Taken) => &counters.udp_reply_port_taken,
            Err(Refused::Failed) => &counters.udp_reply_socket_errors,
        };
        counter.add(segments.into());
        self.sockets[usize::from(number)].recycle(first);
        None
    }

    /// Lets nothing new into the sockets that end with us; what is queued will be answered.
    pub fn begin_drain(&mut self) {
        for socket in self.sockets.iter().filter(|socket| socket.fate == Fate::Ends) {
            if let Some(listening) = &socket.listening {
                // without the filter the drain ends when the queue happens to be empty, or at the deadline
                let _ = sys::drop_incoming(listening.as_fd());
            }
        }
    }

    /// Ends receiving on every socket whose queue is empty, and as `leave` says on those that outlive us.
    /// True when all replies are out.
    pub fn drain(&mut self, ring: &mut Ring, leave: Leave) -> io::Result<bool> {
        let mut drained = true;
        for socket in &mut self.sockets {
            match (socket.fate, leave) {
                (Fate::Ends | Fate::Retires, _) => socket.end_if_empty(ring, self.operations)?,
                // once it is left, what comes is the next process's
                (Fate::Outlives, Leave::WhenEmpty) if socket.receiving != Receiving::Off => {
                    socket.end_if_empty(ring, self.operations)?;
                }
                (Fate::Outlives, Leave::Now) => socket.end(ring, self.operations),
                (Fate::Outlives, Leave::NotYet | Leave::WhenEmpty) => {}
            }
            drained &= socket.is_done();
        }
        Ok(drained)
    }

    /// Ends receiving on the sockets that are not wanted any more, once their queues are empty.
    /// True while there are any.
    pub fn retire(&mut self, ring: &mut Ring) -> io::Result<bool> {
        for index in (0..self.retiring.len()).rev() {
            let socket = &mut self.sockets[self.retiring[index]];
            socket.end_if_empty(ring, self.operations)?;
            if socket.is_done() {
                ring.unregister_file(socket.file);
                socket.listening = None;
                self.retiring.swap_remove(index);
            }
        }
        Ok(!self.retiring.is_empty())
    }

    /// Sends the datagrams of refused trains one by one, as far as message slots go.
    fn send_singly(&mut self, ring: &mut Ring, counters: &Counters) {
        while let Some(&(number, first)) = self.singles.waiting.front() {
            let group = self.sockets[usize::from(number)].replies[usize::from(first)].group;
            if self.singles.free.len() < group.segments as usize {
                return;
            }
            self.singles.waiting.pop_front();
            let Some(via) = self.make_via(number, first, ring, counters) else { continue };
            let Singles { messages, free, owners, .. } = &mut self.singles;
            let socket = &mut self.sockets[usize::from(number)];
            let transmit = Transmit { peer: group.flow.peer, source: via.source, segment_bytes: None };
            let mut segments = 0;
            socket.for_each_datagram(first, |datagram| {
                let slot = free.pop().expect("checked above: a group has no more than `segments`");
                owners[usize::from(slot)] = (number, first);
                messages.clear(slot.into());
                messages.push(slot.into(), datagram);
                let message = messages.finish(slot.into(), &transmit);
                ring.send_message(via.file, message, Patience::Wait, self.operations.single(slot));
                segments += 1;
            });
            socket.replies[usize::from(first)].group.in_flight = segments;
        }
    }
}

impl Operations {
    fn receive(self, number: u16) -> Token {
        Token::new(self.receive, 0, number.into())
    }

    fn tick(self) -> Token {
        Token::new(self.tick, 0, 0)
    }

    fn group(self, number: u16, first: u16) -> Token {
        Token::new(self.send, Sent::Group as u32, u32::from(number) << 16 | u32::from(first))
    }

    fn single(self, slot: u16) -> Token {
        Token::new(self.send, Sent::Single as u32, slot.into())
    }
}

impl Socket {
    /// Reads what came in, and puts it where it will be sent from.
    fn arrived(
        &mut self,
        piece: Piece,
        turn: u64,
        gate: &mut Gate,
        refusals: &mut Refusals,
        counters: &Traffic,
    ) {
        let datagram = match self.buffers.datagram(&piece) {
            Ok(datagram) => datagram,
            Err(unusable) => {
                match unusable {
                    Unusable::PayloadTruncated | Unusable::ControlTruncated => counters.udp_truncated.add(1),
                    Unusable::Malformed => counters.udp_receive_errors.add(1),
                }
                self.buffers.recycle(piece);
                return;
            }
        };
        let ancillary = cmsg::decode(datagram.control);
        let arrival = Arrival::new(datagram.payload_bytes, ancillary.segment_bytes);
        let (Some(peer), Some(origdst)) = (addr::decode(datagram.name), ancillary.origdst) else {
            counters.udp_unaddressed.add(arrival.segments.into());
            self.buffers.recycle(piece);
            return;
        };
        let payload = self.buffers.span(&piece).part(datagram.payload_offset, datagram.payload_bytes);
        counters.udp_datagrams_in.add(arrival.segments.into());
        counters.udp_bytes_in.add(arrival.bytes.into());
        counters.udp_trains_in.add((arrival.segments > 1).into());

        let flow = Flow { peer, origdst };
        if gate.rules().is_exposed(&flow) {
            counters.udp_exposed.add(arrival.segments.into());
        }
        if let Some(refusal) = gate.refuse(&flow, arrival.segments) {
            refusal.counter(counters).add(arrival.segments.into());
            self.buffers.recycle(piece);
            return;
        }
        let buffer = piece.buffer();
        let place = &mut self.places[flow.hash() as usize % FLOW_PLACES];
        let reply = &mut self.replies[usize::from(buffer)];
        reply.piece = Some(piece);
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

    /// Ends receiving, when nothing is queued. What another processor was just putting into the queue as
    /// the filter came shows up later, and is received all the same.
    fn end_if_empty(&mut self, ring: &mut Ring, operations: Operations) -> io::Result<()> {
        let Some(listening) = &self.listening else { return Ok(()) };
        if sys::receive_queue_bytes(listening.as_fd())? == 0 {
            self.end(ring, operations);
        } else if self.receiving == Receiving::Off {
            self.receiving = Receiving::Ended;
        }
        Ok(())
    }

    /// Ends receiving for good.
    fn end(&mut self, ring: &mut Ring, operations: Operations) {
        match self.receiving {
            Receiving::Armed => {
                self.receiving = Receiving::Cancelling;
                ring.cancel(operations.receive(self.number), Token::new(operations.cancel, 0, 0));
            }
            Receiving::Ended => self.receiving = Receiving::Off,
            Receiving::Cancelling | Receiving::Off => {}
        }
    }

    /// Receives no more, and has sent all replies.
    fn is_done(&self) -> bool {
        self.receiving == Receiving::Off && self.buffers.available() == self.buffers.count()
    }

    /// How a reply of `flow` gets out, if no new reply socket is needed for it.
    fn via(&self, flow: &Flow, reply_sockets: &mut ReplySockets, turn: u64) -> Option<Via> {
        if flow.origdst.port() == self.addr.port() {
            Some(Via { file: self.file, source: Some(flow.origdst.ip()) })
        } else {
            reply_sockets.get(flow.origdst, turn).map(|file| Via { file, source: None })
        }
    }

    /// Sends a group.
    fn send(&mut self, first: u16, via: Via, ring: &mut Ring, operations: Operations) {
        let group = &mut self.replies[usize::from(first)].group;
        group.in_flight = 1;
        let transmit = Transmit {
            peer: group.flow.peer,
            source: via.source,
            segment_bytes: (group.segments > 1).then_some(group.segment_bytes as u16),
        };
        let message = self.messages.finish(first.into(), &transmit);
        ring.send_message(via.file, message, Patience::Inline, operations.group(self.number, first));
    }

    /// Gives each datagram of a group to `send`, in order.
    fn for_each_datagram(&self, first: u16, mut send: impl FnMut(Span)) {
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
    fn recycle(&mut self, first: u16) {
        let mut buffer = first;
        while buffer != NONE {
            let reply = &mut self.replies[usize::from(buffer)];
            self.buffers.recycle(reply.piece.take().expect("a buffer of a group is out"));
            buffer = reply.next;
        }
    }
}
