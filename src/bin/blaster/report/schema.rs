//! The report as data: the JSON of `--json`, which the table, the page and `--fail-if` read as well.
//!
//! Version 2. Within a version, fields are only added. Times are in nanoseconds, and their names end in `_ns`. Counts are of
//! datagrams (TCP: of messages); their names stand in `model/counts.rs`, percentiles in `model/latency.rs`. `totals` covers
//! the measured time without the warmup, and balances: sent = ok + corrupted + truncated + misdirected + late + lost +
//! unreachable. Each of the `intervals` balances as well: a datagram counts in the interval of its intended send time.

use std::net::IpAddr;
use std::ops::Add;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::model::counts::{Connections, Counts, Fault, Tally};
use crate::model::icmp;
use crate::model::latency::Percentiles;
use crate::model::results::Example;
use crate::model::server_counts::ServerCounts;
use crate::model::spans::{LENGTHS, Span};
use crate::model::units::counted;
use crate::report::replies::Replies;

/// The name of the format of one run.
pub(crate) const SCHEMA: &str = "blaster-report";
/// The version of both formats.
pub(crate) const VERSION: u32 = 2;

/// The report of one run.
// one field for each part of the JSON
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Report {
    /// The name of the format.
    #[cfg_attr(test, schemars(extend("const" = SCHEMA)))]
    pub(crate) schema: String,
    /// The version of the format. Within a version, fields are only added.
    #[cfg_attr(test, schemars(extend("const" = VERSION)))]
    pub(crate) version: u32,
    /// The version of blaster.
    pub(crate) blaster: String,
    /// The arguments of blaster.
    pub(crate) command_line: Vec<String>,
    /// The first intended send time, RFC 3339, UTC.
    pub(crate) started_at: String,
    /// The host that it ran on; after a merge, each host of its runs once.
    pub(crate) hosts: Vec<Host>,
    pub(crate) load: Load,
    /// The measured time that the sent datagrams are spread over, without the warmup. Its end is: in the open loop, the
    /// time at which the next datagram would have been due, or the time was up; in a closed loop that a count ended, the
    /// last right reply in time; else the last send.
    pub(crate) elapsed_ns: u64,
    /// Whether a signal ended it.
    pub(crate) ended_early: bool,
    pub(crate) totals: Totals,
    /// The counts of the warmup.
    pub(crate) warmup: Counts,
    /// The latency of right replies, in time or late.
    pub(crate) latency: Latencies,
    /// The part of blaster itself.
    pub(crate) generator: Generator,
    /// ICMP errors by sender and kind, at most 16 kinds.
    pub(crate) icmp_errors: Vec<IcmpErrors>,
    /// The first wrong replies of each kind, also those of the warmup.
    #[serde(default)]
    pub(crate) examples: Vec<Example>,
    /// Sends that the local kernel refused; TCP: why connections failed or broke.
    pub(crate) refusals: Vec<LocalErrors>,
    /// The destinations, of the measured time. `null`: a report of an older blaster.
    #[serde(default)]
    pub(crate) destinations: Option<Places>,
    /// The local addresses, with `--each-once` and `--source`.
    #[serde(default)]
    pub(crate) sources: Option<Places>,
    /// The destinations as they were at the end of a run without end; with `--each-once` that is its last round. `null`: the
    /// run had an end.
    #[serde(default)]
    pub(crate) outages: Option<Outages>,
    /// The headers of right replies; UDP with `--dscp` or `--ttl` only.
    #[serde(default)]
    pub(crate) replies: Option<Replies>,
    /// TCP only.
    pub(crate) connections: Option<Connections>,
    /// The server's part, by `--server-metrics`. `null`: it was not asked for; a merge has none.
    #[serde(default)]
    pub(crate) server: Option<Server>,
    pub(crate) intervals: Vec<Interval>,
    /// What a reader must know before trusting the rest.
    pub(crate) warnings: Vec<String>,
    /// The conditions of `--fail-if`.
    pub(crate) fail_if: Vec<ConditionResult>,
}

/// A host that blaster ran on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Host {
    pub(crate) name: String,
    /// The release of the kernel.
    pub(crate) kernel: String,
    /// The model of the processor.
    pub(crate) cpu: String,
    /// The number of processors that blaster could use.
    pub(crate) processors: usize,
}

/// Each of these hosts once.
pub(crate) fn distinct_hosts<'a>(hosts: impl Iterator<Item = &'a Host>) -> Vec<Host> {
    let mut distinct: Vec<Host> = Vec::new();
    for host in hosts {
        if !distinct.contains(host) {
            distinct.push(host.clone());
        }
    }
    distinct
}

/// The load of a run.
// one field for each part of the JSON
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Load {
    /// `udp` or `tcp`.
    pub(crate) protocol: String,
    /// As in `--mode`.
    pub(crate) mode: String,
    /// As in the command line.
    pub(crate) targets: Vec<String>,
    /// The number that marks the datagrams of the run; after a merge, those of all runs.
    pub(crate) run_ids: Vec<String>,
    /// The seed of random choices: a number, or from 2^53 on a string of its digits, since many readers of JSON do not
    /// read larger numbers exactly. `null`: merged runs had different seeds.
    #[serde(with = "exact")]
    #[cfg_attr(test, schemars(with = "Option<exact::Exact>"))]
    pub(crate) seed: Option<u64>,
    /// Sizes in bytes: `64`, `64-1400` or `64,512`.
    pub(crate) size: String,
    /// Flows (UDP) or connections (TCP).
    pub(crate) flows: u32,
    pub(crate) threads: u32,
    /// Datagrams per second, open loop only: the mean rate of the schedule. `null`: all were due at once. TCP: connections
    /// per second, with `--each-once` only.
    pub(crate) rate_per_s: Option<f64>,
    /// As in `--rate`, if the rate changes.
    #[serde(default)]
    pub(crate) rate_curve: Option<String>,
    /// As in `--gaps`. `null`: not set, so gaps are even.
    #[serde(default)]
    pub(crate) gaps: Option<String>,
    /// As in `--burst`.
    #[serde(default)]
    pub(crate) burst: Option<BurstLoad>,
    /// As in `--replay`.
    #[serde(default)]
    pub(crate) replay: Option<ReplayLoad>,
    /// Datagrams (with trains: trains) in flight per flow; closed loop only.
    pub(crate) in_flight: Option<u32>,
    /// Datagrams in a train; UDP only.
    pub(crate) gso: Option<u32>,
    /// Whether trains were received in one piece; UDP only.
    pub(crate) gro: Option<bool>,
    /// Whether each datagram drew a destination; UDP only.
    pub(crate) spray: Option<bool>,
    /// As in `--receive-time`; UDP only.
    #[serde(default)]
    pub(crate) receive_time: Option<String>,
    /// As in `--each-once`.
    #[serde(default)]
    pub(crate) each_once: Option<u32>,
    /// Whether `--duration` is `forever`.
    #[serde(default)]
    pub(crate) is_endless: bool,
    /// As in `--source`.
    #[serde(default)]
    pub(crate) source: Option<String>,
    /// As in `--dscp`, as a number.
    #[serde(default)]
    pub(crate) dscp: Option<u8>,
    /// As in `--ttl`.
    #[serde(default)]
    pub(crate) ttl: Option<u8>,
    /// As in `--dont-fragment`.
    #[serde(default)]
    pub(crate) dont_fragment: bool,
    /// As in `--interface`.
    #[serde(default)]
    pub(crate) interface: Option<String>,
    /// As in `--mark`.
    #[serde(default)]
    pub(crate) mark: Option<u32>,
    /// A reply after this time is late.
    pub(crate) timeout_ns: u64,
    /// The time before the measurement.
    pub(crate) warmup_ns: u64,
    /// As in `--duration`.
    pub(crate) duration_ns: Option<u64>,
    /// As in `--count`.
    pub(crate) count: Option<u64>,
}

/// Datagrams that are due together, as in `--burst`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct BurstLoad {
    pub(crate) datagrams: u32,
    /// The time from one burst to the next. `null`: it follows from the rate.
    pub(crate) every_ns: Option<u64>,
}

/// The recording of `--replay`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ReplayLoad {
    pub(crate) file: String,
    pub(crate) datagrams: u64,
    /// The time after which it begins again. `null`: all its datagrams have one time.
    pub(crate) period_ns: Option<u64>,
    /// The most datagrams with one time.
    pub(crate) together: u64,
}

/// A number that every reader of JSON reads exactly.
mod exact {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// From here on two whole numbers may be the same `double`.
    const DOUBLES_END: u64 = 1 << 53;

    #[derive(Serialize, Deserialize)]
    #[cfg_attr(test, derive(schemars::JsonSchema))]
    #[serde(untagged)]
    pub(super) enum Exact {
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

/// The counts of all measured seconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Totals {
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// Datagrams that blaster's own sockets dropped: their buffers were full. They count as lost.
    pub(crate) own_drops: u64,
    /// The mean distance by which reordered datagrams were overtaken.
    pub(crate) reorder_distance_mean: f64,
    pub(crate) reorder_distance_max: u64,
    pub(crate) sent_per_s: f64,
    /// Right replies per second.
    pub(crate) ok_per_s: f64,
}

/// Latency by its start. `null`: no right reply came.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Latencies {
    /// From the intended send time. Outside the open loop that is the actual one.
    pub(crate) from_intended: Option<Percentiles>,
    /// From the actual send time.
    pub(crate) from_actual: Option<Percentiles>,
}

/// The part of blaster itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Generator {
    /// The delay of sends behind the schedule. `null` outside the open loop.
    pub(crate) slip: Option<Percentiles>,
    /// How late blaster read right replies: from the kernel's (or the NIC's) receive time on, which ends the latency.
    /// `null`: those times were not asked for, or none came.
    #[serde(default)]
    pub(crate) reading_slip: Option<Percentiles>,
    /// Right replies without a receive time of the kernel. Their latency ends when blaster read them.
    #[serde(default)]
    pub(crate) unstamped: u64,
    /// Right replies with a receive time of the NIC.
    #[serde(default)]
    pub(crate) stamped_by_nic: u64,
    /// How often somebody set the host's clock during the run, as far as blaster noticed it.
    #[serde(default)]
    pub(crate) clock_steps: u64,
    /// The processor time of the sending threads per sent datagram, with the warmup and without pacing.
    pub(crate) cpu_ns_per_datagram: f64,
    /// For each thread, the share of a core that it used, without pacing.
    pub(crate) cpu_share: Vec<f64>,
    /// For each thread, the share of a core that it used to watch the clock before intended send times.
    pub(crate) pacing_share: Vec<f64>,
    /// For each thread, the share of the time that it waited for a processor that others used. Zero if such waits were too
    /// short to matter.
    #[serde(default)]
    pub(crate) starved_share: Vec<f64>,
    /// Datagrams of the schedule that were not sent before the time was up.
    pub(crate) unsent: u64,
    /// Datagrams that were given up before their timeout: blaster could not remember more.
    pub(crate) forgotten: u64,
    /// The smallest receive buffer of the sockets; UDP only.
    pub(crate) receive_buffer_bytes: Option<u64>,
}

/// The part of our server in a run, with the warmup.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Server {
    /// As in `--server-metrics`.
    pub(crate) url: String,
    /// The version of tubular-echo.
    pub(crate) version: String,
    /// How much its counters grew. `null`: that is not known.
    pub(crate) counts: Option<ServerCounts>,
    /// The reason why it is not known.
    pub(crate) unknown_because: Option<String>,
    /// Datagrams (TCP: bytes) that others sent to it meanwhile, at least.
    pub(crate) from_others: u64,
    /// Its processor time for each reply to a datagram (TCP: for each message that blaster got back).
    pub(crate) cpu_ns_per_echo: Option<f64>,
    /// Where datagrams were lost; UDP only. `null`: others loaded the server, or others answered, too.
    pub(crate) losses: Option<LossesByPlace>,
}

/// Datagrams without a reply, by the place where they were lost. Those that an ICMP error told of are among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LossesByPlace {
    /// Sent, and not received by the server.
    pub(crate) on_the_way_there: u64,
    /// Received by the server, and not answered.
    pub(crate) in_the_server: u64,
    /// Answered, and the reply did not come.
    pub(crate) on_the_way_back: u64,
}

/// ICMP errors of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct IcmpErrors {
    /// The sender of the reports.
    pub(crate) from: String,
    /// The destination of the datagrams.
    pub(crate) about: String,
    pub(crate) icmp_type: u8,
    pub(crate) icmp_code: u8,
    pub(crate) count: u64,
}

impl IcmpErrors {
    /// What they say, as in `port unreachable`.
    pub(crate) fn meaning(&self) -> String {
        let is_ipv4 = self.from.parse().is_ok_and(|from: IpAddr| from.is_ipv4());
        icmp::meaning(is_ipv4, self.icmp_type, self.icmp_code)
    }
}

/// Local errors of one kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LocalErrors {
    pub(crate) errno: i32,
    /// The meaning of the errno, and often the cure.
    pub(crate) message: String,
    /// The number of datagrams or connections.
    pub(crate) count: u64,
}

/// Destinations, or sources. Each is a pair of address and port (a source: an address), and has one fault at most. If
/// several fit, the first of these counts: misdirected, corrupted, silent, lossy, late, unsendable.
// one field for each part of the JSON
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Places {
    /// Those that something was sent to, or that blaster tried to connect to; with `only_faults` those with faults.
    pub(crate) visited: u64,
    /// Those that `--each-once` did not come to, since the run was ended early.
    pub(crate) not_visited: u64,
    /// Only destinations with faults are known, and not what was sent to them: `--spray` had more than 65,536 to draw from.
    /// Then those that nothing came back from are among the lossy ones.
    #[serde(default)]
    pub(crate) only_faults: bool,
    /// Which of all destinations `--each-once` visited. `null`: all, or no `--each-once`.
    pub(crate) sample: Option<String>,
    /// Without a fault.
    pub(crate) ok: u64,
    /// A reply came from another address or port.
    pub(crate) misdirected: u64,
    /// A reply was corrupted or truncated.
    pub(crate) corrupted: u64,
    /// Nothing came back, whether or not an ICMP report or a refused connection said why.
    pub(crate) silent: u64,
    /// Some of what was sent had no answer.
    pub(crate) lossy: u64,
    /// A reply came after the timeout.
    pub(crate) late: u64,
    /// The local kernel refused to send there.
    pub(crate) unsendable: u64,
    /// Those with faults, summed up, the worst first; at most 1,000.
    pub(crate) faults: Vec<FaultyPlaces>,
    /// The number of those with faults that `faults` has no room for.
    pub(crate) more: u64,
}

/// Destinations by their last message.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Outages {
    /// The number of those whose last message had a right reply in time.
    pub(crate) right: u64,
    /// Those whose last message had none, the longest first; at most 1,000.
    pub(crate) longest: Vec<Outage>,
    /// The number of those that the list has no room for.
    pub(crate) more: u64,
}

/// A destination without a right reply.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Outage {
    pub(crate) destination: String,
    /// Of its last message.
    pub(crate) fault: Fault,
    /// The time since the last message that had a right reply in time was due; without one, since the first message.
    pub(crate) lasts_ns: u64,
}

/// So many entries has a list of faults.
pub(crate) const FAULTS_MAX: usize = 1_000;

/// Destinations, or sources, with one fault. Prefixes hold no visited address without it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct FaultyPlaces {
    /// In words: `192.0.2.77:1234` or `192.0.2.128/27, all ports`.
    pub(crate) place: String,
    pub(crate) prefix: String,
    /// `1234` or `5000-5003,6000`. `null`: all visited ports of these addresses, or a source.
    pub(crate) ports: Option<String>,
    pub(crate) fault: Fault,
    /// How many visited destinations (or sources) it stands for.
    pub(crate) visited: u64,
    #[serde(flatten)]
    pub(crate) tally: Tally,
}

/// A part of the measurement: one second, or, if more than five minutes followed, 10 s, 1 min, 10 min, 1 h or a day.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Interval {
    /// The number of its first second, from 0.
    pub(crate) second: u64,
    /// Its length in seconds.
    #[serde(default = "one")]
    pub(crate) seconds: u64,
    /// Of the datagrams with an intended send time in it.
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// The latency of their right replies, from the intended send time. `null`: there was none.
    pub(crate) latency: Option<Percentiles>,
}

/// The length of an interval in reports of older versions.
fn one() -> u64 {
    1
}

impl Interval {
    /// The seconds of it.
    pub(crate) fn span(&self) -> Span {
        Span { begin: self.second, seconds: self.seconds }
    }
}

/// The result of one condition of `--fail-if`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ConditionResult {
    /// As in the command line.
    pub(crate) condition: String,
    pub(crate) measured: String,
    /// Whether the condition holds; then the run has failed.
    pub(crate) failed: bool,
}

impl Load {
    /// Whether each datagram (TCP: each message) had an intended send time.
    pub(crate) fn is_scheduled(&self) -> bool {
        self.mode == "open" || self.rate_per_s.is_some()
    }

    /// The most datagrams that were due at one time, if these were meant to be many.
    pub(crate) fn together(&self) -> u64 {
        let burst = self.burst.as_ref().map(|burst| burst.datagrams.into());
        burst.or(self.replay.as_ref().map(|replay| replay.together)).unwrap_or(1)
    }

    /// How many flows or connections, in words.
    pub(crate) fn counted_flows(&self) -> String {
        counted(self.flows.into(), if self.protocol == "tcp" { "connection" } else { "flow" })
    }
}

impl Report {
    /// After a merge, the number of runs and of hosts, in words.
    pub(crate) fn counted_runs(&self) -> Option<String> {
        let runs = self.load.run_ids.len() as u64;
        let hosts = distinct_hosts(self.hosts.iter()).len() as u64;
        (runs > 1).then(|| format!("{} on {}", counted(runs, "run"), counted(hosts, "host")))
    }

    /// Whether latency ends when the kernel, or the NIC, received the replies, and not when blaster read them: for 99 of
    /// 100 replies.
    pub(crate) fn has_receive_times(&self) -> bool {
        let stamped = self.generator.reading_slip.as_ref().map_or(0, |slip| slip.count);
        stamped > 0 && self.generator.unstamped <= stamped / 99
    }

    /// Datagrams sent, with the warmup.
    pub(crate) fn sent(&self) -> u64 {
        self.totals.counts.sent + self.warmup.sent
    }

    /// The intended send time of the first measured datagram.
    pub(crate) fn measured_from(&self) -> Result<SystemTime, ReadError> {
        let implausible = || ReadError::Implausible(format!("started_at {:?}", self.started_at));
        let started_at = humantime::parse_rfc3339(&self.started_at).map_err(|_| implausible())?;
        started_at.checked_add(Duration::from_nanos(self.load.warmup_ns)).ok_or_else(implausible)
    }

    /// Datagrams that every byte came back for, with the warmup.
    pub(crate) fn right(&self) -> u64 {
        self.totals.counts.right() + self.warmup.right()
    }

    /// Datagrams that something came back for, with the warmup.
    pub(crate) fn answered(&self) -> u64 {
        self.totals.counts.answered() + self.warmup.answered()
    }
}

/// The name of the format of several runs.
pub(crate) const SERIES_SCHEMA: &str = "blaster-series";

/// Several runs: the steps of one call, or the runs of several files.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Series {
    /// The name of the format.
    #[cfg_attr(test, schemars(extend("const" = SERIES_SCHEMA)))]
    pub(crate) schema: String,
    /// The version of the format. Within a version, fields are only added.
    #[cfg_attr(test, schemars(extend("const" = VERSION)))]
    pub(crate) version: u32,
    /// The version of blaster.
    pub(crate) blaster: String,
    /// The arguments of blaster.
    pub(crate) command_line: Vec<String>,
    /// In the order in which they ran, or in which their files were named.
    pub(crate) runs: Vec<NamedRun>,
    /// The result of `--find-max`. `null`: there was no search.
    pub(crate) found: Option<SearchResult>,
    /// The conditions of `--fail-if` on `found`.
    #[serde(default)]
    pub(crate) fail_if: Vec<ConditionResult>,
}

/// The result of `--find-max`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct SearchResult {
    pub(crate) objective: Objective,
    /// The duration of each run.
    pub(crate) duration_ns: u64,
    #[serde(flatten)]
    pub(crate) answer: Answer,
    /// As in `--precision`, which a confirmed bracket may not reach. `null`, as the fields below: an older blaster.
    #[serde(default)]
    pub(crate) precision_percent: Option<f64>,
    /// What bounded the search.
    #[serde(default)]
    pub(crate) bound: Option<Bound>,
    /// What it took.
    #[serde(default)]
    pub(crate) took: Option<Bound>,
    #[serde(default)]
    pub(crate) ended_by: Option<SearchEnd>,
}

/// Runs, and their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Bound {
    pub(crate) runs: u32,
    pub(crate) time_ns: u64,
}

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SearchEnd {
    /// Nothing was left to try.
    Done,
    /// Nothing came back at two rates.
    NoAnswer,
    /// As many runs as `bound` allows were made.
    Runs,
    /// A further run could have taken longer than `bound` allows.
    Time,
    Signal,
    /// A run could not be made; standard error said why.
    Failure,
}

/// What each run of a search must achieve: `--loss` and `--p99`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Objective {
    /// The largest share of datagrams without a right reply in time, in percent of what was sent.
    pub(crate) loss_percent: f64,
    /// The longest p99 from the intended send time.
    pub(crate) p99_ns: Option<u64>,
}

/// The judgement of a run at a rate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "outcome", content = "why", rename_all = "kebab-case")]
pub(crate) enum Verdict {
    Met,
    /// The objective was missed, and blaster did not cause that.
    Missed(String),
    /// The objective was missed, or the rate was not reached, and blaster may have caused that. This says nothing about the
    /// server.
    Generator(String),
}

/// The runs at one rate, by their judgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct RunCounts {
    pub(crate) met: u32,
    pub(crate) missed: u32,
    /// Blaster was the bottleneck.
    pub(crate) generator: u32,
}

impl RunCounts {
    pub(crate) fn note(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Met => self.met += 1,
            Verdict::Missed(_) => self.missed += 1,
            Verdict::Generator(_) => self.generator += 1,
        }
    }

    pub(crate) fn all(self) -> u32 {
        self.met + self.missed + self.generator
    }

    /// The runs that did not meet the objective, for either reason.
    pub(crate) fn not_met(self) -> u32 {
        self.missed + self.generator
    }
}

impl Add for RunCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            met: self.met + other.met,
            missed: self.missed + other.missed,
            generator: self.generator + other.generator,
        }
    }
}

/// A rate of a search, and its runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct BracketEnd {
    pub(crate) rate_per_s: u64,
    /// The confirming runs of a confirmed rate; else all its runs.
    pub(crate) runs: RunCounts,
    /// Whether the confirming runs agree. An older blaster tells it only in `settled`.
    #[serde(default)]
    pub(crate) confirmed: bool,
}

/// What limits the highest rate that met the objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Limit {
    /// The server, or the path to it: at the next rate most runs missed the objective, and blaster did not cause that.
    Server,
    /// Blaster itself: the server may carry more.
    Generator,
    /// No limit was found before the search ended.
    None,
}

/// The answer of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Answer {
    /// The highest rate that meets the objective. `null`: no rate does.
    pub(crate) met: Option<BracketEnd>,
    /// The lowest rate above it that does not.
    pub(crate) not_met: Option<BracketEnd>,
    /// The limit at that rate.
    pub(crate) limit: Limit,
    /// The probability that chance does not explain the confirming runs: that most runs meet the objective at the lower end
    /// and, if the server is the limit, that most miss it at the upper end. An end that is not confirmed is left out; 0:
    /// none is.
    pub(crate) confidence: f64,
    /// Whether both ends are confirmed, or one of them if there is no rate beyond it.
    pub(crate) settled: bool,
    /// Rates between the two, at most 8: they were tried, and which side they are on is not known.
    #[serde(default)]
    pub(crate) between: Vec<BracketEnd>,
}

impl Answer {
    /// The highest rate that certainly meets the objective; 0: none does. `None`: this is not confirmed.
    pub(crate) fn rate_per_s(&self) -> Option<u64> {
        match self.met {
            Some(met) => (met.confirmed || self.settled).then_some(met.rate_per_s),
            None => self.settled.then_some(0),
        }
    }
}

/// One of several runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct NamedRun {
    /// Its rate, or its file.
    pub(crate) name: String,
    pub(crate) report: Report,
    /// The judgement of a run of a search. `null`: the run belongs to no search, or a signal ended it.
    pub(crate) verdict: Option<Verdict>,
    /// Whether the report has no intervals and empty histograms: a search keeps those of 24 runs.
    #[serde(default)]
    pub(crate) summed_up: bool,
}

/// The arguments of blaster; what is not UTF-8 is replaced.
pub(crate) fn command_line() -> Vec<String> {
    std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect()
}

impl NamedRun {
    /// A run that belongs to no search.
    pub(crate) fn new(name: impl Into<String>, report: Report) -> Self {
        Self { name: name.into(), report, verdict: None, summed_up: false }
    }
}

impl Series {
    /// A series of this call of blaster.
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

/// The content of one JSON file.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub(crate) enum Document {
    Run(Box<Report>),
    Series(Box<Series>),
}

impl Document {
    pub(crate) fn runs(&self) -> Vec<&Report> {
        match self {
            Self::Run(report) => vec![report],
            Self::Series(series) => series.runs.iter().map(|run| &run.report).collect(),
        }
    }

    pub(crate) fn runs_mut(&mut self) -> Vec<&mut Report> {
        match self {
            Self::Run(report) => vec![report],
            Self::Series(series) => series.runs.iter_mut().map(|run| &mut run.report).collect(),
        }
    }
}

/// Why a file can't be read as a report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    File(#[from] std::io::Error),
    #[error("not a report that `blaster --json` wrote: {0}")]
    Json(#[from] serde_json::Error),
    #[error("not a report of blaster, but {0:?}")]
    Schema(String),
    #[error(
        "a report of version {0}, this blaster reads version {VERSION}: let the same blaster write and read"
    )]
    Version(u32),
    #[error("not what blaster writes: {0}")]
    Implausible(String),
}

/// Reads a file of `--json`.
pub(crate) fn read(path: &Path) -> Result<Document, ReadError> {
    parse(&std::fs::read(path)?)
}

/// Reads the text of such a file. Its numbers are added and multiplied later, so a number that blaster could not have
/// measured is an error here.
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
        let is_implausible = |interval: &&Interval| {
            let Interval { second, seconds, .. } = **interval;
            second > SECONDS_MAX || !LENGTHS.contains(&seconds) || second % seconds > 0
        };
        if let Some(interval) = report.intervals.iter().find(is_implausible) {
            let Interval { second, seconds, .. } = interval;
            return Err(ReadError::Implausible(format!("an interval of {seconds} s at second {second}")));
        }
    }
    Ok(document)
}

/// The longest run: ten years.
const SECONDS_MAX: u64 = 10 * 366 * 86_400;
/// The same for names that end in `_ns`.
const TIME_NS_MAX: f64 = SECONDS_MAX as f64 * 1e9;
/// The limit of all other numbers: every reader reads them exactly, and no run has more.
const NUMBER_MAX: f64 = (1_u64 << 53) as f64;

/// Checks that blaster could have measured every number in `value`, the field `name`.
fn check_numbers(name: &str, value: &serde_json::Value) -> Result<(), ReadError> {
    use serde_json::Value;
    match value {
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| check_numbers(name, value)),
        Value::Array(values) => values.iter().try_for_each(|value| check_numbers(name, value)),
        // no calculation uses it, and --seed takes any number
        Value::Number(_) if name == "seed" => Ok(()),
        Value::Number(number) => {
            let most = if name.ends_with("_ns") { TIME_NS_MAX } else { NUMBER_MAX };
            // NaN is not within the limit
            let within = number.as_f64().is_some_and(|number| number.abs() <= most);
            if within { Ok(()) } else { Err(ReadError::Implausible(format!("{name} {number}"))) }
        }
        _ => Ok(()),
    }
}
