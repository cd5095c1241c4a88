//! The TCP datapath: what a connection sends comes back on it, in order, byte for byte.
//!
//! ```text
//! accept ─► direct descriptor ─► receive (multishot) ─► part of a provided buffer ─► send, inline
//!                                      ▲                                               │ all out
//!                                      └── buffer goes back to the kernel ◄────────────┤
//!                                                                                      ▼ not all
//!                 receiving stops ◄── the rest is copied aside: a provided buffer never waits for a peer
//! ```
//!
//! A connection whose peer sends much at a time receives once for each send instead of by multishot, so
//! that a peer that sends but does not read can make us keep one receive's bytes and no more.
//!
//! Only multishots and polls wait on a connection. Any other operation that waits is also woken by urgent data
//! and by the peer's FIN, finds nothing that it can do, and moves to a thread of the kernel that blocks, one
//! for each connection; with a provided buffer in hand, which other connections are then served from. A peer
//! can bring that about with one forged segment.
//!
//! Each connection has at most one send in flight: two could overtake each other. A direct descriptor
//! is closed only when nothing is in flight on it, so its number can't be used again under an operation.

mod aside;
mod connection;
mod listener;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use self::connection::{Cause, Connection, Phase, Receiving, Writable};
use self::listener::{Accepting, Listener};
use crate::echo::idle::IdleClock;
use crate::kernel::addr::Domain;
use crate::kernel::pause::{Failures, PAUSE, Pause};
use crate::kernel::ring::{
    Arena, BufferConfig, BufferRing, Completion, Errno, File, PeerName, Ring, RingError, Token, WholeBuffers,
    try_order,
};
use crate::kernel::sys;
use crate::policy::counters::Counters;
use crate::policy::errno_policy::{self, Stage, StreamSend};
use crate::policy::limits::ConnectionsPerPrefix;
use crate::sockets::listening::{AtExit, LISTEN_BACKLOG, Listening};

/// Receive buffers of all connections together: large messages whole, small ones side by side, and all
/// of it in the cache. So few in tests that they run out.
const BUFFERS: BufferConfig =
    BufferConfig { count: if cfg!(test) { 2 } else { 16 }, buffer_bytes: 64 << 10, incremental: true };
/// The same where a buffer is used up by one receive, however short.
const WHOLE_BUFFERS: BufferConfig =
    BufferConfig { count: if cfg!(test) { 8 } else { 128 }, buffer_bytes: 32 << 10, incremental: false };
/// A receive of more bytes shows a peer that streams.
const STREAMING_BYTES: u32 = 16 << 10;
/// What such a peer's receives are limited to. The next one begins when all of it is out, so that no more
/// has to be set aside for the connection.
const STREAMING_RECEIVE_BYTES_MAX: u32 = 64 << 10;
/// Bytes set aside for all connections whose peers don't read, all workers together.
const ASIDE_BYTES: u32 = 64 << 20;
/// What a connection may still bring at the end of the server: more than its receive queue holds, unless
/// somebody raised net.ipv4.tcp_rmem above its default of 6 MiB.
const EMPTYING_BYTES_MAX: u32 = 8 << 20;
/// Bytes set aside are kept in chunks of this size.
const CHUNK_BYTES: u32 = 16 << 10;
/// Accepting goes on so long after it failed for want of a descriptor or of memory, each time of which may have cost a
/// connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Sends that are tried again after one pause, so that ten thousand connections don't do at once what there was no memory
/// for.
const RETRIES_MAX: usize = 64;

/// How much a worker takes on.
#[derive(Clone, Debug)]
pub struct TcpLimits {
    /// Connections served at a time.
    pub connections: usize,
    /// Workers that share the memory for bytes set aside.
    pub workers: usize,
    /// Connections on which nothing was sent or received for so long are closed; zero for never.
    pub idle_timeout: Duration,
    /// Connections are accepted one by one, so that it is known from whom, and none is accepted beyond the limit.
    pub single_accept: bool,
    /// How many each source may have, all workers together, where they are accepted one by one; `None`: any number.
    pub per_prefix: Option<Arc<ConnectionsPerPrefix>>,
}

/// The numbers of the operations that this datapath submits.
#[derive(Clone, Copy, Debug)]
pub struct Operations {
    /// Accept; the index is the listener's.
    pub accept: u8,
    /// Receive on a connection; the index is its file.
    pub receive: u8,
    /// Send on a connection.
    pub send: u8,
    /// Poll of a connection that is waited for to have something to receive.
    pub readable: u8,
    /// Poll of a connection whose peer has to make room.
    pub writable: u8,
    /// Shutdown of a connection.
    pub shutdown: u8,
    /// Close of a connection; only failures complete.
    pub close: u8,
    /// Cancellation of an accept, a receive or a poll.
    pub cancel: u8,
    /// A tick of the clock that finds idle connections.
    pub tick: u8,
}

impl Operations {
    fn accept(self, number: usize) -> Token {
        Token::new(self.accept, 0, number as u32)
    }

    fn cancel(self) -> Token {
        Token::new(self.cancel, 0, 0)
    }

    fn tick(self) -> Token {
        Token::new(self.tick, 0, 0)
    }
}

/// Incremental buffers if the kernel has them and they have shown to be safe, else whole ones, and why.
fn receive_buffers(
    ring: &mut Ring,
    operations: Operations,
) -> Result<(BufferRing, Option<WholeBuffers>), RingError> {
    match try_order(ring, operations.cancel()) {
        Ok(()) => Ok((BufferRing::new(ring, BUFFERS)?, None)),
        Err(reason) => Ok((BufferRing::new(ring, WHOLE_BUFFERS)?, Some(reason))),
    }
}

/// All listeners and connections of a worker.
#[allow(clippy::struct_excessive_bools)] // they are independent of each other
pub struct Tcp {
    operations: Operations,
    listeners: Vec<Listener>,
    buffers: BufferRing,
    whole_buffers: Option<WholeBuffers>,
    aside: Arena,
    /// By file, from `first_connection` on.
    connections: Vec<Connection>,
    first_connection: u32,
    /// Connections to look after at the end of the turn.
    listed: Vec<File>,
    /// Connections whose receive waits for buffers.
    starved: VecDeque<File>,
    /// Connections that hold provided buffers, because there was no room to set their bytes aside.
    crowded: Vec<File>,
    /// The connection that is being closed to make room, and its generation.
    given_up: Option<(File, u32)>,
    /// Connections accepted above the limit, in order.
    parked: VecDeque<File>,
    per_prefix: Option<Arc<ConnectionsPerPrefix>>,
    limit: usize,
    served: usize,
    /// The limit was reached at the end of the last turn.
    full: bool,
    turn: u64,
    clock: IdleClock,
    /// For listeners that have paused.
    accept_pause: Pause,
    /// In this turn something was received into a buffer, or there was none for it.
    buffered: bool,
    unbuffered: bool,
    /// Turns in a row in which no buffer was found, although there were some, and nothing received.
    unbuffered_turns: Failures,
    /// They were so many that those without a buffer wait.
    unbuffered_wait: bool,
    /// Connections whose send failed for want of memory, or whose poll did.
    retries: VecDeque<File>,
    /// For both.
    pause: Pause,
    stage: Stage,
    draining: bool,
}

impl Tcp {
    /// Files that connections need. Unless they are accepted one by one the kernel accepts a full backlog beyond
    /// the limit before a cancellation takes effect, and would close what finds no place in the table.
    pub fn files(limit: usize, listeners: usize, single_accept: bool) -> usize {
        let beyond = if single_accept { 1 } else { LISTEN_BACKLOG as usize + 1 };
        limit.saturating_add(listeners * beyond)
    }

    /// Registers `listening` from file `first` on. Connections get files from `first_connection` on. Nothing was queued
    /// in the ring before.
    pub fn new(
        ring: &mut Ring,
        listening: Vec<Listening>,
        first: u32,
        first_connection: u32,
        limits: TcpLimits,
        operations: Operations,
    ) -> Result<Self, RingError> {
        let mut listeners = Vec::new();
        for (number, listening) in listening.into_iter().enumerate() {
            let file = File(first + number as u32);
            ring.register_file(file, listening.shared())?;
            listeners.push(Listener {
                addr: listening.addr,
                domain: Domain::of(listening.addr),
                at_exit: listening.at_exit,
                listening: Some(listening),
                file,
                accepting: Accepting::Ended,
                failures: Failures::default(),
                peer: limits.single_accept.then(PeerName::default),
            });
        }
        let (buffers, whole_buffers) = if listeners.is_empty() {
            (BufferRing::new(ring, WHOLE_BUFFERS)?, None)
        } else {
            receive_buffers(ring, operations)?
        };
        let chunks = ASIDE_BYTES / CHUNK_BYTES / limits.workers as u32;
        let table = Self::files(limits.connections, listeners.len(), limits.single_accept);
        Ok(Self {
            operations,
            listeners,
            buffers,
            whole_buffers,
            aside: Arena::new(chunks, CHUNK_BYTES)?,
            connections: (0..table).map(|_| Connection::new(0, Domain::Ipv4)).collect(),
            first_connection,
            listed: Vec::new(),
            starved: VecDeque::new(),
            crowded: Vec::new(),
            given_up: None,
            parked: VecDeque::new(),
            per_prefix: limits.per_prefix,
            limit: limits.connections,
            served: 0,
            full: false,
            turn: 0,
            clock: IdleClock::new(limits.idle_timeout),
            accept_pause: Pause::new(ACCEPT_PAUSE),
            buffered: false,
            unbuffered: false,
            unbuffered_turns: Failures::default(),
            unbuffered_wait: false,
            retries: VecDeque::new(),
            pause: Pause::new(PAUSE),
            stage: Stage::Arming,
            draining: false,
        })
    }

    /// Why buffers are used up by one receive each, if they are.
    pub fn whole_buffers(&self) -> Option<WholeBuffers> {
        self.whole_buffers
    }

    /// Every listener has shown that it works.
    pub fn begin_serving(&mut self) {
        self.stage = Stage::Serving;
    }

    /// How long a turn may sleep; any time, unless something has failed again and again.
    pub fn sleep(&self) -> Option<Duration> {
        let clock = self.clock.sleep().filter(|_| self.served > 0);
        [self.accept_pause.sleep(), self.pause.sleep(), clock].into_iter().flatten().min()
    }

    /// The listener that an accept's token means, for messages.
    pub fn addr(&self, token: Token) -> SocketAddr {
        self.listeners[token.index() as usize].addr
    }

    /// Whether the listener that an accept's token means still is one: other processes may have it, too, and shut it
    /// down.
    pub fn listens(&self, token: Token) -> bool {
        let listening = self.listeners[token.index() as usize].listening.as_ref();
        listening.is_none_or(|it| sys::socket_kind(it.as_fd()).is_ok_and(|kind| kind.listens))
    }

    /// Handles the completion of an accept. An error is final for the worker: the listener or the ring
    /// is unusable.
    pub fn accepted(
        &mut self,
        completion: Completion,
        ring: &mut Ring,
        counters: &Counters,
    ) -> Result<(), Errno> {
        let listener = &mut self.listeners[completion.token().index() as usize];
        let domain = listener.domain;
        let counters = &counters[domain];
        let for_good = listener.accepting == Accepting::Leaving;
        let cancelling = for_good || listener.accepting == Accepting::Cancelling;
        if !completion.more() {
            listener.accepting = if for_good { Accepting::Off } else { Accepting::Ended };
        }
        match ring.accepted(completion) {
            Ok(None) => counters.tcp_accept_errors.add(1),
            Ok(Some(file)) => {
                listener.failures.forget();
                let peer = listener.peer.as_ref().and_then(PeerName::get);
                let source =
                    self.per_prefix.as_ref().zip(peer).map(|(sources, peer)| sources.admit(peer.ip()));
                let connection = self.connection(file);
                // two connections with one number would get each other's bytes
                assert_eq!(connection.phase, Phase::Free, "the kernel gave out a file in use");
                *connection = Connection::new(connection.generation.wrapping_add(1), domain);
                counters.tcp_accepted.add(1);
                counters.tcp_open.add(1);
                if let Some(None) = source {
                    connection.phase = Phase::Closing(Cause::PrefixLimit);
                    self.served += 1;
                    self.list(file);
                } else {
                    connection.prefix = source.flatten();
                    connection.phase = Phase::Parked;
                    self.parked.push_back(file);
                }
            }
            Err(errno) => match errno_policy::of_accept(errno, self.stage) {
                errno_policy::Receive::Cancelled if cancelling => {}
                errno_policy::Receive::Fatal => return Err(errno),
                errno_policy::Receive::Starved => {
                    counters.tcp_accept_errors.add(1);
                    listener.pause(counters);
                }
                _ => {
                    counters.tcp_accept_errors.add(1);
                    if listener.failures.add() {
                        listener.pause(counters);
                    }
                }
            },
        }
        Ok(())
    }

    /// Handles the completion of a receive.
    pub fn received(&mut self, completion: &Completion, counters: &Counters) {
        let part = self.buffers.take(completion);
        let Some(file) = self.file_of(completion.token()) else {
            if let Some(part) = part {
                self.buffers.recycle(part);
            }
            return;
        };
        self.list(file);
        let connection = self.connection(file);
        let traffic = &counters[connection.domain];
        let (was, mut starved) = (connection.receiving, false);
        if !completion.more() {
            connection.receiving = Receiving::Off;
        }
        match completion.result() {
            Ok(0) => {
                connection.phase = match connection.phase {
                    Phase::Open | Phase::Emptying(_) | Phase::Finishing(_) => {
                        Phase::Finishing(Cause::Finished)
                    }
                    Phase::Lingering => Phase::Closing(Cause::Drained),
                    other => other,
                };
            }
            Ok(bytes) => {
                if connection.phase.echoes() {
                    traffic.tcp_bytes_in.add(bytes.into());
                }
                connection.streaming |= bytes > STREAMING_BYTES;
                connection.failures.forget();
                if let Phase::Emptying(before) = connection.phase {
                    let now = before + bytes;
                    let more = now < EMPTYING_BYTES_MAX;
                    connection.phase =
                        if more { Phase::Emptying(now) } else { Phase::Finishing(Cause::Drained) };
                }
            }
            Err(errno) => match errno_policy::of_stream(errno) {
                errno_policy::Receive::Starved => {
                    traffic.tcp_no_buffers.add(1);
                    starved = true;
                }
                errno_policy::Receive::Cancelled if was == Receiving::Cancelling => {}
                errno_policy::Receive::Reset | errno_policy::Receive::Fatal => {
                    connection.phase = Phase::Closing(Cause::of(errno));
                }
                verdict => {
                    if verdict == errno_policy::Receive::WouldBlock {
                        connection.dry = true;
                        if was == Receiving::Once && matches!(connection.phase, Phase::Emptying(_)) {
                            connection.phase = Phase::Finishing(Cause::Drained);
                        }
                    }
                    // nothing comes of it, and nothing says that it will
                    if connection.failures.add() && !matches!(connection.phase, Phase::Closing(_)) {
                        connection.phase = Phase::Closing(Cause::Error);
                    }
                }
            },
        }
        let Some(part) = part else {
            self.unbuffered |= starved;
            return;
        };
        self.buffered = true;
        let connection = self.connection(file);
        if !connection.phase.echoes() || part.bytes() == 0 {
            self.buffers.recycle(part);
            return;
        }
        connection.parts.push_back(part);
        if !connection.aside.is_empty() {
            self.set_aside(file, counters);
        }
    }

    /// Handles the completion of a send.
    pub fn sent(&mut self, completion: &Completion, counters: &Counters) {
        let Some(file) = self.file_of(completion.token()) else { return };
        self.list(file);
        let connection = self.connection(file);
        connection.sending = false;
        match completion.result() {
            Ok(bytes) => {
                counters[connection.domain].tcp_bytes_out.add(bytes.into());
                self.advance(file, bytes, counters);
            }
            Err(errno) => match errno_policy::of_stream_send(errno) {
                StreamSend::Stalled => {
                    connection.blocked = true;
                    self.set_aside(file, counters);
                }
                StreamSend::Again => {
                    // a poll would tell at once that there is room: that is not what it lacked
                    connection.pausing = true;
                    self.retries.push_back(file);
                    self.set_aside(file, counters);
                }
                StreamSend::Reset => {
                    // a send that was cancelled has its cause already
                    if !matches!(connection.phase, Phase::Closing(_)) {
                        connection.phase = Phase::Closing(Cause::of(errno));
                    }
                }
            },
        }
    }

    /// Handles the completion of a poll: there is something to receive, or the connection has ended.
    pub fn readable(&mut self, completion: &Completion) {
        let Some(file) = self.file_of(completion.token()) else { return };
        self.list(file);
        let connection = self.connection(file);
        connection.receiving = Receiving::Off;
        connection.dry = false;
    }

    /// Handles what a connection's poll for room says.
    pub fn writable(&mut self, completion: &Completion) {
        let Some(file) = self.file_of(completion.token()) else { return };
        let connection = self.connection(file);
        if !completion.more() {
            let failed = completion.result().is_err() && connection.writable != Writable::Cancelling;
            connection.writable = if failed { Writable::Failed } else { Writable::Off };
            if failed {
                self.retries.push_back(file);
            }
        }
        let connection = self.connection(file);
        // a peer's FIN is told at once, and is no room
        let room = completion.result().is_ok_and(|events| events & !(libc::POLLRDHUP as u32) != 0);
        if room {
            connection.blocked = false;
        }
        if room || !completion.more() {
            self.list(file);
        }
    }

    /// Handles the completion of a shutdown: our FIN is out.
    pub fn shut_down(&mut self, completion: &Completion) {
        let Some(file) = self.file_of(completion.token()) else { return };
        self.list(file);
        let connection = self.connection(file);
        connection.sending = false;
        if completion.result().is_err() {
            connection.phase = Phase::Closing(Cause::Drained);
        }
    }

    /// Handles a tick that could not be: the clock is set again after a pause.
    pub fn tick_failed(&mut self) {
        self.clock.failed();
    }

    /// Handles a tick of the clock: closes the connections that were idle for too long.
    pub fn ticked(&mut self) {
        self.clock.ticked();
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            let waits = matches!(connection.phase, Phase::Free | Phase::Parked | Phase::Closing(_));
            if !waits && self.clock.is_idle(connection.active_tick) {
                connection.phase = Phase::Closing(Cause::Idle);
                self.list(File(self.first_connection + index as u32));
            }
        }
    }

    /// Ends the turn: every connection that something happened to gets its next operation.
    pub fn finish_turn(&mut self, ring: &mut Ring, counters: &Counters) {
        self.turn += 1;
        if self.pause.ends() {
            self.try_again();
        }
        self.judge_buffers();
        let mut listed = std::mem::take(&mut self.listed);
        for file in listed.drain(..) {
            self.connection(file).listed = false;
            self.look_after(file, ring, counters);
        }
        self.listed = listed;
        self.make_room(ring, counters);
        // who found no buffer is served in turn as buffers come back, one each: the rest wait for the next turn
        let buffers = if self.unbuffered_wait { 0 } else { self.buffers.available() };
        for _ in 0..buffers {
            let Some(file) = self.starved.pop_front() else { break };
            self.connection(file).starved = false;
            self.look_after(file, ring, counters);
        }
        while self.served < self.limit || self.draining {
            let Some(file) = self.parked.pop_front() else { break };
            self.served += 1;
            let (now, draining) = (self.clock.now(), self.draining);
            let connection = self.connection(file);
            connection.active_tick = now;
            connection.phase = if draining { Phase::Emptying(0) } else { Phase::Open };
            self.look_after(file, ring, counters);
        }
        if self.served > 0 {
            self.clock.run(ring, self.operations.tick());
        }
        self.arm_listeners(ring, counters);
        if self.unbuffered_wait || !self.retries.is_empty() {
            self.pause.begin();
        }
    }

    /// Whoever found no buffer waits, once that happens turn after turn without any reason.
    fn judge_buffers(&mut self) {
        let (received, lacked) = (std::mem::take(&mut self.buffered), std::mem::take(&mut self.unbuffered));
        if received {
            self.unbuffered_turns.forget();
        } else if lacked && self.buffers.available() > 0 {
            self.unbuffered_wait |= self.unbuffered_turns.add();
        }
    }

    /// The pause is over: what was given up for the moment is tried again.
    fn try_again(&mut self) {
        self.unbuffered_wait = false;
        for _ in 0..RETRIES_MAX {
            let Some(file) = self.retries.pop_front() else { break };
            let connection = self.connection(file);
            // the connection may have gone, and its file be another one's: that one tries a little early
            let mut waited = std::mem::take(&mut connection.pausing);
            if connection.writable == Writable::Failed {
                connection.writable = Writable::Off;
                connection.blocked = false;
                waited = true;
            }
            if waited && connection.phase.echoes() {
                self.list(file);
            }
        }
    }

    /// Accepts below the limit, stops above it.
    fn arm_listeners(&mut self, ring: &mut Ring, counters: &Counters) {
        let full = self.served >= self.limit && !self.draining;
        let resume = self.accept_pause.ends();
        let reached = full && !self.full;
        self.full = full;
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            if listener.accepting == Accepting::Paused {
                if resume {
                    listener.accepting = Accepting::Ended;
                } else {
                    self.accept_pause.begin();
                }
            }
            if reached && matches!(listener.accepting, Accepting::Armed | Accepting::Ended) {
                counters[listener.domain].tcp_limit_reached.add(1);
            }
            match listener.accepting {
                Accepting::Armed if full => {
                    listener.accepting = Accepting::Cancelling;
                    ring.cancel(self.operations.accept(number), self.operations.cancel());
                }
                Accepting::Ended if !full => listener.accept(ring, self.operations.accept(number)),
                _ => {}
            }
        }
    }

    /// Lets nothing new into the listeners that end with us; who is in their queues is still accepted.
    /// Connections echo what they have received, then get our FIN.
    pub fn begin_drain(&mut self) {
        self.draining = true;
        for listener in self.listeners.iter().filter(|listener| listener.at_exit == AtExit::Close) {
            if let Some(listening) = &listener.listening {
                // without the filter late connections are reset by the close, as by any other server
                let _ = sys::drop_incoming(listening.as_fd());
            }
        }
        for index in 0..self.connections.len() {
            if self.connections[index].phase == Phase::Open {
                self.connections[index].phase = Phase::Emptying(0);
                self.list(File(self.first_connection + index as u32));
            }
        }
    }

    /// The next turn has something to do, whether anything completes or not: buffers are there for connections
    /// that wait for them.
    pub fn is_pressed(&self) -> bool {
        !self.starved.is_empty() && self.buffers.available() > 0 && !self.unbuffered_wait
    }

    /// Ends accepting: at once where the listener outlives us, else when its queue is empty. True when no
    /// connection is left.
    pub fn drain(&mut self, ring: &mut Ring) -> io::Result<bool> {
        let mut drained = self.served == 0 && self.parked.is_empty();
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            listener.end_if_left(ring, self.operations.accept(number), self.operations.cancel())?;
            drained &= listener.accepting == Accepting::Off;
        }
        Ok(drained)
    }

    /// Ends accepting on the listeners that are not wanted any more, once their queues are empty. True
    /// while there are any.
    pub fn retire(&mut self, ring: &mut Ring) -> io::Result<bool> {
        let mut left = false;
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            if listener.at_exit != AtExit::Retire || listener.listening.is_none() {
                continue;
            }
            listener.end_if_left(ring, self.operations.accept(number), self.operations.cancel())?;
            if listener.accepting == Accepting::Off {
                ring.unregister_file(listener.file);
                listener.listening = None;
            }
            left = true;
        }
        Ok(left)
    }

    /// Decides what a connection does next: the one place where operations on connections begin.
    fn look_after(&mut self, file: File, ring: &mut Ring, counters: &Counters) {
        let operations = self.operations;
        let connection = &mut self.connections[(file.0 - self.first_connection) as usize];
        let receive = Token::new(operations.receive, connection.generation, file.0);
        let send = Token::new(operations.send, connection.generation, file.0);
        let readable = Token::new(operations.readable, connection.generation, file.0);
        let writable = Token::new(operations.writable, connection.generation, file.0);

        // bytes that wait for room would only be refused again
        let waits =
            connection.blocked || connection.pausing || connection.crowded && connection.aside.is_empty();
        if !connection.sending && !waits && connection.phase.echoes() && connection.has_to_send() {
            connection.sending = true;
            let bytes = if let Some(chunk) = connection.aside.front() {
                self.aside.pinned(chunk).skip(connection.chunk_bytes_done)
            } else {
                self.buffers.pinned(&connection.parts[0]).skip(connection.part_bytes_done)
            };
            ring.send(file, bytes, send);
        }
        if connection.blocked && connection.phase.echoes() && connection.writable == Writable::Off {
            connection.writable = Writable::Armed;
            ring.watch_writable(file, writable);
        }

        if connection.has_to_stop_receiving() {
            let awaiting = connection.receiving == Receiving::Awaiting;
            connection.receiving = Receiving::Cancelling;
            ring.cancel(if awaiting { readable } else { receive }, operations.cancel());
        } else if connection.receiving == Receiving::Off
            && let Some(next) = connection.next_receiving()
        {
            if next == Receiving::Awaiting {
                connection.receiving = next;
                ring.poll_readable(file, readable);
            } else if self.buffers.available() == 0 || self.unbuffered_wait {
                if !connection.starved {
                    connection.starved = true;
                    self.starved.push_back(file);
                }
            } else {
                connection.receiving = next;
                if next == Receiving::Multishot {
                    ring.receive(file, &self.buffers, receive);
                } else {
                    ring.receive_once(file, &self.buffers, STREAMING_RECEIVE_BYTES_MAX, receive);
                }
            }
        }

        // what waits for room, too, has to be sent before
        let sent = !connection.sending && !connection.has_to_send();
        if let Phase::Finishing(cause) = connection.phase
            && connection.receiving == Receiving::Off
            && sent
        {
            if cause == Cause::Drained {
                connection.phase = Phase::Lingering;
                connection.sending = true;
                ring.shutdown(file, Token::new(operations.shutdown, connection.generation, file.0));
            } else {
                connection.phase = Phase::Closing(cause);
            }
        }

        if let Phase::Closing(cause) = connection.phase {
            if connection.writable == Writable::Armed {
                connection.writable = Writable::Cancelling;
                ring.cancel(writable, operations.cancel());
            }
            // a send or a receive that does not wait has no need to be cancelled
            if !connection.is_busy() {
                self.close(file, cause, ring, counters);
            }
        }
    }

    /// Closes a connection on which nothing is in flight.
    fn close(&mut self, file: File, cause: Cause, ring: &mut Ring, counters: &Counters) {
        let index = (file.0 - self.first_connection) as usize;
        let Connection { generation, domain, .. } = self.connections[index];
        let closed = std::mem::replace(&mut self.connections[index], Connection::new(generation, domain));
        for part in closed.parts {
            self.buffers.recycle(part);
        }
        for chunk in closed.aside {
            self.aside.release(chunk);
        }
        if let (Some(sources), Some(prefix)) = (&self.per_prefix, closed.prefix) {
            sources.leave(prefix);
        }
        ring.close(file, Token::new(self.operations.close, generation, file.0));
        self.served -= 1;
        let counters = &counters[domain];
        counters.tcp_open.subtract(1);
        cause.counter(counters).add(1);
    }

    /// The connection that a token means, if it is still the same one.
    fn file_of(&self, token: Token) -> Option<File> {
        let connection = self.connections.get((token.index() - self.first_connection) as usize)?;
        let same = connection.phase != Phase::Free
            && Token::new(token.operation(), connection.generation, token.index()) == token;
        same.then_some(File(token.index()))
    }

    fn connection(&mut self, file: File) -> &mut Connection {
        &mut self.connections[(file.0 - self.first_connection) as usize]
    }

    /// Something has happened on `file`: it is looked after at the end of the turn.
    fn list(&mut self, file: File) {
        let now = self.clock.now();
        let connection = self.connection(file);
        connection.active_tick = now;
        if !connection.listed {
            connection.listed = true;
            self.listed.push(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_room_for_what_is_accepted_beyond_the_limit() {
        assert_eq!(Tcp::files(100, 0, false), 100);
        assert_eq!(Tcp::files(100, 3, true), 103);
        assert_eq!(Tcp::files(100, 3, false), 100 + 3 * (LISTEN_BACKLOG as usize + 1));
    }
}
