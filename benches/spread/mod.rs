//! How load spreads over processors. Everything runs in network namespaces of its own, with blaster as the client.
//!
//! ```text
//! steer    the worker by the processor (`--steer cpu`) beside the worker by the hash, over a veth cable with RPS
//! mice     one heavy flow beside a thousand light ones, with 1, 2 and 4 workers
//! threads  blaster's own threads: their rate, and how punctual each is
//! client   blaster as a process
//! ```
//!
//! `steer` shares two processors between server and clients, since it needs two for the server. Otherwise half of the
//! processors are the server's.

mod client;
mod mice;
mod steer;
mod threads;

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::kernel;
use crate::load::Result;
use crate::table::median;
use crate::table::report::Machine;

/// How these are measured
#[derive(Clone, clap::Args)]
pub(crate) struct Options {
    /// Only rows whose name contains one of these words, comma-separated
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Rounds, each with fresh processes
    #[arg(long, default_value_t = 4)]
    rounds: usize,
    /// Seconds of each run
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// One short run of a few rows: nothing is judged but that replies come
    #[arg(long)]
    short: bool,
    /// Where the dated report goes
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/results"))]
    results: PathBuf,
    /// Write no report
    #[arg(long)]
    no_report: bool,
}

/// What is measured.
#[derive(Clone, Copy)]
pub(crate) enum Part {
    Steer,
    Mice,
    Threads,
}

/// Measures one part; prints its table, and writes its report.
pub(crate) fn command(part: Part, options: &Options) -> Result<bool> {
    if !kernel::is_root() {
        return Err("this needs root, for network namespaces of its own".into());
    }
    kernel::raise_open_files()?;
    let mut options = options.clone();
    if options.short {
        (options.rounds, options.seconds) = (1, 0.05);
    }
    match part {
        Part::Steer => steer::run(&options, &Halves::of(&kernel::cores()?)),
        Part::Mice => mice::run(&options),
        Part::Threads => threads::run(&options),
    }?;
    Ok(true)
}

/// The short form of all parts, on these processors.
pub(crate) fn short(processors: &[usize]) -> Result<bool> {
    if !kernel::is_root() {
        println!("These did not run, because they need root: steer, mice, threads");
        return Ok(true);
    }
    let options = Options {
        rows: vec![],
        rounds: 1,
        seconds: 0.05,
        short: true,
        results: PathBuf::new(),
        no_report: true,
    };
    for part in [Part::Steer, Part::Mice, Part::Threads] {
        println!();
        kernel::pin(processors)?;
        command(part, &options)?;
    }
    Ok(true)
}

/// The processors of the server and of its clients.
struct Halves {
    server: Vec<usize>,
    clients: Vec<usize>,
}

impl Halves {
    fn of(processors: &[usize]) -> Self {
        if processors.len() < 4 {
            return Self { server: processors.into(), clients: processors.into() };
        }
        Self::apart(processors)
    }

    /// Half of the processors each; a single one is for both.
    fn apart(processors: &[usize]) -> Self {
        let (server, clients) = processors.split_at(processors.len().div_ceil(2));
        let clients = if clients.is_empty() { server } else { clients };
        Self { server: server.into(), clients: clients.into() }
    }

    fn told(&self) -> String {
        if self.server == self.clients {
            format!("Server and clients share {} processors", self.server.len())
        } else {
            format!("Processors of the server: {}, of its clients: {}", self.server.len(), self.clients.len())
        }
    }
}

/// A table for people, and the runs for programs.
struct Report<'a> {
    options: &'a Options,
    title: &'a str,
    /// What was done, in sentences
    words: String,
    lines: String,
    raw: Vec<Value>,
}

impl<'a> Report<'a> {
    fn new(options: &'a Options, title: &'a str, words: String, columns: &[&str]) -> Self {
        println!("{title}: {words}\n");
        let mut report = Self { options, title, words, lines: String::new(), raw: vec![] };
        report.print(&format!("| {} |", columns.join(" | ")));
        report.print(&format!("|{}", "---|".repeat(columns.len())));
        report
    }

    fn wants(&self, name: &str) -> bool {
        self.options.rows.is_empty() || self.options.rows.iter().any(|word| name.contains(word))
    }

    fn print(&mut self, line: &str) {
        println!("{line}");
        self.lines += line;
        self.lines.push('\n');
    }

    fn row(&mut self, cells: &[String], raw: Value) {
        self.print(&format!("| {} |", cells.join(" | ")));
        self.raw.push(raw);
    }

    /// Writes `DATE-COMMIT-NAME.md` and, with every run, `DATE-COMMIT-NAME.json`.
    fn write(self, name: &str) -> Result<()> {
        if self.raw.is_empty() {
            return Err("no row has such a name".into());
        }
        if self.options.no_report || self.options.short {
            return Ok(());
        }
        let machine = Machine::look()?;
        let text = format!(
            "# {}, measured on {}\n\n{}. {} Each figure is the median of {} rounds.\n\n`{}`\n\n{}",
            self.title,
            machine.date,
            machine.told(),
            self.words,
            self.options.rounds,
            machine.command,
            self.lines
        );
        let path = machine.file(&self.options.results, &format!("-{name}"))?;
        let raw = json!({ "machine": machine, "rows": self.raw });
        std::fs::write(path.with_extension("json"), serde_json::to_string(&raw)? + "\n")?;
        std::fs::write(&path, text)?;
        println!("\nreport: {}", path.display());
        Ok(())
    }
}

/// The median of a value of all rounds.
fn median_of<T>(rounds: &[T], value: impl Fn(&T) -> f64) -> f64 {
    median(&rounds.iter().map(value).collect::<Vec<f64>>())
}

/// The lowest and the highest of a value of all rounds.
fn range_of<T>(rounds: &[T], value: impl Fn(&T) -> f64) -> (f64, f64) {
    rounds.iter().map(value).fold((f64::MAX, f64::MIN), |(low, high), it| (low.min(it), high.max(it)))
}

/// Nanoseconds as microseconds or milliseconds.
fn time(ns: f64) -> String {
    match ns {
        _ if ns < 1e4 => format!("{:.1} µs", ns / 1e3),
        _ if ns < 1e6 => format!("{:.0} µs", ns / 1e3),
        _ if ns < 1e7 => format!("{:.1} ms", ns / 1e6),
        _ => format!("{:.0} ms", ns / 1e6),
    }
}
