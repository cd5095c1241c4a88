//! blaster's own threads: how much they send together, and how punctual each is. The datagrams go to a socket that nobody
//! reads while blaster runs: so the sink takes no processor from it. Afterwards the kernel's receive times are read out of
//! its buffer. Each thread has a flow, so a flow's times are a thread's.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};

use serde::Serialize;
use serde_json::json;

use super::client::Client;
use super::{Options, Report, median_of, range_of, time};
use crate::kernel::{self, Batch};
use crate::load::Result;
use crate::senders::{cpu_of_children, datagrams_sent, schedule_error};
use crate::steering;

struct Row {
    name: &'static str,
    /// Datagrams per second of all threads together
    rate: Option<u32>,
}

const ROWS: [Row; 3] = [
    Row { name: "flood", rate: None },
    Row { name: "10000", rate: Some(10_000) },
    Row { name: "50000", rate: Some(50_000) },
];

const COLUMNS: [&str; 7] = [
    "row",
    "threads",
    "sent/s",
    "÷ 1 thread, ÷ threads",
    "CPU per datagram",
    "p99 from the schedule, each thread",
    "all together",
];

/// What the kernel takes for a datagram of 64 bytes in a receive buffer, rounded up.
const KERNEL_BYTES: f64 = 1_024.0;

#[derive(Serialize)]
struct Round {
    per_s: f64,
    cpu_ns: f64,
    /// p99 of the distance from the schedule
    of_each_ns: Vec<f64>,
    of_all_ns: f64,
}

pub(super) fn run(options: &Options) -> Result<()> {
    let processors = kernel::cores()?;
    let words = format!(
        "blaster udp on {} processors, one flow for each thread, 64 bytes, over loopback to a socket whose buffer is read \
         only at the end (a flood: it is full, so its datagrams are dropped there). p99 of the distance of the kernel's \
         receive times from an even schedule.",
        processors.len()
    );
    let mut report = Report::new(options, "blaster's threads", words, &COLUMNS);
    let counts: Vec<usize> = std::iter::successors(Some(1), |count| Some(2 * count))
        .take_while(|&n| n <= processors.len())
        .collect();
    for row in &ROWS {
        if !report.wants(row.name) {
            continue;
        }
        let mut rounds: Vec<Vec<Round>> = counts.iter().map(|_| vec![]).collect();
        for _ in 0..options.rounds {
            for (&threads, rounds) in counts.iter().zip(&mut rounds) {
                rounds.push(steering::elsewhere(|| row.round(threads, options, &processors))?);
            }
        }
        for (&threads, of_count) in counts.iter().zip(&rounds) {
            let raw = json!({ "row": row.name, "threads": threads, "rounds": of_count });
            report.row(&row.cells(threads, of_count, &rounds[0]), raw);
        }
    }
    report.write("threads")
}

impl Row {
    fn round(&self, threads: usize, options: &Options, processors: &[usize]) -> Result<Round> {
        let sink = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let room = self.rate.map_or(0.0, |rate| f64::from(rate) * options.seconds * KERNEL_BYTES);
        kernel::receive_buffer(&sink, room as i32)?;
        kernel::set_option(&sink, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        let how = self.rate.map_or("--mode flood".into(), |rate| format!("--rate {rate}"));
        let line = format!(
            "udp {} {how} --threads {threads} --flows {threads} --size 64 --duration {}ms --linger 1ms",
            sink.local_addr()?,
            (options.seconds * 1e3) as u32
        );
        let (sent, cpu) = (datagrams_sent()?, cpu_of_children()?);
        let client = Client::start(&line, processors, false)?;
        Client::all(vec![client])?;
        let sent = (datagrams_sent()? - sent) as f64;
        let cpu = cpu_of_children()?.saturating_sub(cpu);
        let mut round = Round {
            per_s: sent / options.seconds,
            cpu_ns: cpu.as_secs_f64() * 1e9 / sent,
            of_each_ns: vec![],
            of_all_ns: f64::NAN,
        };
        if self.rate.is_some() {
            let by_flow = read(&sink);
            let p99 = |times: &[u64]| schedule_error(times).map_or(f64::NAN, |(_, p99)| p99 as f64);
            if by_flow.len() != threads {
                return Err(format!("{line}: datagrams of {} flows came", by_flow.len()).into());
            }
            round.of_each_ns = by_flow.values().map(|times| p99(times)).collect();
            let mut all: Vec<u64> = by_flow.into_values().flatten().collect();
            all.sort_unstable();
            round.of_all_ns = p99(&all);
        }
        Ok(round)
    }

    fn cells(&self, threads: usize, rounds: &[Round], one: &[Round]) -> Vec<String> {
        let per_s = median_of(rounds, |round| round.per_s);
        let efficiency = per_s / median_of(one, |round| round.per_s) / threads as f64;
        let shown = |ns: f64| if ns.is_nan() { "–".to_owned() } else { time(ns) };
        let of_each: Vec<String> = (0..threads)
            .map(|it| shown(median_of(rounds, |round| *round.of_each_ns.get(it).unwrap_or(&f64::NAN))))
            .collect();
        let (lowest, highest) = range_of(rounds, |round| round.of_all_ns);
        let of_all = median_of(rounds, |round| round.of_all_ns);
        vec![
            self.name.into(),
            threads.to_string(),
            format!("{per_s:.0}"),
            if self.rate.is_none() { format!("{efficiency:.2}") } else { "–".into() },
            format!("{:.0} ns", median_of(rounds, |round| round.cpu_ns)),
            of_each.join(", "),
            if of_all.is_nan() {
                "–".into()
            } else {
                format!("{} ({} – {})", shown(of_all), shown(lowest), shown(highest))
            },
        ]
    }
}

/// The receive times of each flow, in order.
fn read(sink: &UdpSocket) -> BTreeMap<Vec<u8>, Vec<u64>> {
    const BATCH: usize = 64;
    let mut batch = Batch::new(BATCH, 2_048);
    let mut by_flow: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
    while let Ok(count) = batch.receive(sink, BATCH, libc::MSG_DONTWAIT) {
        for i in 0..count {
            let from = batch.message(i).map(|message| message.from.as_bytes().to_vec());
            if let (Some(from), Some(time)) = (from, batch.received_ns(i)) {
                by_flow.entry(from).or_default().push(time);
            }
        }
    }
    by_flow
}
