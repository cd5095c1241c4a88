//! The UDP datapath of a worker: each datagram goes back unchanged, from the address and port that it was sent to.
//!
//! ```text
//! completion ─► provided buffer ─► socket.rs: flow (peer, original destination), rules, rates
//!                                     │
//!                                     ▼
//!                        groups.rs, group.rs: datagrams of one flow that arrived in this turn
//!                                     │
//!                                     ▼
//!                        replies.rs: one SENDMSG for each group, with UDP_SEGMENT for more than one datagram
//!                          egress.rs    by which socket: the listening socket, or one of reply_sockets.rs
//!                          split.rs     a train that the network path refused, as single datagrams
//!                          backlog.rs   replies that wait for room in a send buffer
//!                          progress.rs  the states of a group on its way
//!                                     │
//!                                     ▼
//! completion ─► all buffers of the group go back to the kernel
//! ```
//!
//! Beside that path: `operation.rs` numbers the operations, `drops.rs` reads how many datagrams the kernel has dropped,
//! `idle_memory.rs` gives the memory of idle sockets back, and `broadcasts.rs` knows the addresses that are many hosts'.
//!
//! A turn is one round of the worker's loop. A train is several datagrams of one flow in one message (GRO in, GSO out).
//! Memory is reserved at the start, and no byte is copied: the reply is sent from the buffer that its request was
//! received into. A reply is never larger than its request. Groups are sent at the end of the turn in which their
//! datagrams arrived; nothing waits, except for room in a send buffer.
//!
//! The end: `begin_drain` once, `drain` in each turn until it is done, then `count_abandoned`.

mod backlog;
mod broadcasts;
mod drops;
mod egress;
mod group;
mod groups;
mod idle_memory;
mod operation;
mod progress;
mod replies;
pub mod reply_sockets;
mod socket;
mod split;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use self::drops::DropPoll;
use self::egress::EgressTable;
pub use self::operation::Operations;
use self::operation::Tick;
use self::replies::Replies;
use self::reply_sockets::{InheritedOptions, ReplySockets};
use self::socket::{Receiving, Socket, buffers_each};
use crate::kernel::pause::{PAUSE, Pause};
use crate::kernel::ring::{Completion, Errno, File, Ring, RingError, Token};
use crate::kernel::sys;
use crate::policy::counters::Counters;
use crate::policy::errno_policy::{self, SocketStage};
use crate::policy::refuse::Admission;
use crate::sockets::listening::{AtExit, Listening};

/// Sizes of the datapath. Every server has the default ones. The simulation has smaller ones, so that it reaches them.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Messages that can be in flight for trains that are sent as single datagrams.
    pub split_slots: u16,
    /// After so many seconds without a datagram the memory of a socket's buffers goes back to the system.
    pub idle_seconds: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { split_slots: 256, idle_seconds: 5 }
    }
}

/// When a drain stops receiving on sockets that the service manager keeps for the next process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReceiving {
    /// Not yet: they are served like before.
    NotYet,
    /// As soon as nothing is queued.
    WhenEmpty,
    /// At once: the next process receives what is queued.
    Now,
}

/// All UDP sockets of a worker.
pub struct Udp {
    operations: Operations,
    sockets: Vec<Socket>,
    replies: Replies,
    admission: Admission,
    /// When the kernel's drops are read, and which sockets are idle.
    drop_poll: DropPoll,
    idle_seconds: u32,
    /// Sockets may have memory to give back.
    may_have_idle_memory: bool,
    /// Numbers of sockets that are served only until their queues are empty.
    retiring: Vec<usize>,
    /// For sockets on which receiving fails again and again.
    pause: Pause,
    stage: SocketStage,
    turn: u64,
}

impl Udp {
    /// Registers `listening` from file `first_file` on. Each socket has its own ring of buffers: a flooded socket must
    /// not take its neighbours' buffers.
    pub fn new(
        ring: &mut Ring,
        listening: Vec<Listening>,
        first_file: u32,
        reply_sockets: ReplySockets,
        admission: Admission,
        operations: Operations,
        sizes: Sizes,
    ) -> Result<Self, RingError> {
        let mut sockets = Vec::new();
        let mut egress = EgressTable::new(reply_sockets);
        let buffers = buffers_each(listening.len());
        for (number, listening) in listening.into_iter().enumerate() {
            let file = File(first_file + number as u32);
            egress.add(file, listening.addr, InheritedOptions::of(listening.as_fd(), listening.addr));
            sockets.push(Socket::new(ring, listening, number as u16, file, buffers)?);
        }
        let retires = |&number: &usize| sockets[number].at_exit == AtExit::Retire;
        let retiring = (0..sockets.len()).filter(retires).collect();
        Ok(Self {
            operations,
            sockets,
            replies: Replies::new(egress, sizes.split_slots, operations),
            admission,
            drop_poll: DropPoll::new(),
            idle_seconds: sizes.idle_seconds,
            may_have_idle_memory: false,
            retiring,
            pause: Pause::new(PAUSE),
            stage: SocketStage::Arming,
            turn: 1,
        })
    }

    /// From now on an error of a socket is not final: every socket has shown that it works.
    pub fn begin_serving(&mut self) {
        self.stage = SocketStage::Serving;
    }

    /// How long a turn may sleep; `None`: for ever. It is limited only while something fails again and again.
    pub fn sleep(&self) -> Option<Duration> {
        let reply_sockets = &self.replies.egress.reply_sockets;
        [self.pause.sleep(), self.drop_poll.sleep(), reply_sockets.sleep()].into_iter().flatten().min()
    }

    /// The address of the socket that a receive's token names, for messages.
    pub fn addr(&self, token: Token) -> SocketAddr {
        self.sockets[token.index() as usize].addr
    }

    /// Handles the completion of a receive. An error is final for the worker: the socket or the ring is
    /// unusable.
    pub fn received(&mut self, completion: &Completion, counters: &Counters) -> Result<(), Errno> {
        self.drop_poll.want();
        let socket = &mut self.sockets[completion.token().index() as usize];
        let counters = &counters[socket.domain];
        let is_cancelled = socket.receiving == Receiving::Cancelling;
        if !completion.more() {
            socket.receiving = if is_cancelled { Receiving::Off } else { Receiving::Ended };
        }
        match (completion.result(), socket.groups.buffers.take(completion)) {
            (Ok(_), Some(part)) => {
                socket.failures.forget();
                socket.arrived(
                    part,
                    self.turn,
                    &mut self.admission,
                    &mut self.replies.gso_refusals,
                    counters,
                );
            }
            // without a buffer there is no datagram, whatever the result says
            (Ok(_), None) => {
                counters.udp_receive_errors.add(1);
                socket.fail(counters);
            }
            (Err(errno), part) => {
                if let Some(part) = part {
                    socket.groups.buffers.recycle(part);
                }
                match errno_policy::of_datagrams(errno, self.stage) {
                    errno_policy::Receive::Starved => counters.udp_no_buffers.add(1),
                    errno_policy::Receive::Cancelled if is_cancelled => return Ok(()),
                    errno_policy::Receive::Fatal => return Err(errno),
                    // also a cancellation that nobody asked for: the kernel could not wait for a datagram
                    _ => counters.udp_receive_errors.add(1),
                }
                socket.fail(counters);
            }
        }
        Ok(())
    }

    /// Handles the completion of a reply.
    pub fn sent(&mut self, completion: &Completion, counters: &Counters) {
        self.replies.sent(completion, &mut self.sockets, self.turn, counters);
    }

    /// Counts the replies that will not be sent because the worker ends, and the latest drops of the kernel.
    pub fn count_abandoned(&mut self, counters: &Counters) {
        self.count_drops(counters);
        self.replies.give_up(&self.sockets, counters);
    }

    /// Ends the turn: sends what its datagrams ask for, and arms what has ended.
    pub fn finish_turn(&mut self, ring: &mut Ring, counters: &Counters) {
        // possible only before anything is submitted: then no buffer is on its way in
        if std::mem::take(&mut self.may_have_idle_memory)
            && let Some(quiet) = ring.quiet()
        {
            self.sockets.iter_mut().for_each(|socket| socket.give_back_idle(quiet, self.idle_seconds));
        }
        self.replies.send(&mut self.sockets, self.turn, ring, counters);
        let Self { replies, operations, .. } = self;
        replies.egress.reply_sockets.run_clock(ring, operations.tick(Tick::ReplySockets));
        self.drop_poll.run(ring, self.operations.tick(Tick::Drops));
        self.arm(ring);
        self.admission.end_turn();
        self.turn += 1;
    }

    /// Arms the receives that have ended.
    fn arm(&mut self, ring: &mut Ring) {
        let count = self.sockets.len();
        let resume = self.pause.ends();
        // the socket that is armed first is served first, so each turn begins with another one
        for offset in 0..count {
            let socket = &mut self.sockets[(self.turn as usize + offset) % count];
            if socket.receiving == Receiving::Paused {
                if resume {
                    socket.receiving = Receiving::Ended;
                } else {
                    self.pause.begin();
                }
            }
            socket.arm(ring, self.operations);
        }
    }

    /// Handles a tick of a clock: closes the reply sockets that were idle for too long, or reads what the kernel
    /// has dropped.
    pub fn ticked(&mut self, token: Token, ring: &mut Ring, counters: &Counters) {
        self.replies.tidy();
        match Tick::of(token) {
            Tick::ReplySockets => self.replies.close_idle(ring),
            Tick::Drops => {
                self.drop_poll.ticked();
                self.count_drops(counters);
                self.find_idle_memory(ring);
            }
        }
    }

    /// Looks for buffers whose memory can be given back.
    fn find_idle_memory(&mut self, ring: &Ring) {
        if !ring.has_quiet() {
            return;
        }
        // every socket is asked; what is found goes back at the end of the turn, and is checked again in a second
        for socket in &mut self.sockets {
            self.may_have_idle_memory |= socket.tick_memory();
        }
        if self.may_have_idle_memory {
            self.drop_poll.want();
        }
    }

    /// Handles a clock's timer that failed: it is set again after a pause.
    pub fn tick_failed(&mut self, token: Token) {
        match Tick::of(token) {
            Tick::ReplySockets => self.replies.egress.reply_sockets.tick_failed(),
            Tick::Drops => self.drop_poll.failed(),
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

    /// Lets nothing new into the sockets that end with us; what is queued will be answered.
    pub fn begin_drain(&mut self, counters: &Counters) {
        // from now on the kernel also counts what the filter drops; only drops before that are losses
        self.count_drops(counters);
        for socket in self.sockets.iter_mut().filter(|socket| socket.at_exit == AtExit::Close) {
            socket.drops = None;
            if let Some(listening) = &socket.listening {
                // without the filter the drain ends when the queue happens to be empty, or at the deadline
                let _ = sys::drop_incoming(listening.as_fd());
            }
        }
    }

    /// Ends receiving on every socket whose queue is empty, and as `stop` says on those that the next process gets.
    /// True when every socket is done: it receives nothing and all its replies are out.
    pub fn drain(&mut self, ring: &mut Ring, stop: StopReceiving) -> io::Result<bool> {
        let mut drained = true;
        for socket in &mut self.sockets {
            match (socket.at_exit, stop) {
                (AtExit::Close | AtExit::Retire, _) => socket.end_if_empty(ring, self.operations)?,
                // once receiving has ended, new datagrams are for the next process
                (AtExit::Keep, StopReceiving::WhenEmpty) if socket.receiving != Receiving::Off => {
                    socket.end_if_empty(ring, self.operations)?;
                }
                (AtExit::Keep, StopReceiving::Now) => socket.end(ring, self.operations),
                (AtExit::Keep, StopReceiving::NotYet | StopReceiving::WhenEmpty) => {}
            }
            drained &= socket.is_done();
        }
        Ok(drained)
    }

    /// Closes the retired sockets, those that no option names any more, once their queues are empty. True when none is
    /// left.
    pub fn close_retired(&mut self, ring: &mut Ring) -> io::Result<bool> {
        for index in (0..self.retiring.len()).rev() {
            let socket = &mut self.sockets[self.retiring[index]];
            socket.end_if_empty(ring, self.operations)?;
            if socket.is_done() && !self.replies.is_used(socket.file) {
                ring.unregister_file(socket.file);
                socket.listening = None;
                self.replies.egress.close(socket.number);
                self.retiring.swap_remove(index);
            }
        }
        Ok(self.retiring.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::OwnedFd;
    use std::sync::Arc;
    use std::time::Duration;

    use super::group::{Arrival, Group};
    use super::operation::GroupId;
    use super::*;
    use crate::echo::udp::reply_sockets::ReplySocketLimits;
    use crate::kernel::addr::Domain;
    use crate::kernel::ring::{FileTable, RingConfig, Wait};
    use crate::kernel::sys::Protocol;
    use crate::policy::flow::Flow;
    use crate::policy::limits::Rates;
    use crate::policy::pairs::Pairs;
    use crate::policy::refuse::Rules;

    const OPERATIONS: Operations =
        Operations { receive: 1, send_group: 2, send_datagram: 3, cancel: 4, tick: 5 };

    /// The datapath of one socket at this address, which is the ring's file 0.
    fn datapath(addr: SocketAddr, at_exit: AtExit, socket: OwnedFd) -> (Ring, Udp) {
        let listening = Listening::pretended(Protocol::Udp, addr, at_exit, socket);
        let config = RingConfig {
            submission_entries: 8,
            completion_entries: 16,
            files: 4,
            file_table: FileTable::Registered,
            busy_poll: Duration::ZERO,
        };
        let (mut ring, pairs) = (Ring::new(config).unwrap(), Arc::new(Pairs::new(1)));
        let limits = ReplySocketLimits { count: 1, per_second: 1, idle_timeout: Duration::from_secs(1) };
        let reply_sockets = ReplySockets::new(1, limits, Arc::default(), Arc::clone(&pairs));
        let admission = Admission::new(Rules::new(&[addr], 32_768..=60_999, pairs), Rates::default());
        let sizes = Sizes::default();
        let udp =
            Udp::new(&mut ring, vec![listening], 0, reply_sockets, admission, OPERATIONS, sizes).unwrap();
        (ring, udp)
    }

    /// One turn, in which nothing waits: the outcome of each receive that ended.
    fn turn(ring: &mut Ring, udp: &mut Udp, counters: &Counters) -> Vec<Result<(), Errno>> {
        let mut completions = Vec::new();
        ring.turn(Wait::Timeout(Duration::from_millis(1)), &mut completions).unwrap();
        let receives =
            completions.iter().filter(|completion| completion.token().operation() == OPERATIONS.receive);
        let outcomes = receives.map(|completion| udp.received(completion, counters)).collect();
        udp.finish_turn(ring, counters);
        outcomes
    }

    #[test]
    fn a_socket_of_the_next_process_is_left_once_it_is_empty_and_stays_left() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (addr, next_process) = (socket.local_addr().unwrap(), socket.try_clone().unwrap());
        let (mut ring, mut udp) = datapath(addr, AtExit::Keep, socket.into());
        let counters = Counters::default();
        turn(&mut ring, &mut udp, &counters);
        udp.begin_serving();
        assert!(!udp.drain(&mut ring, StopReceiving::NotYet).unwrap(), "it is served like before");
        let is_left = (0..1000).any(|_| {
            turn(&mut ring, &mut udp, &counters);
            udp.drain(&mut ring, StopReceiving::WhenEmpty).unwrap()
        });
        assert!(is_left, "its queue is empty");

        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"for the next", addr).unwrap();
        for _ in 0..3 {
            assert!(udp.drain(&mut ring, StopReceiving::WhenEmpty).unwrap());
            turn(&mut ring, &mut udp, &counters);
        }
        let mut buffer = [0; 64];
        assert_eq!(next_process.recv(&mut buffer).unwrap(), 12);
    }

    #[test]
    fn what_can_receive_no_datagram_at_the_start_ends_the_worker() {
        let (no_socket, _other_end) = io::pipe().unwrap();
        let (mut ring, mut udp) = datapath(([127, 0, 0, 1], 7).into(), AtExit::Close, no_socket.into());
        let counters = Counters::default();
        let outcomes: Vec<_> = (0..3).flat_map(|_| turn(&mut ring, &mut udp, &counters)).collect();
        assert_eq!(outcomes.first(), Some(&Err(Errno(libc::ENOTSOCK))));
        assert_eq!(counters[Domain::Ipv4].udp_receive_errors.get(), 0, "it is an error, not a loss");
    }

    #[test]
    fn refused_trains_that_wait_at_the_end_are_counted() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = socket.local_addr().unwrap();
        let (_ring, mut udp) = datapath(addr, AtExit::Close, socket.into());
        let counters = Counters::default();
        // they still wait for message slots when the deadline comes
        let flow = Flow { peer: addr, origdst: addr };
        for (first, datagrams) in [(3, 5), (9, 7)] {
            let train = Arrival::new(datagrams * 100, Some(100), 0);
            let groups = &mut udp.sockets[0].groups;
            groups.pretend(first, Group::new(flow, train, first));
            groups.await_split(first);
            udp.replies.pretend_waiting(GroupId { socket: 0, first });
        }
        udp.count_abandoned(&counters);
        assert_eq!(counters[Domain::Ipv4].udp_send_errors.get(), 12);
    }
}
