//! What is printed, and the dated report: the machine, the table for people, every run for programs.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use super::rows::{Metric, Row};
use super::{Outcome, Verdict, median};
use crate::load::{Result, Sample};

pub(super) fn heading() -> String {
    format!(
        "{:<24} {:<40} {:<16} {:>9} {:>9} {:>7} {:>13} {:>7}  verdict",
        "row", "work (64 B unless said)", "against", "ours", "peer", "ratio", "spread", "bar"
    )
}

/// One row as text.
pub(super) fn line(outcome: &Outcome) -> String {
    let cells = Cells::of(outcome);
    format!(
        "{:<24} {:<40} {:<16} {:>9} {:>9} {:>7} {:>13} {:>7}  {}",
        outcome.row.name,
        outcome.row.work,
        cells.against,
        cells.ours,
        cells.peer,
        cells.ratio,
        cells.spread,
        outcome.row.bar.to_string(),
        cells.verdict
    )
}

struct Cells {
    against: String,
    ours: String,
    peer: String,
    ratio: String,
    spread: String,
    verdict: String,
}

impl Cells {
    fn of(outcome: &Outcome) -> Self {
        let Row { peer, metric, .. } = outcome.row;
        let figure = |samples: &[Sample]| {
            let values: Vec<f64> = samples.iter().map(|sample| metric.of(sample)).collect();
            if values.is_empty() { "–".into() } else { format!("{:.0}{}", median(&values), metric.unit()) }
        };
        let ratios = &outcome.ratios;
        let (low, high) = ratios.iter().fold((f64::MAX, f64::MIN), |(l, h), &r| (l.min(r), h.max(r)));
        let digits = |value: f64| {
            if value < 0.1 {
                format!("{value:.3}")
            } else if value < 10.0 {
                format!("{value:.2}")
            } else {
                format!("{value:.0}")
            }
        };
        let against =
            peer.map_or(
                "itself",
                |peer| {
                    if peer.server.contains("tubular-echo") { "itself" } else { peer.server }
                },
            );
        let lost: u64 = outcome.ours.iter().chain(&outcome.peer).map(|sample| sample.lost).sum();
        let verdict = match &outcome.verdict {
            Verdict::Met => "met".into(),
            Verdict::Missed if !outcome.row.limit.is_empty() => format!("MISSED ({})", outcome.row.limit),
            Verdict::Missed => "MISSED".into(),
            Verdict::Reported => "reported".into(),
            Verdict::Skipped(why) => format!("skipped: {why}"),
            Verdict::Failed(why) => format!("FAILED: {why}"),
        };
        let noisy = outcome.disturbance >= super::QUIET;
        let notes = [
            (lost > 0).then(|| format!("{lost} lost")),
            noisy.then(|| format!("disturbed by {:.1} cores", outcome.disturbance)),
        ];
        let verdict = [Some(verdict)].into_iter().chain(notes).flatten().collect::<Vec<String>>().join(", ");
        Self {
            against: against.into(),
            ours: figure(&outcome.ours),
            peer: figure(&outcome.peer),
            ratio: if ratios.is_empty() { "–".into() } else { digits(median(ratios)) },
            spread: if ratios.is_empty() {
                "–".into()
            } else {
                format!("{}–{}", digits(low), digits(high))
            },
            verdict,
        }
    }
}

impl Metric {
    fn unit(self) -> &'static str {
        match self {
            Self::CpuNsPerEcho => " ns",
            Self::CpuMsPerGb => " ms/GB",
            Self::EchoesPerSecond => "/s",
            Self::BytesPerConnection => " B",
        }
    }
}

/// Where, when and how it was measured.
#[derive(Serialize)]
pub(crate) struct Machine {
    pub(crate) date: String,
    commit: String,
    kernel: String,
    processor: String,
    cores: usize,
    congestion_control: String,
    pub(crate) command: String,
}

impl Machine {
    pub(crate) fn look() -> Result<Self> {
        // BBR paces on loopback too: a stream under it is another load.
        let congestion = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")?;
        let processors = fs::read_to_string("/proc/cpuinfo")?;
        let field = |line: &str| {
            line.strip_prefix("model name").map(|rest| rest.trim_matches([' ', '\t', ':']).to_owned())
        };
        // What was asked, not where this program happens to lie.
        let arguments: Vec<String> =
            std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
        let command = format!("ci/bench {}", arguments.join(" "));
        Ok(Self {
            date: output("date", &["+%Y-%m-%d"]),
            commit: output("git", &["describe", "--always", "--dirty"]),
            kernel: output("uname", &["-sr"]),
            processor: processors.lines().find_map(field).unwrap_or_else(|| "unknown".into()),
            cores: processors.lines().filter(|line| line.starts_with("processor")).count(),
            congestion_control: congestion.trim().into(),
            command: command.trim_end().into(),
        })
    }

    /// As a part of a sentence.
    pub(crate) fn told(&self) -> String {
        let Self { commit, kernel, processor, cores, congestion_control, .. } = self;
        format!("Commit {commit}, {kernel}, {processor}, {cores} cores, TCP by {congestion_control}")
    }

    /// `DATE-COMMIT.md` in this directory, which is made if need be.
    pub(crate) fn file(&self, directory: &Path, suffix: &str) -> Result<PathBuf> {
        fs::create_dir_all(directory)?;
        Ok(directory.join(format!("{}-{}{suffix}.md", self.date, self.commit)))
    }
}

/// Writes `DATE-COMMIT.md`, its picture `DATE-COMMIT.svg` and, with every run, `DATE-COMMIT.json`.
pub(super) fn write(directory: &Path, outcomes: &[Outcome]) -> Result<PathBuf> {
    let machine = Machine::look()?;
    let mut text = format!(
        "# Measured on {}\n\n{}. Server on one core, client on \
         another, loopback, interleaved runs; each figure is a median, a ratio the median of pairwise ratios.\n\n\
         `{}`\n\n\
         | row | work (64 B unless said) | against | ours | peer | ratio | spread | bar | verdict |\n\
         |---|---|---|---|---|---|---|---|---|\n",
        machine.date,
        machine.told(),
        machine.command
    );
    for outcome in outcomes {
        let Cells { against, ours, peer, ratio, spread, verdict } = Cells::of(outcome);
        let Row { name, work, bar, .. } = outcome.row;
        writeln!(
            text,
            "| {name} | {work} | {against} | {ours} | {peer} | {ratio} | {spread} | {bar} | {verdict} |"
        )?;
    }
    let path = machine.file(directory, "")?;
    let mut raw = serde_json::to_value(&machine)?;
    raw["rows"] = serde_json::to_value(outcomes)?;
    fs::write(path.with_extension("json"), serde_json::to_string(&raw)? + "\n")?;
    if let Some(svg) = super::plot::draw(outcomes)? {
        fs::write(path.with_extension("svg"), svg)?;
        write!(text, "\n![The ratios as bars]({}-{}.svg)\n", machine.date, machine.commit)?;
    }
    fs::write(&path, text)?;
    Ok(path)
}

/// The first line that a program prints; what it was, if it did not.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => format!("no-{program}"),
    }
}
