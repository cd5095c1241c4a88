//! A thread of another process, held still from outside as a debugger would.
#![allow(unsafe_code, reason = "ptrace(2) has no safe wrapper")]

use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Holds the thread until its process ends; returns once it stands still. Needs `CAP_SYS_PTRACE`.
///
/// The handle's thread is the tracer: it collects the held thread at its end, without which the process
/// would not end for its parent either.
pub fn hold(thread: u32) -> io::Result<JoinHandle<()>> {
    let tid = libc::pid_t::try_from(thread).expect("a thread's number");
    let (held, is_held) = mpsc::channel();
    let tracer = thread::spawn(move || {
        let _ = held.send(interrupt(tid));
        // Waits for the thread's end, whatever else is reported before it.
        while wait(tid).is_ok_and(|status| !libc::WIFEXITED(status) && !libc::WIFSIGNALED(status)) {}
    });
    is_held.recv().expect("the tracer tells").map(|()| tracer)
}

/// Holds the thread for so long, then lets it go; how long it really was. Needs `CAP_SYS_PTRACE`.
pub fn hold_for(thread: u32, time: Duration) -> io::Result<Duration> {
    let tid = libc::pid_t::try_from(thread).expect("a thread's number");
    // The tracer is this thread, and only it may let go.
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
