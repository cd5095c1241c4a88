//! The worker by the processor that receives (`--steer cpu`) beside the worker by the kernel's hash. The cable is a veth
//! pair with a queue for each of the server's processors, and RPS spreads the flows over the processors by a hash, as a
//! NIC's RSS does. With RPS on one processor alone, it is a NIC with one busy queue.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::client::{Client, Seen};
use super::{Halves, Options, Report, median_of, range_of, time};
use crate::kernel;
use crate::load::{Result, machine};
use crate::steering::Cable;
use crate::table::server::{Available, Server};

/// A number of flows, and whether the queues of all processors are busy, or one.
struct Row {
    name: &'static str,
    protocol: &'static str,
    flows: usize,
    one_queue: bool,
    /// blaster's options for as much as possible
    closed: &'static str,
}

const fn udp(name: &'static str, flows: usize, one_queue: bool) -> Row {
    // so many in flight that no worker waits for a client
    let closed = if flows > 100 { "--in-flight 1" } else { "--in-flight 32" };
    Row { name, protocol: "udp", flows, one_queue, closed }
}

const fn tcp(name: &'static str, flows: usize, one_queue: bool) -> Row {
    Row { name, protocol: "tcp", flows, one_queue, closed: "" }
}

const ROWS: [Row; 8] = [
    udp("udp-1000", 1_000, false),
    udp("udp-4", 4, false),
    udp("udp-2", 2, false),
    udp("udp-one-queue", 1_000, true),
    tcp("tcp-1000", 1_000, false),
    tcp("tcp-4", 4, false),
    tcp("tcp-2", 2, false),
    tcp("tcp-one-queue", 1_000, true),
];

/// Echoes per second of a load that leaves the processors idle most of the time.
const RATE: u32 = 10_000;

/// Those of the short form.
const SHORT: [&str; 2] = ["udp-4", "tcp-one-queue"];

const COLUMNS: [&str; 13] = [
    "row",
    "flows",
    "queues busy",
    "worker by",
    "echoes/s",
    "lowest – highest",
    "÷ hash",
    "server",
    "softirq",
    "all",
    "at 10,000/s: server",
    "÷ hash",
    "p50, p99",
];

/// Who chooses the worker.
#[derive(Clone, Copy, PartialEq)]
enum Chooser {
    Hash,
    Processor,
}

/// A round: as much as possible, and at a rate.
#[derive(Serialize)]
struct Round {
    closed: Figures,
    open: Figures,
}

/// What a load took, in nanoseconds per echo.
#[derive(Clone, Copy, Serialize)]
struct Figures {
    seen: Seen,
    server_ns: f64,
    softirq_ns: f64,
    /// All processors, the clients' work too
    all_ns: f64,
}

pub(super) fn run(options: &Options, halves: &Halves) -> Result<()> {
    let words = format!(
        "{}; a worker on each of the server's, `--pin` or `--steer cpu`; a client on each of the clients', with its part of \
         the flows. Messages of 64 bytes over a veth pair with a queue for each processor. RPS spreads the flows over the \
         server's processors by a hash, or leaves all to the first one (one queue busy). First as many echoes as possible \
         (UDP: 1,000 × 1 or few × 32 in flight; TCP: ping-pong), with the processor time per echo: of the server's process; \
         of softirqs, as the kernel's tick saw them, some of which is also time of the process that they interrupt; of all \
         processors, the clients' work too. Then {RATE} echoes/s, with the server's time per echo, and the times from the \
         intended send time, at the client where they are longer.",
        halves.told(),
    );
    let mut report = Report::new(options, "The worker by the processor or by the hash", words, &COLUMNS);
    let available = Available::look()?;
    for row in ROWS.iter().filter(|row| !options.short || SHORT.contains(&row.name)) {
        if !report.wants(row.name) {
            continue;
        }
        let (mut by_hash, mut by_processor) = (vec![], vec![]);
        for _ in 0..options.rounds {
            by_hash.push(row.round(Chooser::Hash, options, halves, &available)?);
            by_processor.push(row.round(Chooser::Processor, options, halves, &available)?);
        }
        for (chooser, rounds) in [(Chooser::Hash, &by_hash), (Chooser::Processor, &by_processor)] {
            let raw = json!({ "row": row.name, "worker_by": chooser.told(), "rounds": rounds });
            report.row(&row.cells(chooser, rounds, &by_hash, halves), raw);
        }
    }
    report.write("steer")
}

impl Chooser {
    fn told(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Processor => "processor",
        }
    }

    fn option(self) -> &'static str {
        match self {
            Self::Hash => "--pin",
            Self::Processor => "--steer cpu",
        }
    }
}

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2));

impl Row {
    /// A fresh server, fresh clients, and a fresh cable.
    fn round(
        &self,
        chooser: Chooser,
        options: &Options,
        halves: &Halves,
        available: &Available,
    ) -> Result<Round> {
        let queues = if self.one_queue { &halves.server[..1] } else { &halves.server[..] };
        let cable = Cable::new(halves.server.len(), queues);
        kernel::pin(&halves.server)?;
        let line = format!("tubular-echo --workers {} {}", halves.server.len(), chooser.option());
        let server = cable.at_far_end(|| Server::start(&line, SERVER, available))?;
        let closed = self.measure(self.closed, options, halves, &cable, &server)?;
        let open = self.measure(&format!("--rate {RATE}"), options, halves, &cable, &server)?;
        Ok(Round { closed, open })
    }

    fn measure(
        &self,
        load: &str,
        options: &Options,
        halves: &Halves,
        cable: &Cable,
        server: &Server,
    ) -> Result<Figures> {
        let clients = &halves.clients[..halves.clients.len().min(self.flows)];
        let many = if self.protocol == "udp" { "--flows" } else { "--connections" };
        let flows = self.flows / clients.len();
        let load = match load.strip_prefix("--rate ") {
            Some(rate) => format!("--rate {}", rate.parse::<u32>()? / clients.len() as u32),
            None => load.into(),
        };
        let line = format!(
            "{} {} {many} {flows} {load} --size 64 --duration {}ms --timeout 500ms",
            self.protocol,
            server.address,
            (options.seconds * 1e3) as u32
        );
        let before = (kernel::cpu_time(server.pid())?, machine::cpu_time()?, machine::softirq_time()?);
        let running: Result<Vec<Client>> =
            cable.at_near_end(|| clients.iter().map(|&core| Client::start(&line, &[core], false)).collect());
        let seen = Client::all(running?).map_err(|e| format!("{}: {e}{}", self.name, server.last_words()))?;
        let per_echo = |time: Duration| time.as_secs_f64() * 1e9 / seen.ok;
        Ok(Figures {
            seen,
            server_ns: per_echo(kernel::cpu_time(server.pid())?.saturating_sub(before.0)),
            all_ns: per_echo(machine::cpu_time()?.saturating_sub(before.1)),
            softirq_ns: per_echo(machine::softirq_time()?.saturating_sub(before.2)),
        })
    }

    fn cells(&self, chooser: Chooser, rounds: &[Round], by_hash: &[Round], halves: &Halves) -> Vec<String> {
        let beside_hash = |value: &dyn Fn(&Round) -> f64| {
            let pairs: Vec<(&Round, &Round)> = rounds.iter().zip(by_hash).collect();
            median_of(&pairs, |(round, hash)| value(round) / value(hash))
        };
        let per_s = |round: &Round| round.closed.seen.ok_per_s;
        let (lowest, highest) = range_of(rounds, per_s);
        let ns = |value: &dyn Fn(&Round) -> f64| format!("{:.0} ns", median_of(rounds, value));
        vec![
            self.name.into(),
            self.flows.to_string(),
            if self.one_queue { "1".into() } else { halves.server.len().to_string() },
            chooser.told().into(),
            format!("{:.0}", median_of(rounds, per_s)),
            format!("{lowest:.0} – {highest:.0}"),
            format!("{:.2}", beside_hash(&per_s)),
            ns(&|round| round.closed.server_ns),
            ns(&|round| round.closed.softirq_ns),
            ns(&|round| round.closed.all_ns),
            ns(&|round| round.open.server_ns),
            format!("{:.2}", beside_hash(&|round| round.open.server_ns)),
            format!(
                "{}, {}",
                time(median_of(rounds, |round| round.open.seen.p50_ns)),
                time(median_of(rounds, |round| round.open.seen.p99_ns))
            ),
        ]
    }
}
