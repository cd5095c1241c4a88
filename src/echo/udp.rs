//! The UDP datapath: a datagram in, the same bytes out, from the address that was asked.
//!
//! ```text
//! completion ─► part of a provided buffer ─► flow: peer, original destination
//!                                               │ join: same flow, same size, this turn
//!                                               ▼
//!                     group of buffers ─► one SENDMSG: PKTINFO, UDP_SEGMENT if more than one datagram;
//!                                         through a reply socket where another port was asked
//!                                               ▼
//! completion ─► all buffers of the group go back to the kernel
//! ```
//!
//! The reply state of a socket's buffer *b* is `replies[b]`, and the message slot of a group is the number of its
//! first buffer: nothing is allocated, no byte is copied. A reply is never larger than its request.
//!
//! A group is what one GSO send can carry: datagrams of one flow and one DSCP in the order of their arrival, all
//! of one size but the last, which may be shorter and closes the group. A received train (GRO) joins like
//! the datagrams it consists of. Groups are sent at the end of the turn that opened them; nothing waits, but
//! for room in a send buffer.

mod broadcasts;
mod drops;
mod group;
pub mod reply_sockets;
mod socket;
mod waiting;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use self::broadcasts::Broadcasts;
use self::drops::Look;
use self::group::{Group, Via};
use self::socket::{Receiving, Socket, buffers_each};
use self::waiting::{Departure, Lanes};
use crate::echo::udp::reply_sockets::{Inherited, Refused, ReplySockets};
use crate::kernel::pause::{PAUSE, Pause};
use crate::kernel::ring::{Completion, Errno, File, Messages, Patience, Ring, RingError, Token, Transmit};
use crate::kernel::sys;
use crate::policy::counters::Counters;
use crate::policy::errno_policy::{self, Stage};
use crate::policy::flow::{HashKey, Refusals};
use crate::policy::refuse::{Gate, Refusal};
use crate::sockets::listening::{Fate, Listening};

/// Messages that can be under way for trains that have to be sent singly; so few in tests that they run out.
const SINGLES: u16 = if cfg!(test) { 64 } else { 256 };

/// A group was sent, or one datagram of a group that was refused: what a completion's generation says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Group = 0,
    Single = 1,
}

/// What a clock ticks for.
#[derive(Clone, Copy)]
enum Tick {
    /// To find idle reply sockets.
    ReplySockets = 0,
    /// To see what the kernel has dropped.
    Drops = 1,
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
    /// A tick of one of the clocks; the index says which.
    pub tick: u8,
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

/// Trains that a path refused, sent as the datagrams that they consist of.
struct Singles {
    messages: Messages<1>,
    free: Vec<u16>,
    /// Whose datagram a slot holds: socket and first buffer of the group.
    owners: Vec<(u16, u16)>,
    /// Groups that wait for slots.
    waiting: VecDeque<(u16, u16)>,
}

/// All UDP sockets of a worker.
pub struct Udp {
    operations: Operations,
    sockets: Vec<Socket>,
    singles: Singles,
    refusals: Refusals,
    gate: Gate,
    reply_sockets: ReplySockets,
    /// Replies that wait for room in a send buffer.
    lanes: Lanes,
    /// What replies could not leave from.
    broadcasts: Broadcasts,
    /// When it is looked at what the kernel has dropped, and which sockets are idle.
    look: Look,
    /// Sockets may have memory to give back.
    tidies: bool,
    /// Groups that may need a new reply socket: socket and first buffer.
    deferred: Vec<(u16, u16)>,
    /// Sockets that are not wanted any more.
    retiring: Vec<usize>,
    /// For sockets on which receiving fails again and again.
    pause: Pause,
    stage: Stage,
    turn: u64,
}

impl Udp {
    /// Registers `listening` from file `first` on and gives each socket buffers of its own, from group
    /// `first` on: a flooded socket must not take its neighbours' buffers.
    pub fn new(
        ring: &mut Ring,
        listening: Vec<Listening>,
        first: u32,
        mut reply_sockets: ReplySockets,
        gate: Gate,
        operations: Operations,
    ) -> Result<Self, RingError> {
        let mut sockets = Vec::new();
        let buffers = buffers_each(listening.len());
        for (number, listening) in listening.into_iter().enumerate() {
            let way_out = reply_sockets.way_out(Inherited::of(listening.as_fd(), listening.addr));
            let file = File(first + number as u32);
            sockets.push(Socket::new(ring, listening, number as u16, file, way_out, buffers)?);
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
            refusals: Refusals::new(HashKey::draw()),
            gate,
            reply_sockets,
            lanes: Lanes::default(),
            broadcasts: Broadcasts::default(),
            look: Look::new(),
            tidies: false,
            deferred: Vec::new(),
            retiring,
            pause: Pause::new(PAUSE),
            stage: Stage::Arming,
            turn: 1,
        })
    }

    /// Every socket has shown that it works.
    pub fn begin_serving(&mut self) {
        self.stage = Stage::Serving;
    }

    /// How long a turn may sleep; any time, unless something has failed again and again.
    pub fn sleep(&self) -> Option<Duration> {
        [self.pause.sleep(), self.look.sleep(), self.reply_sockets.sleep()].into_iter().flatten().min()
    }

    /// The socket that a receive's token means, for messages.
    pub fn addr(&self, token: Token) -> SocketAddr {
        self.sockets[token.index() as usize].addr
    }

    /// Handles the completion of a receive. An error is final for the worker: the socket or the ring is
    /// unusable.
    pub fn received(&mut self, completion: &Completion, counters: &Counters) -> Result<(), Errno> {
        self.look.want();
        let socket = &mut self.sockets[completion.token().index() as usize];
        let counters = &counters[socket.domain];
        let for_good = socket.receiving == Receiving::Cancelling;
        if !completion.more() {
            socket.receiving = if for_good { Receiving::Off } else { Receiving::Ended };
        }
        match (completion.result(), socket.buffers.take(completion)) {
            (Ok(_), Some(part)) => {
                socket.failures.forget();
                socket.arrived(part, self.turn, &mut self.gate, &mut self.refusals, counters);
            }
            // no result without a buffer: nothing was received
            (Ok(_), None) => {
                counters.udp_receive_errors.add(1);
                socket.fail(counters);
            }
            (Err(errno), part) => {
                if let Some(part) = part {
                    socket.buffers.recycle(part);
                }
                match errno_policy::of_datagrams(errno, self.stage) {
                    errno_policy::Receive::Starved => counters.udp_no_buffers.add(1),
                    errno_policy::Receive::Cancelled if for_good => return Ok(()),
                    errno_policy::Receive::Fatal => return Err(errno),
                    // the kernel also cancels what it can't wait for: it has to have an end, too
                    _ => counters.udp_receive_errors.add(1),
                }
                socket.fail(counters);
            }
        }
        Ok(())
    }

    /// Handles the completion of a reply.
    pub fn sent(&mut self, completion: &Completion, counters: &Counters) {
        let token = completion.token();
        let (number, first) = self.owner(token);
        let socket = &mut self.sockets[usize::from(number)];
        let counters = &counters[socket.domain];
        let Group { flow, segments, via, singly, .. } = socket.replies[usize::from(first)].group;
        let single = is_single(token) || singly.is_some();
        let train = !single && segments > 1;
        let splittable = train && segments <= SINGLES.into();
        let lane = if self.lanes.is_empty() { None } else { self.lanes.ended(via.file, token) };
        match completion.result() {
            Ok(bytes) => {
                counters.udp_datagrams_out.add(if single { 1 } else { segments.into() });
                counters.udp_bytes_out.add(bytes.into());
                counters.udp_trains_out.add(train.into());
                self.end(token);
            }
            Err(errno) => match errno_policy::of_reply(errno, splittable) {
                errno_policy::Send::Wait => {
                    counters.udp_send_waits.add(1);
                    let message = if is_single(token) {
                        self.singles.messages.again(token.index() as usize)
                    } else {
                        socket.messages.again(first.into())
                    };
                    let departure = Departure { token, message, flow };
                    match lane {
                        Some(Patience::Inline) => self.lanes.put_back(via.file, departure, true),
                        // its reply socket may have gone meanwhile, and its place be another one's
                        None if self.reply_sockets.is_still(
                            via.file,
                            flow.origdst,
                            socket.way_out,
                            self.turn,
                        ) =>
                        {
                            self.lanes.open(via.file, departure);
                        }
                        None | Some(Patience::Wait) => {
                            counters.udp_send_errors.add(if single { 1 } else { segments.into() });
                            self.end(token);
                        }
                    }
                }
                errno_policy::Send::Split => {
                    counters.udp_trains_refused.add(1);
                    self.refusals.remember(flow.peer.ip(), sys::now());
                    if lane.is_some() {
                        // others of its flow wait behind it, so its datagrams go first
                        let departure = socket.departure_singly(first, via, 0, self.operations);
                        self.lanes.put_back(via.file, departure, false);
                    } else {
                        self.singles.waiting.push_back((number, first));
                    }
                }
                refused => {
                    let is_broadcast =
                        matches!(refused, errno_policy::Send::Unreachable | errno_policy::Send::BadSource)
                            && self
                                .broadcasts
                                .has(flow.origdst.ip(), |ip| sys::is_broadcast(ip).unwrap_or(false));
                    let counter = match refused {
                        _ if is_broadcast => Refusal::BadDestination.counter(counters),
                        errno_policy::Send::Unreachable => &counters.udp_send_unreachable,
                        errno_policy::Send::Forbidden => &counters.udp_send_forbidden,
                        errno_policy::Send::BadSource => &counters.udp_send_bad_source,
                        _ => &counters.udp_send_errors,
                    };
                    counter.add(if single { 1 } else { segments.into() });
                    self.end(token);
                }
            },
        }
        if lane.is_some() {
            self.lanes.settle(via.file);
        }
    }

    /// The socket and first buffer of the group that a reply belongs to.
    fn owner(&self, token: Token) -> (u16, u16) {
        let index = token.index();
        if is_single(token) {
            self.singles.owners[index as usize]
        } else {
            ((index >> 16) as u16, index as u16)
        }
    }

    /// A reply is through. With the last one of its group the buffers go back.
    fn end(&mut self, token: Token) {
        let (number, first) = self.owner(token);
        if is_single(token) {
            self.singles.free.push(token.index() as u16);
        }
        let socket = &mut self.sockets[usize::from(number)];
        let group = &mut socket.replies[usize::from(first)].group;
        let Group { via, segments, singly, .. } = *group;
        if let Some(sent) = singly
            && u32::from(sent) + 1 < segments
        {
            let departure = socket.departure_singly(first, via, sent + 1, self.operations);
            self.lanes.put_back(via.file, departure, false);
            return;
        }
        group.in_flight -= 1;
        if group.in_flight == 0 {
            socket.recycle(first);
        }
    }

    /// The worker ends: counts what still waits, for room in a send buffer or to be sent singly, and what the kernel
    /// dropped lately.
    pub fn give_up(&mut self, counters: &Counters) {
        self.count_drops(counters);
        self.lanes.all().for_each(|token| self.count_lost(token, counters));
        for &(number, first) in &self.singles.waiting {
            self.count_lost(self.operations.group(number, first), counters);
        }
    }

    fn count_lost(&self, token: Token, counters: &Counters) {
        let (number, first) = self.owner(token);
        let socket = &self.sockets[usize::from(number)];
        let Group { segments, singly, .. } = socket.replies[usize::from(first)].group;
        let count = if is_single(token) { 1 } else { segments - u32::from(singly.unwrap_or(0)) };
        counters[socket.domain].udp_send_errors.add(count.into());
    }

    /// Ends the turn: sends what its datagrams ask for, and arms what has ended.
    pub fn finish_turn(&mut self, ring: &mut Ring, counters: &Counters) {
        // before anything is submitted: all that was received is known
        if std::mem::take(&mut self.tidies)
            && let Some(quiet) = ring.quiet()
        {
            self.sockets.iter_mut().for_each(|socket| socket.give_back_idle(quiet));
        }
        // refused trains first: they are older than what this turn brought
        self.send_singly(ring, counters);
        for number in 0..self.sockets.len() {
            self.send_groups(number, ring);
        }
        self.send_deferred(ring, counters);
        self.send_singly(ring, counters);
        self.lanes.send_on(ring);
        self.reply_sockets.run_clock(ring, self.operations.tick(Tick::ReplySockets));
        self.look.run(ring, self.operations.tick(Tick::Drops));
        // the first one armed is the first one served: take turns
        let count = self.sockets.len();
        let resume = self.pause.ends();
        for offset in 0..count {
            let socket = &mut self.sockets[(self.turn as usize + offset) % count];
            if socket.receiving == Receiving::Paused {
                if resume {
                    socket.receiving = Receiving::Ended;
                } else {
                    self.pause.begin();
                }
            }
            // arming with no buffer would fail at once, again and again
            if socket.receiving == Receiving::Ended && socket.buffers.available() > 0 {
                socket.receiving = Receiving::Armed;
                ring.receive_datagrams(socket.file, &socket.buffers, self.operations.receive(socket.number));
            }
        }
        self.gate.end_turn();
        self.turn += 1;
    }

    /// Handles a tick of a clock: closes the reply sockets that were idle for too long, or looks what the kernel
    /// has dropped.
    pub fn ticked(&mut self, token: Token, ring: &mut Ring, counters: &Counters) {
        self.lanes.tidy();
        if token.index() == Tick::ReplySockets as u32 {
            self.reply_sockets.ticked(ring, |file| self.lanes.is_used(file));
        } else {
            self.look.ticked();
            self.count_drops(counters);
            if ring.has_quiet() {
                // each of them, and then once more in a second if there is anything to give back
                for socket in &mut self.sockets {
                    self.tidies |= socket.look();
                }
                if self.tidies {
                    self.look.want();
                }
            }
        }
    }

    /// Handles a tick that could not be: the clock is set again after a pause.
    pub fn tick_failed(&mut self, token: Token) {
        if token.index() == Tick::ReplySockets as u32 {
            self.reply_sockets.tick_failed();
        } else {
            self.look.failed();
        }
    }

    /// Counts what the kernel has dropped at the sockets since the last time.
    fn count_drops(&mut self, counters: &Counters) {
        for Socket { listening, drops, domain, .. } in &mut self.sockets {
            if let (Some(listening), Some(drops)) = (listening, drops) {
                drops.count(listening.as_fd(), &counters[*domain].udp_receive_buffer_drops);
            }
        }
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
            // a refusal that was forgotten meanwhile leaves some behind
            let is_older = |&(other, older): &(u16, u16)| {
                other == socket.number && socket.replies[usize::from(older)].group.flow == group.flow
            };
            if splittable
                && (self.refusals.contains(group.flow.peer.ip(), sys::now)
                    || self.singles.waiting.iter().any(is_older))
            {
                self.singles.waiting.push_back((socket.number, first));
            } else if let Some(via) = socket.via(&group.flow, &mut self.reply_sockets, self.turn) {
                socket.send(first, via, &mut self.lanes, ring, self.operations);
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
                self.sockets[usize::from(number)].send(first, via, &mut self.lanes, ring, self.operations);
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
        let way_out = socket.way_out;
        let made = match self.sockets.iter().find(own) {
            Some(own) if self.reply_sockets.is_same_way(own.way_out, way_out) => {
                return Some(Via { file: own.file, tells_source: true });
            }
            Some(_) => Err(Refused::Taken),
            None => {
                let (now, is_used) = (sys::now(), |file| self.lanes.is_used(file));
                self.reply_sockets.get_or_make(flow.origdst, way_out, ring, self.turn, now, is_used)
            }
        };
        let counter = match made {
            Ok(file) => {
                counters.udp_reply_sockets_made.add(1);
                return Some(Via { file, tells_source: false });
            }
            Err(Refused::Limited) => &counters.udp_reply_sockets_limited,
            Err(Refused::Privileged) => &counters.udp_reply_port_privileged,
            Err(Refused::Taken) => &counters.udp_reply_port_taken,
            Err(Refused::Excepted) => &counters.udp_reply_port_excepted,
            Err(Refused::NoAddress) => &counters.udp_reply_address_missing,
            Err(Refused::Forbidden) => &counters.udp_reply_socket_forbidden,
            Err(Refused::NoFiles) => &counters.udp_reply_socket_no_files,
            Err(Refused::NoMemory) => &counters.udp_reply_socket_no_memory,
            Err(Refused::Failed) => &counters.udp_reply_socket_errors,
        };
        counter.add(segments.into());
        self.sockets[usize::from(number)].recycle(first);
        None
    }

    /// Lets nothing new into the sockets that end with us; what is queued will be answered.
    pub fn begin_drain(&mut self, counters: &Counters) {
        // what the filter drops is not for want of room, but the kernel counts it with the rest
        self.count_drops(counters);
        for socket in self.sockets.iter_mut().filter(|socket| socket.fate == Fate::Ends) {
            socket.drops = None;
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
            if socket.is_done() && !self.lanes.is_used(socket.file) {
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
            let Some(via) = self.make_via(number, first, ring, counters) else {
                self.singles.waiting.pop_front();
                continue;
            };
            let Singles { messages, free, owners, waiting } = &mut self.singles;
            let socket = &mut self.sockets[usize::from(number)];
            let Group { flow, segments, dscp, hops, .. } = socket.replies[usize::from(first)].group;
            if self.lanes.has(via.file) {
                // one after the other, which takes no slots: whoever waits must not keep them from others
                waiting.pop_front();
                let departure = socket.departure_singly(first, via, 0, self.operations);
                self.lanes.push(via.file, departure);
                continue;
            }
            if free.len() < segments as usize {
                return;
            }
            waiting.pop_front();
            let transmit =
                Transmit { peer: flow.peer, source: via.source(&flow), segment_bytes: None, dscp, hops };
            let mut segments = 0;
            socket.for_each_datagram(first, |datagram| {
                let slot = free.pop().expect("checked above: a group has no more than `segments`");
                owners[usize::from(slot)] = (number, first);
                messages.clear(slot.into());
                messages.push(slot.into(), datagram);
                let message = messages.finish(slot.into(), &transmit);
                ring.send_message(via.file, message, Patience::Inline, self.operations.single(slot));
                segments += 1;
            });
            let group = &mut socket.replies[usize::from(first)].group;
            (group.in_flight, group.via) = (segments, via);
        }
    }
}

impl Operations {
    fn receive(self, number: u16) -> Token {
        Token::new(self.receive, 0, number.into())
    }

    fn tick(self, tick: Tick) -> Token {
        Token::new(self.tick, 0, tick as u32)
    }

    fn group(self, number: u16, first: u16) -> Token {
        Token::new(self.send, Sent::Group as u32, u32::from(number) << 16 | u32::from(first))
    }

    fn single(self, slot: u16) -> Token {
        Token::new(self.send, Sent::Single as u32, slot.into())
    }
}

/// Whether it is one datagram of a refused train that was sent.
fn is_single(token: Token) -> bool {
    token.generation() == Sent::Single as u32
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::Arc;
    use std::time::Duration;

    use super::group::Arrival;
    use super::*;
    use crate::echo::udp::reply_sockets::Limits;
    use crate::kernel::addr::Domain;
    use crate::kernel::ring::{FileTable, RingConfig};
    use crate::kernel::sys::Protocol;
    use crate::policy::flow::Flow;
    use crate::policy::limits::Rates;
    use crate::policy::pairs::Pairs;
    use crate::policy::refuse::Rules;

    const OPERATIONS: Operations = Operations { receive: 1, send: 2, cancel: 3, tick: 4 };

    #[test]
    fn refused_trains_that_wait_at_the_end_are_counted() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = socket.local_addr().unwrap();
        let listening = Listening::pretended(Protocol::Udp, addr, Fate::Ends, socket.into());
        let config = RingConfig {
            submission_entries: 8,
            completion_entries: 16,
            files: 4,
            file_table: FileTable::Registered,
            busy_poll: Duration::ZERO,
        };
        let (mut ring, pairs) = (Ring::new(config).unwrap(), Arc::new(Pairs::new(1)));
        let limits = Limits { count: 1, per_second: 1, idle_timeout: Duration::from_secs(1) };
        let reply_sockets = ReplySockets::new(1, limits, Arc::default(), Arc::clone(&pairs));
        let gate = Gate::new(Rules::new(&[addr], 32_768..=60_999, pairs), Rates::default());
        let mut udp = Udp::new(&mut ring, vec![listening], 0, reply_sockets, gate, OPERATIONS).unwrap();
        let counters = Counters::default();
        // nobody has sent them yet, one by one, when the deadline comes
        let flow = Flow { peer: addr, origdst: addr };
        for (first, datagrams) in [(3, 5), (9, 7)] {
            let train = Arrival::new(datagrams * 100, Some(100), 0);
            udp.sockets[0].replies[first].group = Group::new(flow, train, first as u16);
            udp.singles.waiting.push_back((0, first as u16));
        }
        udp.give_up(&counters);
        assert_eq!(counters[Domain::Ipv4].udp_send_errors.get(), 12);
    }
}
