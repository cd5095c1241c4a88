//! This process, its processors and others that it started.

use std::io::{Error, Result};
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use libc::c_int;

use super::check;

/// Whether namespaces and programs in the kernel are ours to make.
pub(crate) fn is_root() -> bool {
    // SAFETY: no memory is passed, and the call cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Raises the soft limit of open files to the hard one.
pub(crate) fn raise_open_files() -> Result<u64> {
    // SAFETY: both calls get a pointer to a whole `rlimit` that outlives them.
    unsafe {
        let mut limit: libc::rlimit = zeroed();
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
        Ok(limit.rlim_max)
    }
}

/// Binds the calling thread, and what it starts from now on, to these cores.
pub(crate) fn pin(cores: &[usize]) -> Result<()> {
    // SAFETY: an all-zero `cpu_set_t` is an empty set, and the call reads nothing beyond it.
    unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        for &core in cores {
            libc::CPU_SET(core, &mut set);
        }
        check(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)).map(drop)
    }
}

/// The cores that this process may run on.
pub(crate) fn cores() -> Result<Vec<usize>> {
    // SAFETY: the call fills the set, which is as large as it says.
    let set = unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        check(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set))?;
        set
    };
    // SAFETY: every index lies within the set.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect())
}

/// CPU time of a whole process, all its threads, kernel and user (`clock_getcpuclockid(3)`); 0 is this one.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    // SAFETY: both calls write to whole objects that outlive them.
    let time = unsafe {
        let mut clock: libc::clockid_t = 0;
        match libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) {
            0 => {}
            errno => return Err(Error::from_raw_os_error(errno)),
        }
        let mut time: libc::timespec = zeroed();
        check(libc::clock_gettime(clock, &raw mut time))?;
        time
    };
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Ends this process when the one that started it ends, however that is (prctl(2), `PR_SET_PDEATHSIG`).
pub(crate) fn end_with_parent() -> Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }).map(drop)
}

/// Leaves a descriptor open for the program that this process becomes.
pub(crate) fn inherit(fd: &impl AsFd) -> Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_SETFD, 0) }).map(drop)
}

/// Sends a signal to a process that we started.
pub(crate) fn signal(pid: u32, signal: c_int) -> Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::kill(pid as libc::pid_t, signal) }).map(drop)
}
