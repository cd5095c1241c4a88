//! Starts a server: arguments, environment, user, limits and denied system calls.

use super::lines::{self, NotifySocket, Stored};
use super::server::Server;
use super::sys::{self, Confinement, Denied, Pidfd};
use super::{PATIENCE, server};
use std::env;
use std::ffi::{c_int, c_long};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The uid and gid of Debian's `nobody` and `nogroup`.
pub const NOBODY: u32 = 65_534;

/// The descriptor of the program, in a process with passed sockets. It is further from them than `tubectl register-pid`
/// walks.
const PROGRAM_NUMBER: i32 = 900;

/// The service manager that `NOTIFY_SOCKET` names.
enum Manager {
    /// It listens at a path.
    Listening,
    /// It listens at a name without a file.
    Abstract,
    /// It does not exist, or not at the name in the variable.
    Absent(Option<String>),
}

/// A server about to be started. Its environment has only the variables that are set here, so that no test depends on
/// the environment of the tests.
pub struct Launch {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    manager: Manager,
    unprivileged: bool,
    confinement: Confinement,
    passed: Vec<Stored>,
    ignored_signal: Option<c_int>,
    log_is_full: bool,
    manager_is_full: bool,
    group: Option<std::path::PathBuf>,
}

/// A server that ended by itself before it was ready.
pub struct Refusal {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its output on stderr.
    pub stderr: Vec<String>,
    /// How often it sent `READY=1` all the same.
    pub ready_count: usize,
}

impl Launch {
    /// A server with these arguments.
    pub fn new<T: ToString>(arguments: &[T]) -> Self {
        Self {
            arguments: arguments.iter().map(T::to_string).collect(),
            environment: Vec::new(),
            manager: Manager::Listening,
            unprivileged: false,
            confinement: Confinement { limits: Vec::new(), denied: Vec::new() },
            passed: Vec::new(),
            ignored_signal: None,
            log_is_full: false,
            manager_is_full: false,
            group: None,
        }
    }

    /// With this signal ignored from the start, as nohup(1) does.
    pub fn ignoring(mut self, signal: c_int) -> Self {
        self.ignored_signal = Some(signal);
        self
    }

    /// With a full log that is not read until the test asks for it.
    pub fn full_log(mut self) -> Self {
        self.log_is_full = true;
        self
    }

    /// With a service manager whose queue is full and that reads nothing until the test asks for it.
    pub fn full_manager(mut self) -> Self {
        self.manager_is_full = true;
        self
    }

    /// With this environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// With a service manager that listens at an abstract name.
    pub fn notify_abstract(mut self) -> Self {
        self.manager = Manager::Abstract;
        self
    }

    /// With this value of `NOTIFY_SOCKET`, even if no manager listens there; `None` leaves it unset.
    pub fn notify_nobody(mut self, name: Option<&str>) -> Self {
        self.manager = Manager::Absent(name.map(str::to_owned));
        self
    }

    /// With these sockets passed by the service manager, which kept them from an earlier process (sd_listen_fds(3)).
    pub fn passing(mut self, stored: &[Stored]) -> Self {
        let copy = |stored: &Stored| Stored {
            name: stored.name.clone(),
            descriptor: stored.descriptor.try_clone().expect("copy a descriptor"),
        };
        self.passed = stored.iter().map(copy).collect();
        self
    }

    /// As the user `nobody`, without privileges. Needs root.
    pub fn unprivileged(mut self) -> Self {
        self.unprivileged = true;
        self
    }

    /// With this soft and hard limit (`libc::RLIMIT_…`).
    pub fn limit(mut self, resource: libc::__rlimit_resource_t, value: u64) -> Self {
        self.confinement.limits.push((resource, value));
        self
    }

    /// With this system call (`libc::SYS_…`) failing with this errno.
    pub fn deny(mut self, call: c_long, errno: c_int) -> Self {
        self.confinement.denied.push(Denied { call, first_argument: None, second_argument: None, errno });
        self
    }

    /// On a host that does not have this address family (`libc::AF_…`).
    pub fn without_family(mut self, family: c_int) -> Self {
        let (call, first_argument) = (libc::SYS_socket, Some(family as u32));
        let errno = libc::EAFNOSUPPORT;
        self.confinement.denied.push(Denied { call, first_argument, second_argument: None, errno });
        self
    }

    /// In the control group whose `cgroup.procs` this is.
    pub fn in_group(mut self, procs: &std::path::Path) -> Self {
        self.group = Some(procs.into());
        self
    }

    /// With this system call failing if its second argument has this value. This refuses, for example, all options of
    /// one level of `setsockopt(2)`.
    pub fn deny_second(mut self, call: c_long, argument: u32, errno: c_int) -> Self {
        let second_argument = Some(argument);
        self.confinement.denied.push(Denied { call, first_argument: None, second_argument, errno });
        self
    }

    /// With this operation of `io_uring_register(2)` failing with this errno, as on a kernel without the operation.
    pub fn deny_register(mut self, operation: u32, errno: c_int) -> Self {
        let call = libc::SYS_io_uring_register;
        let second_argument = Some(operation);
        self.confinement.denied.push(Denied { call, first_argument: None, second_argument, errno });
        self
    }

    /// Starts the server and waits until it is ready. Fails the test if it does not become ready.
    pub fn ready(self) -> Server {
        self.outcome().unwrap_or_else(|refusal| {
            panic!("the server ended before it was ready; stderr:\n{}", refusal.stderr.join("\n"))
        })
    }

    /// Starts the server and waits until it is ready or has ended by itself.
    pub fn outcome(self) -> Result<Server, Refusal> {
        let mut server = self.start();
        let end = Instant::now() + PATIENCE;
        let waits_for_message = server.notify.is_some();
        loop {
            let log_says_ready =
                server.log.wait_for(Duration::from_millis(20), |lines| lines.iter().any(|l| says_ready(l)));
            let told = server.notify.as_ref().is_some_and(|notify| notify.ready_count() > 0);
            if log_says_ready && (told || !waits_for_message) {
                break;
            }
            if server.pidfd.ends_within(Duration::ZERO) {
                return Err(refusal(server));
            }
            assert!(Instant::now() < end, "not ready: logged {log_says_ready}, READY=1 received {told}");
        }
        server.read_addresses();
        Ok(server)
    }

    /// Starts the server and waits until it ends by itself.
    pub fn refused(self) -> Refusal {
        let server = self.start();
        assert!(server.pidfd.ends_within(PATIENCE), "the server neither gave up nor was stopped");
        refusal(server)
    }

    /// Starts the server without waiting.
    pub fn start(self) -> Server {
        // the same tests can run another build of the server, for example an optimised one
        let program = env::var("SERVER_UNDER_TEST").unwrap_or(env!("CARGO_BIN_EXE_tubular-echo").into());
        // opened here and executed by descriptor, because `nobody` may not be able to reach the file by its name
        let opened = File::open(&program).unwrap_or_else(|error| panic!("open {program}: {error}"));
        let mut command = if self.passed.is_empty() {
            let mut command = Command::new(format!("/proc/self/fd/{}", opened.as_raw_fd()));
            command.arg0("tubular-echo");
            command
        } else {
            // LISTEN_PID must be the number of the process, which only the process itself knows
            let mut command = Command::new("/bin/sh");
            command.arg("-c").arg(format!("LISTEN_PID=$$ exec /proc/self/fd/{PROGRAM_NUMBER} \"$@\""));
            command.arg("tubular-echo");
            command
        };
        command.args(&self.arguments).env_clear().envs(self.environment);
        let notify = match self.manager {
            Manager::Listening => Some(NotifySocket::in_directory()),
            Manager::Abstract => Some(NotifySocket::in_abstract_namespace()),
            Manager::Absent(name) => {
                command.envs(name.map(|name| ("NOTIFY_SOCKET", name)));
                None
            }
        };
        command.envs(notify.iter().map(|notify| ("NOTIFY_SOCKET", &notify.name)));
        if self.unprivileged {
            command.uid(NOBODY).gid(NOBODY);
        }
        if self.manager_is_full {
            notify.as_ref().expect("a service manager").stand_still();
        }
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        let (log_reader, log_writer) =
            if self.log_is_full { lines::full_pipe() } else { io::pipe().expect("a pipe for the log") };
        command.stderr(log_writer);
        if let Some(signal) = self.ignored_signal {
            sys::ignore_signal(&mut command, signal);
        }
        if let Some(procs) = &self.group {
            sys::enter_group(&mut command, procs);
        }
        sys::confine(&mut command, self.confinement);
        if !self.passed.is_empty() {
            let names: Vec<_> = self.passed.iter().map(|stored| stored.name.as_str()).collect();
            command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
            let descriptors = self.passed.into_iter().map(|stored| stored.descriptor).collect();
            let program = opened.try_clone().expect("copy a descriptor").into();
            sys::pass(&mut command, descriptors, program, PROGRAM_NUMBER);
        }
        let child = command.spawn().expect("start the server");
        // the command holds the write end of the log's pipe, which would keep it open
        drop(command);
        let collect = if self.log_is_full { lines::collect_later } else { lines::collect };
        let (log, reader) = collect(log_reader);
        let pidfd = Pidfd::open(child.id()).expect("pidfd_open");
        Server::watch(server::Parts { child, pidfd, log, reader, notify })
    }
}

/// The remains of a server that has ended: its status, log and messages.
fn refusal(server: Server) -> Refusal {
    let end = server.wait();
    Refusal { code: end.code, stderr: end.stderr, ready_count: end.ready_count }
}

/// Whether a log line says that all workers are armed.
fn says_ready(line: &str) -> bool {
    line.split_whitespace().any(|word| word == "ready")
}
