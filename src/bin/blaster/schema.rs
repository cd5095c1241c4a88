//! The report as data: what `--json` writes, and what the table and `--fail-if` read.
//!
//! Version 1. Fields are only ever added within a version; times are nanoseconds and say so in their
//! names; counts are datagrams (TCP: messages). `totals` covers what was measured, without the warmup,
//! and balances: sent = ok + corrupted + truncated + misdirected + late + lost + unreachable. So does
//! each of the `intervals`, since a datagram is booked in the second in which it was meant to be sent.

use std::time::SystemTime;

use serde::Serialize;

use crate::books::{Counts, Second};
use crate::latency::Percentiles;
use crate::tally::{Connections, Effort, Tally};

/// The name of the format.
pub(crate) const SCHEMA: &str = "blaster-report";
/// Its version.
pub(crate) const VERSION: u32 = 1;

/// A run, from the command line to the last percentile.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// Always [`SCHEMA`].
    pub(crate) schema: &'static str,
    /// Always [`VERSION`].
    pub(crate) version: u32,
    /// The version of blaster.
    pub(crate) blaster: &'static str,
    /// As it was called.
    pub(crate) command_line: Vec<String>,
    /// When it began, RFC 3339, UTC.
    pub(crate) started_at: String,
    /// Where it ran.
    pub(crate) host: Host,
    /// What was sent.
    pub(crate) load: Load,
    /// Measured time from the first send to the last, without the warmup.
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
    /// What the local kernel refused; for TCP, why connections failed or broke.
    pub(crate) refusals: Vec<Refusals>,
    /// TCP only.
    pub(crate) connections: Option<Connections>,
    /// Each second.
    pub(crate) intervals: Vec<Interval>,
    /// What a reader must know before believing the rest.
    pub(crate) warnings: Vec<String>,
    /// The conditions of `--fail-if`.
    pub(crate) fail_if: Vec<Judged>,
}

/// Where blaster ran.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Host {
    /// Release of the kernel.
    pub(crate) kernel: String,
    /// Model of the processor.
    pub(crate) cpu: String,
    /// Processors that blaster could use.
    pub(crate) processors: usize,
}

/// What was sent.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Load {
    /// `udp` or `tcp`.
    pub(crate) protocol: &'static str,
    /// The mode's name.
    pub(crate) mode: String,
    /// The targets as given.
    pub(crate) targets: Vec<String>,
    /// Tells this run's datagrams from others'.
    pub(crate) run_id: String,
    /// Where random choices began.
    pub(crate) seed: u64,
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
    /// Later than this is late.
    pub(crate) timeout_ns: u64,
    /// What was sent before measuring.
    pub(crate) warmup_ns: u64,
    /// How long to measure, as asked.
    pub(crate) duration_ns: Option<u64>,
    /// How many to measure, as asked.
    pub(crate) count: Option<u64>,
}

/// The books, added up.
#[derive(Clone, Copy, Debug, Default, Serialize)]
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
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Latencies {
    /// From the intended send time. Outside the open loop that is the actual one.
    pub(crate) from_intended: Option<Percentiles>,
    /// From the actual send time.
    pub(crate) from_actual: Option<Percentiles>,
}

/// What blaster itself did.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Generator {
    /// Actual less intended send time. `null` outside the open loop.
    pub(crate) slip: Option<Percentiles>,
    /// Processor time of the sending threads per datagram sent (warmup included), pacing left out.
    pub(crate) cpu_ns_per_datagram: f64,
    /// For each thread, the share of a core that its work took, pacing left out.
    pub(crate) cpu_share: Vec<f64>,
    /// For each thread, the share of a core spent looking at the clock before intended send times.
    pub(crate) pacing_share: Vec<f64>,
    /// Datagrams of the schedule that were never sent, since the time was up.
    pub(crate) unsent: u64,
    /// Datagrams given up before their timeout, since blaster could not remember more.
    pub(crate) forgotten: u64,
    /// The smallest receive buffer among its sockets, in bytes; UDP only.
    pub(crate) receive_buffer_bytes: Option<u64>,
}

/// ICMP errors of one kind.
#[derive(Clone, Debug, Serialize)]
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
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Refusals {
    /// The error number.
    pub(crate) errno: i32,
    /// Its meaning.
    pub(crate) message: String,
    /// How many datagrams or connections it concerned.
    pub(crate) count: u64,
}

/// One second.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Interval {
    /// Seconds since the measured part began.
    pub(crate) second: u64,
    /// What became of the datagrams that were meant to be sent in it.
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// Mean latency of their right replies, from the intended send time. `null`: there was none.
    pub(crate) latency_mean_ns: Option<u64>,
    /// The longest. `null`: there was none.
    pub(crate) latency_max_ns: Option<u64>,
}

/// One condition of `--fail-if`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Judged {
    /// The condition as given.
    pub(crate) condition: String,
    /// What was measured.
    pub(crate) measured: String,
    /// Whether it holds, and the run has failed.
    pub(crate) failed: bool,
}

impl Interval {
    fn new(second: u64, page: &Second) -> Self {
        let any = page.round_trips > 0;
        Self {
            second,
            counts: page.counts,
            latency_mean_ns: any.then(|| page.round_trips_sum_ns / page.round_trips),
            latency_max_ns: any.then_some(page.round_trips_max_ns),
        }
    }
}

/// What a run was, beside its results.
#[derive(Clone, Debug)]
pub(crate) struct Preface {
    /// As blaster was called.
    pub(crate) command_line: Vec<String>,
    /// When the run began.
    pub(crate) started_at: SystemTime,
    /// Where.
    pub(crate) host: Host,
    /// With what.
    pub(crate) load: Load,
    /// Whether a signal ended it.
    pub(crate) ended_early: bool,
}

impl Report {
    /// The report of a run with these results; without warnings and verdicts, which read it.
    pub(crate) fn new(preface: Preface, tally: &Tally) -> Self {
        let Preface { command_line, started_at, host, load, ended_early } = preface;
        let total = tally.books.total();
        let warmup = tally.books.warmup().counts;
        let longest_ns = tally.efforts.iter().map(|effort| effort.elapsed_ns).max().unwrap_or(0);
        let elapsed_ns = longest_ns.saturating_sub(load.warmup_ns);
        let per_s = |count: u64| if elapsed_ns == 0 { 0.0 } else { count as f64 * 1e9 / elapsed_ns as f64 };
        let work_ns: u64 = tally.efforts.iter().map(Effort::work_ns).sum();
        let all_sent = total.counts.sent + warmup.sent;
        let mean = |sum: u64, count: u64| if count == 0 { 0.0 } else { sum as f64 / count as f64 };
        let is_tcp = load.protocol == "tcp";
        let is_scheduled = load.rate_per_s.is_some();
        let from_actual = tally.from_actual.summary();
        Self {
            schema: SCHEMA,
            version: VERSION,
            blaster: env!("CARGO_PKG_VERSION"),
            command_line,
            started_at: humantime::format_rfc3339_millis(started_at).to_string(),
            host,
            elapsed_ns,
            ended_early,
            totals: Totals {
                counts: total.counts,
                own_drops: tally.own_drops,
                reorder_distance_mean: mean(total.reorder_distance_sum, total.counts.reordered),
                reorder_distance_max: total.reorder_distance_max,
                sent_per_s: per_s(total.counts.sent),
                ok_per_s: per_s(total.counts.ok),
            },
            warmup,
            latency: Latencies {
                from_intended: if is_scheduled { tally.from_intended.summary() } else { from_actual },
                from_actual,
            },
            generator: Generator {
                slip: tally.slip.summary(),
                cpu_ns_per_datagram: mean(work_ns, all_sent),
                cpu_share: tally.efforts.iter().map(Effort::share).collect(),
                pacing_share: tally.efforts.iter().map(Effort::pacing_share).collect(),
                unsent: tally.unsent,
                forgotten: tally.forgotten,
                receive_buffer_bytes: (!is_tcp).then_some(tally.receive_buffer_bytes),
            },
            icmp_errors: tally
                .complaints
                .iter()
                .map(|(complaint, &count)| IcmpErrors {
                    from: complaint.from.to_string(),
                    about: complaint.about.to_string(),
                    icmp_type: complaint.icmp_type,
                    icmp_code: complaint.icmp_code,
                    count,
                })
                .collect(),
            refusals: tally
                .refusals
                .iter()
                .map(|(&errno, &count)| Refusals {
                    errno,
                    message: std::io::Error::from_raw_os_error(errno).to_string(),
                    count,
                })
                .collect(),
            connections: is_tcp.then_some(tally.connections),
            intervals: (0..)
                .zip(tally.books.seconds())
                .map(|(second, page)| Interval::new(second, page))
                .collect(),
            load,
            warnings: Vec::new(),
            fail_if: Vec::new(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;

    /// The report of a second in which `counts` came to pass, each right reply after a millisecond.
    pub(crate) fn report(counts: Counts) -> Report {
        let mut tally = Tally::new(Duration::ZERO);
        tally.books.page(0).counts = counts;
        for _ in 0..counts.ok {
            tally.books.page(0).round_trip(1_000_000);
            tally.from_actual.record(1_000_000);
        }
        tally.efforts.push(Effort { elapsed_ns: 1_000_000_000, cpu_ns: 400_000_000, pacing_ns: 100_000_000 });
        let preface = Preface {
            command_line: vec!["blaster".into(), "udp".into(), "127.0.0.1:7".into()],
            started_at: SystemTime::UNIX_EPOCH,
            host: Host::default(),
            load: Load { protocol: "udp", mode: "closed".into(), ..Load::default() },
            ended_early: false,
        };
        Report::new(preface, &tally)
    }

    #[test]
    fn the_json_has_the_documented_names() {
        let counts = Counts { sent: 100, ok: 97, lost: 3, ..Counts::default() };
        let json = serde_json::to_value(report(counts)).unwrap();
        assert_eq!((&json["schema"], &json["version"]), (&"blaster-report".into(), &1.into()));
        assert_eq!(json["started_at"], "1970-01-01T00:00:00.000Z");
        for name in [
            "sent",
            "ok",
            "corrupted",
            "truncated",
            "misdirected",
            "late",
            "lost",
            "unreachable",
            "duplicated",
            "reordered",
            "unattributed",
            "send_failures",
            "own_drops",
        ] {
            assert!(json["totals"][name].is_u64(), "{name}");
        }
        assert_eq!(json["totals"]["ok_per_s"], 97.0);
        assert_eq!(json["intervals"][0]["lost"], 3);
        assert_eq!(json["intervals"][0]["latency_mean_ns"], 1_000_000);
        assert_eq!(json["generator"]["cpu_ns_per_datagram"], 3_000_000.0);
        assert!(json["latency"]["from_intended"]["p99_99_ns"].is_u64());
        assert!(json["latency"]["from_actual"]["p50_ns"].is_u64());
    }

    #[test]
    fn nothing_measured_is_null() {
        let json = serde_json::to_value(report(Counts::default())).unwrap();
        assert!(json["latency"]["from_intended"].is_null());
        assert!(json["generator"]["slip"].is_null());
    }
}
