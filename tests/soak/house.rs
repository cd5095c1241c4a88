//! Runs the server in place of a service manager: starts it, keeps its sockets, registers them with the dispatcher, and
//! measures its use of resources.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use tubular_echo::kernel::sys::Protocol;

use crate::oddities::Refused;
use crate::site::{LISTENING, Site};
use crate::support::lines::Stored;
use crate::support::registry::register_pid;
use crate::support::{Launch, PATIENCE, Server};

/// The server's use of resources at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory in KiB (proc(5), /proc/PID/smaps_rollup).
    pub resident_kib: u64,
    /// Open descriptors.
    pub descriptors: usize,
}

/// A server process.
pub struct House {
    site: Arc<Site>,
    workers: usize,
    server: Option<Server>,
    stored: Vec<Stored>,
    /// The final counters of all processes so far that ended by themselves, added up.
    counters: BTreeMap<String, u64>,
    /// The number of those processes.
    pub lives: usize,
    /// Number of processes that ended without counters.
    pub killed: usize,
    /// Errors in the counters.
    pub damage: Vec<String>,
}

impl House {
    /// Starts a server.
    pub fn start(site: &Arc<Site>, workers: usize) -> Self {
        let mut house = Self {
            site: Arc::clone(site),
            workers,
            server: None,
            stored: Vec::new(),
            counters: BTreeMap::new(),
            lives: 0,
            killed: 0,
            damage: Vec::new(),
        };
        house.open();
        house
    }

    /// The process.
    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("the server runs")
    }

    fn open(&mut self) {
        let listen = LISTENING.map(|address| format!("--listen={address}"));
        let workers = format!("--workers={}", self.workers);
        let mut arguments: Vec<&str> = listen.iter().map(String::as_str).collect();
        arguments.extend([&workers, "--fd-store", "--reply-socket-idle=2s", "--drain-timeout=5s"]);
        let server = Launch::new(&arguments).unprivileged().passing(&self.stored).ready();
        let had = self.stored.len();
        let notify = server.notify.as_ref().expect("a service manager");
        self.stored.append(&mut notify.stored.lock().unwrap());
        if had > 0 && self.stored.len() != had {
            self.damage.push(format!("{had} sockets were passed, {} are stored", self.stored.len()));
        }
        if had == 0 {
            for (protocol, address) in destinations() {
                register_pid(&self.site.dispatcher.sockets, server.pid(), protocol, address)
                    .unwrap_or_else(|failure| panic!("register-pid {protocol} {address}: {failure}"));
            }
        }
        self.server = Some(server);
    }

    /// Ends the server as a service manager does, and reads its final counters.
    fn end(&mut self) {
        let end = self.server.take().expect("the server runs").stop();
        self.lives += 1;
        let count = |name: &str| end.counter(name);
        let is_closed = |(name, _): &(&String, &u64)| name.starts_with("tcp_closed_");
        let closed: u64 = end.counters.iter().filter(is_closed).map(|(_, count)| count).sum();
        if count("tcp_accepted") != closed || count("tcp_open") != 0 {
            self.damage.push(format!("{} accepted, {closed} closed", count("tcp_accepted")));
        }
        if count("tcp_bytes_out") > count("tcp_bytes_in") {
            self.damage.push("more bytes were sent than received".into());
        }
        let unanswered = unanswered(&end.counters);
        if count("udp_datagrams_in") != count("udp_datagrams_out") + unanswered {
            self.damage.push(format!(
                "{} datagrams in, {} out, {unanswered} dropped for a counted reason",
                count("udp_datagrams_in"),
                count("udp_datagrams_out")
            ));
        }
        for (name, count) in end.counters {
            *self.counters.entry(name).or_default() += count;
        }
    }

    /// SIGTERM, and a new process, with the same sockets if asked for.
    pub fn restart(&mut self, keep_sockets: bool) {
        if !keep_sockets {
            self.stored.clear();
        }
        self.end();
        self.open();
    }

    /// SIGKILL, and a new process.
    pub fn kill(&mut self, keep_sockets: bool) {
        if !keep_sockets {
            self.stored.clear();
        }
        let server = self.server.take().expect("the server runs");
        server.signal(libc::SIGKILL);
        assert!(server.pidfd.ends_within(PATIENCE), "a killed server goes on");
        drop(server);
        self.killed += 1;
        self.open();
    }

    /// Ends the server for good. Returns the sums of its counters.
    pub fn close(mut self) -> (BTreeMap<String, u64>, Vec<String>) {
        self.stored.clear();
        self.end();
        (std::mem::take(&mut self.counters), std::mem::take(&mut self.damage))
    }

    /// The server's present use of resources.
    pub fn usage(&self) -> Usage {
        let process = format!("/proc/{}", self.server().pid());
        let rollup = fs::read_to_string(format!("{process}/smaps_rollup")).expect("the process's memory");
        let resident = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).expect("resident memory");
        let number = resident.split_whitespace().next().expect("a number");
        // a reply socket has a descriptor for a moment, until the ring takes it
        let count = |_| fs::read_dir(format!("{process}/fd")).expect("the process's descriptors").count();
        Usage {
            resident_kib: number.parse().expect("a number"),
            descriptors: (0..20).map(count).min().expect("readings"),
        }
    }
}

/// The sockets that are registered with the dispatcher.
fn destinations() -> impl Iterator<Item = (Protocol, SocketAddr)> {
    let both = |address: &str| {
        let address: SocketAddr = address.parse().expect("an address");
        [Protocol::Tcp, Protocol::Udp].map(|protocol| (protocol, address))
    };
    LISTENING.into_iter().flat_map(both)
}

/// Datagrams that the server received and did not answer, by its own counters.
pub fn unanswered(counters: &BTreeMap<String, u64>) -> u64 {
    reasons(counters).map(|(_, count)| count).sum()
}

/// The reasons why datagrams were not answered, with their numbers.
pub fn reasons(counters: &BTreeMap<String, u64>) -> impl Iterator<Item = (&str, u64)> {
    let is_reason = |name: &str| {
        ["udp_refused_", "udp_send_", "udp_reply_"].iter().any(|kind| name.starts_with(kind))
            && !["udp_send_waits", "udp_reply_sockets_made"].contains(&name)
    };
    let all = counters.iter().map(|(name, count)| (name.as_str(), *count));
    all.filter(move |(name, count)| *count > 0 && is_reason(name))
}

/// Datagrams that the server refused, by its own counters.
pub fn refused(counters: &BTreeMap<String, u64>) -> Refused {
    let count = |name: &str| counters.get(name).copied().unwrap_or(0);
    Refused {
        system_port: count("udp_refused_system_port"),
        own_port: count("udp_refused_own_port"),
        own_pair: count("udp_refused_own_pair"),
    }
}
