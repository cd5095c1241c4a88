//! The report as data: what `--json` writes, and what the table and `--fail-if` read.
//!
//! Version 2. Fields are only ever added within a version; times are nanoseconds and say so in their
//! names; counts are datagrams (TCP: messages). `totals` covers what was measured, without the warmup,
//! and balances: sent = ok + corrupted + truncated + misdirected + late + lost + unreachable. So does
//! each of the `intervals`, since a datagram is booked in the second in which it was meant to be sent.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::model::latency::Percentiles;
use crate::model::outcomes::Counts;
use crate::model::results::{Connections, Example};

/// The name of the format.
pub(crate) const SCHEMA: &str = "blaster-report";
/// Its version.
pub(crate) const VERSION: u32 = 2;

/// A run, from the command line to the last percentile.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Always [`SCHEMA`].
    pub(crate) schema: String,
    /// Always [`VERSION`].
    pub(crate) version: u32,
    /// The version of blaster.
    pub(crate) blaster: String,
    /// As it was called.
    pub(crate) command_line: Vec<String>,
    /// When the first datagram was meant to be sent, RFC 3339, UTC.
    pub(crate) started_at: String,
    /// Where it ran: one host, or those of all runs that were merged.
    pub(crate) hosts: Vec<Host>,
    /// What was sent.
    pub(crate) load: Load,
    /// Measured time that what was sent is spread over, without the warmup: in the open loop up to where the next
    /// datagram would have been due or the time was up; in a closed loop that a count ended, up to the last right
    /// reply in time; otherwise up to the last send.
    pub(crate) elapsed_ns: u64,
    /// Whether a signal ended it before its time.
    pub(crate) ended_early: bool,
    /// The books.
    pub(crate) totals: Totals,
    /// What was sent and judged before the measured part.
    pub(crate) warmup: Counts,
    /// How long right replies took, in time or late.
    pub(crate) latency: Latencies,
    /// What blaster itself is to blame for.
    pub(crate) generator: Generator,
    /// ICMP errors by sender and kind, at most 16 kinds.
    pub(crate) icmp_errors: Vec<IcmpErrors>,
    /// A few wrong replies of each kind, of the warmup, too.
    #[serde(default)]
    pub(crate) examples: Vec<Example>,
    /// What the local kernel refused; for TCP, why connections failed or broke.
    pub(crate) refusals: Vec<LocalErrors>,
    /// TCP only.
    pub(crate) connections: Option<Connections>,
    /// Each second.
    pub(crate) intervals: Vec<Interval>,
    /// What a reader must know before believing the rest.
    pub(crate) warnings: Vec<String>,
    /// The conditions of `--fail-if`.
    pub(crate) fail_if: Vec<ConditionResult>,
}

/// Where blaster ran.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Host {
    /// Its name.
    pub(crate) name: String,
    /// Release of the kernel.
    pub(crate) kernel: String,
    /// Model of the processor.
    pub(crate) cpu: String,
    /// Processors that blaster could use.
    pub(crate) processors: usize,
}

/// What was sent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Load {
    /// `udp` or `tcp`.
    pub(crate) protocol: String,
    /// The mode's name.
    pub(crate) mode: String,
    /// The targets as given.
    pub(crate) targets: Vec<String>,
    /// Tells this run's datagrams from others'; as many as runs were merged.
    pub(crate) run_ids: Vec<String>,
    /// Where random choices began: a number, or from 2^53 on, where many readers' numbers are no longer exact, a
    /// string of its digits. `null`: merged runs began differently.
    #[serde(with = "exact")]
    pub(crate) seed: Option<u64>,
    /// Sizes in bytes: `64`, `64-1400` or `64,512`.
    pub(crate) size: String,
    /// Flows (UDP) or connections (TCP).
    pub(crate) flows: u32,
    /// Threads.
    pub(crate) threads: u32,
    /// Datagrams per second, open loop only.
    pub(crate) rate_per_s: Option<f64>,
    /// In flight per flow (trains, where trains are sent), closed loop only.
    pub(crate) in_flight: Option<u32>,
    /// Datagrams in a train; UDP only.
    pub(crate) gso: Option<u32>,
    /// Whether trains were received in one piece; UDP only.
    pub(crate) gro: Option<bool>,
    /// Whether each datagram drew its destination; UDP only.
    pub(crate) spray: Option<bool>,
    /// The local address, or the prefix of them, as asked.
    #[serde(default)]
    pub(crate) source: Option<String>,
    /// Later than this is late.
    pub(crate) timeout_ns: u64,
    /// What was sent before measuring.
    pub(crate) warmup_ns: u64,
    /// How long to measure, as asked.
    pub(crate) duration_ns: Option<u64>,
    /// How many to measure, as asked.
    pub(crate) count: Option<u64>,
}

/// A number that any reader of JSON reads exactly.
mod exact {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// From here on two whole numbers may be the same `double`.
    const DOUBLES_END: u64 = 1 << 53;

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Exact {
        Number(u64),
        Digits(String),
    }

    #[allow(clippy::ref_option)] // serde calls it so
    pub(super) fn serialize<S: Serializer>(number: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        let exact = |number| match number {
            0..DOUBLES_END => Exact::Number(number),
            _ => Exact::Digits(number.to_string()),
        };
        number.map(exact).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        match Option::<Exact>::deserialize(from)? {
            None => Ok(None),
            Some(Exact::Number(number)) => Ok(Some(number)),
            Some(Exact::Digits(digits)) => digits.parse().map(Some).map_err(serde::de::Error::custom),
        }
    }
}

/// The books, added up.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// The classes and what is beside them.
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// Datagrams that blaster's own sockets dropped, their buffers being full: part of what is lost.
    pub(crate) own_drops: u64,
    /// How far reordered datagrams were overtaken, on average.
    pub(crate) reorder_distance_mean: f64,
    /// How far at the most.
    pub(crate) reorder_distance_max: u64,
    /// Sent per second.
    pub(crate) sent_per_s: f64,
    /// Right replies per second.
    pub(crate) ok_per_s: f64,
}

/// Latency by where it is counted from. `null`: no right reply.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Latencies {
    /// From the intended send time. Outside the open loop that is the actual one.
    pub(crate) from_intended: Option<Percentiles>,
    /// From the actual send time.
    pub(crate) from_actual: Option<Percentiles>,
}

/// What blaster itself did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Generator {
    /// Actual less intended send time. `null` outside the open loop.
    pub(crate) slip: Option<Percentiles>,
    /// Processor time of the sending threads per datagram sent (warmup included), pacing left out.
    pub(crate) cpu_ns_per_datagram: f64,
    /// For each thread, the share of a core that its work took, pacing left out.
    pub(crate) cpu_share: Vec<f64>,
    /// For each thread, the share of a core spent looking at the clock before intended send times.
    pub(crate) pacing_share: Vec<f64>,
    /// For each thread, the share of the time that it waited for a processor which others had. Zero where such
    /// waits were too short to matter.
    #[serde(default)]
    pub(crate) starved_share: Vec<f64>,
    /// Datagrams of the schedule that were never sent, since the time was up.
    pub(crate) unsent: u64,
    /// Datagrams given up before their timeout, since blaster could not remember more.
    pub(crate) forgotten: u64,
    /// The smallest receive buffer among its sockets, in bytes; UDP only.
    pub(crate) receive_buffer_bytes: Option<u64>,
}

/// ICMP errors of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IcmpErrors {
    /// Who sent them.
    pub(crate) from: String,
    /// Where the datagrams were sent to.
    pub(crate) about: String,
    /// ICMP type.
    pub(crate) icmp_type: u8,
    /// ICMP code.
    pub(crate) icmp_code: u8,
    /// How many.
    pub(crate) count: u64,
}

/// Local errors of one kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LocalErrors {
    /// The error number.
    pub(crate) errno: i32,
    /// Its meaning.
    pub(crate) message: String,
    /// How many datagrams or connections it concerned.
    pub(crate) count: u64,
}

/// One second.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Interval {
    /// Seconds since the measured part began.
    pub(crate) second: u64,
    /// What became of the datagrams that were meant to be sent in it.
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// How long their right replies took, from the intended send time. `null`: there was none.
    pub(crate) latency: Option<Percentiles>,
}

/// One condition of `--fail-if`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ConditionResult {
    /// The condition as given.
    pub(crate) condition: String,
    /// What was measured.
    pub(crate) measured: String,
    /// Whether it holds, and the run has failed.
    pub(crate) failed: bool,
}

impl Report {
    /// How many were sent, warmup and all.
    pub(crate) fn sent(&self) -> u64 {
        self.totals.counts.sent + self.warmup.sent
    }

    /// When the first datagram that was measured was meant to be sent.
    pub(crate) fn measured_from(&self) -> Result<SystemTime, ReadError> {
        let implausible = || ReadError::Implausible(format!("started_at {:?}", self.started_at));
        let started_at = humantime::parse_rfc3339(&self.started_at).map_err(|_| implausible())?;
        started_at.checked_add(Duration::from_nanos(self.load.warmup_ns)).ok_or_else(implausible)
    }

    /// To how many of those something came back.
    pub(crate) fn answered(&self) -> u64 {
        self.totals.counts.answered() + self.warmup.answered()
    }
}

/// The name of the format of several runs.
pub(crate) const SERIES_SCHEMA: &str = "blaster-series";

/// Several runs: the steps of one, or those of several files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Series {
    /// Always [`SERIES_SCHEMA`].
    pub(crate) schema: String,
    /// Always [`VERSION`].
    pub(crate) version: u32,
    /// The version of blaster.
    pub(crate) blaster: String,
    /// As it was called.
    pub(crate) command_line: Vec<String>,
    /// In the order in which they ran, or were named.
    pub(crate) runs: Vec<NamedRun>,
    /// What `--find-max` found. `null`: nothing was searched for.
    pub(crate) found: Option<SearchResult>,
    /// The conditions of `--fail-if` on that.
    #[serde(default)]
    pub(crate) fail_if: Vec<ConditionResult>,
}

/// What a search for the highest rate found.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct SearchResult {
    /// What each run was to achieve.
    pub(crate) objective: Objective,
    /// How long each was.
    pub(crate) duration_ns: u64,
    /// The answer.
    #[serde(flatten)]
    pub(crate) answer: Answer,
}

/// What every run at a rate is to achieve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Objective {
    /// The most, in percent of what was sent, that may go without a right reply in time.
    pub(crate) loss_percent: f64,
    /// The longest that 99 of 100 right replies may take from the intended send time, in nanoseconds.
    pub(crate) p99_ns: Option<u64>,
}

/// What a run says about its rate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "why", rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// The objective was met.
    Met,
    /// It was not, and blaster has no part in that.
    Missed(String),
    /// It was not, or the rate was not even sent, and blaster itself may be to blame: this says nothing about
    /// the server.
    Generator(String),
}

/// What the runs at one rate came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunCounts {
    /// The objective was met.
    pub(crate) met: u32,
    /// It was missed.
    pub(crate) missed: u32,
    /// Blaster was the bottleneck.
    pub(crate) generator: u32,
}

impl RunCounts {
    /// Counts a run that was judged so.
    pub(crate) fn note(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Met => self.met += 1,
            Verdict::Missed(_) => self.missed += 1,
            Verdict::Generator(_) => self.generator += 1,
        }
    }

    /// How many there were.
    pub(crate) fn all(self) -> u32 {
        self.met + self.missed + self.generator
    }

    /// How many did not meet the objective, for either reason.
    pub(crate) fn not_met(self) -> u32 {
        self.missed + self.generator
    }
}

/// One end of the bracket, and its confirming runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BracketEnd {
    /// Datagrams per second.
    pub(crate) rate_per_s: u64,
    /// The runs that confirmed it.
    pub(crate) runs: RunCounts,
}

/// What lies above the highest rate that met the objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Limit {
    /// The server, or the path to it: most runs missed the objective, by no fault of blaster's.
    Server,
    /// Blaster itself: whether the server carries more is not known.
    Generator,
    /// Nothing: the search ended before it met one.
    None,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The highest rate that meets the objective. `null`: none did.
    pub(crate) met: Option<BracketEnd>,
    /// The lowest above it that does not.
    pub(crate) not_met: Option<BracketEnd>,
    /// Whose limit that is.
    pub(crate) limit: Limit,
    /// The probability that it is not by chance that most runs met the objective at the one end and, if the
    /// server is the limit, that most missed it at the other.
    pub(crate) confidence: f64,
    /// Whether confirming runs bore out the bracket.
    pub(crate) settled: bool,
}

/// A run among others.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NamedRun {
    /// What tells it from the others: its rate, or its file.
    pub(crate) name: String,
    /// The run.
    pub(crate) report: Report,
    /// Whether it met the objective of the search that it is part of. `null`: it is part of none.
    pub(crate) verdict: Option<Verdict>,
}

/// What blaster was called with, for the report; what is not UTF-8 in it can be guessed.
pub(crate) fn command_line() -> Vec<String> {
    std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect()
}

impl NamedRun {
    /// A run that was not judged.
    pub(crate) fn new(name: impl Into<String>, report: Report) -> Self {
        Self { name: name.into(), report, verdict: None }
    }
}

impl Series {
    /// These runs, as this call of blaster brought them together.
    pub(crate) fn new(runs: Vec<NamedRun>) -> Self {
        Self {
            schema: SERIES_SCHEMA.into(),
            version: VERSION,
            blaster: env!("CARGO_PKG_VERSION").into(),
            command_line: command_line(),
            runs,
            found: None,
            fail_if: Vec::new(),
        }
    }
}

/// What one file of JSON holds.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Document {
    /// One run.
    Run(Box<Report>),
    /// Several.
    Series(Box<Series>),
}

impl Document {
    /// Its runs.
    pub(crate) fn runs(&self) -> Vec<&Report> {
        match self {
            Self::Run(report) => vec![report],
            Self::Series(series) => series.runs.iter().map(|run| &run.report).collect(),
        }
    }

    /// Its runs, to be judged.
    pub(crate) fn runs_mut(&mut self) -> Vec<&mut Report> {
        match self {
            Self::Run(report) => vec![report],
            Self::Series(series) => series.runs.iter_mut().map(|run| &mut run.report).collect(),
        }
    }
}

/// Why a file is no report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    File(#[from] std::io::Error),
    #[error("not a report that `blaster --json` wrote: {0}")]
    Json(#[from] serde_json::Error),
    #[error("not a report of blaster's but {0:?}")]
    Schema(String),
    #[error(
        "a report of version {0}, this blaster reads version {VERSION}: let the same blaster write and read"
    )]
    Version(u32),
    #[error("not what blaster writes: {0}")]
    Implausible(String),
}

/// Reads what `--json` wrote.
pub(crate) fn read(path: &Path) -> Result<Document, ReadError> {
    parse(&std::fs::read(path)?)
}

/// The same from what the file holds. What is let in here is added up and multiplied later, so no number may be
/// greater than one that blaster could have measured.
pub(crate) fn parse(text: &[u8]) -> Result<Document, ReadError> {
    #[derive(Deserialize)]
    struct Kind {
        schema: String,
        version: u32,
    }
    let kind: Kind = serde_json::from_slice(text)?;
    let document = match (kind.schema.as_str(), kind.version) {
        (SCHEMA | SERIES_SCHEMA, version) if version != VERSION => return Err(ReadError::Version(version)),
        (SCHEMA, _) => Document::Run(serde_json::from_slice(text)?),
        (SERIES_SCHEMA, _) => Document::Series(serde_json::from_slice(text)?),
        _ => return Err(ReadError::Schema(kind.schema)),
    };
    check_numbers("", &serde_json::from_slice(text)?)?;
    for report in document.runs() {
        report.measured_from()?;
        if let Some(interval) = report.intervals.iter().find(|interval| interval.second > SECONDS_MAX) {
            return Err(ReadError::Implausible(format!("an interval at second {}", interval.second)));
        }
    }
    Ok(document)
}

/// Ten years: the longest run.
const SECONDS_MAX: u64 = 10 * 366 * 86_400;
/// The same, for names that end in `_ns`.
const TIME_NS_MAX: f64 = SECONDS_MAX as f64 * 1e9;
/// A count, or anything else: exact for every reader, and more than a run can have.
const NUMBER_MAX: f64 = (1_u64 << 53) as f64;

/// Whether every number in `value`, which has this name, could have been measured.
fn check_numbers(name: &str, value: &serde_json::Value) -> Result<(), ReadError> {
    use serde_json::Value;
    match value {
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| check_numbers(name, value)),
        Value::Array(values) => values.iter().try_for_each(|value| check_numbers(name, value)),
        // nobody reckons with it, and any number may be asked for
        Value::Number(_) if name == "seed" => Ok(()),
        Value::Number(number) => {
            let most = if name.ends_with("_ns") { TIME_NS_MAX } else { NUMBER_MAX };
            // who is no number at all is not within it either
            let within = number.as_f64().is_some_and(|number| number.abs() <= most);
            if within { Ok(()) } else { Err(ReadError::Implausible(format!("{name} {number}"))) }
        }
        _ => Ok(()),
    }
}
