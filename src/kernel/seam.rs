//! The seam between this program and the kernel: the real one, or in tests the one of the simulation.
//!
//! This is the only place in production code that knows of tests. Outside of them each question is answered by `None` at
//! compile time, and the real kernel is asked.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

#[cfg(not(test))]
pub(crate) use crate::kernel::ring::uring::Uring;
#[cfg(test)]
pub(crate) use crate::simulation::Uring;

/// Questions to the simulated kernel of the calling thread; `None` if it lives in the real world.
macro_rules! questions {
    ($($(#[$meaning:meta])* fn $name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(
            $(#[$meaning])*
            #[cfg(test)]
            pub(crate) fn $name($($argument: $type),*) -> Option<$answer> {
                crate::simulation::ask(|world| world.$name($($argument),*))
            }

            $(#[$meaning])*
            #[cfg(not(test))]
            #[inline]
            pub(crate) fn $name($(_: $type),*) -> Option<$answer> {
                None
            }
        )*
    };
}

questions! {
    /// clock_gettime(2).
    fn now() -> Instant;
    /// clock_nanosleep(2).
    fn sleep(time: Duration) -> ();
    /// getrandom(2).
    fn secret() -> u64;
    /// socketpair(2).
    fn stream_pair() -> (OwnedFd, OwnedFd);
    /// send(2) that finds room for everything.
    fn send_now(stream: BorrowedFd<'_>, bytes: &[u8]) -> ();
    /// shutdown(2) for writing.
    fn end_stream(stream: BorrowedFd<'_>) -> ();
    /// socket(2) and bind(2) of a UDP socket that sends from this address and port.
    fn bind(pair: SocketAddr) -> io::Result<OwnedFd>;
    /// setsockopt(2) with `SO_ATTACH_FILTER`.
    fn drop_incoming(socket: BorrowedFd<'_>) -> ();
    /// getsockopt(2) with `SO_MEMINFO`.
    fn receive_queue_bytes(socket: BorrowedFd<'_>) -> u32;
    /// getsockopt(2) with `SO_MEMINFO`.
    fn socket_drops(socket: BorrowedFd<'_>) -> u32;
    /// getsockopt(2) with `SO_MEMINFO`.
    fn send_queue_bytes(socket: BorrowedFd<'_>) -> u32;
    /// pipe(2) and fcntl(2) with `F_SETPIPE_SZ`.
    fn pipe() -> io::Result<(OwnedFd, OwnedFd)>;
    /// splice(2) that does not wait.
    fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, bytes_max: u32) -> io::Result<u32>;
    /// read(2).
    fn read(file: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<usize>;
    /// ioctl(2) with `FIONBIO`.
    fn set_nonblocking(file: BorrowedFd<'_>, nonblocking: bool) -> ();
    /// fcntl(2) with `F_DUPFD_CLOEXEC`.
    fn renumber(fd: BorrowedFd<'_>) -> io::Result<OwnedFd>;
    /// getsockopt(2) with `TCP_INFO`.
    fn accept_queue_len(listener: BorrowedFd<'_>) -> u32;
}

/// Whether the calling thread lives in a simulated world.
#[cfg(test)]
pub(crate) fn is_simulated() -> bool {
    crate::simulation::ask(|_| ()).is_some()
}

/// Whether the calling thread lives in a simulated world.
#[cfg(not(test))]
#[inline]
pub(crate) fn is_simulated() -> bool {
    false
}
