//! UDP as a process meets it: sockets with datagrams in their queues, and a book of who asked what.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use super::abi::{self, Marks, Message, Sqe};
use super::chance::Chance;
use super::content;
use super::kernel::{InFlight, Kernel, Object, Operation};
use super::scene::{CLIENT_LIKE_PORT, Expected};
use crate::kernel::addr::{self, RawAddr};

/// Datagrams that a receive queue holds.
const QUEUE_MAX: usize = 400;
/// What the oldest kernel takes in one message (`UDP_MAX_SEGMENTS`).
const SEGMENTS_MAX: usize = 64;

/// Who asks whom, and what was not answered yet.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) peer: SocketAddr,
    pub(super) origdst: SocketAddr,
    pub(super) socket: usize,
    pub(super) expected: Expected,
    /// What the path answers to a train.
    pub(super) refuses_trains: Option<i32>,
    /// What the process has got and not sent back, in order.
    unanswered: VecDeque<Datagram>,
    sent: u64,
    /// What was sent back, and in which turn the process had queued that; and the latest of it.
    answered: Vec<(u64, u64)>,
    latest: u64,
}

#[derive(Clone, Debug)]
struct Datagram {
    /// Its place in the flow.
    sequence: u64,
    id: u64,
    bytes: usize,
    /// The traffic class that it came with.
    traffic_class: u8,
    /// The hop limit that it came with.
    hops: u8,
    /// A send of it failed, so that it may come late or not at all.
    failed: bool,
    /// It found the send buffer full, unforeseen. What was queued up to that turn may overtake it.
    passable: Option<u64>,
}

/// What is wrong with what is received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    PayloadTruncated,
    ControlTruncated,
    NoDestination,
}

/// A datagram or a train in a receive queue.
#[derive(Debug)]
struct Arrival {
    flow: usize,
    datagrams: Vec<Datagram>,
    flaw: Option<Flaw>,
}

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) addr: SocketAddr,
    queue: VecDeque<Arrival>,
    receive: Option<InFlight>,
    buffer: SendBuffer,
    /// What found no room in the queue; the count wraps.
    pub(super) drops: u32,
    /// Nothing new comes in.
    pub(super) filtered: bool,
    /// The process is to keep a receive armed.
    pub(super) served: bool,
}

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) pair: SocketAddr,
    buffer: SendBuffer,
}

/// The send buffer of a socket.
#[derive(Debug, Default)]
struct SendBuffer {
    /// What waits for room.
    sends: Vec<InFlight>,
    /// When it was found full for the last time, and the turn in which the process got to know.
    full: Option<(Duration, u64)>,
}

/// A process that has seen a send buffer full sends carefully for so long.
const CAREFUL: Duration = Duration::from_mins(1);

/// An inline send that found no room, until the process has seen that.
#[derive(Debug)]
struct Unseen {
    user_data: u64,
    from: Object,
    flow: usize,
    ids: Vec<u64>,
}

/// What happened so far, in datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Books {
    pub(super) delivered: u64,
    pub(super) flawed: u64,
    pub(super) echoed: u64,
    pub(super) echoed_bytes: u64,
    pub(super) dropped: u64,
}

#[derive(Default)]
pub(super) struct Udp {
    pub(super) sockets: Vec<Socket>,
    pub(super) replies: Vec<Reply>,
    pub(super) flows: Vec<Flow>,
    pub(super) books: Books,
    unseen: Vec<Unseen>,
    by_pair: HashMap<(SocketAddr, SocketAddr), usize>,
    ids: u64,
}

impl Udp {
    pub(super) fn listen(&mut self, addr: SocketAddr) -> Object {
        let (queue, buffer) = (VecDeque::new(), SendBuffer::default());
        let drops = u32::MAX;
        self.sockets.push(Socket {
            addr,
            queue,
            receive: None,
            buffer,
            drops,
            filtered: false,
            served: true,
        });
        Object::Udp(self.sockets.len() - 1)
    }

    /// A socket for replies.
    pub(super) fn bind(&mut self, pair: SocketAddr) -> Object {
        self.replies.push(Reply { pair, buffer: SendBuffer::default() });
        Object::Reply(self.replies.len() - 1)
    }

    pub(super) fn add_flow(&mut self, flow: (SocketAddr, SocketAddr, usize, Expected, Option<i32>)) {
        let (peer, origdst, socket, expected, refuses_trains) = flow;
        let before = self.by_pair.insert((peer, without_scope(origdst)), self.flows.len());
        assert!(before.is_none(), "two flows from {peer} to {origdst}");
        self.flows.push(Flow {
            peer,
            origdst,
            socket,
            expected,
            refuses_trains,
            unanswered: VecDeque::new(),
            sent: 0,
            answered: Vec::new(),
            latest: 0,
        });
    }

    /// A peer sends a train of `count` datagrams, the last one perhaps shorter.
    pub(super) fn arrive(
        &mut self,
        flow: usize,
        (count, bytes, last_bytes): (usize, usize, usize),
        flaw: Option<Flaw>,
        kernel: &mut Kernel,
    ) {
        let Flow { socket, sent, .. } = &mut self.flows[flow];
        let Socket { queue, filtered, drops, .. } = &mut self.sockets[*socket];
        if *filtered {
            return;
        }
        if queue.len() >= QUEUE_MAX || kernel.chance.happens(kernel.faults.drop) {
            *drops = drops.wrapping_add(1);
            self.books.dropped += 1;
            return;
        }
        // four out of six have none; the last two bits are ECN's
        let traffic_class = kernel.chance.pick(&[0, 0, 0, 0x02, 0xb9, 0x28]);
        // the last one has been through as many routers as it may
        let hops = kernel.chance.pick(&[64, 64, 64, 63, 2, 1]);
        let datagrams = (0..count).map(|index| {
            *sent += 1;
            self.ids += 1;
            let bytes = if index + 1 == count { last_bytes } else { bytes };
            Datagram {
                sequence: *sent,
                id: self.ids,
                bytes,
                traffic_class,
                hops,
                failed: false,
                passable: None,
            }
        });
        queue.push_back(Arrival { flow, datagrams: datagrams.collect(), flaw });
        kernel.activate(Object::Udp(*socket));
    }

    pub(super) fn is_queue_empty(&self, socket: usize) -> bool {
        self.sockets[socket].queue.is_empty()
    }

    /// A multishot RECVMSG is submitted.
    pub(super) fn receive(&mut self, socket: usize, operation: Operation, kernel: &mut Kernel) {
        assert!(
            operation.sqe.ioprio & abi::RECV_MULTISHOT != 0 && operation.sqe.flags & abi::BUFFER_SELECT != 0
        );
        assert_eq!(operation.sqe.room(), (32, 512), "room for a name and for control messages");
        assert!(self.sockets[socket].receive.is_none(), "a socket is armed twice");
        // nobody else takes of this group's
        assert!(!kernel.group(operation.sqe.buf_group).is_empty(), "a receive that has to fail at once");
        self.sockets[socket].receive = Some(kernel.begin(operation));
        kernel.activate(Object::Udp(socket));
        // what is there comes during the submission, as a rule
        while !kernel.chance.one_in(4) && self.sockets[socket].receive.is_some() {
            self.advance(socket, kernel);
        }
    }

    /// Goes on with what can go on at a listening socket.
    pub(super) fn advance(&mut self, socket: usize, kernel: &mut Kernel) {
        if let Some(receive) = self.sockets[socket].receive {
            let sqe = kernel.get(receive).sqe;
            let end = if kernel.get(receive).cancelled {
                Some(libc::ECANCELED)
            } else if kernel.persists(|persistent| persistent.receive) {
                Some(libc::EACCES)
            } else if kernel.persists(|persistent| persistent.end) {
                Some(kernel.chance.pick(&[libc::ECANCELED, libc::ENOBUFS]))
            } else if kernel.chance.happens(kernel.faults.receive) {
                Some(kernel.chance.pick(&[libc::ENOMEM, libc::EHOSTUNREACH, libc::ECONNREFUSED, libc::EINTR]))
            } else if self.sockets[socket].queue.is_empty() {
                None
            } else if kernel.group(sqe.buf_group).is_empty() {
                Some(libc::ENOBUFS)
            } else {
                if !self.deliver(socket, &sqe, kernel) {
                    self.sockets[socket].receive = None;
                    kernel.end(receive);
                }
                None
            };
            if let Some(errno) = end {
                let cancelled = kernel.get(receive).cancelled;
                match errno {
                    libc::ECANCELED if cancelled => {}
                    // the process may have been about to cancel it
                    libc::ECANCELED => kernel.ledger.count_perhaps("udp_receive_errors", 1),
                    libc::ENOBUFS => kernel.ledger.count("udp_no_buffers", 1),
                    _ => kernel.ledger.count("udp_receive_errors", 1),
                }
                self.sockets[socket].receive = None;
                kernel.end(receive);
                kernel.complete(&sqe, -errno, 0);
            }
            if self.sockets[socket].receive.is_some() && !self.sockets[socket].queue.is_empty() {
                kernel.activate(Object::Udp(socket));
            }
        }
        let sends = &mut self.sockets[socket].buffer.sends;
        if !sends.is_empty() && !kernel.stuck {
            let send = sends.swap_remove(kernel.chance.below(sends.len()));
            kernel.activate(Object::Udp(socket));
            self.send_now(Object::Udp(socket), send, kernel);
        }
    }

    /// Goes on with what can go on at a reply socket.
    pub(super) fn advance_reply(&mut self, reply: usize, kernel: &mut Kernel) {
        let sends = &mut self.replies[reply].buffer.sends;
        if !sends.is_empty() && !kernel.stuck {
            let send = sends.swap_remove(kernel.chance.below(sends.len()));
            kernel.activate(Object::Reply(reply));
            self.send_now(Object::Reply(reply), send, kernel);
        }
    }

    /// A peer's port is one that we listen on, and that a client may have, too.
    fn is_like_ours(&self, peer: SocketAddr) -> bool {
        peer.port() == CLIENT_LIKE_PORT
            && self.sockets.iter().any(|socket| socket.addr.port() == CLIENT_LIKE_PORT)
    }

    /// Hands over what is first in the queue. False if the multishot has ended with it.
    fn deliver(&mut self, socket: usize, sqe: &Sqe, kernel: &mut Kernel) -> bool {
        let Arrival { flow, datagrams, flaw } =
            self.sockets[socket].queue.pop_front().expect("the queue is not empty");
        let is_like_ours = self.is_like_ours(self.flows[flow].peer);
        let Flow { peer, origdst, unanswered, expected, .. } = &mut self.flows[flow];
        let mut payload = Vec::with_capacity(datagrams.iter().map(|datagram| datagram.bytes).sum());
        for datagram in &datagrams {
            content::write_datagram(&mut payload, datagram.id, datagram.bytes);
        }
        let control = control_of(*origdst, &datagrams, flaw, &mut kernel.chance);
        let message_flags = match flaw {
            Some(Flaw::PayloadTruncated) => libc::MSG_TRUNC,
            Some(Flaw::ControlTruncated) => libc::MSG_CTRUNC,
            _ => 0,
        };
        let name = RawAddr::from(*peer);
        let mut received = Vec::with_capacity(payload.len() + 560);
        let lengths = [name.as_bytes().len(), control.len(), payload.len(), message_flags as usize];
        received.extend(lengths.iter().flat_map(|length| (*length as u32).to_ne_bytes()));
        received.extend(name.as_bytes());
        received.resize(16 + 32, 0);
        received.extend(control);
        received.resize(16 + 32 + 512, 0);
        received.extend(&payload);
        let flags = kernel.group(sqe.buf_group).fill(&received);
        let count = datagrams.len() as u64;
        match flaw {
            None => {
                self.books.delivered += count;
                kernel.ledger.count("udp_bytes_in", payload.len() as u64);
                kernel.ledger.count("udp_trains_in", (count > 1).into());
                if let Expected::Refused(counter) = expected {
                    kernel.ledger.count(counter, count);
                } else if is_like_ours && datagrams[0].hops <= 1 {
                    kernel.ledger.count("udp_refused_hop_limit", count);
                }
                unanswered.extend(datagrams);
            }
            Some(Flaw::NoDestination) => {
                self.books.flawed += count;
                kernel.ledger.count("udp_unaddressed", count);
            }
            Some(_) => {
                self.books.flawed += 1;
                kernel.ledger.count("udp_truncated", 1);
            }
        }
        kernel.progress();
        let result = received.len() as i32;
        if payload.is_empty() {
            kernel.complete(sqe, result, flags);
            return false;
        }
        kernel.complete_more(sqe, result, flags)
    }

    /// A SENDMSG is submitted.
    pub(super) fn send(&mut self, from: Object, operation: Operation, kernel: &mut Kernel) {
        let buffer = self.buffer(from);
        let stays_full = !buffer.sends.is_empty() || kernel.stuck && buffer.full.is_some();
        let full = stays_full || kernel.chance.happens(kernel.faults.full);
        if !full {
            let send = kernel.begin(operation);
            self.send_now(from, send, kernel);
        } else if operation.is_inline() {
            self.find_full(from, &operation, kernel);
            kernel.complete(&operation.sqe, -libc::EAGAIN, 0);
        } else {
            assert!(self.buffer(from).sends.is_empty(), "sends that wait together may leave in any order");
            let send = kernel.begin(operation);
            self.buffer(from).sends.push(send);
            kernel.activate(from);
        }
    }

    /// An inline send finds no room. If that is news, what was queued before the process sees it may overtake.
    fn find_full(&mut self, from: Object, operation: &Operation, kernel: &mut Kernel) {
        kernel.ledger.count("udp_send_waits", 1);
        let message = operation.message.as_ref().expect("a message");
        let (flow, segment_bytes, marks) = self.decode(from, message);
        let careful = self
            .buffer(from)
            .full
            .is_some_and(|(at, seen)| kernel.now < at + CAREFUL && seen < operation.turn);
        let payload = message.payload();
        let unanswered = &mut self.flows[flow].unanswered;
        let mut ids = Vec::new();
        for datagram in segments(&payload, segment_bytes) {
            let place = find(unanswered, datagram, marks).expect("a reply repeats what was received, once");
            let datagram = &mut unanswered[place];
            if !careful {
                datagram.passable = Some(u64::MAX);
            }
            ids.push(datagram.id);
        }
        let full = &mut self.buffer(from).full;
        let seen = full.filter(|(at, _)| kernel.now < *at + CAREFUL).map_or(u64::MAX, |(_, seen)| seen);
        *full = Some((kernel.now, seen));
        self.unseen.push(Unseen { user_data: operation.sqe.user_data, from, flow, ids });
    }

    /// The process takes a completion out, and handles it in the next turn.
    pub(super) fn seen(&mut self, user_data: u64, turn: u64) {
        let Some(place) = self.unseen.iter().position(|unseen| unseen.user_data == user_data) else { return };
        let Unseen { from, flow, ids, .. } = self.unseen.remove(place);
        for datagram in &mut self.flows[flow].unanswered {
            if ids.contains(&datagram.id) {
                datagram.passable = datagram.passable.map(|_| turn);
            }
        }
        if let Some((_, seen)) = &mut self.buffer(from).full {
            *seen = turn.min(*seen);
        }
    }

    fn buffer(&mut self, from: Object) -> &mut SendBuffer {
        match from {
            Object::Udp(socket) => &mut self.sockets[socket].buffer,
            Object::Reply(reply) => &mut self.replies[reply].buffer,
            other => panic!("a datagram sent on {other:?}"),
        }
    }

    /// The socket takes the message, or refuses it.
    fn send_now(&mut self, from: Object, send: InFlight, kernel: &mut Kernel) {
        let operation = kernel.end(send);
        if operation.cancelled {
            kernel.complete(&operation.sqe, -libc::ECANCELED, 0);
            return;
        }
        let message = operation.message.as_ref().expect("a message");
        let (flow, segment_bytes, marks) = self.decode(from, message);
        let bytes: u64 = message.parts().iter().map(|part| part.end - part.start).sum();
        let train = segment_bytes.is_some_and(|segment_bytes| bytes > u64::from(segment_bytes));
        let refusal = self.flows[flow].refuses_trains.filter(|_| train).or_else(|| {
            let refused = kernel.chance.happens(kernel.faults.refused);
            let errors = [
                libc::EPERM,
                libc::ENETUNREACH,
                libc::ENOBUFS,
                libc::ECONNREFUSED,
                libc::EINVAL,
                libc::ENOMEM,
                libc::EIO,
                libc::EMSGSIZE,
                libc::EADDRNOTAVAIL,
            ];
            refused.then(|| kernel.chance.pick(&errors))
        });
        kernel.progress();
        if let Some(errno) = refusal {
            self.mark_failed(from, message);
            kernel.ledger.count_refused(errno, segments(&message.payload(), segment_bytes).len() as u64);
            kernel.complete(&operation.sqe, -errno, 0);
            return;
        }
        let payload = message.payload();
        self.books.echoed += self.flows[flow].take(&payload, segment_bytes, marks, operation.turn);
        self.books.echoed_bytes += bytes;
        kernel.ledger.count("udp_trains_out", train.into());
        kernel.complete(&operation.sqe, bytes as i32, 0);
    }

    /// Whose reply it is, the size of its segments, and its DSCP. It must be right in every respect.
    fn decode(&self, from: Object, message: &Message) -> (usize, Option<u16>, Marks) {
        let peer = addr::decode(&message.name).expect("a reply goes to an address");
        let (source, interface, segment_bytes, marks) = message.control();
        let source = match from {
            Object::Udp(socket) => {
                let source = source.expect("a reply from a listening socket says where it leaves from");
                SocketAddr::new(source, self.sockets[socket].addr.port())
            }
            Object::Reply(reply) => {
                let pair = self.replies[reply].pair;
                assert!(source.is_none_or(|source| source == pair.ip()), "a reply socket is bound");
                without_scope(pair)
            }
            other => panic!("a datagram sent on {other:?}"),
        };
        let flow = self.by_pair.get(&(peer, source));
        let flow = *flow.unwrap_or_else(|| panic!("{source} has nothing to say to {peer}"));
        if matches!(from, Object::Udp(_)) {
            let scope = addr::scope_id(peer).max(addr::scope_id(self.flows[flow].origdst));
            assert_eq!(interface, scope, "a reply to {peer} leaves by another interface");
        }
        assert_eq!(self.flows[flow].expected, Expected::Echoed, "{source} must not answer {peer}");
        let is_like_ours = self.is_like_ours(peer);
        assert_eq!(marks.hops != 0, is_like_ours, "a reply to {peer} has {marks:?}");
        (flow, segment_bytes, marks)
    }

    /// The datagrams of a send that fails may come late, or not at all.
    fn mark_failed(&mut self, from: Object, message: &Message) {
        let (flow, segment_bytes, marks) = self.decode(from, message);
        let payload = message.payload();
        let unanswered = &mut self.flows[flow].unanswered;
        for datagram in segments(&payload, segment_bytes) {
            let place = find(unanswered, datagram, marks).expect("a reply repeats what was received, once");
            unanswered[place].failed = true;
        }
    }

    /// What was not answered, without an excuse and in all; forgets it. Called when all is quiet.
    pub(super) fn settle(&mut self) -> (u64, u64) {
        let (mut silent, mut all) = (0, 0);
        for flow in &mut self.flows {
            for datagram in flow.unanswered.drain(..) {
                all += 1;
                silent += u64::from(!datagram.failed && flow.expected == Expected::Echoed);
            }
        }
        (silent, all)
    }

    /// Every socket that is served waits for datagrams, and has none.
    pub(super) fn check_armed(&self) {
        for Socket { addr, queue, receive, buffer, served, .. } in &self.sockets {
            assert!(!served || receive.is_some(), "nothing is received on {addr}");
            assert!(queue.is_empty() && buffer.sends.is_empty(), "{addr} has not come to rest");
        }
    }
}

impl Flow {
    /// The payload of a reply, queued in this turn, is what was asked, in the order in which it was asked. How
    /// many datagrams.
    fn take(&mut self, payload: &[u8], segment_bytes: Option<u16>, marks: Marks, turn: u64) -> u64 {
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

fn without_scope(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip(), addr.port())
}

/// What a payload consists of. No kernel sends trains that are longer.
fn segments(payload: &[u8], segment_bytes: Option<u16>) -> Vec<&[u8]> {
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

/// Which datagram that is. Of short ones that are alike it is the one that has the least to excuse.
fn find(unanswered: &VecDeque<Datagram>, bytes: &[u8], marks: Marks) -> Option<usize> {
    let is_it = |datagram: &Datagram| {
        datagram.traffic_class & 0xfc == marks.dscp
            && (marks.hops == 0 || marks.hops == datagram.hops - 1)
            && datagram.bytes == bytes.len()
            && content::is_datagram(bytes, datagram.id)
    };
    let sound = unanswered.iter().position(|datagram| !datagram.failed && is_it(datagram));
    sound.or_else(|| unanswered.iter().position(is_it))
}

/// The control messages that come with datagrams to `origdst`.
fn control_of(
    origdst: SocketAddr,
    datagrams: &[Datagram],
    flaw: Option<Flaw>,
    chance: &mut Chance,
) -> Vec<u8> {
    let mut control = Vec::new();
    if chance.one_in(4) {
        abi::push_control(&mut control, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &[1, 2, 3, 4]);
    }
    let (level, kind) = match origdst {
        SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_ORIGDSTADDR),
        SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR),
    };
    if flaw != Some(Flaw::NoDestination) {
        abi::push_control(&mut control, level, kind, RawAddr::from(origdst).as_bytes());
    }
    let hops = i32::from(datagrams[0].hops).to_ne_bytes();
    match origdst {
        SocketAddr::V4(_) => abi::push_control(&mut control, libc::SOL_IP, libc::IP_TTL, &hops),
        SocketAddr::V6(_) => abi::push_control(&mut control, libc::SOL_IPV6, libc::IPV6_HOPLIMIT, &hops),
    }
    let class = datagrams[0].traffic_class;
    match origdst {
        SocketAddr::V4(_) => abi::push_control(&mut control, libc::SOL_IP, libc::IP_TOS, &[class]),
        SocketAddr::V6(_) => {
            let class = i32::from(class).to_ne_bytes();
            abi::push_control(&mut control, libc::SOL_IPV6, libc::IPV6_TCLASS, &class);
        }
    }
    if datagrams.len() > 1 {
        let bytes = datagrams[0].bytes as i32;
        abi::push_control(&mut control, libc::SOL_UDP, libc::UDP_GRO, &bytes.to_ne_bytes());
    }
    control
}
