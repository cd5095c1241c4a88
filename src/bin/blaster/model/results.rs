//! The results of a worker, and their sum.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Sub;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::counts::Connections;
use crate::model::latency::Latency;
use crate::model::outcomes::Outcomes;
use crate::model::receive_clock::Arrival;
use crate::model::reply_headers::ReplyHeaders;
use crate::model::tallies::Tallies;
use crate::model::timeline::Timeline;

/// An ICMP report: datagrams can't be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct IcmpReport {
    /// The sender of the report, a host or a router.
    pub(crate) from: IpAddr,
    /// The destination of the datagrams.
    pub(crate) about: SocketAddr,
    /// RFC 792, RFC 4443.
    pub(crate) icmp_type: u8,
    pub(crate) icmp_code: u8,
}

/// So many different reports are kept. The outcomes count all of them.
const ICMP_REPORTS_MAX: usize = 16;

/// So many wrong replies of each kind are kept for the report.
const EXAMPLES_MAX: usize = 3;

/// So many bytes of a wrong reply are kept.
const EXAMPLE_BYTES: usize = 16;

/// One wrong reply, for those who look for the cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Example {
    /// `corrupted`, `truncated`, `misdirected`, `crossed` or `unattributed`.
    pub(crate) kind: String,
    /// Its source. `null`: the kernel gave no address.
    pub(crate) came_from: Option<SocketAddr>,
    /// Its size. In a stream: the bytes before the message or the connection ended.
    pub(crate) came_bytes: usize,
    /// Its first bytes, at most 16.
    #[serde(default)]
    pub(crate) came_first: Vec<u8>,
    /// The message that it answers. `null`: none of this run.
    pub(crate) answers: Option<SentMessage>,
    /// If it answers none: the oldest message of the flow that had no answer then.
    #[serde(default)]
    pub(crate) in_flight: Option<SentMessage>,
    /// `crossed`: the message whose bytes came.
    #[serde(default)]
    pub(crate) bytes_of: Option<MessageNumber>,
}

/// The number of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct MessageNumber {
    /// The flow or connection.
    pub(crate) flow: u32,
    /// Its number in the flow, from 0.
    pub(crate) sequence: u64,
}

/// The bytes of a message that an example shows.
pub(crate) fn first_bytes(message: &[u8]) -> Vec<u8> {
    message[..message.len().min(EXAMPLE_BYTES)].into()
}

/// The datagram or message that a wrong reply answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct SentMessage {
    pub(crate) sent_to: SocketAddr,
    pub(crate) sent_bytes: usize,
    /// The flow or connection.
    pub(crate) flow: u32,
    /// Its number in the flow, from 0.
    pub(crate) sequence: u64,
    /// Its first bytes, at most 16.
    #[serde(default)]
    pub(crate) sent_first: Vec<u8>,
    /// The first byte, from 0, in which the reply differs. `null`: the reply is a true beginning of the message, or the
    /// message and more.
    pub(crate) differs_at: Option<usize>,
    /// That byte, as sent.
    #[serde(default)]
    pub(crate) sent_byte: Option<u8>,
    /// That byte, as it came.
    #[serde(default)]
    pub(crate) came_byte: Option<u8>,
    /// How many bytes stand in the reply before the message. `null`: none.
    #[serde(default)]
    pub(crate) bytes_before: Option<usize>,
}

impl SentMessage {
    /// Message `number` to `sent_to`, which is `sent` in full, compared with the reply `came`.
    pub(crate) fn new(sent_to: SocketAddr, number: MessageNumber, sent: &[u8], came: &[u8]) -> Self {
        let differs_at = came.iter().zip(sent).position(|(came, sent)| came != sent);
        Self {
            sent_to,
            sent_bytes: sent.len(),
            flow: number.flow,
            sequence: number.sequence,
            sent_first: first_bytes(sent),
            differs_at,
            sent_byte: differs_at.map(|at| sent[at]),
            came_byte: differs_at.map(|at| came[at]),
            bytes_before: None,
        }
    }
}

/// Adds `example` to `kept`, unless there are enough of its kind.
pub(crate) fn keep_example(example: &Example, kept: &mut Vec<Example>) {
    if kept.iter().filter(|other| other.kind == example.kind).count() < EXAMPLES_MAX {
        kept.push(example.clone());
    }
}

/// How long a runnable thread waited for a processor, and how often it got one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuWaits {
    pub(crate) waited_ns: u64,
    /// How often it got a processor.
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

/// The times of a worker thread while it was sending.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(clippy::struct_field_names)] // units go last
pub(crate) struct ThreadTimes {
    /// Wall time from the first send to the last.
    pub(crate) elapsed_ns: u64,
    /// The time that the sent datagrams are spread over. A single datagram at 10/s covers a tenth of a second, though it
    /// is sent in no time.
    pub(crate) span_ns: u64,
    /// The processor time that it used.
    pub(crate) cpu_ns: u64,
    /// The part of that spent on watching the clock just before intended send times.
    pub(crate) pacing_ns: u64,
    pub(crate) waits: CpuWaits,
}

impl ThreadTimes {
    /// Processor time without pacing.
    pub(crate) fn work_ns(&self) -> u64 {
        self.cpu_ns.saturating_sub(self.pacing_ns)
    }

    /// The share of a core without pacing.
    pub(crate) fn cpu_share(&self) -> f64 {
        self.work_ns() as f64 / self.elapsed_ns.max(1) as f64
    }

    /// The share of the time that it waited for a processor. Waits no longer than a wake-up do not count.
    pub(crate) fn starved_share(&self) -> f64 {
        /// An idle processor needs about this long to start a thread.
        const WAKING_NS: u64 = 50_000;
        let CpuWaits { waited_ns, times } = self.waits;
        if waited_ns < times * WAKING_NS { 0.0 } else { waited_ns as f64 / self.elapsed_ns.max(1) as f64 }
    }

    /// The share of a core that pacing used.
    pub(crate) fn pacing_share(&self) -> f64 {
        self.pacing_ns as f64 / self.elapsed_ns.max(1) as f64
    }
}

/// How late blaster read the right replies.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// From the kernel's (or the NIC's) receive time until blaster read the reply.
    pub(crate) slip: Latency,
    /// Replies whose receive time is not known. Their latency ends when blaster read them.
    pub(crate) unstamped: u64,
    /// Replies with the time of the NIC.
    pub(crate) by_nic: u64,
    /// How often somebody set the host's clock.
    pub(crate) clock_steps: u64,
}

impl Reading {
    fn new() -> Self {
        Self { slip: Latency::new(), unstamped: 0, by_nic: 0, clock_steps: 0 }
    }

    /// Notes how late a reply was read, which the kernel had received at `received_ns`. `None`: that is not known.
    pub(crate) fn note(&mut self, arrival: Arrival, received_ns: Option<u64>) {
        match received_ns {
            Some(received_ns) => {
                self.slip.record(arrival.read_ns.saturating_sub(received_ns));
                self.by_nic += u64::from(arrival.is_by_nic());
            }
            None => self.unstamped += 1,
        }
    }

    fn merge(&mut self, other: &Self) {
        self.slip.merge(&other.slip);
        self.unstamped += other.unstamped;
        self.by_nic += other.by_nic;
        // all workers have the same clock
        self.clock_steps = self.clock_steps.max(other.clock_steps);
    }
}

/// The results of one worker, or of all.
// 16 fields: each is a part of the report of its own
#[derive(Clone, Debug)]
pub(crate) struct Results {
    pub(crate) outcomes: Outcomes,
    /// The latency of right replies, in time or late, for each second. It counts from the intended send time, which outside
    /// the open loop is the actual one.
    pub(crate) round_trips: Timeline,
    /// The same from the actual send time, without seconds. Open loop only.
    pub(crate) from_actual: Latency,
    /// Actual less intended send time. Open loop only.
    pub(crate) slip: Latency,
    /// UDP only.
    pub(crate) reading: Reading,
    /// One entry for each worker.
    pub(crate) thread_times: Vec<ThreadTimes>,
    /// Datagrams that blaster's own sockets dropped: their receive buffers were full.
    pub(crate) own_drops: u64,
    /// Datagrams that were given up before their timeout: the table needed their place.
    pub(crate) forgotten: u64,
    /// Datagrams of the schedule that were not sent before the time was up.
    pub(crate) unsent: u64,
    pub(crate) icmp_reports: BTreeMap<IcmpReport, u64>,
    /// The first wrong replies of each kind.
    pub(crate) examples: Vec<Example>,
    /// Local send failures by errno; TCP: failed and broken connections.
    pub(crate) local_errors: BTreeMap<i32, u64>,
    /// Of the measured time.
    pub(crate) destinations: Tallies<SocketAddr>,
    /// With `--each-once` and `--source`.
    pub(crate) sources: Tallies<IpAddr>,
    /// TCP only.
    pub(crate) connections: Connections,
    /// The smallest receive buffer of the sockets.
    pub(crate) receive_buffer_bytes: u64,
    /// Of right replies of the measured time.
    pub(crate) reply_headers: ReplyHeaders,
}

impl Results {
    /// No results yet, in a run with this warmup.
    pub(crate) fn new(warmup: Duration) -> Self {
        Self {
            outcomes: Outcomes::new(warmup),
            round_trips: Timeline::new(warmup),
            from_actual: Latency::new(),
            slip: Latency::new(),
            reading: Reading::new(),
            thread_times: Vec::new(),
            own_drops: 0,
            forgotten: 0,
            unsent: 0,
            icmp_reports: BTreeMap::new(),
            examples: Vec::new(),
            local_errors: BTreeMap::new(),
            destinations: Tallies::default(),
            sources: Tallies::default(),
            connections: Connections::default(),
            receive_buffer_bytes: u64::MAX,
            reply_headers: ReplyHeaders::new(),
        }
    }

    pub(crate) fn note_icmp_report(&mut self, icmp_report: IcmpReport) {
        if self.icmp_reports.len() < ICMP_REPORTS_MAX || self.icmp_reports.contains_key(&icmp_report) {
            *self.icmp_reports.entry(icmp_report).or_default() += 1;
        }
    }

    /// Whether fewer wrong replies of this kind are kept than the report shows.
    pub(crate) fn wants_example(&self, kind: &str) -> bool {
        self.examples.iter().filter(|example| example.kind == kind).count() < EXAMPLES_MAX
    }

    /// The reply that was taken for the answer to this message was none: the true one has come.
    pub(crate) fn correct_example(&mut self, number: MessageNumber) {
        let is_meant = |example: &Example| {
            let answers = example.answers.as_ref();
            answers.is_some_and(|sent| (sent.flow, sent.sequence) == (number.flow, number.sequence))
        };
        let Some(at) = self.examples.iter().position(is_meant) else { return };
        let mut example = self.examples.remove(at);
        example.in_flight = example.answers.take();
        if example.bytes_of.is_none() {
            example.kind = "unattributed".into();
        }
        keep_example(&example, &mut self.examples);
    }

    pub(crate) fn note_local_error(&mut self, errno: i32) {
        *self.local_errors.entry(errno).or_default() += 1;
    }

    /// Adds the results of another worker.
    pub(crate) fn merge(&mut self, other: &Results) {
        self.outcomes.merge(&other.outcomes);
        self.round_trips.merge(&other.round_trips);
        self.from_actual.merge(&other.from_actual);
        self.slip.merge(&other.slip);
        self.reading.merge(&other.reading);
        self.thread_times.extend(&other.thread_times);
        self.own_drops += other.own_drops;
        self.forgotten += other.forgotten;
        self.unsent += other.unsent;
        for (icmp_report, count) in &other.icmp_reports {
            *self.icmp_reports.entry(*icmp_report).or_default() += count;
        }
        for example in &other.examples {
            keep_example(example, &mut self.examples);
        }
        for (errno, count) in &other.local_errors {
            *self.local_errors.entry(*errno).or_default() += count;
        }
        self.destinations.merge(&other.destinations);
        self.sources.merge(&other.sources);
        self.connections += &other.connections;
        self.receive_buffer_bytes = self.receive_buffer_bytes.min(other.receive_buffer_bytes);
        self.reply_headers.merge(&other.reply_headers);
    }
}
