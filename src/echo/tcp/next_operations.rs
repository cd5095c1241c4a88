//! The end of a turn: which operations come next.

use super::Tcp;
use super::cause::Cause;
use super::connection::{Connection, Receive, Stop};
use super::receive_buffers::INCREMENTAL_BYTES;
use super::unsent::Next;
use crate::echo::operation::Operation;
use crate::kernel::ring::{File, Ring};
use crate::kernel::sys;
use crate::policy::counters::Counters;
use crate::policy::errno_policy::StreamSend;

/// The most that one receive brings of large messages that are copied. The next receive begins when all of it is sent, so
/// no more than this has to be spilled for the connection.
const STREAMING_RECEIVE_BYTES_MAX: u32 = INCREMENTAL_BYTES;
/// Connections that are tried again after one pause: ten thousand must not do at once what there was no memory for.
const RETRIES_MAX: usize = 64;

impl Tcp {
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
                self.spill.spill(file, connection, &mut self.buffers.provided, traffic);
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
        let mut stalls = false;
        while stays && !splicer.is_empty() {
            connection.begin_send();
            match connection.sent(splicer.pour(file, ring)) {
                Ok(bytes) => {
                    traffic.tcp_bytes_out.add(bytes.into());
                    traffic.tcp_bytes_spliced.add(bytes.into());
                }
                Err(policy) => {
                    stays = false;
                    stalls = policy != StreamSend::Reset;
                    if policy == StreamSend::Again {
                        retries.push_back(file);
                    }
                    traffic.tcp_stalls.add(stalls.into());
                }
            }
        }
        let emptied = splicer.empty(&mut spill.arena, |chunk| connection.unsent.keep(chunk));
        if stalls && emptied.is_ok() {
            connection.unsent.stalls(*turn);
        }
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
}
