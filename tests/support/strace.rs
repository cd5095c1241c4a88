//! Runs `strace` on a server: records which thread makes which system call, or makes calls fail on purpose.

use super::PATIENCE;
use super::lines::{self, Lines};
use super::sys::Pidfd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

/// An attached tracer.
pub struct Strace {
    child: Child,
    calls: Arc<Lines>,
    readers: Vec<JoinHandle<()>>,
}

impl Strace {
    /// Attaches to a thread or, with `-f` among the options, to all threads of a process. Returns as soon as it traces.
    /// Needs root.
    pub fn attach(number: u32, options: &[&str]) -> Self {
        let mut command = Command::new("strace");
        command.args(["-o", "/dev/stdout", "-p", &number.to_string()]).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("run strace (ci/setup installs it)");
        let (calls, calls_reader) = lines::collect(child.stdout.take().expect("strace's output"));
        let (talk, talk_reader) = lines::collect(child.stderr.take().expect("strace's messages"));
        let attached = talk.wait_for(PATIENCE, |lines| lines.iter().any(|line| line.contains(" attached")));
        assert!(attached, "strace did not attach: {:?}", talk.all());
        Self { child, calls, readers: vec![calls_reader, talk_reader] }
    }

    /// Detaches, unless the process has ended. Returns (thread, system call) for every traced call.
    pub fn detach(mut self) -> Vec<(u32, String)> {
        let tracer = Pidfd::open(self.child.id()).expect("pidfd_open");
        let _ = tracer.signal(libc::SIGINT);
        assert!(tracer.ends_within(PATIENCE), "strace does not detach");
        for reader in self.readers.drain(..) {
            reader.join().expect("strace's reader");
        }
        self.calls.all().iter().filter_map(|line| parse(line)).collect()
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a line such as `1234 recvmsg(3, …` or, after a pause, `1234 <... recvmsg resumed>…`. Lines about signals and exits
/// give `None`.
fn parse(line: &str) -> Option<(u32, String)> {
    let (thread, call) = line.split_once(' ')?;
    let call = call.trim_start();
    let name = match call.strip_prefix("<... ") {
        Some(resumed) => resumed.split_once(' ')?.0,
        None => call.split_once('(')?.0,
    };
    Some((thread.parse().ok()?, name.to_owned()))
}
