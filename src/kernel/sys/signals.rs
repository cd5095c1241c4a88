//! Signals that end a program.

#![allow(unsafe_code)] // sigwait(3), sigtimedwait(2), and sigaction(2) that only asks

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

use super::check;

/// The signals that end a program: SIGTERM, SIGINT and SIGHUP.
///
/// A SIGHUP that was ignored at the start, as by nohup(1), stays ignored. SIGTERM and SIGINT are heard all the same: a
/// shell without job control ignores SIGINT for all that it starts in the background. SIGQUIT keeps its default action,
/// which ends the process at once. SIGPIPE is ignored by Rust's runtime.
pub struct EndSignals(SigSet);

impl EndSignals {
    /// Blocks them for this thread and all that it starts, so that no system call is interrupted and
    /// [`Self::wait`] gets them. SIGXFSZ is blocked with them and never heard: a file that may not grow any further
    /// (`ulimit -f`) is an error of a write, and no end.
    pub fn block() -> io::Result<Self> {
        let mut signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
        // a blocked signal would be heard although it is ignored
        if !is_ignored(Signal::SIGHUP)? {
            signals.add(Signal::SIGHUP);
        }
        // of the calling thread, as pthread_sigmask(3), whose errors nix does not see
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&(signals | Signal::SIGXFSZ)), None)?;
        Ok(Self(signals))
    }

    /// Sleeps until one of them asks for the end, or asks again: returns for the first of them, whichever it is, and
    /// then for each SIGTERM and SIGINT. A SIGHUP beside another signal asks for nothing new: a shell passes on the one
    /// that it got, and systemd sends one right behind SIGTERM (`SendSIGHUP=`).
    pub fn wait(&mut self) {
        let mut signal = 0;
        // SAFETY: sigwait(3) reads a live set and writes a live int. It fails for an invalid set only; nix takes a failure
        // for a signal
        unsafe { libc::sigwait(self.0.as_ref(), &raw mut signal) };
        // from now on a SIGHUP stays pending, which is as good as ignored
        self.0.remove(Signal::SIGHUP);
        if signal == Signal::SIGHUP as i32 {
            // of several that wait, the one with the lowest number comes first
            let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: sigtimedwait(2) reads a live set and a live timespec; a null info is allowed
            unsafe { libc::sigtimedwait(self.0.as_ref(), ptr::null_mut(), &raw const at_once) };
        }
    }
}

/// Whether the process ignores a signal (sigaction(2)).
fn is_ignored(signal: Signal) -> io::Result<bool> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action sigaction(2) changes nothing, and writes the present one to live memory of its size,
    // which is plain data
    let action = unsafe {
        check(libc::sigaction(signal as i32, ptr::null(), action.as_mut_ptr()))?;
        action.assume_init()
    };
    Ok(action.sa_sigaction == libc::SIG_IGN)
}
