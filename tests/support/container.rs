//! Runs a program as in a container: with its own root directory, as an unprivileged user in its own user namespace, and
//! with only the system calls of a seccomp profile (in docker's format).
#![allow(unsafe_code, reason = "between fork and exec")]

use std::collections::BTreeMap;
use std::ffi::{CString, c_int, c_long};
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::Value;

/// The uid and gid of the container, which are those of Debian's `nobody` and `nogroup`.
const NOBODY: u32 = 65_534;

/// A system call that a profile allows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allowed {
    /// Its name.
    pub name: String,
    /// The only allowed first argument, if any.
    pub first_argument: Option<u32>,
}

/// The system calls that a profile allows.
pub fn allowed(profile: &Value) -> Vec<Allowed> {
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let mut calls = Vec::new();
    for group in profile["syscalls"].as_array().expect("groups of system calls") {
        assert_eq!(group["action"], "SCMP_ACT_ALLOW");
        let first_argument = group.get("args").map(|conditions| {
            let condition = &conditions[0];
            assert_eq!((&condition["index"], &condition["op"]), (&0.into(), &"SCMP_CMP_EQ".into()));
            assert!(conditions[1].is_null(), "one condition each: {group}");
            u32::try_from(condition["value"].as_u64().expect("a number")).expect("of 32 bits")
        });
        calls.extend(
            group["names"]
                .as_array()
                .expect("names")
                .iter()
                .map(|name| Allowed { name: name.as_str().expect("a name").to_owned(), first_argument }),
        );
    }
    calls
}

/// The numbers of all system calls, from the kernel's headers (Debian's linux-libc-dev).
pub fn numbers() -> BTreeMap<String, c_long> {
    let mut cc = Command::new("cc");
    cc.args(["-E", "-dM", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut cc = cc.spawn().expect("run cc (ci/setup installs it)");
    cc.stdin.take().expect("its input").write_all(b"#include <asm/unistd.h>\n").expect("write to cc");
    let output = cc.wait_with_output().expect("cc's output");
    let text = String::from_utf8(output.stdout).expect("text");
    let number = |line: &str| {
        let (name, value) = line.strip_prefix("#define __NR_")?.split_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    let numbers: BTreeMap<_, _> = text.lines().filter_map(number).collect();
    assert!(numbers.len() > 200, "{numbers:?}");
    numbers
}

/// The number of a system call, and the first argument that it may have; `None`: any.
pub type Call = (c_long, Option<u32>);

/// The answer of socket(2) for each family, in a thread that may make only these system calls. All others fail with this
/// errno.
pub fn sockets(families: &[c_int], calls: &[Call], errno: c_int) -> Vec<io::Result<OwnedFd>> {
    let filter = filter(calls, libc::SECCOMP_RET_ERRNO | errno as u32);
    let open = |family| {
        // SAFETY: socket(2) takes no memory; a result that is no error is a new descriptor, ours alone.
        let fd = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        // SAFETY: see above.
        checked(fd).map(|()| unsafe { OwnedFd::from_raw_fd(fd) })
    };
    let confined = || {
        // the filter applies to this thread only
        confine(&filter).expect("seccomp");
        families.iter().copied().map(open).collect()
    };
    thread::scope(|scope| scope.spawn(confined).join().expect("the confined thread"))
}

fn confine(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: prctl(2) copies the program, which outlives both calls.
    unsafe {
        checked(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        checked(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program))
    }
}

/// A program of the directory `root`, started as nobody in its own user namespace. It sees no other files. It may make
/// these system calls; `otherwise` is the kernel's action for all others (`SECCOMP_RET_…`).
pub fn contained(root: &Path, program: &str, calls: &[Call], otherwise: u32) -> Command {
    let root = CString::new(root.as_os_str().as_bytes()).expect("a path");
    let filter = filter(calls, otherwise);
    let mut command = Command::new(format!("/{program}"));
    command.env_clear().stdin(Stdio::null()).uid(NOBODY).gid(NOBODY);
    // SAFETY: the closure runs in the forked child, where only async-signal-safe functions may be called: it makes
    // system calls on memory allocated before the fork, and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            checked(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            checked(libc::unshare(libc::CLONE_NEWUSER))?;
            checked(libc::chroot(root.as_ptr()))?;
            checked(libc::chdir(c"/".as_ptr()))?;
            confine(&filter)
        });
    }
    command
}

/// The classic BPF program that allows these calls.
fn filter(calls: &[Call], otherwise: u32) -> Vec<libc::sock_filter> {
    // Offsets in struct seccomp_data: `nr` is the first word, the low half of args[0] is at 16.
    const NUMBER: u32 = 0;
    const FIRST_ARGUMENT: u32 = 16;
    let statement = |code: u32, k| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let skip_unless = |value, skipped| {
        let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        libc::sock_filter { code, jt: 0, jf: skipped, k: value }
    };
    let mut program = Vec::new();
    for &(call, first_argument) in calls {
        program.push(load(NUMBER));
        program.push(skip_unless(call as u32, if first_argument.is_some() { 3 } else { 1 }));
        if let Some(value) = first_argument {
            program.extend([load(FIRST_ARGUMENT), skip_unless(value, 1)]);
        }
        program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, otherwise));
    program
}

fn checked(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
