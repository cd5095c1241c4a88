//! A process that only holds descriptors, at numbers that the test chooses.
#![allow(unsafe_code, reason = "descriptors are placed between fork(2) and execve(2)")]

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Killed when dropped.
pub struct Holder(Child);

impl Holder {
    /// Starts a process that has only descriptors 0 to 2 and these.
    pub fn with(descriptors: Vec<(i32, OwnedFd)>) -> Self {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let place = move || {
            // the process that runs the tests may have left descriptors open
            // SAFETY: close_range(2) takes three integers and touches no memory.
            checked(unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) })?;
            // first move all of them above the numbers that tests use, so that none overwrites another
            for (_, from) in &descriptors {
                // SAFETY: F_DUPFD_CLOEXEC takes two integers and touches no memory.
                checked(unsafe { libc::fcntl(from.as_raw_fd(), libc::F_DUPFD_CLOEXEC, PARKED_FROM) })?;
            }
            for (parked, (number, _)) in (PARKED_FROM..).zip(&descriptors) {
                // SAFETY: dup2(2) takes two integers and touches no memory.
                checked(unsafe { libc::dup2(parked, *number) })?;
            }
            Ok(())
        };
        // SAFETY: `place` makes system calls only: it neither allocates nor takes a lock.
        unsafe { command.pre_exec(place) };
        let mut child = command.spawn().expect("start a process that holds descriptors");
        // a descriptor may overwrite the pipe by which spawn waits for execve(2), and so end that wait early; the first
        // output of the process proves that execve has closed the test's own descriptors
        child.stdin.as_mut().expect("a pipe").write_all(b"?").expect("ask the process");
        child.stdout.as_mut().expect("a pipe").read_exact(&mut [0]).expect("the process's answer");
        Self(child)
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The first number that no test program uses: each opens far fewer files.
const PARKED_FROM: i32 = 900;

fn checked(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
