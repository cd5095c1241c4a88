//! What a worker brings home, and what the workers of a run come to together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::{AddAssign, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::latency::Latency;
use crate::model::outcomes::Outcomes;
use crate::model::timeline::Timeline;

/// Who reported by ICMP that datagrams can't be delivered, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct IcmpReport {
    /// The host or router that sent the report.
    pub(crate) from: std::net::IpAddr,
    /// The address and port that the datagrams were sent to.
    pub(crate) about: SocketAddr,
    /// ICMP type (RFC 792, RFC 4443).
    pub(crate) icmp_type: u8,
    /// ICMP code.
    pub(crate) icmp_code: u8,
}

/// So many different complaints are kept apart; the books count them all.
const ICMP_REPORTS_MAX: usize = 16;

/// So many wrong replies of each kind are kept to look at.
const EXAMPLES_MAX: usize = 3;

/// One wrong reply, for whoever looks for the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Example {
    /// `corrupted`, `truncated`, `misdirected` or `unattributed`.
    pub(crate) kind: String,
    /// Where it came from. `null`: no address that is known.
    pub(crate) came_from: Option<SocketAddr>,
    /// Its bytes; of a stream those until the message, or the connection, ended.
    pub(crate) came_bytes: usize,
    /// What it answers. `null`: nothing of ours.
    pub(crate) answers: Option<SentMessage>,
}

/// The datagram or message that a wrong reply answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SentMessage {
    /// Where it was sent to.
    pub(crate) sent_to: SocketAddr,
    /// Its bytes.
    pub(crate) sent_bytes: usize,
    /// Its flow or connection.
    pub(crate) flow: u32,
    /// Its number there, from 0.
    pub(crate) sequence: u64,
    /// The first byte, from 0, in which the reply is another. `null`: it is the same as far as it goes.
    pub(crate) differs_at: Option<usize>,
}

/// Keeps `example` unless there are enough of its kind.
pub(crate) fn keep(example: &Example, kept: &mut Vec<Example>) {
    if kept.iter().filter(|other| other.kind == example.kind).count() < EXAMPLES_MAX {
        kept.push(example.clone());
    }
}

/// How long a thread waited for a processor though it could have run, and how often it got one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuWaits {
    /// Nanoseconds in all.
    pub(crate) waited_ns: u64,
    /// Times on a processor.
    pub(crate) times: u64,
}

impl Sub for CpuWaits {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            waited_ns: self.waited_ns.saturating_sub(before.waited_ns),
            times: self.times.saturating_sub(before.times),
        }
    }
}

/// How hard a generator thread worked while it was sending.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(clippy::struct_field_names)] // units go last
pub(crate) struct ThreadTimes {
    /// Wall time from the first send to the last.
    pub(crate) elapsed_ns: u64,
    /// The time that what it sent is spread over: one datagram of ten a second covers a tenth of a second, though
    /// it is sent in no time.
    pub(crate) span_ns: u64,
    /// Its CPU clock over that time.
    pub(crate) cpu_ns: u64,
    /// Of that, spent looking at the clock just before an intended send time.
    pub(crate) pacing_ns: u64,
    /// How long it waited for a processor though it could have run, and how often.
    pub(crate) waits: CpuWaits,
}

impl ThreadTimes {
    /// Processor time, pacing left out.
    pub(crate) fn work_ns(&self) -> u64 {
        self.cpu_ns.saturating_sub(self.pacing_ns)
    }

    /// The share of a core that the work took, pacing left out.
    pub(crate) fn share(&self) -> f64 {
        self.work_ns() as f64 / self.elapsed_ns.max(1) as f64
    }

    /// The share of the time that it waited for a processor; waits that are no longer than it takes to wake up
    /// are none.
    pub(crate) fn starved_share(&self) -> f64 {
        /// An idle processor takes this long to begin, an average one.
        const WAKING_NS: u64 = 50_000;
        let CpuWaits { waited_ns, times } = self.waits;
        if waited_ns < times * WAKING_NS { 0.0 } else { waited_ns as f64 / self.elapsed_ns.max(1) as f64 }
    }

    /// The share of a core that pacing took.
    pub(crate) fn pacing_share(&self) -> f64 {
        self.pacing_ns as f64 / self.elapsed_ns.max(1) as f64
    }
}

/// What became of the connections of a TCP run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Connections {
    /// Attempted.
    pub(crate) attempted: u64,
    /// Established.
    pub(crate) established: u64,
    /// Refused, timed out or otherwise not established.
    pub(crate) failed: u64,
    /// Established, then ended by the other side or by an error.
    pub(crate) broken: u64,
    /// Established, then ended by blaster, since what was sent had no answer.
    #[serde(default)]
    pub(crate) stuck: u64,
    /// Of the connections at a time, those that were in order at the end of the run: none in a run with a
    /// server that is gone.
    #[serde(default)]
    pub(crate) in_order_at_end: u64,
}

impl AddAssign<&Connections> for Connections {
    fn add_assign(&mut self, other: &Connections) {
        self.attempted += other.attempted;
        self.established += other.established;
        self.failed += other.failed;
        self.broken += other.broken;
        self.stuck += other.stuck;
        self.in_order_at_end += other.in_order_at_end;
    }
}

/// The results of one worker, or of all.
#[derive(Clone, Debug)]
pub(crate) struct Results {
    /// The classes, second by second.
    pub(crate) outcomes: Outcomes,
    /// How long right replies took, in time or late, second by second: from the intended send time, which
    /// outside the open loop is the actual one.
    pub(crate) round_trips: Timeline,
    /// The same from the actual send time. Open loop only.
    pub(crate) from_actual: Latency,
    /// Actual less intended send time. Open loop only.
    pub(crate) slip: Latency,
    /// How hard each worker worked.
    pub(crate) thread_times: Vec<ThreadTimes>,
    /// Datagrams that our own sockets dropped, their receive buffers being full.
    pub(crate) own_drops: u64,
    /// Datagrams given up because their place in the table was needed, before their timeout.
    pub(crate) forgotten: u64,
    /// Datagrams of the schedule that were never sent, since the time was up.
    pub(crate) unsent: u64,
    /// ICMP errors by kind.
    pub(crate) icmp_reports: BTreeMap<IcmpReport, u64>,
    /// A few of each kind of wrong replies.
    pub(crate) examples: Vec<Example>,
    /// Local send failures by errno; for TCP, failed and broken connections.
    pub(crate) refusals: BTreeMap<i32, u64>,
    /// TCP only.
    pub(crate) connections: Connections,
    /// The smallest receive buffer that a socket of ours got, in bytes.
    pub(crate) receive_buffer_bytes: u64,
}

impl Results {
    /// Nothing yet, in a run with this warmup.
    pub(crate) fn new(warmup: Duration) -> Self {
        Self {
            outcomes: Outcomes::new(warmup),
            round_trips: Timeline::new(warmup),
            from_actual: Latency::new(),
            slip: Latency::new(),
            thread_times: Vec::new(),
            own_drops: 0,
            forgotten: 0,
            unsent: 0,
            icmp_reports: BTreeMap::new(),
            examples: Vec::new(),
            refusals: BTreeMap::new(),
            connections: Connections::default(),
            receive_buffer_bytes: u64::MAX,
        }
    }

    /// Notes an ICMP error.
    pub(crate) fn complain(&mut self, icmp_report: IcmpReport) {
        if self.icmp_reports.len() < ICMP_REPORTS_MAX || self.icmp_reports.contains_key(&icmp_report) {
            *self.icmp_reports.entry(icmp_report).or_default() += 1;
        }
    }

    /// Whether a wrong reply of this kind is still worth a look.
    pub(crate) fn wants_example(&self, kind: &str) -> bool {
        self.examples.iter().filter(|example| example.kind == kind).count() < EXAMPLES_MAX
    }

    /// Notes what the local kernel refused.
    pub(crate) fn refuse(&mut self, errno: i32) {
        *self.refusals.entry(errno).or_default() += 1;
    }

    /// Adds another worker's results.
    pub(crate) fn merge(&mut self, other: &Results) {
        self.outcomes.merge(&other.outcomes);
        self.round_trips.merge(&other.round_trips);
        self.from_actual.merge(&other.from_actual);
        self.slip.merge(&other.slip);
        self.thread_times.extend(&other.thread_times);
        self.own_drops += other.own_drops;
        self.forgotten += other.forgotten;
        self.unsent += other.unsent;
        for (icmp_report, count) in &other.icmp_reports {
            *self.icmp_reports.entry(*icmp_report).or_default() += count;
        }
        for example in &other.examples {
            keep(example, &mut self.examples);
        }
        for (errno, count) in &other.refusals {
            *self.refusals.entry(*errno).or_default() += count;
        }
        self.connections += &other.connections;
        self.receive_buffer_bytes = self.receive_buffer_bytes.min(other.receive_buffer_bytes);
    }
}
