//! Stops a thread of another process, as a debugger would.
#![allow(unsafe_code, reason = "ptrace(2) has no safe wrapper")]

use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Stops the thread until its process ends. Returns once the thread has stopped. Needs `CAP_SYS_PTRACE`.
///
/// The thread of the returned handle is the tracer. It waits for the end of the stopped thread; otherwise the parent of
/// the process would not see the process end either.
pub fn hold(thread: u32) -> io::Result<JoinHandle<()>> {
    let tid = libc::pid_t::try_from(thread).expect("a thread's number");
    let (held, is_held) = mpsc::channel();
    let tracer = thread::spawn(move || {
        let _ = held.send(interrupt(tid));
        // waits for the thread's end and ignores all earlier reports
        while wait(tid).is_ok_and(|status| !libc::WIFEXITED(status) && !libc::WIFSIGNALED(status)) {}
    });
    is_held.recv().expect("the tracer tells").map(|()| tracer)
}

/// Stops the thread for this time, then lets it continue. Returns how long it was really stopped. Needs
/// `CAP_SYS_PTRACE`.
pub fn hold_for(thread: u32, time: Duration) -> io::Result<Duration> {
    let tid = libc::pid_t::try_from(thread).expect("a thread's number");
    // this thread is the tracer, and only the tracer may detach
    let begun = Instant::now();
    interrupt(tid)?;
    thread::sleep(time);
    // SAFETY: the request reads and writes no memory; it takes a thread's number and two zeroes.
    if unsafe { libc::ptrace(libc::PTRACE_DETACH, tid, 0, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(begun.elapsed())
}

/// Stops the thread without a signal that its process could see (ptrace(2), Linux 3.4).
fn interrupt(tid: libc::pid_t) -> io::Result<()> {
    for request in [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT] {
        // SAFETY: neither request reads or writes memory; both take a thread's number and two zeroes.
        if unsafe { libc::ptrace(request, tid, 0, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let status = wait(tid)?;
    assert!(libc::WIFSTOPPED(status), "thread {tid} did not stop: {status:#x}");
    Ok(())
}

fn wait(tid: libc::pid_t) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: waitpid(2) writes to a live int.
    if unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(status)
}
