//! What each completion changes. A connection that may do something else now is marked dirty.

use super::Tcp;
use super::cause::Cause;
use super::connection::Received;
use super::listener::Accepted;
use super::places::Admitted;
use super::unsent::Sent;
use crate::kernel::ring::{Completion, Errno, Ring};
use crate::policy::counters::Counters;
use crate::policy::errno_policy::StreamSend;

impl Tcp {
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
            self.spill.spill(file, connection, &mut self.buffers.provided, traffic);
        }
    }

    /// Handles the completion of a send.
    pub fn sent(&mut self, completion: &Completion, counters: &Counters) {
        let Some(file) = self.table.find(completion.token()) else { return };
        self.table.mark_dirty(file);
        let connection = &mut self.table[file];
        let traffic = &counters[connection.domain];
        let stalls = match connection.sent(completion.result()) {
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
                    None => true,
                }
            }
            Err(StreamSend::Stalled) => true,
            Err(StreamSend::Again) => {
                self.retries.push_back(file);
                true
            }
            Err(StreamSend::Reset) => false,
        };
        if stalls {
            connection.unsent.stalls(self.turn);
            self.spill.spill(file, connection, &mut self.buffers.provided, traffic);
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
}
