//! What a started process gets between fork and exec.

use std::ffi::{c_int, c_long};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::checked;

/// Makes the command start its process with this signal ignored, as nohup(1) does.
pub fn ignore_signal(command: &mut Command, signal: c_int) {
    // SAFETY: the closure makes a system call only: it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || {
            if libc::signal(signal, libc::SIG_IGN) == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// Makes the command pass these descriptors to its process, from number 3 on, and one more at `extra_number`.
pub fn pass(command: &mut Command, descriptors: Vec<OwnedFd>, extra: OwnedFd, extra_number: RawFd) {
    /// The first number that no test program uses: each has far fewer open files at this point.
    const PARKED_FROM: RawFd = 1000;
    // SAFETY: the closure makes system calls only: it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || {
            // first move all of them up, so that none overwrites another
            for from in descriptors.iter().chain([&extra]) {
                checked(libc::fcntl(from.as_raw_fd(), libc::F_DUPFD_CLOEXEC, PARKED_FROM).into())?;
            }
            let parked = PARKED_FROM..;
            let places = (3..3 + descriptors.len() as RawFd).chain([extra_number]);
            for (parked, place) in parked.zip(places) {
                checked(libc::dup2(parked, place).into())?;
            }
            Ok(())
        });
    }
}

/// Makes the kernel kill the command's process when the thread that starts it ends.
pub fn die_with_us(command: &mut Command) {
    // SAFETY: the closure makes one system call.
    unsafe {
        command.pre_exec(|| checked(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL).into()).map(drop));
    }
}

/// Makes the command's process enter the control group of this `cgroup.procs` before it begins.
pub fn enter_group(command: &mut Command, procs: &std::path::Path) {
    use std::os::unix::ffi::OsStrExt;
    let procs = std::ffi::CString::new(procs.as_os_str().as_bytes()).expect("a path");
    // SAFETY: the closure makes system calls only, on memory allocated before the fork.
    unsafe {
        command.pre_exec(move || {
            let fd = checked(libc::open(procs.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC).into())?;
            // 0 means the writing process
            checked(libc::write(fd as c_int, c"0".as_ptr().cast(), 1) as c_long).map(drop)
        });
    }
}

/// A system call that fails in the started process, as if the kernel had refused it.
#[derive(Clone, Copy)]
pub struct Denied {
    /// The number of the system call, as in `libc::SYS_…`.
    pub call: c_long,
    /// If set, the call fails only with this first argument (such as the family of `socket`).
    pub first_argument: Option<u32>,
    /// If set, the call fails only with this second argument (such as the operation of `io_uring_register`).
    pub second_argument: Option<u32>,
    /// The errno of the failed call.
    pub errno: c_int,
}

/// Restrictions of a started process, applied between fork and exec.
pub struct Confinement {
    /// `RLIMIT_…` and its soft and hard value.
    pub limits: Vec<(libc::__rlimit_resource_t, u64)>,
    /// The system calls that seccomp refuses.
    pub denied: Vec<Denied>,
}

/// Makes the command start its process with these restrictions and with descriptors 0, 1 and 2 only. The kernel kills it
/// when the thread that starts it ends.
pub fn confine(command: &mut Command, confinement: Confinement) {
    let filter = seccomp_filter(&confinement.denied);
    let limits = confinement.limits;
    // SAFETY: the closure runs in the forked child, where only async-signal-safe functions may be
    // called: it makes system calls on memory allocated before the fork, and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            checked(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL).into())?;
            checked(libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC))?;
            for &(resource, value) in &limits {
                let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
                checked(libc::setrlimit(resource, &raw const limit).into())?;
            }
            if filter.len() > 1 {
                let program =
                    libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
                checked(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
                let mode = libc::SECCOMP_MODE_FILTER;
                checked(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program).into())?;
            }
            Ok(())
        });
    }
}

/// The classic BPF program that refuses these calls and allows all others.
fn seccomp_filter(denied: &[Denied]) -> Vec<libc::sock_filter> {
    // Offsets in struct seccomp_data: `nr` is the first word, the low halves of args[0] and args[1] are at 16 and 24.
    const NUMBER: u32 = 0;
    const FIRST_ARGUMENT: u32 = 16;
    const SECOND_ARGUMENT: u32 = 24;
    // the flag that io_uring_register(2) has in its operation if the ring's own descriptor is registered
    const REGISTERED_RING: u32 = 1 << 31;
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let skip_unless = |value, skipped| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: skipped,
        k: value,
    };
    let answer = |verdict| statement(libc::BPF_RET | libc::BPF_K, verdict);
    let mut program = Vec::new();
    for rule in denied {
        program.push(load(NUMBER));
        if let Some(value) = rule.second_argument {
            program.push(skip_unless(rule.call as u32, 4));
            program.push(load(SECOND_ARGUMENT));
            program.push(statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, !REGISTERED_RING));
            program.push(skip_unless(value, 1));
        } else if let Some(value) = rule.first_argument {
            program.push(skip_unless(rule.call as u32, 3));
            program.push(load(FIRST_ARGUMENT));
            program.push(skip_unless(value, 1));
        } else {
            program.push(skip_unless(rule.call as u32, 1));
        }
        program.push(answer(libc::SECCOMP_RET_ERRNO | rule.errno as u32));
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    program
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}
