//! The reports of several machines that loaded the same targets at the same time, as one report.
//!
//! Counts, rates and histograms are added, each second of the wall clock with its own. Percentiles are never averaged: they
//! come from the sum of the histograms.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::model::counts::{Connections, Counts};
use crate::model::latency::{Latency, Percentiles};
use crate::model::results::{Example, keep_example};
use crate::model::spans::Span as Seconds;
use crate::model::units::duration;
use crate::report::names::NamedHost;
use crate::report::replies::Replies;
use crate::report::schema::{
    self, FAULTS_MAX, FaultyPlaces, Generator, IcmpErrors, Interval, Latencies, Load, LocalErrors, NamedRun,
    Places, ReadError, ReplayLoad, Report, SCHEMA, Totals, VERSION, distinct_hosts,
};

/// Runs that have less of their time in common did not really run at the same time.
const OVERLAP_MIN: f64 = 0.9;

#[derive(Debug, thiserror::Error)]
pub(crate) enum MergeError {
    #[error("nothing to merge")]
    Nothing,
    #[error(
        "{one} and {other} have different loads: {what} {here} and {there}; without --merge they are shown side by side"
    )]
    Different { one: String, other: String, what: &'static str, here: String, there: String },
    #[error("{one} and {other} hold the same run {run_id}: it would count twice")]
    Twice { one: String, other: String, run_id: String },
    #[error(
        "{one} had ended before {other} began: the rates of runs that did not run together don't add up; without --merge they are shown side by side"
    )]
    Apart { one: String, other: String },
    #[error("{0}: {1}")]
    Input(String, ReadError),
}

/// The measured time of a run.
struct Span {
    begin: SystemTime,
    end: SystemTime,
}

pub(crate) fn merge(runs: &[NamedRun]) -> Result<Report, MergeError> {
    let first = runs.first().ok_or(MergeError::Nothing)?;
    for (nth, run) in runs.iter().enumerate().skip(1) {
        check_same_load(first, run)?;
        runs[..nth].iter().try_for_each(|earlier| check_not_the_same_run(earlier, run))?;
    }
    let spans = runs.iter().map(span).collect::<Result<Vec<_>, _>>()?;
    let (begin, end) = check_together(runs, &spans)?;
    let elapsed_ns = end.duration_since(begin).unwrap_or_default().as_nanos() as u64;
    let reports: Vec<&Report> = runs.iter().map(|run| &run.report).collect();
    let latency = |of: fn(&Report) -> &Option<Percentiles>| sum(reports.iter().map(|report| of(report)));
    Ok(Report {
        schema: SCHEMA.into(),
        version: VERSION,
        blaster: env!("CARGO_PKG_VERSION").into(),
        command_line: schema::command_line(),
        started_at: reports.iter().map(|report| report.started_at.clone()).min().unwrap_or_default(),
        hosts: distinct_hosts(reports.iter().flat_map(|report| &report.hosts)),
        load: load(&reports),
        elapsed_ns,
        ended_early: reports.iter().any(|report| report.ended_early),
        totals: totals(&reports, elapsed_ns),
        warmup: counts(reports.iter().map(|report| &report.warmup)),
        latency: Latencies {
            from_intended: latency(|report| &report.latency.from_intended),
            from_actual: latency(|report| &report.latency.from_actual),
        },
        generator: generator(&reports),
        icmp_errors: icmp_errors(&reports),
        examples: examples(&reports),
        refusals: refusals(&reports),
        destinations: places(reports.iter().map(|report| report.destinations.as_ref())),
        outages: None,
        sources: places(reports.iter().map(|report| report.sources.as_ref())),
        replies: Replies::sum(reports.iter().filter_map(|report| report.replies.as_ref())),
        connections: connections(&reports),
        // each has the counters of its own time, which contain the others' datagrams
        server: None,
        intervals: intervals(&reports, &spans, begin),
        warnings: warnings(runs, &spans),
        fail_if: Vec::new(),
    })
}

fn check_same_load(one: &NamedRun, other: &NamedRun) -> Result<(), MergeError> {
    let facts = |load: &Load| {
        [
            ("protocol", load.protocol.clone()),
            ("mode", load.mode.clone()),
            ("size", load.size.clone()),
            ("timeout", duration(load.timeout_ns)),
            ("in flight", format!("{:?}", load.in_flight)),
            ("gso", format!("{:?}", load.gso)),
            ("receive time", load.receive_time.clone().unwrap_or("own".into())),
            ("gro", format!("{:?}", load.gro)),
            ("spray", format!("{:?}", load.spray)),
            ("each once", format!("{:?}", load.each_once)),
            ("rate", load.rate_curve.clone().unwrap_or("constant".into())),
            ("gaps", load.gaps.clone().unwrap_or("even".into())),
            ("burst", format!("{:?}", load.burst)),
            ("replay", format!("{}", load.replay.is_some())),
            ("dscp", format!("{:?}", load.packets.dscp)),
            ("ttl", format!("{:?}", load.packets.ttl)),
            ("don't fragment", load.dont_fragment.to_string()),
        ]
    };
    for ((what, here), (_, there)) in facts(&one.report.load).into_iter().zip(facts(&other.report.load)) {
        if here != there {
            let (one, other) = (one.name.clone(), other.name.clone());
            return Err(MergeError::Different { one, other, what, here, there });
        }
    }
    Ok(())
}

fn check_not_the_same_run(one: &NamedRun, other: &NamedRun) -> Result<(), MergeError> {
    match one.report.load.run_ids.iter().find(|run_id| other.report.load.run_ids.contains(run_id)) {
        None => Ok(()),
        Some(run_id) => Err(MergeError::Twice {
            one: one.name.clone(),
            other: other.name.clone(),
            run_id: run_id.clone(),
        }),
    }
}

fn span(run: &NamedRun) -> Result<Span, MergeError> {
    let input = |error| MergeError::Input(run.name.clone(), error);
    let begin = run.report.measured_from().map_err(input)?;
    let length = Duration::from_nanos(run.report.elapsed_ns);
    let end = begin
        .checked_add(length)
        .ok_or_else(|| input(ReadError::Implausible(format!("elapsed_ns {}", run.report.elapsed_ns))))?;
    Ok(Span { begin, end })
}

/// From the first start to the last end. It is an error if the runs had no moment in common.
fn check_together(runs: &[NamedRun], spans: &[Span]) -> Result<(SystemTime, SystemTime), MergeError> {
    let all = || runs.iter().zip(spans);
    let (ended, ended_at) = all().min_by_key(|(_, span)| span.end).ok_or(MergeError::Nothing)?;
    let (begun, begun_at) = all().max_by_key(|(_, span)| span.begin).ok_or(MergeError::Nothing)?;
    if ended_at.end < begun_at.begin {
        return Err(MergeError::Apart { one: ended.name.clone(), other: begun.name.clone() });
    }
    let begin = spans.iter().map(|span| span.begin).min().unwrap_or(begun_at.begin);
    let end = spans.iter().map(|span| span.end).max().unwrap_or(ended_at.end);
    Ok((begin, end))
}

/// The warnings of each run, and those of all runs together.
fn warnings(runs: &[NamedRun], spans: &[Span]) -> Vec<String> {
    let mut found: Vec<String> = runs
        .iter()
        .flat_map(|run| run.report.warnings.iter().map(|warning| format!("{}: {warning}", run.name)))
        .collect();
    let together = spans.iter().map(|span| span.end).min().zip(spans.iter().map(|span| span.begin).max());
    let in_all = spans.iter().map(|span| span.end).max().zip(spans.iter().map(|span| span.begin).min());
    let length = |(end, begin): (SystemTime, SystemTime)| end.duration_since(begin).unwrap_or_default();
    let (together, in_all) =
        (together.map(length).unwrap_or_default(), in_all.map(length).unwrap_or_default());
    if together.as_secs_f64() < in_all.as_secs_f64() * OVERLAP_MIN {
        found.push(format!(
            "all ran together for only {} of {}: the rates are lower than during that time (start them \
             together, and keep their clocks in step)",
            duration(together.as_nanos() as u64),
            duration(in_all.as_nanos() as u64)
        ));
    }
    found
}

/// The percentiles of the sum of histograms. `None`: there is no histogram.
fn sum<'a>(parts: impl Iterator<Item = &'a Option<Percentiles>>) -> Option<Percentiles> {
    let mut sum = Latency::new();
    for part in parts.flatten() {
        sum.merge(&part.histogram.unpack());
    }
    sum.summary()
}

fn counts<'a>(parts: impl Iterator<Item = &'a Counts>) -> Counts {
    let mut sum = Counts::default();
    for part in parts {
        sum += part;
    }
    sum
}

fn load(reports: &[&Report]) -> Load {
    let loads = || reports.iter().map(|report| &report.load);
    let first = reports[0].load.clone();
    let mut targets: Vec<String> = Vec::new();
    for target in loads().flat_map(|load| &load.targets) {
        if !targets.contains(target) {
            targets.push(target.clone());
        }
    }
    Load {
        targets,
        names: NamedHost::merged(loads().flat_map(|load| &load.names)),
        run_ids: loads().flat_map(|load| load.run_ids.clone()).collect(),
        seed: first.seed.filter(|seed| loads().all(|load| load.seed == Some(*seed))),
        source: first
            .source
            .clone()
            .filter(|source| loads().all(|load| load.source.as_ref() == Some(source))),
        flows: loads().map(|load| load.flows).fold(0, u32::saturating_add),
        threads: loads().map(|load| load.threads).fold(0, u32::saturating_add),
        rate_per_s: loads().map(|load| load.rate_per_s).sum(),
        replay: replay(loads().filter_map(|load| load.replay.as_ref())),
        warmup_ns: loads().map(|load| load.warmup_ns).min().unwrap_or(0),
        duration_ns: loads().map(|load| load.duration_ns).max().flatten(),
        count: loads().map(|load| load.count).sum(),
        ..first
    }
}

/// One recording, or the parts that several machines replayed.
fn replay<'a>(parts: impl Iterator<Item = &'a ReplayLoad>) -> Option<ReplayLoad> {
    parts.cloned().reduce(|sum, part| {
        if sum == part {
            return sum;
        }
        ReplayLoad {
            file: format!("{} {}", sum.file, part.file),
            datagrams: sum.datagrams + part.datagrams,
            period_ns: sum.period_ns.max(part.period_ns),
            together: sum.together.max(part.together),
        }
    })
}

fn totals(reports: &[&Report], elapsed_ns: u64) -> Totals {
    let mut totals = Totals::default();
    let mut distances = 0.0;
    for report in reports {
        let part = &report.totals;
        totals.counts += &part.counts;
        totals.own_drops += part.own_drops;
        totals.reorder_distance_max = totals.reorder_distance_max.max(part.reorder_distance_max);
        distances += part.reorder_distance_mean * part.counts.reordered as f64;
    }
    let per_s = |count: u64| if elapsed_ns == 0 { 0.0 } else { count as f64 * 1e9 / elapsed_ns as f64 };
    totals.reorder_distance_mean = distances / totals.counts.reordered.max(1) as f64;
    totals.sent_per_s = per_s(totals.counts.sent);
    totals.ok_per_s = per_s(totals.counts.ok);
    totals
}

fn generator(reports: &[&Report]) -> Generator {
    let parts = || reports.iter().map(|report| &report.generator);
    let sent: u64 = reports.iter().map(|report| report.sent()).sum();
    let work_ns: f64 =
        reports.iter().map(|report| report.generator.cpu_ns_per_datagram * report.sent() as f64).sum();
    Generator {
        slip: sum(parts().map(|part| &part.slip)),
        reading_slip: sum(parts().map(|part| &part.reading_slip)),
        unstamped: parts().map(|part| part.unstamped).sum(),
        stamped_by_nic: parts().map(|part| part.stamped_by_nic).sum(),
        clock_steps: parts().map(|part| part.clock_steps).max().unwrap_or(0),
        cpu_ns_per_datagram: work_ns / sent.max(1) as f64,
        cpu_share: parts().flat_map(|part| part.cpu_share.clone()).collect(),
        pacing_share: parts().flat_map(|part| part.pacing_share.clone()).collect(),
        starved_share: parts().flat_map(|part| part.starved_share.clone()).collect(),
        unsent: parts().map(|part| part.unsent).sum(),
        forgotten: parts().map(|part| part.forgotten).sum(),
        receive_buffer_bytes: parts().filter_map(|part| part.receive_buffer_bytes).min(),
    }
}

fn icmp_errors(reports: &[&Report]) -> Vec<IcmpErrors> {
    let mut sums: Vec<IcmpErrors> = Vec::new();
    for part in reports.iter().flat_map(|report| &report.icmp_errors) {
        let same = |sum: &&mut IcmpErrors| IcmpErrors { count: part.count, ..(*sum).clone() } == *part;
        match sums.iter_mut().find(same) {
            Some(sum) => sum.count += part.count,
            None => sums.push(part.clone()),
        }
    }
    sums
}

fn examples(reports: &[&Report]) -> Vec<Example> {
    let mut kept = Vec::new();
    for example in reports.iter().flat_map(|report| &report.examples) {
        keep_example(example, &mut kept);
    }
    kept
}

fn refusals(reports: &[&Report]) -> Vec<LocalErrors> {
    let mut sums: BTreeMap<i32, LocalErrors> = BTreeMap::new();
    for part in reports.iter().flat_map(|report| &report.refusals) {
        sums.entry(part.errno).or_insert_with(|| LocalErrors { count: 0, ..part.clone() }).count +=
            part.count;
    }
    sums.into_values().collect()
}

/// The sum: destinations that several machines visited count for each of them. `None`: a report has none.
fn places<'a>(parts: impl Iterator<Item = Option<&'a Places>>) -> Option<Places> {
    let mut sum = Places::default();
    for part in parts {
        let part = part?;
        sum.visited += part.visited;
        sum.not_visited += part.not_visited;
        sum.only_faults |= part.only_faults;
        sum.ok += part.ok;
        sum.misdirected += part.misdirected;
        sum.corrupted += part.corrupted;
        sum.silent += part.silent;
        sum.lossy += part.lossy;
        sum.late += part.late;
        sum.unsendable += part.unsendable;
        sum.more += part.more;
        sum.sample = sum.sample.or_else(|| part.sample.clone());
        for fault in &part.faults {
            let same = |known: &&mut FaultyPlaces| known.place == fault.place && known.fault == fault.fault;
            match sum.faults.iter_mut().find(same) {
                Some(known) => {
                    known.visited += fault.visited;
                    known.tally += &fault.tally;
                }
                None => sum.faults.push(fault.clone()),
            }
        }
    }
    sum.faults.sort_by_key(|fault| u64::MAX - fault.tally.wrong());
    sum.more += sum.faults.iter().skip(FAULTS_MAX).map(|fault| fault.visited).sum::<u64>();
    sum.faults.truncate(FAULTS_MAX);
    Some(sum)
}

fn connections(reports: &[&Report]) -> Option<Connections> {
    reports.iter().map(|report| report.connections).try_fold(Connections::default(), |mut sum, part| {
        sum += &part?;
        Some(sum)
    })
}

/// The intervals of all runs by the wall clock; second 0 is the start of the first run. An interval of several seconds
/// counts where most of it was.
fn intervals(reports: &[&Report], spans: &[Span], begin: SystemTime) -> Vec<Interval> {
    let mut parts: Vec<(Seconds, &Interval)> = Vec::new();
    for (report, span) in reports.iter().zip(spans) {
        let ahead = span.begin.duration_since(begin).unwrap_or_default();
        let ahead_s = ahead.as_secs_f64().round() as u64;
        for interval in &report.intervals {
            let begin = ahead_s + interval.second;
            parts.push((Seconds::around(begin + interval.seconds / 2, interval.seconds), interval));
        }
    }
    // where one run has longer intervals than another, the longer ones count; each contains the shorter ones
    parts.sort_by_key(|(seconds, _)| (seconds.begin, std::cmp::Reverse(seconds.seconds)));
    let mut groups: Vec<(Seconds, Vec<&Interval>)> = Vec::new();
    for (seconds, interval) in parts {
        match groups.last_mut() {
            Some((longest, group)) if longest.contains(seconds.begin) => group.push(interval),
            _ => groups.push((seconds, vec![interval])),
        }
    }
    groups
        .into_iter()
        .map(|(Seconds { begin, seconds }, parts)| Interval {
            second: begin,
            seconds,
            counts: counts(parts.iter().map(|part| &part.counts)),
            latency: sum(parts.iter().map(|part| &part.latency)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::results::{Results, ThreadTimes};
    use crate::report::compile::RunFacts;
    use crate::report::sample;

    /// Records the datagrams of these halves of a run: 0 is the even ones, 1 the odd ones.
    fn record(results: &mut Results, halves: &[u64]) {
        for nth in (0..10_000_u64).filter(|nth| halves.contains(&(nth % 2))) {
            let (intended_ns, waited_ns) = (nth * 300_000, 10_000 + nth * nth % 7_919 * 1_000);
            let page = results.outcomes.at(intended_ns);
            page.counts.sent += 1;
            results.slip.record(nth % 3_000);
            if nth % 100 < 2 {
                page.counts.lost += 1;
                continue;
            }
            page.counts.ok += 1;
            if nth % 100 < 6 {
                page.count_reordered(nth % 5);
            }
            results.round_trips.record(intended_ns, waited_ns + nth % 3_000);
            results.from_actual.record(waited_ns);
        }
        for _ in halves {
            results.thread_times.push(ThreadTimes {
                elapsed_ns: 3_000_000_000,
                span_ns: 3_000_000_000,
                cpu_ns: 400_000_000,
                pacing_ns: 100_000_000,
                ..ThreadTimes::default()
            });
        }
    }

    fn report(halves: &[u64], run_id: &str) -> Report {
        let mut results = Results::new(Duration::ZERO);
        record(&mut results, halves);
        let facts = sample::facts();
        let load = Load {
            rate_per_s: Some(5_000.0 / 3.0 * halves.len() as f64),
            run_ids: vec![run_id.into()],
            flows: halves.len() as u32,
            threads: halves.len() as u32,
            ..facts.load
        };
        Report::new(RunFacts { load, ..facts }, &results)
    }

    /// A report as it is read from a file.
    fn named(name: &str, report: &Report) -> NamedRun {
        let json = serde_json::to_string(report).unwrap();
        NamedRun::new(name, serde_json::from_str(&json).unwrap())
    }

    fn halves() -> [NamedRun; 2] {
        [named("a.json", &report(&[0], "a")), named("b.json", &report(&[1], "b"))]
    }

    #[test]
    fn two_halves_are_the_whole() {
        let whole = report(&[0, 1], "whole");
        let merged = merge(&halves()).unwrap();
        assert_eq!(merged.load.run_ids, ["a", "b"]);
        assert_eq!((merged.hosts.len(), merged.counted_runs()), (1, Some("2 runs on 1 host".into())));
        // all else is the same to the last digit: histograms add up exactly
        let comparable = |report: Report| {
            let load = Load { run_ids: Vec::new(), ..report.load };
            let report = Report { hosts: Vec::new(), command_line: Vec::new(), load, ..report };
            serde_json::to_value(report).unwrap()
        };
        let (whole, merged) = (comparable(whole), comparable(merged));
        assert!(whole["totals"]["reordered"].as_u64() > Some(100) && whole["intervals"][2]["lost"] != 0);
        for (name, value) in whole.as_object().unwrap() {
            assert_eq!(value, &merged[name], "{name}");
        }
    }

    #[test]
    fn hosts_are_counted_by_host() {
        let mut parts = halves().to_vec();
        parts.push(named("c.json", &report(&[1], "c")));
        parts[2].report.hosts[0].name = "there".into();
        let merged = merge(&parts).unwrap();
        assert_eq!(merged.hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>(), ["here", "there"]);
        assert_eq!(merged.counted_runs(), Some("3 runs on 2 hosts".into()));
        assert_eq!(parts[0].report.counted_runs(), None, "one run needs no words");
    }

    #[test]
    fn seconds_add_up_where_they_were_on_the_clock() {
        let mut parts = halves();
        // the other host started two seconds later, and its clock is a little off
        parts[1].report.started_at = "1970-01-01T00:00:02.030Z".into();
        let merged = merge(&parts).unwrap();
        let sent: Vec<_> =
            merged.intervals.iter().map(|second| (second.second, second.counts.sent)).collect();
        let of = |part: &NamedRun, second: usize| part.report.intervals[second].counts.sent;
        let [a, b] = &parts;
        let wanted = [(0, of(a, 0)), (1, of(a, 1)), (2, of(a, 2) + of(b, 0)), (3, of(b, 1)), (4, of(b, 2))];
        assert_eq!(sent, wanted);
        assert_eq!(merged.elapsed_ns, 5_030_000_000);
        assert!((merged.totals.sent_per_s - 10_000.0 / 5.03).abs() < 0.01);
        assert!(merged.warnings[0].contains("970 ms of 5.03 s"), "{:?}", merged.warnings);
    }

    #[test]
    fn long_intervals_add_up_where_most_of_them_was() {
        let interval = |second, seconds, sent| {
            let counts = Counts { sent, ok: sent, ..Counts::default() };
            Interval { second, seconds, counts, latency: None }
        };
        let mut parts = halves();
        parts[0].report.intervals =
            vec![interval(0, 10, 10), interval(10, 10, 20), interval(20, 1, 1), interval(21, 1, 2)];
        parts[1].report.intervals = vec![interval(0, 10, 100), interval(10, 1, 200), interval(19, 1, 300)];
        // the other host started two seconds later
        parts[1].report.started_at = "1970-01-01T00:00:02.000Z".into();
        let merged = merge(&parts).unwrap();
        let found: Vec<_> =
            merged.intervals.iter().map(|it| (it.second, it.seconds, it.counts.sent)).collect();
        assert_eq!(found, [(0, 10, 110), (10, 10, 220), (20, 1, 1), (21, 1, 302)]);
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        type Spoil = fn(&mut Report);
        let refused = |spoil: Spoil| {
            let mut parts = halves();
            spoil(&mut parts[1].report);
            merge(&parts).expect_err("these don't add up").to_string()
        };
        let cases: [(&str, Spoil); 4] = [
            ("size 64 and 1400", |report| report.load.size = "1400".into()),
            ("same run a", |report| report.load.run_ids = vec!["a".into()]),
            ("a.json had ended before b.json", |report| {
                report.started_at = "1970-01-01T00:01:00.000Z".into();
            }),
            ("started_at \"soon\"", |report| report.started_at = "soon".into()),
        ];
        for (words, spoil) in cases {
            let said = refused(spoil);
            assert!(said.contains(words), "{words}: {said}");
        }
        assert!(merge(&[]).is_err());
    }

    #[test]
    fn warnings_and_errors_keep_their_origin() {
        let mut parts = halves();
        parts[0].report.warnings = vec!["too slow".into()];
        for part in &mut parts {
            part.report.refusals =
                vec![LocalErrors { errno: 1, message: "Operation not permitted".into(), count: 2 }];
            let from = "192.0.2.1".to_string();
            part.report.icmp_errors =
                vec![IcmpErrors { from: from.clone(), about: from, icmp_type: 3, icmp_code: 3, count: 5 }];
        }
        let merged = merge(&parts).unwrap();
        assert_eq!(merged.warnings, ["a.json: too slow"]);
        assert_eq!((merged.refusals.len(), merged.refusals[0].count), (1, 4));
        assert_eq!((merged.icmp_errors.len(), merged.icmp_errors[0].count), (1, 10));
        assert_eq!(merged.connections, None);
        assert_eq!(merged.warmup, Counts::default());
    }
}
