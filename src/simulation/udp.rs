//! UDP as a process meets it: listening sockets with datagrams in their queues, reply sockets, and send buffers that are
//! full now and then. Each reply is checked against what was asked ([`flow::Flow`]).

mod arrival;
mod flow;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use self::arrival::Arrival;
pub(super) use self::arrival::Flaw;
use self::flow::{Datagram, Flow, find, segments};
use super::abi::{self, Marks, Message, Sqe};
use super::content;
use super::kernel::{InFlight, Kernel, Object, Operation};
use super::scene::{CLIENT_LIKE_PORT, Expected};
use crate::kernel::addr;
use crate::kernel::pause::FAILURES_MAX;

/// How many arrivals a receive queue holds.
const QUEUE_MAX: usize = 400;
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) addr: SocketAddr,
    queue: VecDeque<Arrival>,
    receive: Option<InFlight>,
    /// Receives in a row that ended for nothing.
    fruitless: u32,
    buffer: SendBuffer,
    /// Arrivals that found no room in the queue; the count wraps.
    pub(super) drops: u32,
    /// A filter drops all that arrives.
    pub(super) filtered: bool,
    /// The process has to keep a receive armed.
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
    /// Sends that wait for room.
    sends: Vec<InFlight>,
    /// When a send found it full for the last time, and the turn in which the process learned of it.
    full: Option<(Duration, u64)>,
}

/// For this long after a full send buffer no reply may overtake another one of its flow.
const BACKLOG_LIFE: Duration = Duration::from_mins(1);

/// An inline send that found no room, until the process has taken out its completion.
#[derive(Debug)]
struct Unseen {
    user_data: u64,
    from: Object,
    flow: usize,
    ids: Vec<u64>,
}

/// The datagrams so far, by what became of them.
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
            fruitless: 0,
            buffer,
            drops,
            filtered: false,
            served: true,
        });
        Object::Udp(self.sockets.len() - 1)
    }

    /// A reply socket.
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
        // four of six have no DSCP; the last two bits are ECN's
        let traffic_class = kernel.chance.pick(&[0, 0, 0, 0x02, 0xb9, 0x28]);
        // a hop limit of 1 is used up
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
        // no other socket takes buffers of this group
        assert!(!kernel.group(operation.sqe.buf_group).is_empty(), "a receive that has to fail at once");
        self.sockets[socket].receive = Some(kernel.begin(operation));
        kernel.activate(Object::Udp(socket));
        // as a rule queued datagrams are delivered during the submission
        while !kernel.chance.one_in(4) && self.sockets[socket].receive.is_some() {
            self.advance(socket, kernel);
        }
    }

    /// Lets something happen at a listening socket.
    pub(super) fn advance(&mut self, socket: usize, kernel: &mut Kernel) {
        if let Some(receive) = self.sockets[socket].receive {
            let sqe = kernel.get(receive).sqe;
            let end = if kernel.get(receive).cancelled {
                Some(libc::ECANCELED)
            } else if kernel.persists(|persistent| persistent.receive) {
                Some(libc::EACCES)
            } else if kernel.persists(|persistent| persistent.end) {
                Some(kernel.faults.persistent.end_errno)
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
                    // not counted if the process was just about to cancel it
                    libc::ECANCELED => kernel.ledger.count_perhaps("udp_receive_errors", 1),
                    libc::ENOBUFS => kernel.ledger.count("udp_no_buffers", 1),
                    _ => kernel.ledger.count("udp_receive_errors", 1),
                }
                let fruitless = &mut self.sockets[socket].fruitless;
                *fruitless += 1;
                kernel.ledger.count("udp_receive_pauses", (*fruitless > FAILURES_MAX.into()).into());
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

    /// Lets something happen at a reply socket.
    pub(super) fn advance_reply(&mut self, reply: usize, kernel: &mut Kernel) {
        let sends = &mut self.replies[reply].buffer.sends;
        if !sends.is_empty() && !kernel.stuck {
            let send = sends.swap_remove(kernel.chance.below(sends.len()));
            kernel.activate(Object::Reply(reply));
            self.send_now(Object::Reply(reply), send, kernel);
        }
    }

    /// The peer's port is one that the process listens on and that clients may have, too.
    fn is_like_ours(&self, peer: SocketAddr) -> bool {
        peer.port() == CLIENT_LIKE_PORT
            && self.sockets.iter().any(|socket| socket.addr.port() == CLIENT_LIKE_PORT)
    }

    /// Delivers the first arrival of the queue. False if the multishot has ended with it.
    fn deliver(&mut self, socket: usize, sqe: &Sqe, kernel: &mut Kernel) -> bool {
        let arrival = self.sockets[socket].queue.pop_front().expect("the queue is not empty");
        self.sockets[socket].fruitless = 0;
        let Flow { peer, origdst, .. } = self.flows[arrival.flow];
        let mut payload = Vec::new();
        for datagram in &arrival.datagrams {
            content::write_datagram(&mut payload, datagram.id, datagram.bytes);
        }
        let mut control = Vec::new();
        if kernel.chance.one_in(4) {
            abi::push_control(&mut control, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &[1, 2, 3, 4]);
        }
        arrival.push_control(origdst, &mut control);
        let received = arrival.received(peer, &control, &payload);
        let flags = kernel.group(sqe.buf_group).fill(&received);
        self.count_delivered(arrival, payload.len() as u64, kernel);
        kernel.progress();
        let result = received.len() as i32;
        if payload.is_empty() {
            kernel.complete(sqe, result, flags);
            return false;
        }
        kernel.complete_more(sqe, result, flags)
    }

    /// Writes down what the process has to count for an arrival, and to answer.
    fn count_delivered(&mut self, arrival: Arrival, payload_bytes: u64, kernel: &mut Kernel) {
        let Arrival { flow, datagrams, flaw } = arrival;
        let is_like_ours = self.is_like_ours(self.flows[flow].peer);
        let Flow { unanswered, expected, .. } = &mut self.flows[flow];
        let count = datagrams.len() as u64;
        match flaw {
            None => {
                self.books.delivered += count;
                kernel.ledger.count("udp_bytes_in", payload_bytes);
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
            Some(Flaw::PayloadTruncated | Flaw::ControlTruncated) => {
                self.books.flawed += 1;
                kernel.ledger.count("udp_truncated", 1);
            }
        }
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

    /// An inline send finds no room. If the process does not know of that yet, replies that it queues until it does may
    /// overtake this one.
    fn find_full(&mut self, from: Object, operation: &Operation, kernel: &mut Kernel) {
        kernel.ledger.count("udp_send_waits", 1);
        let message = operation.message.as_ref().expect("a message");
        let (flow, segment_bytes, marks) = self.decode(from, message);
        let careful = self
            .buffer(from)
            .full
            .is_some_and(|(at, seen)| kernel.now < at + BACKLOG_LIFE && seen < operation.turn);
        if matches!(from, Object::Reply(_)) {
            // a reply socket may be closed before its reply is sent again
            let count = segments(&message.payload(), segment_bytes).len();
            kernel.ledger.count_perhaps("udp_send_errors", count as u64);
        }
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
        let seen = full.filter(|(at, _)| kernel.now < *at + BACKLOG_LIFE).map_or(u64::MAX, |(_, seen)| seen);
        *full = Some((kernel.now, seen));
        self.unseen.push(Unseen { user_data: operation.sqe.user_data, from, flow, ids });
    }

    /// The process takes out a completion, and handles it in the turn after this one.
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

    /// The flow that a reply belongs to, the size of its segments, its DSCP and hop limit. Panics unless its addresses,
    /// interface and hop limit are right.
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

    /// A send has failed: its datagrams may come late, or not at all.
    fn mark_failed(&mut self, from: Object, message: &Message) {
        let (flow, segment_bytes, marks) = self.decode(from, message);
        let payload = message.payload();
        let unanswered = &mut self.flows[flow].unanswered;
        for datagram in segments(&payload, segment_bytes) {
            let place = find(unanswered, datagram, marks).expect("a reply repeats what was received, once");
            unanswered[place].failed = true;
        }
    }

    /// How many datagrams were not answered although nothing failed, and how many in all. Forgets them. Called when the
    /// process has nothing left to do.
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

    /// Every served socket has a receive armed, and nothing waits at any socket.
    pub(super) fn check_armed(&self) {
        for Socket { addr, queue, receive, buffer, served, .. } in &self.sockets {
            assert!(!served || receive.is_some(), "nothing is received on {addr}");
            assert!(queue.is_empty() && buffer.sends.is_empty(), "{addr} has not come to rest");
        }
    }
}

fn without_scope(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip(), addr.port())
}
