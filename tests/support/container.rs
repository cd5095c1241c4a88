//! What a container is to a program: a root directory of its own, a user without privileges in a user namespace of
//! its own, and the system calls of a seccomp profile (in docker's format).
#![allow(unsafe_code, reason = "between fork and exec")]

use std::collections::BTreeMap;
use std::ffi::{CString, c_long};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// The uid and gid of Debian's `nobody` and `nogroup`, and of the container.
const NOBODY: u32 = 65_534;

/// The system calls that a profile allows, by name.
pub fn allowed(profile: &Value) -> Vec<String> {
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let mut names = Vec::new();
    for group in profile["syscalls"].as_array().expect("groups of system calls") {
        assert_eq!(group["action"], "SCMP_ACT_ALLOW");
        names.extend(
            group["names"]
                .as_array()
                .expect("names")
                .iter()
                .map(|name| name.as_str().expect("a name").to_owned()),
        );
    }
    names
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

/// A program of the directory `root`, which is all that it sees of the file system, started by nobody in a user
/// namespace of its own. It may make these system calls; `otherwise` is what any other gets (`SECCOMP_RET_…`).
pub fn contained(root: &Path, program: &str, calls: &[c_long], otherwise: u32) -> Command {
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
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
            checked(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            checked(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program))
        });
    }
    command
}

/// The classic BPF program that lets these calls pass.
fn filter(calls: &[c_long], otherwise: u32) -> Vec<libc::sock_filter> {
    let statement = |code: u32, k| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    // the number is the first word of struct seccomp_data
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for call in calls {
        let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        program.push(libc::sock_filter { code, jt: 0, jf: 1, k: *call as u32 });
        program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, otherwise));
    program
}

fn checked(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
