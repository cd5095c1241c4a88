//! Pipes that move pages from one socket to another place, without a copy.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{self, PipeFlags, SpliceFlags};

use super::{send_now, stream_pair};
use crate::kernel::seam;

/// A pipe whose pages hold `bytes` bytes: its end to read from, and its end to write to. Neither waits.
///
/// Errors: as pipe(2), and as splice(2) if a filter forbids that; `EPERM` also means that the user's pipes have too many
/// pages (`fs.pipe-user-pages-soft`, pipe(7)).
pub fn pipe(bytes: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    if let Some(ends) = seam::pipe() {
        return ends;
    }
    let (reads, writes) = pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    if pipe::fcntl_getpipe_size(&reads)? != bytes && pipe::fcntl_setpipe_size(&reads, bytes)? != bytes {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let (from, to) = stream_pair()?;
    send_now(to.as_fd(), &[0])?;
    for (from, to) in [(&from, &writes), (&reads, &from)] {
        splice(from.as_fd(), to.as_fd(), 1)?;
    }
    Ok((reads, writes))
}

/// Moves up to `bytes_max` bytes from or to a pipe, by their pages where that is possible (splice(2)). It waits for a
/// socket, unless that is nonblocking itself; `SPLICE_F_NONBLOCK` speaks of the pipe only. Then it says `EAGAIN` if there
/// is nothing to move, or no room.
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, bytes_max: u32) -> io::Result<u32> {
    if let Some(moved) = seam::splice(from, to, bytes_max) {
        return moved;
    }
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    Ok(pipe::splice(from, None, to, None, bytes_max as usize, flags)? as u32)
}

/// read(2), once; `EINTR` and fewer bytes than there is room for are results like any other.
pub fn read(file: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<usize> {
    if let Some(bytes) = seam::read(file, room) {
        return bytes;
    }
    Ok(rustix::io::read(file, room)?)
}
