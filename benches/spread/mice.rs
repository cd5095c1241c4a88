//! One elephant beside a thousand mice: a flow that sends as fast as it can, and light ones whose times are measured.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::client::{Client, Seen};
use super::{Halves, Options, Report, median_of, range_of, time};
use crate::kernel;
use crate::load::Result;
use crate::steering;
use crate::table::server::{Available, Server};

/// The mice, and the elephant beside them.
struct Row {
    name: &'static str,
    words: &'static str,
    /// Of a thousand flows or connections
    mice: &'static str,
    elephant: Option<&'static str>,
    /// All workers on half of the processors, all clients on the other half
    is_apart: bool,
}

const UDP_MICE: &str = "udp --flows 1000";
const TCP_MICE: &str = "tcp --connections 1000";

const FLOOD: &str = "udp --flows 1 --mode flood --size 1200";
const TRAINS: &str = "udp --flows 1 --in-flight 4 --gso 32 --size 1200";
const STREAM: &str = "tcp --connections 1 --mode stream --size 64k";

const fn apart(
    name: &'static str,
    words: &'static str,
    mice: &'static str,
    elephant: Option<&'static str>,
) -> Row {
    Row { name, words, mice, elephant, is_apart: true }
}

const fn together(row: Row, name: &'static str) -> Row {
    Row { name, is_apart: false, ..row }
}

const UDP_FLOOD: Row = apart("udp-flood", "UDP, a flood of datagrams of 1,200 bytes", UDP_MICE, Some(FLOOD));
const TCP_STREAM: Row = apart("tcp-stream", "TCP, a stream", TCP_MICE, Some(STREAM));

const ROWS: [Row; 7] = [
    apart("udp-alone", "UDP, none", UDP_MICE, None),
    UDP_FLOOD,
    apart("udp-trains", "UDP, 4 trains of 32 × 1,200 bytes in flight", UDP_MICE, Some(TRAINS)),
    together(UDP_FLOOD, "udp-flood-together"),
    apart("tcp-alone", "TCP, none", TCP_MICE, None),
    TCP_STREAM,
    together(TCP_STREAM, "tcp-stream-together"),
];

const WORKERS: [usize; 3] = [1, 2, 4];
/// Messages of all mice together, per second
const MICE_PER_S: u32 = 2_000;
/// The elephant is there before the mice, and after them.
const LEAD: Duration = Duration::from_millis(100);

const COLUMNS: [&str; 8] =
    ["row", "elephant", "workers", "p50", "p90", "p99", "p99, lowest – highest", "mice lost"];

#[derive(Serialize)]
struct Round {
    mice: Seen,
    elephant: Option<Seen>,
}

pub(super) fn run(options: &Options) -> Result<()> {
    let processors = kernel::cores()?;
    let apart = Halves::apart(&processors);
    let words = format!(
        "{}; workers with `--pin`, in turns on the server's processors, over loopback. In the rows \"together\" server and \
         clients share all of them. The mice are 1,000 flows or connections, {MICE_PER_S}/s of 64 bytes in all, at random \
         times (TCP: at even ones); their client comes before all others at its processor. Their times count from the \
         intended send time.",
        apart.told()
    );
    let together = Halves { server: processors.clone(), clients: processors };
    let mut report = Report::new(options, "One elephant beside a thousand mice", words, &COLUMNS);
    let available = Available::look()?;
    for row in &ROWS {
        if !report.wants(row.name) || options.short && row.name != "udp-flood" {
            continue;
        }
        let mut rounds: Vec<Vec<Round>> = WORKERS.iter().map(|_| vec![]).collect();
        for _ in 0..options.rounds {
            for (workers, rounds) in WORKERS.iter().zip(&mut rounds).take(if options.short { 1 } else { 3 }) {
                let halves = if row.is_apart { &apart } else { &together };
                let round = steering::elsewhere(|| row.round(*workers, options, halves, &available));
                rounds.push(round.map_err(|e| format!("{}: {e}", row.name))?);
            }
        }
        for (workers, rounds) in WORKERS.iter().zip(&rounds).filter(|(_, rounds)| !rounds.is_empty()) {
            let raw = json!({ "row": row.name, "workers": workers, "rounds": rounds });
            report.row(&row.cells(*workers, rounds), raw);
        }
    }
    report.write("mice")
}

impl Row {
    fn round(
        &self,
        workers: usize,
        options: &Options,
        halves: &Halves,
        available: &Available,
    ) -> Result<Round> {
        kernel::pin(&halves.server)?;
        let line = format!("tubular-echo --workers {workers} --pin");
        let server = Server::start(&line, IpAddr::V4(Ipv4Addr::LOCALHOST), available)?;
        let aimed = |load: &str, rest: &str| {
            let (protocol, load) = load.split_once(' ').unwrap_or((load, ""));
            format!("{protocol} {} {load} {rest}", server.address)
        };
        let run = Duration::from_secs_f64(options.seconds);
        let whole = (run + 3 * LEAD).as_millis();
        let elephant =
            self.elephant.map(|load| aimed(load, &format!("--duration {whole}ms --timeout 200ms")));
        let elephant = elephant.map(|line| Client::start(&line, &halves.clients, false)).transpose()?;
        std::thread::sleep(LEAD);
        let schedule = format!(
            "--size 64 --rate {MICE_PER_S} --duration {}ms --timeout 500ms{}",
            run.as_millis(),
            if self.mice.starts_with("udp") { " --gaps poisson" } else { "" }
        );
        let mice = Client::start(&aimed(self.mice, &schedule), &halves.clients, true)?;
        let failed = |e| format!("{e}{}", server.last_words());
        let mice = Client::all(vec![mice]).map_err(failed)?;
        let elephant = elephant.map(|it| Client::all(vec![it]).map_err(failed)).transpose()?;
        Ok(Round { mice, elephant })
    }

    fn cells(&self, workers: usize, rounds: &[Round]) -> Vec<String> {
        let shown = |value: fn(&Seen) -> f64| time(median_of(rounds, |round| value(&round.mice)));
        let (lowest, highest) = range_of(rounds, |round| round.mice.p99_ns);
        let lost = median_of(rounds, |round| 100.0 * (round.mice.sent - round.mice.ok) / round.mice.sent);
        vec![
            self.name.into(),
            self.words.into(),
            workers.to_string(),
            shown(|mice| mice.p50_ns),
            shown(|mice| mice.p90_ns),
            shown(|mice| mice.p99_ns),
            format!("{} – {}", time(lowest), time(highest)),
            format!("{lost:.1} %"),
        ]
    }
}
