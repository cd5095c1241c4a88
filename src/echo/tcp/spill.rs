//! Memory for echoes that their peers do not take, so that provided buffers never wait for a peer.
//!
//! Received bytes are copied to an arena of fixed size that all connections of a worker share. When it is full, the
//! connection whose peer has not read for the longest time is closed.

use super::cause::Cause;
use super::connection::Connection;
use super::table::Table;
use super::unsent::Unsent;
use crate::kernel::ring::{Arena, BufferRing, Chunk, File, RingError};
use crate::policy::counters::Traffic;

/// Spilled bytes of all connections, all workers together.
const SPILL_BYTES: u32 = 64 << 20;
/// Spilled bytes are kept in chunks of this size.
pub(super) const CHUNK_BYTES: u32 = 16 << 10;

/// The spilled bytes of a worker.
pub(super) struct Spill {
    pub(super) arena: Arena,
    /// Connections that hold provided buffers, because there is no room to spill them.
    awaiting: Vec<File>,
    /// The connection that is being closed to make room, and its generation.
    given_up: Option<(File, u32)>,
}

impl Spill {
    /// The share of one of so many workers.
    pub(super) fn new(workers: usize) -> Result<Self, RingError> {
        let chunks = SPILL_BYTES / CHUNK_BYTES / workers as u32;
        Ok(Self { arena: Arena::new(chunks, CHUNK_BYTES)?, awaiting: Vec::new(), given_up: None })
    }

    /// Copies what a connection has received out of the provided buffers. What finds no room waits for
    /// [`Self::take_awaiting`].
    pub(super) fn spill(
        &mut self,
        file: File,
        connection: &mut Connection,
        buffers: &mut BufferRing,
        counters: &Traffic,
    ) {
        while let Some((part, done)) = connection.unsent.next_part() {
            let rest = &buffers.bytes(part)[done as usize..];
            let Some(chunk) = self.arena.keep(rest) else {
                if !connection.in_lists.awaits_spill {
                    connection.in_lists.awaits_spill = true;
                    self.awaiting.push(file);
                }
                return;
            };
            if !connection.unsent.is_spilled() {
                counters.tcp_stalls.add(1);
            }
            if let Some(part) = connection.unsent.spilled(chunk) {
                buffers.recycle(part);
            }
        }
    }

    /// Takes back a chunk that is sent.
    pub(super) fn release(&mut self, chunk: Chunk) {
        self.arena.release(chunk);
    }

    /// Gives back all that a closed connection has not sent.
    pub(super) fn give_back(&mut self, unsent: Unsent, buffers: &mut BufferRing) {
        let (chunks, parts) = unsent.into_parts();
        for part in parts {
            buffers.recycle(part);
        }
        for chunk in chunks {
            self.arena.release(chunk);
        }
    }

    /// Connections wait for room.
    pub(super) fn has_awaiting(&self) -> bool {
        !self.awaiting.is_empty()
    }

    /// Takes out the connections that wait for room.
    pub(super) fn take_awaiting(&mut self) -> Vec<File> {
        std::mem::take(&mut self.awaiting)
    }

    /// Gives up the connection whose peer has not read for the longest time, if there is one and none is being closed
    /// for that already: otherwise peers that don't read would keep the provided buffers from all others.
    pub(super) fn give_up_longest_stalled(&mut self, table: &mut Table) -> Option<File> {
        let is_closing = self.given_up.is_some_and(|(file, generation)| {
            let connection = &table[file];
            connection.generation == generation && connection.phase().is_closing()
        });
        if is_closing {
            return None;
        }
        let stalled = table.iter().filter_map(|(file, connection)| {
            let holds_room = connection.unsent.is_spilled() && connection.phase().echoes();
            connection.unsent.stalled_since_turn().filter(|_| holds_room).map(|turn| (turn, file))
        });
        let longest = stalled.min_by_key(|(turn, _)| *turn);
        let file = longest.map(|(_, file)| file)?;
        let connection = &mut table[file];
        connection.close(Cause::Stalled);
        self.given_up = Some((file, connection.generation));
        Some(file)
    }
}
