//! How servers grow: 1, 2, 4, 8 … workers on as many processors, with a client each. Each client is a process of its
//! own on a processor of its own, has flows of its own, and verifies every reply. So the load grows with the workers.
//!
//! Apart, the server has one half of the processors, and the clients have the other one. Where only one processor is left
//! for the server, two workers share it: that shows what a second worker costs. Together, each worker shares its processor
//! with a client: that shows twice as many workers on the same machine, and four for each processor, too.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;
use serde_json::json;

use super::report::Machine;
use super::rows::{self, Side};
use super::run::Client;
use super::server::{Available, Server};
use super::{Options, Verdict, median};
use crate::kernel;
use crate::load::{Result, Sample};

/// What the clients do, and the peer that does the same.
#[derive(Clone, Copy, Serialize)]
struct Work {
    name: &'static str,
    words: &'static str,
    /// Arguments of each client
    load: &'static str,
    peer: &'static str,
    /// Single messages of 64 bytes, of which the bars speak
    judged: bool,
}

const fn work(name: &'static str, words: &'static str, load: &'static str, peer: &'static str) -> Work {
    Work { name, words, load, peer, judged: false }
}

const WORKS: &[Work] = &[
    Work { judged: true, ..work("scale-udp", "64 flows × 8, 64 B", rows::FLOWS, "recvmmsg") },
    work("scale-trains", "16 flows × 4 trains of 32, 64 B", rows::TRAINS, "recvmmsg"),
    Work { judged: true, ..work("scale-tcp", "64 connections, 64 B", "tcp --connections 64", "epoll") },
    work("scale-16k", "64 connections, 16 KiB", rows::TCP_16K, "epoll"),
    work("scale-stream", "4 streams, pieces of 64 KiB", rows::STREAM, "epoll"),
    work("scale-connect", "connect, one echo, close", rows::CONNECT, "epoll"),
];

/// The bars: what each worker of eight carries beside one that is alone, and what two workers cost that share a
/// processor.
const EFFICIENCY_MIN: f64 = 0.85;
const SHARED_CPU_MAX: f64 = 1.05;
const WORKERS_JUDGED: usize = 8;

/// Who chooses the worker, or whose workers they are.
#[derive(Clone, Copy, PartialEq, Serialize)]
enum Kind {
    Hash,
    Steered,
    Peer,
}

/// Where the clients run.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
pub(super) enum Place {
    /// The server has half of the processors: 1, 2, 4 … workers; two if it has only one processor
    Apart,
    /// The server and the clients share all processors: 1, 2, 4 … workers, and four for each processor
    Together,
}

/// The processors of the server and of the clients.
struct Halves {
    place: Place,
    server: Vec<usize>,
    clients: Vec<usize>,
}

/// A server with some number of workers under a work, and what was seen in each round.
#[derive(Serialize)]
struct Line {
    work: Work,
    kind: Kind,
    server: String,
    workers: usize,
    processors: usize,
    clients: usize,
    figures: Vec<Figure>,
    skipped: Option<String>,
}

#[derive(Clone, Copy, Serialize)]
struct Figure {
    per_s: f64,
    cpu_ns: f64,
    lost: u64,
    /// Cores that others kept busy
    disturbance: f64,
}

/// Runs all works with all numbers of workers; whether no bar was missed.
pub(super) fn run(options: &Options, place: Place) -> Result<bool> {
    kernel::raise_open_files()?;
    let halves = Halves::of(&kernel::cores()?, place);
    let available = Available::look()?;
    let named =
        |work: &&Work| options.rows.is_empty() || options.rows.iter().any(|word| work.name.contains(word));
    let works: Vec<Work> = WORKS.iter().filter(named).copied().collect();
    if works.is_empty() {
        return Err(format!("no work has such a name; there are {}", names()).into());
    }
    println!("{}\n\n{HEADING}", halves.told());
    let (rounds, seconds) = if options.short { (1, 0.03) } else { (options.rounds, options.seconds) };
    let mut lines = vec![];
    for work in works {
        let mut of_work = halves.lines(work, &available);
        for _ in 0..rounds {
            for line in of_work.iter_mut().filter(|line| line.skipped.is_none()) {
                let figure = line.measure(seconds, options.short, &halves, &available)?;
                line.figures.push(figure);
            }
        }
        for line in &of_work {
            println!("{}", line.cells(&of_work).join("  "));
        }
        lines.extend(of_work);
    }
    let verdicts = if options.short { vec![] } else { verdicts(&lines, &halves) };
    for (text, _) in &verdicts {
        println!("{text}");
    }
    if !options.short && !options.no_report {
        println!("\nreport: {}", write(options, &lines, &verdicts, &halves)?);
    }
    Ok(verdicts.iter().all(|(_, verdict)| *verdict != Verdict::Missed))
}

fn names() -> String {
    WORKS.iter().map(|work| work.name).collect::<Vec<_>>().join(", ")
}

impl Halves {
    /// Apart, the first half is for the server. A single processor is for both.
    fn of(processors: &[usize], place: Place) -> Self {
        let (server, clients) = match place {
            Place::Apart => processors.split_at(processors.len().div_ceil(2)),
            Place::Together => (processors, processors),
        };
        let clients = if clients.is_empty() { server } else { clients };
        Self { place, server: server.into(), clients: clients.into() }
    }

    fn told(&self) -> String {
        match self.place {
            Place::Apart => format!(
                "{} of this machine's processors are for the server, {} for its clients.",
                self.server.len(),
                self.clients.len()
            ),
            Place::Together => format!(
                "Server and clients share this machine's {} processors: the first worker and the first client have the \
                 first one, and so on.",
                self.server.len()
            ),
        }
    }

    /// Numbers of workers: powers of two, and more than there are processors for them.
    fn workers(&self) -> Vec<usize> {
        let processors = self.server.len();
        let most = if self.place == Place::Apart { processors.max(2) } else { processors };
        let powers = std::iter::successors(Some(1), |workers| Some(2 * workers)).take_while(|&n| n <= most);
        powers.chain((self.place == Place::Together).then_some(4 * processors)).collect()
    }

    fn lines(&self, work: Work, available: &Available) -> Vec<Line> {
        let mut lines = vec![];
        for kind in [Kind::Hash, Kind::Steered, Kind::Peer] {
            for workers in self.workers() {
                let processors = workers.min(self.server.len());
                // one worker has nothing to choose from, and two on one processor can't both be the processor's own
                if kind == Kind::Steered && (workers == 1 || workers > processors) {
                    continue;
                }
                let server = match kind {
                    Kind::Hash => format!("tubular-echo --workers {workers} --pin"),
                    Kind::Steered => format!("tubular-echo --workers {workers} --steer cpu"),
                    Kind::Peer => format!("{} --workers {workers}", work.peer),
                };
                let side = Side { server: server.clone().leak(), load: work.load };
                let skipped = available.missing(&side);
                let clients = workers.min(self.clients.len());
                lines.push(Line {
                    work,
                    kind,
                    server,
                    workers,
                    processors,
                    clients,
                    figures: vec![],
                    skipped,
                });
            }
        }
        lines
    }
}

impl Line {
    /// One round: a fresh server, fresh clients, all at once.
    fn measure(
        &self,
        seconds: f64,
        unconnected: bool,
        halves: &Halves,
        available: &Available,
    ) -> Result<Figure> {
        kernel::pin(&halves.server[..self.processors])?;
        let server = Server::start(&self.server, IpAddr::V4(Ipv4Addr::LOCALHOST), available)?;
        let failed =
            |why: String| format!("{}, {}: {why}{}", self.work.name, self.server, server.last_words());
        let mut clients = vec![];
        for &core in &halves.clients[..self.clients] {
            kernel::pin(&[core])?;
            clients.push(Client::start(self.work.load, unconnected, &server, server.address)?);
        }
        clients.iter_mut().try_for_each(|client| client.ask(seconds))?;
        let samples = clients.iter_mut().map(Client::answer).collect::<Result<Vec<_>>>();
        let samples = samples.map_err(|e| failed(e.to_string()))?;
        for sample in &samples {
            if sample.bad > 0 {
                let first = sample.first_bad.as_deref().unwrap_or_default();
                return Err(failed(format!("{} bad replies, the first: {first}", sample.bad)).into());
            }
            if sample.echoes == 0 || !unconnected && sample.lost > sample.echoes / 10 {
                return Err(failed(format!("{} replies, {} lost", sample.echoes, sample.lost)).into());
            }
        }
        Ok(Figure::of(&samples))
    }

    fn median(&self, value: impl Fn(&Figure) -> f64) -> f64 {
        median(&self.figures.iter().map(value).collect::<Vec<_>>())
    }

    /// The median of the rounds' ratios to one worker of the same server.
    fn beside_one(&self, lines: &[Self], value: impl Fn(&Figure) -> f64) -> f64 {
        let is_one = |line: &&Self| {
            line.workers == 1
                && line.work.name == self.work.name
                && (line.kind == Kind::Peer) == (self.kind == Kind::Peer)
        };
        let Some(one) = lines.iter().find(is_one) else { return f64::NAN };
        median(
            &self.figures.iter().zip(&one.figures).map(|(n, one)| value(n) / value(one)).collect::<Vec<_>>(),
        )
    }

    /// What of one worker's rate each of the processors carries.
    fn efficiency(&self, lines: &[Self]) -> f64 {
        self.beside_one(lines, |figure| figure.per_s) / self.processors as f64
    }

    fn cells(&self, lines: &[Self]) -> Vec<String> {
        let mut cells = vec![
            format!("{:<13}", self.work.name),
            format!("{:<31}", self.work.words),
            format!("{:<35}", self.server),
            format!("{:>10}", self.processors),
            format!("{:>7}", self.clients),
        ];
        if let Some(why) = &self.skipped {
            cells.push(format!("skipped: {why}"));
            return cells;
        }
        let lost: u64 = self.figures.iter().map(|figure| figure.lost).sum();
        let disturbance = self.figures.iter().map(|figure| figure.disturbance).fold(0.0, f64::max);
        let notes = [
            (lost > 0).then(|| format!("{lost} lost")),
            (disturbance >= super::QUIET).then(|| format!("disturbed by {disturbance:.1} cores")),
        ];
        cells.extend([
            format!("{:>9.0}", self.median(|figure| figure.per_s)),
            format!("{:>10.2}", self.efficiency(lines)),
            format!("{:>8.0} ns", self.median(|figure| figure.cpu_ns)),
            format!("{:>11.2}", self.beside_one(lines, |figure| figure.cpu_ns)),
            notes.into_iter().flatten().collect::<Vec<_>>().join(", "),
        ]);
        cells
    }
}

const HEADING: &str = "row            work                             server                               processors  \
                       clients   echoes/s  efficiency  CPU per echo  CPU ÷ 1's";

impl Figure {
    /// All clients together. Each has its own clock, so rates are added, not counts.
    fn of(samples: &[Sample]) -> Self {
        let sum = |value: &dyn Fn(&Sample) -> f64| samples.iter().map(|s| value(s) / s.seconds).sum::<f64>();
        let mean = |value: &dyn Fn(&Sample) -> f64| sum(value) / samples.len() as f64;
        let per_s = sum(&|sample| sample.echoes as f64);
        let server_cores = mean(&|sample| sample.server_cpu_s.unwrap_or(f64::NAN));
        // to one client the other clients are others
        let clients_cores = sum(&|sample| sample.client_cpu_s);
        let disturbance = mean(&|sample| sample.others_cpu_s + sample.client_cpu_s) - clients_cores;
        Self {
            per_s,
            cpu_ns: server_cores * 1e9 / per_s,
            lost: samples.iter().map(|sample| sample.lost).sum(),
            disturbance,
        }
    }
}

/// Each bar: met, missed, or why it can't be judged here.
fn verdicts(lines: &[Line], halves: &Halves) -> Vec<(String, Verdict)> {
    let judged = |workers, shared: bool| {
        lines.iter().filter(move |line| {
            let fits = (line.workers > line.processors) == shared;
            line.work.judged && line.kind != Kind::Peer && line.workers == workers && fits
        })
    };
    let verdict = |is_met| if is_met { Verdict::Met } else { Verdict::Missed };
    let word = |is_met| if is_met { "met" } else { "MISSED" };
    let mut verdicts = vec![];
    for work in WORKS.iter().filter(|work| work.judged) {
        let of_work = |line: &&Line| line.work.name == work.name && !line.figures.is_empty();
        for line in judged(2, true).filter(of_work) {
            let ratio = line.beside_one(lines, |figure| figure.cpu_ns);
            let is_met = ratio <= SHARED_CPU_MAX;
            let text = format!(
                "{}: 2 workers on one processor take {ratio:.2} × the CPU of one, bar ≤ {SHARED_CPU_MAX}: {}",
                work.name,
                word(is_met)
            );
            verdicts.push((text, verdict(is_met)));
        }
        let best = judged(WORKERS_JUDGED, false).filter(of_work).map(|line| line.efficiency(lines));
        if let Some(best) = best.reduce(f64::max) {
            let is_met = best >= EFFICIENCY_MIN;
            let text = format!(
                "{}: efficiency {best:.2} with {WORKERS_JUDGED} workers, bar ≥ {EFFICIENCY_MIN}: {}",
                work.name,
                word(is_met)
            );
            verdicts.push((text, verdict(is_met)));
        }
    }
    if halves.server.len() < WORKERS_JUDGED {
        let processors = if halves.place == Place::Apart { 2 * WORKERS_JUDGED } else { WORKERS_JUDGED };
        let text =
            format!("The bar of {WORKERS_JUDGED} workers is not judged: it takes {processors} processors.");
        verdicts.push((text, Verdict::Reported));
    }
    verdicts
}

/// Writes `DATE-COMMIT-scale.md`, or `…-scale-together.md`, and the same with every run as JSON.
fn write(
    options: &Options,
    lines: &[Line],
    verdicts: &[(String, Verdict)],
    halves: &Halves,
) -> Result<String> {
    let machine = Machine::look()?;
    let mut text = format!(
        "# Workers and processors, measured on {}\n\n{}. {} As many clients as workers, while there are processors, \
         each on another processor; loopback. Each figure is the median of the rounds, a ratio the median of the \
         rounds' ratios. The efficiency is the rate, divided by that of one worker and by the processors.\n\n`{}`\n\n\
         | row | work | server | processors | clients | echoes/s | efficiency | CPU per echo | CPU ÷ 1's | |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
        machine.date,
        machine.told(),
        halves.told(),
        machine.command
    );
    for line in lines {
        let cells = line.cells(lines).into_iter().map(|cell| cell.trim().to_owned());
        let mut cells: Vec<String> = cells.collect();
        cells.resize(10, String::new());
        writeln!(text, "| {} |", cells.join(" | "))?;
    }
    text.push('\n');
    for (verdict, _) in verdicts {
        writeln!(text, "* {verdict}")?;
    }
    let raw = json!({ "machine": machine, "lines": lines });
    let name = if halves.place == Place::Apart { "-scale" } else { "-scale-together" };
    let path = machine.file(&options.results, name)?;
    std::fs::write(path.with_extension("json"), serde_json::to_string(&raw)? + "\n")?;
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}
