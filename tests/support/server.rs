//! A running server: its addresses, its log, its end.

use super::lines::{Lines, NotifySocket};
use super::sys::Pidfd;
use super::{Launch, PATIENCE};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, ThreadId};

/// The protocol of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// A process that was just started, before it is ready or has ended.
pub struct Parts {
    pub child: Child,
    pub pidfd: Pidfd,
    pub log: Arc<Lines>,
    pub reader: JoinHandle<()>,
    pub notify: Option<NotifySocket>,
}

/// A server process. It never outlives its test. If the test fails, dropping it prints its log.
pub struct Server {
    /// The server's output on stderr so far.
    pub log: Arc<Lines>,
    /// Its service manager, unless the test wanted none.
    pub notify: Option<NotifySocket>,
    /// A handle on the process.
    pub pidfd: Arc<Pidfd>,
    child: Child,
    reader: Option<JoinHandle<()>>,
    addresses: Vec<(Protocol, SocketAddr)>,
}

/// The end of a server.
pub struct End {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its whole output on stderr.
    pub stderr: Vec<String>,
    /// How often it sent `READY=1`.
    pub ready_count: usize,
    /// All its messages to the service manager.
    pub messages: Vec<String>,
    /// The counters of its last log line; empty if it was killed.
    pub counters: BTreeMap<String, u64>,
}

impl End {
    /// A counter of the last log line. The test fails if the server has no counter of this name.
    pub fn counter(&self, name: &str) -> u64 {
        *self.counters.get(name).unwrap_or_else(|| panic!("no counter {name} in {:?}", self.counters))
    }
}

/// The running servers, each with the thread of the test that started it.
static RUNNING: Mutex<Vec<Running>> = Mutex::new(Vec::new());

type Running = (ThreadId, Arc<Pidfd>, Arc<Lines>);

/// Kills the servers that this thread has started and prints their logs, for a test that hangs.
pub fn kill_all_of(thread: ThreadId) {
    for (_, pidfd, log) in RUNNING.lock().unwrap().iter().filter(|(owner, _, _)| *owner == thread) {
        print_log(log);
        let _ = pidfd.signal(libc::SIGKILL);
    }
}

fn print_log(log: &Lines) {
    println!("---- the server's stderr\n{}\n----", log.all().join("\n"));
}

impl Server {
    /// Starts a server with these arguments and waits until it is ready.
    pub fn start<T: ToString>(arguments: &[T]) -> Self {
        Launch::new(arguments).ready()
    }

    /// Wraps a process that was just started.
    pub fn watch(parts: Parts) -> Self {
        let pidfd = Arc::new(parts.pidfd);
        let entry = (thread::current().id(), Arc::clone(&pidfd), Arc::clone(&parts.log));
        RUNNING.lock().unwrap().push(entry);
        Self {
            log: parts.log,
            notify: parts.notify,
            pidfd,
            child: parts.child,
            reader: Some(parts.reader),
            addresses: Vec::new(),
        }
    }

    /// Takes the addresses from the log.
    pub fn read_addresses(&mut self) {
        for line in self.log.all() {
            let Some((_, rest)) = line.split_once("listening on ") else { continue };
            let mut words = rest.split_whitespace();
            let protocol = match words.next() {
                Some("tcp") => Protocol::Tcp,
                Some("udp") => Protocol::Udp,
                other => panic!("a protocol expected instead of {other:?} in: {line}"),
            };
            let address = words.next().expect("an address in the line");
            self.addresses.push((protocol, address.parse().unwrap_or_else(|_| panic!("address in: {line}"))));
        }
    }

    /// The addresses that the server listens on, in the order of its log.
    pub fn addresses(&self) -> &[(Protocol, SocketAddr)] {
        &self.addresses
    }

    /// The only TCP address.
    pub fn tcp(&self) -> SocketAddr {
        self.only(Protocol::Tcp)
    }

    /// The only UDP address.
    pub fn udp(&self) -> SocketAddr {
        self.only(Protocol::Udp)
    }

    fn only(&self, protocol: Protocol) -> SocketAddr {
        let found: Vec<_> = self.addresses.iter().filter(|(p, _)| *p == protocol).collect();
        assert_eq!(found.len(), 1, "one {protocol:?} address expected in {:?}", self.addresses);
        found[0].1
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        self.pidfd.signal(signal).expect("send a signal to the server");
    }

    /// Stops the whole process until [`Self::resume`], so that work piles up. Returns when all threads have stopped.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
        let path = format!("/proc/{}/task", self.pid());
        // SIGSTOP reaches the threads one by one, so wait until each is in state T
        while !threads_in(&path).iter().all(|thread| thread.state == 'T') {
            thread::yield_now();
        }
    }

    /// Continues the process.
    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Duplicates of the first `count` listening sockets. They are the first descriptors of the process: address by
    /// address, TCP before UDP, one for each worker.
    pub fn copy_sockets(&self, count: usize) -> Vec<OwnedFd> {
        let copy = |number| self.pidfd.copy_descriptor(number).expect("pidfd_getfd");
        (3..3 + count as i32).map(copy).collect()
    }

    /// The numbers of the worker threads.
    pub fn worker_threads(&self) -> Vec<u32> {
        worker_threads_of(self.pid())
    }

    /// Stops the server and waits for its end. The test fails unless the exit code is 0 and the log ends with counters.
    pub fn stop(self) -> End {
        let told = usize::from(self.notify.is_some());
        self.signal(libc::SIGTERM);
        assert!(self.pidfd.ends_within(PATIENCE), "the server did not end on SIGTERM");
        let end = self.wait();
        assert_eq!(end.code, Some(0), "the exit code on SIGTERM; stderr:\n{}", end.stderr.join("\n"));
        assert!(!end.counters.is_empty(), "no final counters; stderr:\n{}", end.stderr.join("\n"));
        assert_eq!(end.ready_count, told, "READY=1 counted in {:?}", end.messages);
        end
    }

    /// Waits until the process ends by itself.
    pub fn wait(mut self) -> End {
        let status = self.child.wait().expect("wait for the server");
        self.log.read_on();
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the log's reader");
        }
        let (mut ready_count, mut messages) = (0, Vec::new());
        if let Some(notify) = &mut self.notify {
            notify.close();
            ready_count = notify.ready_count();
            messages = notify.messages.all();
        }
        let stderr = self.log.all();
        let counters = stderr.iter().rev().find_map(|line| line.split_once("final counters:"));
        let counters = counters.map(|(_, rest)| parse_counters(rest)).unwrap_or_default();
        End { code: status.code(), stderr, ready_count, messages, counters }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        RUNNING.lock().unwrap().retain(|(_, pidfd, _)| !Arc::ptr_eq(pidfd, &self.pidfd));
        let _ = self.pidfd.signal(libc::SIGKILL);
        let _ = self.child.wait();
        self.log.read_on();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if thread::panicking() {
            print_log(&self.log);
        }
    }
}

/// Reads `name=value` pairs, as the server logs its counters.
pub fn parse_counters(line: &str) -> BTreeMap<String, u64> {
    let number = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    line.split_whitespace().map(|p| number(p).unwrap_or_else(|| panic!("name=value: {p}"))).collect()
}

/// The numbers of the worker threads of a server's process.
pub fn worker_threads_of(pid: u32) -> Vec<u32> {
    let threads = threads_in(&format!("/proc/{pid}/task"));
    threads.iter().filter(|thread| thread.name.starts_with("worker-")).map(|thread| thread.number).collect()
}

/// One thread of a process, from /proc/PID/task/TID/stat (proc(5)).
struct Thread {
    number: u32,
    name: String,
    state: char,
}

fn threads_in(directory: &str) -> Vec<Thread> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(directory).expect("the process's threads") {
        let path = entry.expect("a thread").path();
        // a thread that ends during the read is no longer a thread of the process
        let Ok(stat) = fs::read_to_string(path.join("stat")) else { continue };
        let (head, tail) = stat.rsplit_once(") ").expect("the name in parentheses");
        let (number, name) = head.split_once(" (").expect("the number before the name");
        threads.push(Thread {
            number: number.parse().expect("a thread's number"),
            name: name.to_owned(),
            state: tail.chars().next().expect("a state"),
        });
    }
    threads
}
