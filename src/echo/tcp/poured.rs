//! How many bytes wait in send queues that were moved there by their pages.
//!
//! The kernel charges a send queue for those bytes, and not for the pages that they keep, which are up to four times as
//! many; and more where a driver receives into larger units than pages, often 32 KiB, each of which is kept whole. So all
//! bytes together are limited here.

use crate::echo::files::FileRange;
use crate::kernel::ring::File;

/// So many bytes may wait, all workers together.
const POURED_BYTES_MAX: u64 = 64 << 20;
/// Send queues that are looked at in a turn, once there seem to be too many bytes.
const QUEUES_MAX: usize = 64;

/// The most bytes that can wait, connection by connection. Nobody tells when a peer has taken some: the send queues are
/// asked only when the sum reaches its limit.
pub(super) struct Poured {
    connections: FileRange,
    bytes: Vec<u32>,
    sum_bytes: u64,
    sum_bytes_max: u64,
    /// The next one to look at.
    next: usize,
    /// The turn in which some were looked at last.
    asked_in_turn: u64,
}

impl Poured {
    /// For the connections of these files, of one of so many workers.
    pub(super) fn new(connections: FileRange, workers: usize) -> Self {
        Self {
            connections,
            bytes: vec![0; connections.count() as usize],
            sum_bytes: 0,
            sum_bytes_max: POURED_BYTES_MAX / workers as u64,
            next: 0,
            asked_in_turn: 0,
        }
    }

    /// Whether more may wait. If not, `queued` is asked how much is in the send queues of some, in their order, once in
    /// this turn of the worker.
    pub(super) fn has_room(&mut self, turn: u64, queued: impl Fn(File) -> Option<u32>) -> bool {
        if self.sum_bytes < self.sum_bytes_max || turn == self.asked_in_turn {
            return self.sum_bytes < self.sum_bytes_max;
        }
        self.asked_in_turn = turn;
        let mut looked_at = 0;
        for _ in 0..self.bytes.len() {
            let index = self.next;
            self.next = (index + 1) % self.bytes.len();
            if self.bytes[index] > 0 {
                let left = queued(self.connections.at(index)).unwrap_or(0).min(self.bytes[index]);
                self.set(index, left);
                looked_at += 1;
            }
            if looked_at == QUEUES_MAX {
                break;
            }
        }
        self.sum_bytes < self.sum_bytes_max
    }

    /// So many bytes more wait.
    pub(super) fn add(&mut self, connection: File, bytes: u32) {
        let index = self.connections.index_of(connection);
        self.set(index, self.bytes[index].saturating_add(bytes));
    }

    /// The connection has gone.
    pub(super) fn forget(&mut self, connection: File) {
        self.set(self.connections.index_of(connection), 0);
    }

    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.sum_bytes == 0
    }

    fn set(&mut self, index: usize, bytes: u32) {
        self.sum_bytes = self.sum_bytes - u64::from(self.bytes[index]) + u64::from(bytes);
        self.bytes[index] = bytes;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const FIRST: u32 = 7;
    const MIB: u32 = 1 << 20;

    fn poured(connections: u32) -> Poured {
        Poured::new(FileRange::new(FIRST, connections), 1)
    }

    #[test]
    fn the_queues_are_asked_only_at_the_limit_and_then_there_is_room_again() {
        let mut poured = poured(3);
        for file in FIRST..FIRST + 2 {
            poured.add(File(file), 31 * MIB);
            assert!(poured.has_room(1, |_| panic!("nobody has to be asked yet")));
        }
        poured.add(File(FIRST), 2 * MIB);
        assert!(!poured.has_room(1, |_| Some(u32::MAX)), "nobody has taken anything");
        let asked = Cell::new(0);
        let queued = |file: File| {
            asked.set(asked.get() + 1);
            Some(if file == File(FIRST) { 10 } else { 50 * MIB })
        };
        assert!(!poured.has_room(1, |_| panic!("they were asked in this turn")));
        assert!(poured.has_room(2, queued));
        assert_eq!((asked.get(), poured.sum_bytes), (2, u64::from(31 * MIB) + 10));
    }

    #[test]
    fn who_has_gone_is_not_counted() {
        let mut poured = poured(2);
        for file in [FIRST, FIRST + 1] {
            poured.add(File(file), 32 * MIB);
        }
        assert!(!poured.has_room(1, |_| Some(u32::MAX)));
        poured.forget(File(FIRST));
        poured.forget(File(FIRST));
        assert_eq!(poured.sum_bytes, u64::from(32 * MIB));
        assert!(poured.has_room(1, |_| panic!("nobody has to be asked")));
    }

    #[test]
    fn many_queues_are_asked_in_turn() {
        let connections = 3 * QUEUES_MAX as u32;
        let mut poured = poured(connections);
        for file in 0..connections {
            poured.add(File(FIRST + file), MIB);
        }
        let asked = Cell::new(0);
        for turn in 1..=3 {
            let room = poured.has_room(turn as u64, |_| {
                asked.set(asked.get() + 1);
                Some(MIB)
            });
            assert_eq!((room, asked.get()), (false, turn * QUEUES_MAX));
        }
        let rooms = [4, 5, 6].map(|turn| poured.has_room(turn, |_| None));
        assert_eq!(rooms, [false, false, true], "a queue that can't be asked is none");
    }

    #[test]
    fn workers_share_the_limit() {
        let mut poured = Poured::new(FileRange::new(FIRST, 1), 4);
        poured.add(File(FIRST), 16 * MIB - 1);
        assert!(poured.has_room(1, |_| panic!("nobody has to be asked yet")));
        poured.add(File(FIRST), 1);
        assert!(!poured.has_room(1, |_| Some(u32::MAX)));
    }
}
