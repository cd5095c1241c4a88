//! Load through the dispatcher while a service restarts: blaster for UDP, and one connection after the other for TCP.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use crate::support::sys::Pidfd;
use crate::support::{TEST_DEADLINE, tcp, until};

/// The targets of the load: steered addresses of both families.
const TARGETS: [&str; 2] = ["127.0.0.128/25:1234", "[2001:db8::/64]:1234"];

/// A running blaster, and a TCP client beside it.
pub struct Load {
    blaster: Child,
    rate: u64,
    streams: JoinHandle<Exchanges>,
    end: Arc<AtomicBool>,
}

/// The result of a load.
pub struct Report {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that did not come back.
    pub lost: u64,
    /// Datagrams that overtook an earlier one of their flow.
    pub reordered: u64,
    /// The longest time from a datagram's intended send time to its reply. No pause was longer than that.
    pub slowest: Duration,
    /// The TCP exchanges.
    pub exchanges: Exchanges,
}

/// Connections of one exchange each. None was refused or kept waiting; otherwise its thread would have failed.
#[derive(Default)]
pub struct Exchanges {
    /// Connections whose data was echoed.
    pub echoed: u64,
    /// Connections that ended by a FIN before their first byte had reached the server.
    pub ended: u64,
    /// Connections that were reset, which happens only if a server is killed.
    pub reset: u64,
}

impl Load {
    /// Starts sending at this rate. Returns when the load is running.
    pub fn start(rate: u64) -> Self {
        let blaster = Command::new("blaster")
            .arg("udp")
            .args(TARGETS)
            .args(["--quiet", "--json=-", "--timeout=5s", "--linger=2s"])
            .args([format!("--rate={rate}"), format!("--duration={}s", TEST_DEADLINE.as_secs())])
            .stdout(Stdio::piped())
            .spawn()
            .expect("start blaster");
        let end = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&end);
        let streams = thread::spawn(move || exchange_until(&stop));
        let load = Self { blaster, rate, streams, end };
        load.run_on();
        load
    }

    /// Waits until the datagrams of half a second, and their replies, are received.
    pub fn run_on(&self) {
        let before = datagrams_received();
        until("the load runs", || datagrams_received() >= before + self.rate);
    }

    /// Ends the load and waits for the last replies. Any error except a missing or reordered reply fails the test.
    pub fn finish(self) -> Report {
        Pidfd::open(self.blaster.id()).expect("blaster").signal(libc::SIGINT).expect("end blaster");
        let output = self.blaster.wait_with_output().expect("blaster's report");
        self.end.store(true, Ordering::Relaxed);
        let exchanges = self.streams.join().expect("the TCP client");
        // that of a run that a signal has ended
        assert_eq!(output.status.code(), Some(4), "blaster: {}", output.status);
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report in JSON");
        let total = |name: &str| report["totals"][name].as_u64().unwrap_or_else(|| panic!("totals.{name}"));
        for fault in [
            "corrupted",
            "truncated",
            "misdirected",
            "late",
            "unreachable",
            "duplicated",
            "crossed",
            "unattributed",
            "send_failures",
            "own_drops",
        ] {
            assert_eq!(total(fault), 0, "{fault}");
        }
        let slowest = report["latency"]["from_intended"]["max_ns"].as_u64().expect("the slowest reply");
        Report {
            sent: total("sent"),
            lost: total("lost"),
            reordered: total("reordered"),
            slowest: Duration::from_nanos(slowest),
            exchanges,
        }
    }
}

/// Datagrams that the sockets of this network have received, requests and replies (proc(5), /proc/net/snmp).
fn datagrams_received() -> u64 {
    let count = |file: &str, prefix: &str, field: usize| -> u64 {
        let text = fs::read_to_string(file).expect("the network's counters");
        let line = text.lines().rfind(|line| line.starts_with(prefix)).expect("the counters of UDP");
        line.split_whitespace().nth(field).expect("a counter").parse().expect("a number")
    };
    count("/proc/self/net/snmp", "Udp:", 1) + count("/proc/self/net/snmp6", "Udp6InDatagrams", 1)
}

fn exchange_until(end: &AtomicBool) -> Exchanges {
    let target: SocketAddr = "127.0.0.200:4321".parse().unwrap();
    let mut exchanges = Exchanges::default();
    while !end.load(Ordering::Relaxed) {
        let mut stream = tcp::connect(target);
        stream.write_all(b"one exchange").expect("send");
        let mut back = [0; 12];
        match stream.read_exact(&mut back) {
            Ok(()) => {
                assert_eq!(&back, b"one exchange");
                exchanges.echoed += 1;
            }
            Err(error) => match error.kind() {
                ErrorKind::UnexpectedEof => exchanges.ended += 1,
                ErrorKind::ConnectionReset => exchanges.reset += 1,
                _ => panic!("neither an echo nor an end: {error}"),
            },
        }
        thread::sleep(Duration::from_millis(1)); // paced: it shall not take the processor from the rest
    }
    exchanges
}
