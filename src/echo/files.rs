//! Which file of a worker's ring is what.
//!
//! ```text
//! 0        1 …               …                  …                    …
//! ┌────────┬─────────────────┬──────────────────┬────────────────────┬─────────────────────┐
//! │  wake  │   UDP sockets   │  TCP listeners   │   reply sockets    │     connections     │
//! └────────┴─────────────────┴──────────────────┴────────────────────┴─────────────────────┘
//! ```
//!
//! The kernel gives out the numbers of connections, we those of all other files.

use crate::kernel::ring::File;

/// The file that wakes the worker.
pub const WAKE: File = File(0);

/// Files in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRange {
    first: u32,
    count: u32,
}

impl FileRange {
    /// `count` files from `first` on.
    pub const fn new(first: u32, count: u32) -> Self {
        Self { first, count }
    }

    /// The number of the first file.
    pub fn first(self) -> u32 {
        self.first
    }

    /// How many files there are.
    pub fn count(self) -> u32 {
        self.count
    }

    /// The file at `index`.
    pub fn at(self, index: usize) -> File {
        assert!(index < self.count as usize, "a file outside its range");
        File(self.first + index as u32)
    }

    /// Where `file` is in the range.
    #[inline]
    pub fn index_of(self, file: File) -> usize {
        assert!(file.0 >= self.first, "a file before its range");
        (file.0 - self.first) as usize
    }

    fn end(self) -> u32 {
        self.first + self.count
    }
}

/// The files of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLayout {
    /// UDP sockets.
    pub udp: FileRange,
    /// TCP listeners.
    pub listeners: FileRange,
    /// UDP sockets that replies from other ports leave by.
    pub reply_sockets: FileRange,
    /// TCP connections.
    pub connections: FileRange,
}

impl FileLayout {
    /// The layout for so many files of each kind.
    pub fn new(udp: usize, listeners: usize, reply_sockets: usize, connections: usize) -> Self {
        let after = |before: FileRange, count: usize| FileRange::new(before.end(), count as u32);
        let udp = after(FileRange::new(WAKE.0, 1), udp);
        let listeners = after(udp, listeners);
        let reply_sockets = after(listeners, reply_sockets);
        Self { udp, listeners, reply_sockets, connections: after(reply_sockets, connections) }
    }

    /// How many files there are.
    pub fn count(&self) -> u32 {
        self.connections.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_belongs_to_one_range() {
        for (udp, listeners, reply_sockets, connections) in [(2, 3, 5, 7), (0, 0, 0, 0), (1, 0, 4, 0)] {
            let layout = FileLayout::new(udp, listeners, reply_sockets, connections);
            let ranges = [layout.udp, layout.listeners, layout.reply_sockets, layout.connections];
            let mut files = vec![WAKE];
            for range in ranges {
                for index in 0..range.count() as usize {
                    assert_eq!(range.index_of(range.at(index)), index);
                    files.push(range.at(index));
                }
            }
            assert_eq!(files, (0..layout.count()).map(File).collect::<Vec<_>>());
            assert_eq!(files.len(), 1 + udp + listeners + reply_sockets + connections);
        }
    }

    #[test]
    #[should_panic(expected = "outside its range")]
    fn no_file_is_taken_from_the_next_range() {
        FileLayout::new(1, 2, 0, 0).udp.at(1);
    }

    #[test]
    #[should_panic(expected = "before its range")]
    fn no_file_before_a_range_is_in_it() {
        FileLayout::new(1, 2, 0, 0).listeners.index_of(File(1));
    }
}
