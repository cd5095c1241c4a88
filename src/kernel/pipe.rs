//! A pipe that takes pages from one socket and gives them to another, without a copy (splice(2)).
//!
//! ```text
//! receive queue ──fill──► up to 64 KiB ──pour──► send queue
//!                              └─────────read──► our own memory
//! ```
//!
//! One byte may keep a whole page from being freed: each place of a pipe refers to a page, however few of its bytes it
//! holds. The pages of all places together are 64 KiB here, whatever the size of a page. So what a pipe holds, and what
//! is poured from it, keeps no more pages than that.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::ring::Errno;
use super::sys;

/// Bytes of the pages that a pipe can refer to, and so the most bytes that it holds.
pub const PIPE_BYTES: u32 = 64 << 10;

/// An empty pipe, or one with bytes in it.
#[derive(Debug)]
pub struct Pipe {
    reads: OwnedFd,
    writes: OwnedFd,
    bytes: u32,
}

impl Pipe {
    /// A new pipe, shown to work. Errors as [`sys::pipe`].
    pub fn new() -> Result<Self, Errno> {
        let (reads, writes) = sys::pipe(PIPE_BYTES as usize)?;
        Ok(Self { reads, writes, bytes: 0 })
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Moves up to `bytes_max` received bytes of a stream into the pipe, as far as it has places for their pages. Returns
    /// how many they were: 0 at the end of the stream, but before urgent data, too.
    pub fn fill(&mut self, from: BorrowedFd<'_>, bytes_max: u32) -> Result<u32, Errno> {
        let bytes = sys::splice(from, self.writes.as_fd(), bytes_max)?;
        self.bytes += bytes;
        Ok(bytes)
    }

    /// Moves bytes out of the pipe into a stream's send queue. Returns how many it took, at least one: not all if it has
    /// no room.
    pub fn pour(&mut self, to: BorrowedFd<'_>) -> Result<u32, Errno> {
        let bytes = sys::splice(self.reads.as_fd(), to, self.bytes)?;
        if bytes == 0 {
            return Err(Errno(libc::EAGAIN));
        }
        self.bytes -= bytes;
        Ok(bytes)
    }

    /// Copies bytes out of the pipe. Returns how many.
    pub fn read(&mut self, room: &mut [u8]) -> Result<u32, Errno> {
        let bytes = sys::read(self.reads.as_fd(), room)? as u32;
        self.bytes -= bytes;
        Ok(bytes)
    }
}
