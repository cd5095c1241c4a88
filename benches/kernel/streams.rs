//! Connections: `epoll(7)`, `accept4(2)` and `splice(2)`.

use std::io::{Error, Result};
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use libc::c_int;

use super::check;

/// An epoll instance with room for the answers of one wait.
pub(crate) struct Epoll {
    fd: OwnedFd,
    ready: Box<[libc::epoll_event]>,
}

impl Epoll {
    /// `count` answers at most per wait.
    pub(crate) fn new(count: usize) -> Result<Self> {
        // SAFETY: no memory is passed; the descriptor is new and owned here alone.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))? as c_int) };
        Ok(Self { fd, ready: vec![libc::epoll_event { events: 0, u64: 0 }; count].into() })
    }

    /// Declares the interest in `fd`; answers carry its number.
    pub(crate) fn add(&self, fd: &impl AsRawFd, events: c_int) -> Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, events)
    }

    /// Declares another interest. What is ready already is told again.
    pub(crate) fn modify(&self, fd: &impl AsRawFd, events: c_int) -> Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, events)
    }

    fn control(&self, operation: c_int, fd: &impl AsRawFd, events: c_int) -> Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: fd.as_raw_fd() as u64 };
        // SAFETY: `event` outlives the call, which copies it.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event) })
            .map(drop)
    }

    /// Waits for at least one answer; their number. A signal counts as none.
    pub(crate) fn wait(&mut self) -> Result<usize> {
        let room = self.ready.len() as c_int;
        // SAFETY: `ready` has room for as many answers as the call is told.
        match check(unsafe { libc::epoll_wait(self.fd.as_raw_fd(), self.ready.as_mut_ptr(), room, -1) }) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => Ok(0),
            result => result,
        }
    }

    /// Answer `i` of the last wait: the descriptor's number and what it is ready for.
    pub(crate) fn answer(&self, i: usize) -> (usize, c_int) {
        let event = self.ready[i];
        (event.u64 as usize, event.events as c_int)
    }
}

/// `accept4(2)`: the next connection, non-blocking already.
pub(crate) fn accept(listener: &impl AsFd) -> Result<OwnedFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: null for the address means that none is wanted; the descriptor is new and owned here alone.
    unsafe {
        let fd = listener.as_fd().as_raw_fd();
        let fd = check(libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), flags))?;
        Ok(OwnedFd::from_raw_fd(fd as c_int))
    }
}

/// Lets close reset the connection instead of leaving it in `TIME_WAIT` (socket(7), `SO_LINGER` of zero).
pub(crate) fn reset_on_close(socket: &impl AsFd) -> Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = size_of::<libc::linger>() as u32;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer and the length describe `linger`, which outlives the call.
    check(unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), size)
    })
    .map(drop)
}

/// `splice(2)`: moves up to `bytes` between a socket and a pipe, as pages where it can. Waits for neither of them
/// if the socket doesn't wait.
pub(crate) fn splice(from: &impl AsFd, to: &impl AsFd, bytes: usize) -> Result<usize> {
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    let none = std::ptr::null_mut();
    // SAFETY: null for both offsets means that there are none; no other memory is passed.
    let moved = unsafe { libc::splice(from, none, to, none, bytes, flags) };
    usize::try_from(moved).map_err(|_| Error::last_os_error())
}
