//! Every unsafe system call of the tests, each behind a safe function.
#![allow(unsafe_code, reason = "the tests ask the kernel for what std has no words for")]

mod children;
mod network;
mod sockets;

use std::ffi::{c_int, c_long, c_void};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::ptr;
use std::time::Duration;

use sendfd::RecvWithFd;

pub use self::children::{Confinement, Denied, confine, die_with_us, enter_group, ignore_signal, pass};
pub use self::network::{
    device_number, is_bound, join_network, packet_socket, raise_loopback, set_offload, unshare_network,
};
pub use self::sockets::{
    Arrival, connect, has_peer, local_address, option, receive, reset_on_close, send_train, send_urgent,
    set_option, set_option_bytes, socket_identity, unacknowledged_bytes,
};

/// Turns -1 into the error of errno. Any other value is the result.
fn checked(result: c_long) -> io::Result<c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A terminal (openpty(3)) with lines of so many characters, 0 if it doesn't tell: the end that shows what is written, and
/// the end that a process writes to.
pub fn terminal(columns: u16) -> io::Result<(OwnedFd, OwnedFd)> {
    let (mut shown, mut written) = (-1, -1);
    let nothing = ptr::null_mut();
    let size = libc::winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: reads the size and writes two descriptors, ours alone; no name and no settings are asked for or given.
    unsafe {
        checked(
            libc::openpty(&raw mut shown, &raw mut written, nothing, ptr::null(), &raw const size).into(),
        )?;
        Ok((OwnedFd::from_raw_fd(shown), OwnedFd::from_raw_fd(written)))
    }
}

/// The processor time that a process has used so far (clock_getcpuclockid(3)).
pub fn cpu_time_of(pid: u32) -> Duration {
    // SAFETY: both calls write to locals; timespec is plain data.
    unsafe {
        let mut clock: libc::clockid_t = 0;
        assert_eq!(libc::clock_getcpuclockid(pid as i32, &raw mut clock), 0, "the clock of process {pid}");
        let mut time: libc::timespec = mem::zeroed();
        checked(libc::clock_gettime(clock, &raw mut time).into()).expect("clock_gettime");
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}

/// Sets the soft limit of another process of this user (prlimit(2)). Returns the old limit.
pub fn set_soft_limit(pid: u32, resource: libc::__rlimit_resource_t, value: u64) -> u64 {
    // SAFETY: both calls get valid rlimits that outlive them, and otherwise integers.
    unsafe {
        let mut limit: libc::rlimit = mem::zeroed();
        let prlimit = |new, old| checked(libc::prlimit(pid as i32, resource, new, old).into());
        prlimit(ptr::null(), &raw mut limit).expect("read the limit");
        let before = mem::replace(&mut limit.rlim_cur, value);
        prlimit(&raw const limit, ptr::null_mut()).expect("set the limit");
        before
    }
}

/// A handle on a process. It never refers to another process, even if the number is used again.
pub struct Pidfd(OwnedFd);

impl Pidfd {
    /// `pidfd_open(2)`.
    pub fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: takes two integers; a result that is not -1 is a new descriptor, ours alone.
        unsafe {
            let fd = checked(libc::syscall(libc::SYS_pidfd_open, pid as c_int, 0))?;
            Ok(Self(OwnedFd::from_raw_fd(fd as RawFd)))
        }
    }

    /// `pidfd_send_signal(2)`.
    pub fn signal(&self, signal: c_int) -> io::Result<()> {
        let fd = self.0.as_raw_fd();
        // SAFETY: a null siginfo pointer is allowed and means what kill(2) would fill in.
        unsafe { checked(libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, ptr::null::<c_void>(), 0)) }
            .map(drop)
    }

    /// Whether the process ends within this time. It stays a zombie until its parent waits for it.
    pub fn ends_within(&self, patience: Duration) -> bool {
        poll(&mut [poll_entry(&self.0, libc::POLLIN)], patience) == 1
    }

    /// `pidfd_getfd(2)`: duplicates a descriptor of the process.
    pub fn copy_descriptor(&self, number: RawFd) -> io::Result<OwnedFd> {
        // SAFETY: takes three integers; a result that is not -1 is a new descriptor, ours alone.
        unsafe {
            let fd = checked(libc::syscall(libc::SYS_pidfd_getfd, self.0.as_raw_fd(), number, 0))?;
            Ok(OwnedFd::from_raw_fd(fd as RawFd))
        }
    }
}

/// Makes a pipe as small as the kernel allows (fcntl(2), `F_SETPIPE_SZ`). Returns its size in bytes.
pub fn make_pipe_small(pipe: &impl AsFd) -> usize {
    // SAFETY: F_SETPIPE_SZ takes two integers and touches no memory.
    let bytes = unsafe { libc::fcntl(pipe.as_fd().as_raw_fd(), libc::F_SETPIPE_SZ, 1) };
    usize::try_from(bytes).expect("a small pipe")
}

/// Pipes that count for this user, until they are closed: each has room for `bytes` (pipe(7), "/proc/sys/fs/pipe-user-pages-soft").
/// Needs root.
pub fn pipes_of_user(user: u32, count: usize, bytes: usize) -> io::Result<Vec<OwnedFd>> {
    /// Of the calling thread alone: the C library's setreuid(3) changes all threads.
    fn become_real_user(user: u32) -> io::Result<()> {
        // SAFETY: setreuid(2) takes two integers and touches no memory.
        unsafe { checked(libc::syscall(libc::SYS_setreuid, user, -1)) }.map(drop)
    }
    become_real_user(user)?;
    let pipes = (0..count).map(|_| {
        let (reads, writes) = io::pipe()?;
        // SAFETY: F_SETPIPE_SZ takes two integers and touches no memory.
        unsafe { checked(libc::fcntl(reads.as_raw_fd(), libc::F_SETPIPE_SZ, bytes as c_int).into())? };
        Ok([reads.into(), writes.into()])
    });
    let pipes: io::Result<Vec<[OwnedFd; 2]>> = pipes.collect();
    become_real_user(0)?;
    Ok(pipes?.into_iter().flatten().collect())
}

/// Sets `O_NONBLOCK` on an open file, for all processes that share it (fcntl(2)).
pub fn make_nonblocking(file: &impl AsFd) {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: both commands take integers and touch no memory.
    let outcome = unsafe {
        checked(libc::fcntl(fd, libc::F_GETFL).into()).and_then(|flags| {
            checked(libc::fcntl(fd, libc::F_SETFL, flags as c_int | libc::O_NONBLOCK).into())
        })
    };
    outcome.expect("O_NONBLOCK");
}

/// Receives one message and the descriptors that came with it, at most eight (unix(7), SCM_RIGHTS).
pub fn receive_descriptors(socket: &UnixDatagram, message: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut numbers = [-1; 8];
    let (len, count) = socket.recv_with_fd(message, &mut numbers)?;
    // SAFETY: the kernel has just made these descriptors, for us alone.
    let own = |number: &RawFd| unsafe { OwnedFd::from_raw_fd(*number) };
    // the received descriptor survives execve(2), the copy does not
    let copies = numbers[..count].iter().map(|number| own(number).try_clone());
    Ok((len, copies.collect::<io::Result<_>>()?))
}

/// Raises the soft limit of descriptors of this process to the hard one, for a thousand connections.
pub fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a valid rlimit that outlives them.
    unsafe {
        checked(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit).into()).expect("read the limit");
        limit.rlim_cur = limit.rlim_max;
        checked(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit).into()).expect("raise the limit");
    }
}

/// Lets the calling thread run before all ordinary threads of its processor (sched(7), `SCHED_FIFO`). Needs root.
pub fn run_first() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameters are whole and outlive the call; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Processor time of this process and of its children that it has waited for (getrusage(2)).
pub fn cpu_time() -> Duration {
    let of = |who| {
        // SAFETY: rusage is plain data, for which all zeroes is a valid value; the call fills it in.
        let usage = unsafe {
            let mut usage: libc::rusage = mem::zeroed();
            checked(libc::getrusage(who, &raw mut usage).into()).expect("getrusage");
            usage
        };
        let time = |time: libc::timeval| {
            Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
        };
        time(usage.ru_utime) + time(usage.ru_stime)
    };
    of(libc::RUSAGE_SELF) + of(libc::RUSAGE_CHILDREN)
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    // SAFETY: geteuid(2) has no arguments and never fails.
    unsafe { libc::geteuid() == 0 }
}

/// Puts this thread, and the threads that it will start, ahead of the machine's ordinary ones. Without root, nothing changes.
pub fn go_ahead_of_others() {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: `priority` is a valid structure for the length of the call; 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const priority) };
}

/// One entry for [`poll`]; `events` as in poll(2).
pub fn poll_entry(file: &impl AsFd, events: i16) -> libc::pollfd {
    libc::pollfd { fd: file.as_fd().as_raw_fd(), events, revents: 0 }
}

/// `poll(2)`: the number of entries with an event; zero if `patience` has passed.
pub fn poll(entries: &mut [libc::pollfd], patience: Duration) -> usize {
    let patience_ms = patience.as_millis() as c_int;
    loop {
        // SAFETY: the pointer and the count describe `entries`, which outlives the call.
        let ready = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, patience_ms) };
        match checked(ready.into()) {
            Ok(count) => return count as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}
