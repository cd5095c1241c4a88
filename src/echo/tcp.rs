//! The TCP datapath: each connection gets back what it sends, in order, byte for byte.
//!
//! ```text
//! accept ─► direct descriptor ─► receive (multishot) ─► part of a provided buffer ─► send, inline
//!                                      ▲                                              │ all sent
//!                                      └── buffer goes back to the kernel ◄───────────┤
//!                                                                                     ▼ not all
//!               receiving stops ◄── the rest is spilled: a provided buffer never waits for a peer
//!
//! a connection that brings much at a time ─► poll for bytes ─► splice: receive queue ─► pipe ─► send queue
//!                    where it can't be spliced ─► receive once (does not wait) ─► send
//! ```
//!
//! A connection is *parked* from its accept to the end of the turn. It is *starved* when it found no buffer.
//!
//! A turn is one round of the worker's loop. It hands each completion to [`Tcp`], which changes the state of a connection
//! and marks it dirty. At the end of the turn [`Tcp::finish_turn`] decides what each dirty connection does next, and
//! submits it.
//!
//! * `connection` and `phase`: the state of a connection, and every change of it.
//! * `unsent`: what a connection has received and not sent back yet.
//! * `manner`: how it is received from. `splicer`: the worker's pipe. `poured`: what was spliced and waits for peers.
//! * `table`: all connections, by file. `places`: which of them are served.
//! * `receive_buffers`: the buffers that all connections receive into. `spill`: memory for what their peers don't take.
//! * `listener`: how far accepting is. `cause`: why connections were closed.
//!
//! In the kernel only multishots and polls wait for a connection; sends and single receives do not wait. Urgent data and
//! the peer's FIN wake whatever waits. A single receive would then find no bytes, and the kernel would hand it to a
//! thread that blocks: one thread for each such connection, each with a provided buffer that other connections use, too.
//! A peer could cause that with one segment.
//!
//! A direct descriptor is closed only when nothing is in flight on it, so no operation meets another connection with
//! the same number.

mod cause;
mod connection;
mod listener;
mod manner;
mod phase;
mod places;
mod poured;
mod receive_buffers;
mod spill;
mod splicer;
mod table;
mod unsent;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use self::cause::Cause;
use self::connection::{Connection, Receive, Received, Stop};
use self::listener::{Accepted, Listeners};
use self::places::{Admitted, Places};
pub use self::receive_buffers::BufferCounts;
use self::receive_buffers::{INCREMENTAL_BYTES, ReceiveBuffers};
use self::spill::Spill;
pub use self::splicer::Copies;
use self::splicer::Splicer;
use self::table::Table;
use self::unsent::{Next, Sent};
use crate::echo::files::FileRange;
use crate::echo::operation::Operation;
use crate::kernel::pause::{PAUSE, Pause};
use crate::kernel::ring::{Completion, Errno, File, Ring, RingError, Token, WholeBuffers};
use crate::kernel::sys;
use crate::policy::counters::Counters;
use crate::policy::errno_policy::{SocketStage, StreamSend};
use crate::policy::limits::ConnectionsPerPrefix;
use crate::sockets::listening::{LISTEN_BACKLOG, Listening};

/// The most that one receive brings of large messages that are copied. The next receive begins when all of it is sent, so
/// no more than this has to be spilled for the connection.
const STREAMING_RECEIVE_BYTES_MAX: u32 = INCREMENTAL_BYTES;
/// Connections that are tried again after one pause: ten thousand must not do at once what there was no memory for.
const RETRIES_MAX: usize = 64;

/// How much a worker takes on.
#[derive(Clone, Debug)]
pub struct TcpLimits {
    /// Connections served at a time.
    pub connections: usize,
    /// Workers that share the memory for spilled bytes.
    pub workers: usize,
    /// Connections on which nothing was sent or received for this long are closed; zero for never.
    pub idle_timeout: Duration,
    /// Each accept brings one connection. Then the worker knows the peer's address, and accepts none above the limit.
    pub single_accept: bool,
    /// Receive buffers of all connections together.
    pub buffers: BufferCounts,
    /// Bytes that a connection may still bring after the server was told to end.
    pub final_read_bytes: u32,
    /// The first number for descriptors of connections that are spliced. `None`: large messages are copied.
    pub first_descriptor: Option<RawFd>,
}

/// All listeners and connections of a worker.
pub struct Tcp {
    listeners: Listeners,
    places: Places,
    table: Table,
    buffers: ReceiveBuffers,
    spill: Spill,
    splicer: Splicer,
    /// Connections whose send or whose poll for room failed for a shortage.
    retries: VecDeque<File>,
    /// The pause of `retries`, and of connections that find no buffer again and again.
    pause: Pause,
    stage: SocketStage,
    /// The server ends. That may begin while the listeners are still being armed.
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
            splicer: Splicer::new(ring, connections, limits.first_descriptor, limits.workers),
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

    /// Why large messages are copied, if they are.
    pub fn copies(&self) -> Option<Copies> {
        self.splicer.copies()
    }

    /// Every listener has shown that it works.
    pub fn begin_serving(&mut self) {
        self.stage = SocketStage::Serving;
    }

    /// How long a turn may sleep; `None`: for ever. It is limited only while something waits for the end of a pause.
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

    // Completions. A connection that may do something else now is marked dirty.

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
            // it is closed at once, but has its file until then
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
                self.buffers.provided.recycle(part);
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
            self.buffers.provided.recycle(part);
            return;
        }
        connection.unsent.push(part);
        if connection.unsent.is_spilled() {
            self.spill.spill(file, connection, &mut self.buffers.provided, self.turn, traffic);
        }
    }

    /// Handles the completion of a send.
    pub fn sent(&mut self, completion: &Completion, counters: &Counters) {
        let Some(file) = self.table.find(completion.token()) else { return };
        self.table.mark_dirty(file);
        let connection = &mut self.table[file];
        let traffic = &counters[connection.domain];
        let spills = match connection.sent(completion.result()) {
            Ok(bytes) => {
                traffic.tcp_bytes_out.add(bytes.into());
                match connection.unsent.sent(bytes) {
                    Some(Sent::Chunk(chunk)) => {
                        self.spill.release(chunk);
                        false
                    }
                    Some(Sent::Part(part)) => {
                        self.buffers.provided.recycle(part);
                        false
                    }
                    // not all was sent: the rest is spilled, unless it is already
                    None => !connection.unsent.is_spilled(),
                }
            }
            Err(StreamSend::Stalled) => true,
            Err(StreamSend::Again) => {
                self.retries.push_back(file);
                true
            }
            Err(StreamSend::Reset) => false,
        };
        if spills {
            self.spill.spill(file, connection, &mut self.buffers.provided, self.turn, traffic);
        }
    }

    /// Handles the completion of an installation: the connection has an ordinary descriptor.
    pub fn installed(&mut self, completion: Completion, ring: &mut Ring, counters: &Counters) {
        let file = self.table.find(completion.token());
        let file = file.expect("a connection is not closed while a descriptor is made of it");
        self.table.mark_dirty(file);
        let installed = ring.installed(file, completion, self.splicer.first_descriptor());
        let connection = &mut self.table[file];
        connection.manner.installed(installed.is_ok());
        counters[connection.domain].tcp_no_descriptors.add(installed.is_err().into());
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

    /// Handles a clock's timer that failed: it is set again after a pause.
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
            self.resume();
        }
        self.buffers.judge_turn();
        let dirty = self.table.take_dirty();
        for file in &dirty {
            self.table.clean(*file);
            self.drive(*file, ring, counters);
        }
        self.table.reuse_dirty(dirty);
        self.make_room(ring, counters);
        // after the dirty ones, which were here first: starved connections get the buffers that are left, the one that
        // has waited longest first
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
    fn resume(&mut self) {
        self.buffers.resume();
        for _ in 0..RETRIES_MAX {
            let Some(file) = self.retries.pop_front() else { break };
            // the connection may have gone, and its file be another one's: that one tries a little early
            if self.table[file].retry() {
                self.table.mark_dirty(file);
            }
        }
    }

    /// Spills what found no room before. If there still is none, closes the connection whose peer has not read for the
    /// longest time: one in each turn.
    fn make_room(&mut self, ring: &mut Ring, counters: &Counters) {
        if !self.spill.has_awaiting() {
            return;
        }
        for file in self.spill.take_awaiting() {
            // a file whose connection was closed meanwhile may have another one
            let connection = &mut self.table[file];
            if std::mem::take(&mut connection.in_lists.awaits_spill) {
                let traffic = &counters[connection.domain];
                self.spill.spill(file, connection, &mut self.buffers.provided, self.turn, traffic);
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
        self.drive_sending(file, ring);
        self.drive_manner(file, ring);
        if self.table[file].splices_next() {
            self.splice(file, ring, counters);
            self.drive_sending(file, ring);
            self.drive_manner(file, ring);
        }
        self.drive_receiving(file, ring);
        let connection = &mut self.table[file];
        let token =
            |operation: Operation, connection: &Connection| operation.token(connection.generation, file.0);
        if connection.begin_shutdown() {
            ring.shutdown(file, token(Operation::TcpShutdown, connection));
        }
        if connection.begin_stop_room_poll() {
            ring.cancel(token(Operation::TcpWritable, connection), Operation::Cancel.alone());
        }
        // sends and single receives need no cancellation: they don't wait
        if let Some(cause) = connection.closes_next() {
            self.close(file, cause, ring, counters);
        }
        self.table[file].assert_consistent();
    }

    /// Sends what is unsent, or polls for room to send it.
    fn drive_sending(&mut self, file: File, ring: &mut Ring) {
        let connection = &mut self.table[file];
        let token = |operation: Operation| operation.token(connection.generation, file.0);
        let (send_token, poll_token) = (token(Operation::TcpSend), token(Operation::TcpWritable));
        if connection.sends_next() {
            let bytes = match connection.unsent.next().expect("there is something to send") {
                Next::Chunk(chunk, done) => self.spill.arena.pinned(chunk).skip(done),
                Next::Part(part, done) => self.buffers.provided.pinned(part).skip(done),
            };
            connection.begin_send();
            ring.send(file, bytes, send_token);
        }
        if connection.polls_for_room_next() {
            connection.begin_room_poll();
            ring.watch_writable(file, poll_token);
        }
    }

    /// Has a descriptor made for a connection that wants one, and its file wait or not.
    fn drive_manner(&mut self, file: File, ring: &mut Ring) {
        let connection = &mut self.table[file];
        if connection.wants_descriptor() {
            if self.splicer.copies().is_some() {
                connection.manner.installed(false);
            } else if ring.descriptor(file).is_some() {
                connection.manner.installed(true);
            } else {
                connection.manner.begin_install();
                ring.install_descriptor(file, Operation::TcpInstall.token(connection.generation, file.0));
            }
        }
        if let Some(nonblocking) = connection.manner.changes_to_nonblocking() {
            let changed = ring.descriptor(file).map(|fd| sys::set_nonblocking(fd, nonblocking));
            connection.manner.changed_to_nonblocking(nonblocking, matches!(changed, Some(Ok(()))));
        }
    }

    /// Moves what a connection has received into its send queue, without a copy as far as that has room.
    fn splice(&mut self, file: File, ring: &Ring, counters: &Counters) {
        let Self { table, splicer, spill, retries, turn, .. } = self;
        let connection = &mut table[file];
        let traffic = &counters[connection.domain];
        let received = splicer.fill(file, ring, &spill.arena, *turn);
        let mut stays = connection.spliced(received, traffic);
        while stays && !splicer.is_empty() {
            connection.begin_send();
            match connection.sent(splicer.pour(file, ring)) {
                Ok(bytes) => {
                    traffic.tcp_bytes_out.add(bytes.into());
                    traffic.tcp_bytes_spliced.add(bytes.into());
                }
                Err(policy) => {
                    stays = false;
                    if policy == StreamSend::Again {
                        retries.push_back(file);
                    }
                    traffic.tcp_stalls.add((policy != StreamSend::Reset).into());
                }
            }
        }
        let emptied = splicer.empty(&mut spill.arena, |chunk| connection.unsent.keep(chunk, *turn));
        if emptied.is_err() {
            connection.close(Cause::Error);
        }
    }

    /// Stops a receive that has to end, or begins the next one.
    fn drive_receiving(&mut self, file: File, ring: &mut Ring) {
        let connection = &mut self.table[file];
        let token = |operation: Operation| operation.token(connection.generation, file.0);
        let (receive_token, poll_token) = (token(Operation::TcpReceive), token(Operation::TcpReadable));
        if let Some(stop) = connection.begin_stop_receiving() {
            let stopped = match stop {
                Stop::Multishot => receive_token,
                Stop::Poll => poll_token,
            };
            ring.cancel(stopped, Operation::Cancel.alone());
            return;
        }
        let Some(receive) = connection.receives_next() else { return };
        if receive != Receive::Poll && self.buffers.available() == 0 {
            self.buffers.wait(file, connection);
            return;
        }
        connection.begin_receive(receive);
        let buffers = &self.buffers.provided;
        match receive {
            Receive::Multishot => ring.receive(file, buffers, receive_token),
            Receive::Once => ring.receive_once(file, buffers, STREAMING_RECEIVE_BYTES_MAX, receive_token),
            Receive::Poll => ring.poll_readable(file, poll_token),
        }
    }

    /// Closes a connection on which nothing is in flight.
    fn close(&mut self, file: File, cause: Cause, ring: &mut Ring, counters: &Counters) {
        let Connection { generation, domain, .. } = self.table[file];
        let closed = std::mem::replace(&mut self.table[file], Connection::free(generation, domain));
        self.spill.give_back(closed.unsent, &mut self.buffers.provided);
        self.places.leave(closed.prefix);
        self.splicer.closed(file);
        ring.close(file, Operation::TcpClose.token(generation, file.0));
        let traffic = &counters[domain];
        traffic.tcp_open.subtract(1);
        cause.counter(traffic).add(1);
    }

    // The end of the server.

    /// Lets no new connection into the queues of the listeners that end with the process; the next process gets the
    /// others. Connections in those queues are still accepted. Connections echo what the kernel has received, then get our FIN.
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
        let is_empty = self.places.is_empty();
        if is_empty {
            self.splicer.assert_idle();
        }
        Ok(drained && is_empty)
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
