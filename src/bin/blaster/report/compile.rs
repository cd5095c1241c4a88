//! The report of a run, from the results of its workers.

use std::net::SocketAddr;
use std::time::SystemTime;

use ipnet::IpNet;

use crate::model::counts::{Fault, Tally};
use crate::model::outcomes::Second;
use crate::model::results::{Results, ThreadTimes};
use crate::model::spans::Span;
use crate::model::summary::{self, Group};
use crate::report::replies::Replies;
use crate::report::schema::{
    FAULTS_MAX, FaultyPlaces, Generator, Host, IcmpErrors, Interval, Latencies, Load, LocalErrors, Places,
    Report, SCHEMA, Totals, VERSION,
};

/// The facts of a run beside its results.
#[derive(Clone, Debug)]
pub(crate) struct RunFacts {
    pub(crate) command_line: Vec<String>,
    pub(crate) started_at: SystemTime,
    pub(crate) host: Host,
    pub(crate) load: Load,
    pub(crate) scope: Scope,
    /// Whether a signal ended it.
    pub(crate) ended_early: bool,
}

/// The destinations and sources of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    /// The networks of the targets.
    pub(crate) nets: Vec<IpNet>,
    pub(crate) source: Option<IpNet>,
    /// With `--each-once`: how many destinations are visited, unless a signal ends the run.
    pub(crate) planned: Option<u64>,
    /// With `--each-once`: which destinations these are, if not all.
    pub(crate) sample: Option<String>,
}

impl Report {
    /// The report of a run. Its warnings and conditions are added later, since they need the report.
    pub(crate) fn new(facts: RunFacts, results: &Results) -> Self {
        let RunFacts { command_line, started_at, host, load, scope, ended_early } = facts;
        let longest_ns = results.thread_times.iter().map(|times| times.span_ns).max().unwrap_or(0);
        let elapsed_ns = longest_ns.saturating_sub(load.warmup_ns);
        let is_tcp = load.protocol == "tcp";
        Self {
            schema: SCHEMA.into(),
            version: VERSION,
            blaster: env!("CARGO_PKG_VERSION").into(),
            command_line,
            started_at: humantime::format_rfc3339_millis(started_at).to_string(),
            hosts: vec![host],
            elapsed_ns,
            ended_early,
            totals: totals(results, elapsed_ns),
            warmup: results.outcomes.warmup().counts,
            latency: latencies(results, load.is_scheduled()),
            generator: generator(results, &load),
            icmp_errors: icmp_errors(results),
            examples: results.examples.clone(),
            refusals: local_errors(results),
            destinations: Some(destinations(results, &scope)),
            sources: sources(results, &scope),
            outages: None,
            replies: replies(results, &load),
            connections: is_tcp.then_some(results.connections),
            server: None,
            intervals: intervals(results),
            load,
            warnings: Vec::new(),
            fail_if: Vec::new(),
        }
    }
}

fn mean(sum: u64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { sum as f64 / count as f64 }
}

fn totals(results: &Results, elapsed_ns: u64) -> Totals {
    let total = results.outcomes.total();
    let per_s = |count: u64| if elapsed_ns == 0 { 0.0 } else { count as f64 * 1e9 / elapsed_ns as f64 };
    Totals {
        counts: total.counts,
        own_drops: results.own_drops,
        reorder_distance_mean: mean(total.reorder_distance_sum, total.counts.reordered),
        reorder_distance_max: total.reorder_distance_max,
        sent_per_s: per_s(total.counts.sent),
        ok_per_s: per_s(total.counts.ok),
    }
}

fn latencies(results: &Results, is_scheduled: bool) -> Latencies {
    let from_intended = results.round_trips.total().summary();
    Latencies {
        from_actual: if is_scheduled { results.from_actual.summary() } else { from_intended.clone() },
        from_intended,
    }
}

fn generator(results: &Results, load: &Load) -> Generator {
    let is_tcp = load.protocol == "tcp";
    let has_receive_times = load.receive_time.as_ref().is_some_and(|receive_time| receive_time != "own");
    let reading = &results.reading;
    let all_sent = results.outcomes.total().counts.sent + results.outcomes.warmup().counts.sent;
    let threads = || results.thread_times.iter();
    let no_socket = u64::MAX;
    Generator {
        slip: results.slip.summary(),
        reading_slip: reading.slip.summary(),
        unstamped: if has_receive_times { reading.unstamped } else { 0 },
        stamped_by_nic: reading.by_nic,
        clock_steps: reading.clock_steps,
        cpu_ns_per_datagram: mean(threads().map(ThreadTimes::work_ns).sum(), all_sent),
        cpu_share: threads().map(ThreadTimes::cpu_share).collect(),
        pacing_share: threads().map(ThreadTimes::pacing_share).collect(),
        starved_share: threads().map(ThreadTimes::starved_share).collect(),
        unsent: results.unsent,
        forgotten: results.forgotten,
        receive_buffer_bytes: (!is_tcp)
            .then_some(results.receive_buffer_bytes)
            .filter(|bytes| *bytes < no_socket),
    }
}

/// `None`: the run did not ask for headers.
fn replies(results: &Results, load: &Load) -> Option<Replies> {
    let is_asked = load.protocol == "udp" && (load.packets.dscp.is_some() || load.packets.ttl.is_some());
    is_asked.then(|| Replies::new(load.packets.dscp.unwrap_or(0), &results.reply_headers))
}

fn icmp_errors(results: &Results) -> Vec<IcmpErrors> {
    let reports = results.icmp_reports.iter();
    let errors = reports.map(|(report, &count)| IcmpErrors {
        from: report.from.to_string(),
        about: report.about.to_string(),
        icmp_type: report.icmp_type,
        icmp_code: report.icmp_code,
        count,
    });
    errors.collect()
}

fn local_errors(results: &Results) -> Vec<LocalErrors> {
    let errors = results.local_errors.iter();
    errors.map(|(&errno, &count)| LocalErrors { errno, message: meaning(errno), count }).collect()
}

fn destinations(results: &Results, scope: &Scope) -> Places {
    let visited = results.destinations.named();
    let not_visited = scope.planned.map_or(0, |planned| planned.saturating_sub(visited.len() as u64));
    let only_faults = results.destinations.has_only_faults();
    // what is not known can't be in a prefix
    let nets = if only_faults { &[] } else { scope.nets.as_slice() };
    Places { not_visited, only_faults, sample: scope.sample.clone(), ..places(&visited, nets) }
}

fn sources(results: &Results, scope: &Scope) -> Option<Places> {
    let visited = results.sources.named();
    let visited: Vec<_> = visited.iter().map(|(ip, tally)| ((*ip, 0).into(), *tally)).collect();
    (!visited.is_empty()).then(|| places(&visited, &Vec::from_iter(scope.source)))
}

fn places(visited: &[(SocketAddr, Tally)], nets: &[IpNet]) -> Places {
    let with = |fault| visited.iter().filter(|(_, tally)| tally.fault() == fault).count() as u64;
    let groups = summary::summarize(visited, nets);
    Places {
        visited: visited.len() as u64,
        ok: with(None),
        misdirected: with(Some(Fault::Misdirected)),
        corrupted: with(Some(Fault::Corrupted)),
        silent: with(Some(Fault::Silent)),
        lossy: with(Some(Fault::Lossy)),
        late: with(Some(Fault::Late)),
        unsendable: with(Some(Fault::Unsendable)),
        more: groups.iter().skip(FAULTS_MAX).map(|group| group.destinations).sum(),
        faults: groups.iter().take(FAULTS_MAX).map(faulty).collect(),
        ..Places::default()
    }
}

fn faulty(group: &Group) -> FaultyPlaces {
    FaultyPlaces {
        place: group.place(),
        prefix: group.net.to_string(),
        ports: group.ports.words(),
        fault: group.fault,
        visited: group.destinations,
        tally: group.tally,
    }
}

fn intervals(results: &Results) -> Vec<Interval> {
    let interval = |(span, outcomes): (Span, Second)| Interval {
        second: span.begin,
        seconds: span.seconds,
        counts: outcomes.counts,
        latency: results.round_trips.latency(span).summary(),
    };
    results.outcomes.spans().map(interval).collect()
}

/// The meaning of an errno, and the usual cure.
fn meaning(errno: i32) -> String {
    let error = std::io::Error::from_raw_os_error(errno);
    match errno {
        libc::EMSGSIZE => format!(
            "{error}; the MTU of the path to the target is smaller (`ip link`, `ip route get`): use a smaller --size, \
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
    use crate::model::counts::Counts;
    use crate::report::sample::report;

    #[test]
    fn the_json_has_the_documented_names() {
        let counts = Counts { sent: 100, ok: 97, lost: 3, ..Counts::default() };
        let json = serde_json::to_value(report(counts)).unwrap();
        assert_eq!((&json["schema"], &json["version"]), (&"blaster-report".into(), &2.into()));
        assert_eq!(json["started_at"], "1970-01-01T00:00:00.000Z");
        for name in Counts::NAMES.iter().chain(&["own_drops"]) {
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
