//! The report of a run, made of what its workers bring home.

use std::time::SystemTime;

use crate::model::results::{Results, ThreadTimes};
use crate::report::schema::{
    Generator, Host, IcmpErrors, Interval, Latencies, Load, LocalErrors, Report, SCHEMA, Totals, VERSION,
};

/// What a run was, beside its results.
#[derive(Clone, Debug)]
pub(crate) struct RunFacts {
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
    pub(crate) fn new(facts: RunFacts, results: &Results) -> Self {
        let RunFacts { command_line, started_at, host, load, ended_early } = facts;
        let total = results.outcomes.total();
        let warmup = results.outcomes.warmup().counts;
        let longest_ns = results.thread_times.iter().map(|times| times.span_ns).max().unwrap_or(0);
        let elapsed_ns = longest_ns.saturating_sub(load.warmup_ns);
        let per_s = |count: u64| if elapsed_ns == 0 { 0.0 } else { count as f64 * 1e9 / elapsed_ns as f64 };
        let work_ns: u64 = results.thread_times.iter().map(ThreadTimes::work_ns).sum();
        let all_sent = total.counts.sent + warmup.sent;
        let mean = |sum: u64, count: u64| if count == 0 { 0.0 } else { sum as f64 / count as f64 };
        let is_tcp = load.protocol == "tcp";
        let is_scheduled = load.rate_per_s.is_some();
        let from_intended = results.round_trips.total().summary();
        Self {
            schema: SCHEMA.into(),
            version: VERSION,
            blaster: env!("CARGO_PKG_VERSION").into(),
            command_line,
            started_at: humantime::format_rfc3339_millis(started_at).to_string(),
            hosts: vec![host],
            elapsed_ns,
            ended_early,
            totals: Totals {
                counts: total.counts,
                own_drops: results.own_drops,
                reorder_distance_mean: mean(total.reorder_distance_sum, total.counts.reordered),
                reorder_distance_max: total.reorder_distance_max,
                sent_per_s: per_s(total.counts.sent),
                ok_per_s: per_s(total.counts.ok),
            },
            warmup,
            latency: Latencies {
                from_actual: if is_scheduled { results.from_actual.summary() } else { from_intended.clone() },
                from_intended,
            },
            generator: Generator {
                slip: results.slip.summary(),
                cpu_ns_per_datagram: mean(work_ns, all_sent),
                cpu_share: results.thread_times.iter().map(ThreadTimes::share).collect(),
                pacing_share: results.thread_times.iter().map(ThreadTimes::pacing_share).collect(),
                starved_share: results.thread_times.iter().map(ThreadTimes::starved_share).collect(),
                unsent: results.unsent,
                forgotten: results.forgotten,
                receive_buffer_bytes: (!is_tcp)
                    .then_some(results.receive_buffer_bytes)
                    .filter(|bytes| *bytes < u64::MAX), // no socket was made
            },
            icmp_errors: results
                .icmp_reports
                .iter()
                .map(|(icmp_report, &count)| IcmpErrors {
                    from: icmp_report.from.to_string(),
                    about: icmp_report.about.to_string(),
                    icmp_type: icmp_report.icmp_type,
                    icmp_code: icmp_report.icmp_code,
                    count,
                })
                .collect(),
            examples: results.examples.clone(),
            refusals: results
                .refusals
                .iter()
                .map(|(&errno, &count)| LocalErrors { errno, message: meaning(errno), count })
                .collect(),
            connections: is_tcp.then_some(results.connections),
            intervals: (0..)
                .zip(results.outcomes.seconds())
                .map(|(second, page)| Interval {
                    second,
                    counts: page.counts,
                    latency: results.round_trips.second(second).summary(),
                })
                .collect(),
            load,
            warnings: Vec::new(),
            fail_if: Vec::new(),
        }
    }
}

/// What an error number means, and what usually helps.
fn meaning(errno: i32) -> String {
    let error = std::io::Error::from_raw_os_error(errno);
    match errno {
        libc::EMSGSIZE => format!(
            "{error}; the MTU of the way to the target is smaller (`ip link`, `ip route get`): use a smaller --size, \
             and with --gso one that fits the MTU with its IP and UDP headers (28 bytes, IPv6: 48)"
        ),
        libc::EACCES => format!(
            "{error}; the target has addresses that are broadcast here, or prohibited by a route: leave them out \
             (`ip route show table all` lists both)"
        ),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use crate::model::outcomes::Counts;
    use crate::report::sample::report;

    #[test]
    fn the_json_has_the_documented_names() {
        let counts = Counts { sent: 100, ok: 97, lost: 3, ..Counts::default() };
        let json = serde_json::to_value(report(counts)).unwrap();
        assert_eq!((&json["schema"], &json["version"]), (&"blaster-report".into(), &2.into()));
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
        assert_eq!(json["intervals"][0]["latency"]["count"], 97);
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
