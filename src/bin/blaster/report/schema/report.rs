//! The report of one run.

use serde::{Deserialize, Serialize};

use super::errors::{IcmpErrors, LocalErrors};
use super::fail_if::ConditionResult;
use super::generator::Generator;
use super::hosts::{Host, distinct_hosts};
use super::intervals::Interval;
use super::latency::Latencies;
use super::load::Load;
use super::places::{Outages, Places};
use super::server::Server;
use super::totals::Totals;
use crate::model::counts::{Connections, Counts};
use crate::model::results::Example;
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

    /// Datagrams that every byte came back for, with the warmup.
    pub(crate) fn right(&self) -> u64 {
        self.totals.counts.right() + self.warmup.right()
    }

    /// Datagrams that something came back for, with the warmup.
    pub(crate) fn answered(&self) -> u64 {
        self.totals.counts.answered() + self.warmup.answered()
    }
}

/// The arguments of blaster; what is not UTF-8 is replaced.
pub(crate) fn command_line() -> Vec<String> {
    std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect()
}
