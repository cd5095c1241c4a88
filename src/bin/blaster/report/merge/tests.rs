//! Reports that add up, and those that don't.

use std::time::Duration;

use super::*;
use crate::model::counts::Counts;
use crate::model::results::{Results, ThreadTimes};
use crate::report::compile::RunFacts;
use crate::report::sample;
use crate::report::schema::{IcmpErrors, Load, LocalErrors};

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
    let sent: Vec<_> = merged.intervals.iter().map(|second| (second.second, second.counts.sent)).collect();
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
    let found: Vec<_> = merged.intervals.iter().map(|it| (it.second, it.seconds, it.counts.sent)).collect();
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
