//! What becomes of an echo that its peer does not take: it is set aside, so that provided buffers never wait for a
//! peer, and where there is no room for that, who has not read for the longest time has to go.

use super::Tcp;
use super::connection::{Cause, Phase};
use crate::kernel::ring::{File, Ring};
use crate::policy::counters::Counters;

impl Tcp {
    /// Takes `bytes` that were sent off what is to be sent.
    pub(super) fn advance(&mut self, file: File, bytes: u32, counters: &Counters) {
        let connection = &mut self.connections[(file.0 - self.first_connection) as usize];
        if let Some(chunk) = connection.aside.front() {
            connection.chunk_bytes_done += bytes;
            if connection.chunk_bytes_done == chunk.bytes() {
                connection.chunk_bytes_done = 0;
                let chunk = connection.aside.pop_front().expect("it is there");
                self.aside.release(chunk);
            }
        } else if let Some(part) = connection.parts.front() {
            connection.part_bytes_done += bytes;
            if connection.part_bytes_done == part.bytes() {
                connection.part_bytes_done = 0;
                let part = connection.parts.pop_front().expect("it is there");
                self.buffers.recycle(part);
            } else {
                self.set_aside(file, counters);
            }
        }
    }

    /// Copies what a connection has received out of the provided buffers, so that they need not wait
    /// for its peer. What finds no room is tried again at the end of each turn, see [`Self::make_room`].
    pub(super) fn set_aside(&mut self, file: File, counters: &Counters) {
        let connection = &mut self.connections[(file.0 - self.first_connection) as usize];
        while let Some(part) = connection.parts.front() {
            let rest = &self.buffers.bytes(part)[connection.part_bytes_done as usize..];
            let Some(chunk) = self.aside.keep(rest) else {
                if !connection.crowded {
                    connection.crowded = true;
                    self.crowded.push(file);
                }
                return;
            };
            if connection.aside.is_empty() {
                connection.stalled_turn = self.turn;
                counters[connection.domain].tcp_stalls.add(1);
            }
            connection.part_bytes_done += chunk.bytes();
            connection.aside.push_back(chunk);
            if connection.part_bytes_done == part.bytes() {
                connection.part_bytes_done = 0;
                let part = connection.parts.pop_front().expect("it is there");
                self.buffers.recycle(part);
            }
        }
    }

    /// Sets aside what found no room before. As long as there is none, the connection whose peer has not
    /// read for the longest time is closed, one after the other: otherwise peers that don't read would
    /// keep the provided buffers from everybody else.
    pub(super) fn make_room(&mut self, ring: &mut Ring, counters: &Counters) {
        if self.crowded.is_empty() {
            return;
        }
        for file in std::mem::take(&mut self.crowded) {
            // a file whose connection was closed meanwhile may have another one
            let connection = self.connection(file);
            if std::mem::take(&mut connection.crowded) {
                self.set_aside(file, counters);
                self.look_after(file, ring, counters);
            }
        }
        let closing = self.given_up.is_some_and(|(file, generation)| {
            let connection = self.connection(file);
            connection.generation == generation && matches!(connection.phase, Phase::Closing(_))
        });
        if !self.crowded.is_empty() && !closing {
            self.give_up_longest_stalled(ring, counters);
        }
    }

    /// Closes the connection whose peer has not read for the longest time.
    fn give_up_longest_stalled(&mut self, ring: &mut Ring, counters: &Counters) {
        let stalled = (0_u32..)
            .zip(&self.connections)
            .filter(|(_, connection)| !connection.aside.is_empty() && connection.phase.echoes());
        let longest = stalled.min_by_key(|(_, connection)| connection.stalled_turn).map(|(index, _)| index);
        if let Some(index) = longest {
            let file = File(self.first_connection + index);
            let connection = self.connection(file);
            connection.phase = Phase::Closing(Cause::Stalled);
            self.given_up = Some((file, self.connection(file).generation));
            self.look_after(file, ring, counters);
        }
    }
}
