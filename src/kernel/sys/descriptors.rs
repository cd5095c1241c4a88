//! Descriptors of whatever kind.

#![allow(unsafe_code)] // descriptors that somebody else passed, and a table of descriptors

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use rustix::event::EventfdFlags;
use rustix::fs::OFlags;

use super::check;
use crate::kernel::seam;

/// A counter that wakes whoever polls it (eventfd(2)).
pub fn eventfd() -> io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Makes an eventfd readable.
pub fn wake(eventfd: BorrowedFd<'_>) {
    // it can only fail when the counter is near its maximum, and then the descriptor is readable already
    let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
}

/// write(2), once; `EINTR` and a part of the bytes are results like any other.
pub fn write(file: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::write(file, bytes)?)
}

/// Waits until something can be written, or the other end is gone, but for `timeout` at the most (poll(2)).
pub fn wait_writable(file: BorrowedFd<'_>, timeout: Duration) -> bool {
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    nix::poll::poll(&mut [PollFd::new(file, PollFlags::POLLOUT)], timeout).is_ok_and(|ready| ready > 0)
}

/// Waits until something can be read from one of these, or an error waits there, but for `timeout` at the most (poll(2)).
/// The timeout is rounded up to whole milliseconds.
pub fn wait_readable(files: &[BorrowedFd<'_>], timeout: Duration) {
    let rounded = Duration::from_millis(timeout.as_nanos().div_ceil(1_000_000) as u64);
    let timeout = PollTimeout::try_from(rounded).unwrap_or(PollTimeout::MAX);
    let mut all: Vec<PollFd<'_>> = files.iter().map(|file| PollFd::new(*file, PollFlags::POLLIN)).collect();
    // a signal ends it early; its caller looks again
    let _ = nix::poll::poll(&mut all, timeout);
}

/// Gives a descriptor another number, the first free one from `least` on (fcntl(2), `F_DUPFD_CLOEXEC`). Errors: `EMFILE`
/// and, if `least` is not below the limit of open files, `EINVAL`.
pub fn renumber(fd: OwnedFd, least: RawFd) -> io::Result<OwnedFd> {
    if let Some(renumbered) = seam::renumber(fd.as_fd()) {
        return renumbered;
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, least)?)
}

/// Has calls on a file fail with `EAGAIN` instead of waiting, or wait again (ioctl(2), `FIONBIO`).
pub fn set_nonblocking(file: BorrowedFd<'_>, nonblocking: bool) -> io::Result<()> {
    if seam::set_nonblocking(file, nonblocking).is_some() {
        return Ok(());
    }
    Ok(rustix::io::ioctl_fionbio(file, nonblocking)?)
}

/// Whether a file was opened with `O_PATH` (fcntl(2), `F_GETFL`).
pub fn is_path_only(file: BorrowedFd<'_>) -> bool {
    rustix::fs::fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::PATH))
}

/// Takes over the descriptors that were passed to the process at its start: `LISTEN_FDS` says how many there are
/// (sd_listen_fds(3)). They can be taken once: later calls get nothing, nor do numbers that were not passed or are not
/// open.
pub fn take_passed(numbers: &[RawFd]) -> Vec<OwnedFd> {
    const FIRST: RawFd = 3; // SD_LISTEN_FDS_START
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let passed = std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    let passed = FIRST..FIRST.saturating_add(passed);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    // SAFETY: fcntl(2) with F_GETFD takes no memory. Each number is taken once, and whoever started the process says
    // that it was open before the process opened anything itself
    unsafe {
        numbers.retain(|number| passed.contains(number) && libc::fcntl(*number, libc::F_GETFD) >= 0);
        numbers.into_iter().map(|number| OwnedFd::from_raw_fd(number)).collect()
    }
}

/// Gives the calling thread a table of descriptors of its own (close_range(2), `CLOSE_RANGE_UNSHARE`, Linux
/// 5.9): with standard input, output and error, and nothing else. What it opens from then on, the other threads
/// don't have.
///
/// # Safety
///
/// The calling thread has just begun, and uses no other descriptor that was opened before: it would be closed for this
/// thread, or be another file's.
///
/// ```compile_fail,E0133
/// tubular_echo::kernel::sys::own_descriptors();
/// ```
pub unsafe fn own_descriptors() -> io::Result<()> {
    const FIRST: u32 = 3;
    // SAFETY: close_range(2) takes no memory. The range is closed in a copy of the table that nobody else has; that
    // the calling thread needs none of it is the caller's promise
    let closed = unsafe { libc::syscall(libc::SYS_close_range, FIRST, u32::MAX, libc::CLOSE_RANGE_UNSHARE) };
    check(closed as i32).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_that_was_not_passed_is_not_taken() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert!(take_passed(&[ours.as_raw_fd(), theirs.as_raw_fd()]).is_empty());
        assert_eq!(write(ours.as_fd(), b"open").unwrap(), 4, "nobody has closed them");
    }
}
