//! The TCP datapath: each connection gets back what it sends, in order, byte for byte.
//!
//! ```text
//! accept ─► direct descriptor ─► receive (multishot) ─► part of a provided buffer ─► send, inline
//!                                      ▲                                              │ all sent
//!                                      └── buffer goes back to the kernel ◄───────────┤
//!                                                                                     ▼ not all
//!               receiving stops ◄── the rest is spilled: a provided buffer never waits for a peer
//! ```
//!
//! A turn hands each completion to [`Tcp`], which changes the state of a connection and marks it dirty. At the end of
//! the turn [`Tcp::finish_turn`] decides what each dirty connection does next, and submits it.
//!
//! * `connection` and `phase`: the state of a connection, and every change of it.
//! * `unsent`: what a connection has received and not sent back yet.
//! * `table`: all connections, by file. `places`: which of them are served.
//! * `receive_buffers`: the buffers that all connections receive into. `spill`: memory for what their peers don't take.
//! * `listener`: how far accepting is. `cause`: why connections were closed.
//!
//! Only multishots and polls wait on a connection. Urgent data and the peer's FIN would also wake any other operation
//! that waits. It would find nothing that it can do, and move to a thread of the kernel that blocks, one for each
//! connection, with a provided buffer in hand from which other connections are then served. A peer could bring that
//! about with one forged segment.
//!
//! A direct descriptor is closed only when nothing is in flight on it, so no operation meets another connection with
//! the same number.

mod cause;
mod connection;
mod listener;
mod phase;
mod places;
mod receive_buffers;
mod spill;
mod table;
mod unsent;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use self::cause::Cause;
use self::connection::{Connection, Receive, Received, Stop};
use self::listener::{Accepted, Listeners};
use self::places::{Admitted, Places};
pub use self::receive_buffers::BufferCounts;
use self::receive_buffers::{INCREMENTAL_BYTES, ReceiveBuffers};
use self::spill::Spill;
use self::table::Table;
use self::unsent::{Next, Sent};
use crate::echo::files::FileRange;
use crate::echo::operation::Operation;
use crate::kernel::pause::{PAUSE, Pause};
use crate::kernel::ring::{Completion, Errno, File, Ring, RingError, Token, WholeBuffers};
use crate::policy::counters::Counters;
use crate::policy::errno_policy::{SocketStage, StreamSend};
use crate::policy::limits::ConnectionsPerPrefix;
use crate::sockets::listening::{LISTEN_BACKLOG, Listening};

/// What a receive is limited to on a connection that streams. The next one begins when all of it is sent, so no more
/// has to be spilled for the connection.
const STREAMING_RECEIVE_BYTES_MAX: u32 = INCREMENTAL_BYTES;
/// Connections that are tried again after one pause: ten thousand must not do at once what there was no memory for.
const RETRIES_MAX: usize = 64;

/// The default of [`TcpLimits::final_read_bytes`]. A receive queue holds no more, unless net.ipv4.tcp_rmem was raised
/// above its default of 6 MiB.
pub const FINAL_READ_BYTES: u32 = 8 << 20;

/// How much a worker takes on.
#[derive(Clone, Debug)]
pub struct TcpLimits {
    /// Connections served at a time.
    pub connections: usize,
    /// Workers that share the memory for spilled bytes.
    pub workers: usize,
    /// Connections on which nothing was sent or received for this long are closed; zero for never.
    pub idle_timeout: Duration,
    /// Each accept brings one connection. Then the worker knows whose it is, and accepts none above the limit.
    pub single_accept: bool,
    /// Receive buffers of all connections together.
    pub buffers: BufferCounts,
    /// Bytes that a connection may still bring after the server was told to end.
    pub final_read_bytes: u32,
}

/// All listeners and connections of a worker.
pub struct Tcp {
    listeners: Listeners,
    places: Places,
    table: Table,
    buffers: ReceiveBuffers,
    spill: Spill,
    /// Connections whose send or whose poll for room failed for a shortage.
    retries: VecDeque<File>,
    /// For these, and for connections that find no buffer again and again.
    pause: Pause,
    stage: SocketStage,
    /// The server ends. That may begin in either stage.
    draining: bool,
    final_read_bytes: u32,
    turn: u64,
}

impl Tcp {
    /// Files that connections need. Unless accepts are single, the kernel accepts a full backlog above the limit before
    /// a cancellation takes effect, and would close what finds no place in the table.
    pub fn files(limit: usize, listeners: usize, single_accept: bool) -> usize {
        let beyond = if single_accept { 1 } else { LISTEN_BACKLOG as usize + 1 };
        limit.saturating_add(listeners * beyond)
    }

    /// Registers the sockets as the files of `listeners`. The kernel gives connections the files of `connections`.
    /// Nothing was queued in the ring before.
    pub fn new(
        ring: &mut Ring,
        listening: Vec<Listening>,
        (listeners, connections): (FileRange, FileRange),
        limits: &TcpLimits,
        per_prefix: Option<Arc<ConnectionsPerPrefix>>,
    ) -> Result<Self, RingError> {
        let has_listeners = !listening.is_empty();
        Ok(Self {
            listeners: Listeners::new(ring, listening, listeners, limits.single_accept)?,
            places: Places::new(limits.connections, per_prefix),
            table: Table::new(connections, limits.idle_timeout),
            buffers: ReceiveBuffers::new(ring, limits.buffers, has_listeners)?,
            spill: Spill::new(limits.workers)?,
            retries: VecDeque::new(),
            pause: Pause::new(PAUSE),
            stage: SocketStage::Arming,
            draining: false,
            final_read_bytes: limits.final_read_bytes,
            turn: 0,
        })
    }

    /// Why each receive uses up a buffer, if it does.
    pub fn whole_buffers(&self) -> Option<WholeBuffers> {
        self.buffers.whole()
    }

    /// Every listener has shown that it works.
    pub fn begin_serving(&mut self) {
        self.stage = SocketStage::Serving;
    }

    /// How long a turn may sleep; any time, unless something waits for the end of a pause.
    pub fn sleep(&self) -> Option<Duration> {
        let clock = self.table.sleep().filter(|_| self.places.serves());
        [self.listeners.sleep(), self.pause.sleep(), clock].into_iter().flatten().min()
    }

    /// The next turn has something to do, whether anything completes or not: there are buffers for connections that
    /// wait for them.
    pub fn has_ready_work(&self) -> bool {
        self.buffers.has_ready_work()
    }

    /// The address of the listener that an accept's token means, for messages.
    pub fn addr(&self, token: Token) -> SocketAddr {
        self.listeners.addr(token)
    }

    /// Whether the listener that an accept's token means still listens.
    pub fn listens(&self, token: Token) -> bool {
        self.listeners.listens(token)
    }

    // Completions. Each of them marks its connection dirty.

    /// Handles the completion of an accept. An error is final for the worker: the listener or the ring is unusable.
    pub fn accepted(
        &mut self,
        completion: Completion,
        ring: &mut Ring,
        counters: &Counters,
    ) -> Result<(), Errno> {
        let accepted = self.listeners.accepted(completion, ring, self.stage, counters)?;
        let Some(Accepted { file, domain, peer }) = accepted else { return Ok(()) };
        let connection = &mut self.table[file];
        match self.places.admit(peer) {
            Admitted::Yes(prefix) => {
                connection.accept(domain, prefix);
                self.places.park(file);
            }
            Admitted::No => {
                connection.turn_away(domain);
                self.places.take_place();
                self.table.mark_dirty(file);
            }
        }
        counters[domain].tcp_accepted.add(1);
        counters[domain].tcp_open.add(1);
        Ok(())
    }

    /// Handles the completion of a receive.
    pub fn received(&mut self, completion: &Completion, counters: &Counters) {
        let part = self.buffers.take(completion);
        let Some(file) = self.table.find(completion.token()) else {
            if let Some(part) = part {
                self.buffers.ring.recycle(part);
            }
            return;
        };
        self.table.mark_dirty(file);
        let connection = &mut self.table[file];
        let traffic = &counters[connection.domain];
        let received = connection.received(completion.result(), completion.more(), traffic);
        let Some(part) = part else {
            if received == Received::NoBuffer {
                self.buffers.lacked();
            }
            return;
        };
        self.buffers.filled();
        if !connection.phase().echoes() || part.bytes() == 0 {
            self.buffers.ring.recycle(part);
            return;
        }
        connection.unsent.push(part);
        if connection.unsent.is_spilled() {
            self.spill.spill(file, connection, &mut self.buffers.ring, self.turn, traffic);
        }
    }

    /// Handles the completion of a send.
    pub fn sent(&mut self, completion: &Completion, counters: &Counters) {
        let Some(file) = self.table.find(completion.token()) else { return };
        self.table.mark_dirty(file);
        let connection = &mut self.table[file];
        let traffic = &counters[connection.domain];
        let result = completion.result();
        let spills = match connection.sent(result) {
            None => {
                let bytes = result.expect("it has not failed");
                traffic.tcp_bytes_out.add(bytes.into());
                match connection.unsent.sent(bytes) {
                    Some(Sent::Chunk(chunk)) => {
                        self.spill.release(chunk);
                        false
                    }
                    Some(Sent::Part(part)) => {
                        self.buffers.ring.recycle(part);
                        false
                    }
                    // of a part that came short the rest is spilled
                    None => !connection.unsent.is_spilled(),
                }
            }
            Some(StreamSend::Stalled) => true,
            Some(StreamSend::Again) => {
                self.retries.push_back(file);
                true
            }
            Some(StreamSend::Reset) => false,
        };
        if spills {
            self.spill.spill(file, connection, &mut self.buffers.ring, self.turn, traffic);
        }
    }

    /// Handles the completion of a poll for bytes: there is something to receive, or the connection has ended.
    pub fn readable(&mut self, completion: &Completion) {
        let Some(file) = self.table.find(completion.token()) else { return };
        self.table.mark_dirty(file);
        self.table[file].readable();
    }

    /// Handles what a connection's poll for room says.
    pub fn writable(&mut self, completion: &Completion) {
        let Some(file) = self.table.find(completion.token()) else { return };
        let (result, more) = (completion.result(), completion.more());
        let connection = &mut self.table[file];
        if !more && connection.room_poll_ended(result.is_err()) {
            self.retries.push_back(file);
        }
        // the poll reports a peer's FIN at once, and that is no room
        let has_room = result.is_ok_and(|events| events & !(libc::POLLRDHUP as u32) != 0);
        if has_room {
            connection.has_room();
        }
        if has_room || !more {
            self.table.mark_dirty(file);
        }
    }

    /// Handles the completion of a shutdown: our FIN is sent.
    pub fn shut_down(&mut self, completion: &Completion) {
        let Some(file) = self.table.find(completion.token()) else { return };
        self.table.mark_dirty(file);
        self.table[file].shut_down(completion.result().is_err());
    }

    /// Handles a tick of the clock that could not be: the clock is set again after a pause.
    pub fn tick_failed(&mut self) {
        self.table.tick_failed();
    }

    /// Handles a tick of the clock: closes the connections that were idle for too long.
    pub fn ticked(&mut self) {
        self.table.ticked();
        self.table.change_each(|connection, clock| {
            let is_idle = connection.phase().is_live() && clock.is_idle(connection.active_tick);
            if is_idle {
                connection.close(Cause::Idle);
            }
            is_idle
        });
    }

    // The end of a turn.

    /// Ends the turn: every connection that something has happened to gets its next operation.
    pub fn finish_turn(&mut self, ring: &mut Ring, counters: &Counters) {
        self.turn += 1;
        if self.pause.ends() {
            self.try_again();
        }
        self.buffers.judge_turn();
        let dirty = self.table.take_dirty();
        for file in &dirty {
            self.table.clean(*file);
            self.drive(*file, ring, counters);
        }
        self.table.reuse_dirty(dirty);
        self.make_room(ring, counters);
        // those that found no buffer get one each, in turn, as buffers come back: the rest wait for the next turn
        for _ in 0..self.buffers.available() {
            let Some(file) = self.buffers.next_starved() else { break };
            self.table[file].in_lists.starved = false;
            self.drive(file, ring, counters);
        }
        while let Some(file) = self.places.next(self.draining) {
            self.table.serve(file, self.draining.then_some(self.final_read_bytes));
            self.drive(file, ring, counters);
        }
        if self.places.serves() {
            self.table.run_clock(ring);
        }
        let full = self.places.is_full() && !self.draining;
        self.listeners.arm(full, ring, counters);
        if self.buffers.is_paused() || !self.retries.is_empty() {
            self.pause.begin();
        }
    }

    /// The pause is over: what waited for it is tried again.
    fn try_again(&mut self) {
        self.buffers.resume();
        for _ in 0..RETRIES_MAX {
            let Some(file) = self.retries.pop_front() else { break };
            // the connection may have gone, and its file be another one's: that one tries a little early
            if self.table[file].retry() {
                self.table.mark_dirty(file);
            }
        }
    }

    /// Spills what found no room before. As long as there is none, the connection whose peer has not read for the
    /// longest time is closed, one after the other.
    fn make_room(&mut self, ring: &mut Ring, counters: &Counters) {
        if !self.spill.has_awaiting() {
            return;
        }
        for file in self.spill.take_awaiting() {
            // a file whose connection was closed meanwhile may have another one
            let connection = &mut self.table[file];
            if std::mem::take(&mut connection.in_lists.awaits_spill) {
                let traffic = &counters[connection.domain];
                self.spill.spill(file, connection, &mut self.buffers.ring, self.turn, traffic);
                self.drive(file, ring, counters);
            }
        }
        if self.spill.has_awaiting()
            && let Some(file) = self.spill.give_up_longest_stalled(&mut self.table)
        {
            self.drive(file, ring, counters);
        }
    }

    /// Decides what a connection does next: the one place where operations on connections begin.
    fn drive(&mut self, file: File, ring: &mut Ring, counters: &Counters) {
        let connection = &mut self.table[file];
        let token =
            |operation: Operation, connection: &Connection| operation.token(connection.generation, file.0);

        if connection.sends_next() {
            let bytes = match connection.unsent.next().expect("there is something to send") {
                Next::Chunk(chunk, done) => self.spill.arena.pinned(chunk).skip(done),
                Next::Part(part, done) => self.buffers.ring.pinned(part).skip(done),
            };
            connection.begin_send();
            ring.send(file, bytes, token(Operation::TcpSend, connection));
        }
        if connection.polls_for_room_next() {
            connection.begin_room_poll();
            ring.watch_writable(file, token(Operation::TcpWritable, connection));
        }

        if let Some(stop) = connection.stop_receiving() {
            let stopped = match stop {
                Stop::Multishot => Operation::TcpReceive,
                Stop::Poll => Operation::TcpReadable,
            };
            ring.cancel(token(stopped, connection), Operation::Cancel.alone());
        } else if let Some(receive) = connection.receives_next() {
            if receive != Receive::Poll && self.buffers.available() == 0 {
                self.buffers.wait(file, connection);
            } else {
                connection.begin_receive(receive);
                let (receive_token, buffers) = (token(Operation::TcpReceive, connection), &self.buffers.ring);
                match receive {
                    Receive::Multishot => ring.receive(file, buffers, receive_token),
                    Receive::Once => {
                        ring.receive_once(file, buffers, STREAMING_RECEIVE_BYTES_MAX, receive_token);
                    }
                    Receive::Poll => ring.poll_readable(file, token(Operation::TcpReadable, connection)),
                }
            }
        }

        if connection.finish() {
            ring.shutdown(file, token(Operation::TcpShutdown, connection));
        }
        if connection.stop_room_poll() {
            ring.cancel(token(Operation::TcpWritable, connection), Operation::Cancel.alone());
        }
        // a send or a receive that does not wait has no need to be cancelled
        if let Some(cause) = connection.closes_next() {
            self.close(file, cause, ring, counters);
        }
        self.table[file].assert_consistent();
    }

    /// Closes a connection on which nothing is in flight.
    fn close(&mut self, file: File, cause: Cause, ring: &mut Ring, counters: &Counters) {
        let Connection { generation, domain, .. } = self.table[file];
        let closed = std::mem::replace(&mut self.table[file], Connection::free(generation, domain));
        self.spill.give_back(closed.unsent, &mut self.buffers.ring);
        self.places.leave(closed.prefix);
        ring.close(file, Operation::TcpClose.token(generation, file.0));
        let counters = &counters[domain];
        counters.tcp_open.subtract(1);
        cause.counter(counters).add(1);
    }

    // The end of the server.

    /// Lets no new connection into the queues of the listeners that are closed at exit. Connections in them are still
    /// accepted. Connections echo what the kernel has received, then get our FIN.
    pub fn begin_drain(&mut self) {
        self.draining = true;
        self.listeners.begin_drain();
        let bytes = self.final_read_bytes;
        self.table.change_each(|connection, _| connection.begin_drain(bytes));
    }

    /// Ends accepting: at once where the listener is kept for the next process, else when its queue is empty. True when
    /// no connection is left.
    pub fn drain(&mut self, ring: &mut Ring) -> io::Result<bool> {
        let drained = self.listeners.drain(ring)?;
        Ok(drained && self.places.is_empty())
    }

    /// Closes the retired listeners, those that no option names any more, once their queues are empty. True when none
    /// is left.
    pub fn close_retired(&mut self, ring: &mut Ring) -> io::Result<bool> {
        self.listeners.close_retired(ring)
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
