//! The programs, and the command lines that make them do the same: 64 bytes of payload, one socket.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Work;
use crate::load::Result;

/// Where a program's own receiver listens.
pub(super) const RECEIVER_PORT: u16 = 5201;

pub(super) struct Program {
    pub(super) name: &'static str,
    line: fn(Work, u16, u32) -> Option<String>,
    /// The command line of its own receiver, for a program that sends to no other.
    receiver: Option<&'static [&'static str]>,
}

/// sockperf counts its warm-up and its end to the time; 64 bytes are its header and its data. iperf3 and dnsperf pace by
/// themselves, iperf3 to its own receiver only, whose kernel times nobody sees. A query of dnsperf for a name of 46
/// letters has 64 bytes.
pub(super) const PROGRAMS: [Program; 4] = [
    Program { name: "blaster", line: blaster, receiver: None },
    Program { name: "sockperf", line: sockperf, receiver: None },
    Program { name: "iperf3", line: iperf3, receiver: Some(&["iperf3", "-s"]) },
    Program { name: "dnsperf", line: dnsperf, receiver: None },
];

impl Program {
    /// Its command line, if it can do this.
    pub(super) fn line(&self, work: Work, port: u16, seconds: u32) -> Option<String> {
        (self.line)(work, port, seconds)
    }

    /// Starts its own receiver, if it needs one, and waits until it listens.
    pub(super) fn receiver(&self) -> Result<Option<Child>> {
        let Some([program, arguments @ ..]) = self.receiver else { return Ok(None) };
        let child = Command::new(program).args(arguments).stdout(Stdio::null()).spawn();
        let child = child.map_err(|e| format!("{program}: {e}"))?;
        let listens = format!(":{RECEIVER_PORT:04X} ");
        let end = Instant::now() + Duration::from_secs(10);
        while !["tcp", "tcp6"].iter().any(|table| {
            fs::read_to_string(format!("/proc/thread-self/net/{table}")).is_ok_and(|it| it.contains(&listens))
        }) {
            if Instant::now() > end {
                return Err(format!("{program} does not listen on port {RECEIVER_PORT}").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Some(child))
    }
}

/// Where the program with this name is.
pub(super) fn path(name: &str) -> &str {
    if name == "blaster" { env!("CARGO_BIN_EXE_blaster") } else { name }
}

#[expect(clippy::unnecessary_wraps, reason = "as the other programs' lines")]
fn blaster(work: Work, port: u16, seconds: u32) -> Option<String> {
    let how = match work {
        Work::Flood => "--mode flood --flows 1".into(),
        Work::Queries => "--flows 1 --in-flight 100".into(),
        Work::Rate(rate) => format!("--rate {rate} --flows 1"),
    };
    Some(format!("blaster udp 127.0.0.1:{port} {how} --size 64 --duration {seconds}s"))
}

fn sockperf(work: Work, port: u16, seconds: u32) -> Option<String> {
    let rate = match work {
        Work::Flood => "max".into(),
        Work::Queries => return None,
        Work::Rate(rate) => rate.to_string(),
    };
    Some(format!("sockperf throughput -i 127.0.0.1 -p {port} -m 64 -t {seconds} --mps {rate}"))
}

fn iperf3(work: Work, port: u16, seconds: u32) -> Option<String> {
    matches!(work, Work::Flood).then(|| format!("iperf3 -c 127.0.0.1 -p {port} -u -b 0 -l 64 -t {seconds}"))
}

fn dnsperf(work: Work, port: u16, seconds: u32) -> Option<String> {
    let queries = std::env::temp_dir().join("tubular-echo-queries");
    fs::write(&queries, "a-name-of-forty-six-letters-for-sixty-four.test A\n").ok()?;
    matches!(work, Work::Queries).then(|| {
        format!("dnsperf -s 127.0.0.1 -p {port} -d {} -l {seconds} -q 100 -c 1 -T 1", queries.display())
    })
}
