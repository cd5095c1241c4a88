//! Pages of runs that are good, lossy, dead, short, long and many. `ci/browser` makes the test here write them, and measures
//! them in a browser.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::render;
use crate::model::counts::Counts;
use crate::model::results::{Results, ThreadTimes};
use crate::report::sample::facts;
use crate::report::schema::{
    Answer, Bound, BracketEnd, ConditionResult, Document, IcmpErrors, Interval, Limit, NamedRun, Objective,
    Report, RunCounts, SearchEnd, SearchResult, Series, Verdict,
};

/// Names the directory to write to. If it is unset, the pages are only checked.
const DIRECTORY: &str = "BROWSER_PAGES";

/// The report of an open loop of so many seconds with 1,000 datagrams in each; `of` says what became of them.
fn report(seconds: u64, of: impl Fn(u64) -> Counts) -> Report {
    let mut results = Results::new(Duration::ZERO);
    for second in 0..seconds {
        let at_ns = second * 1_000_000_000;
        let counts = Counts { sent: 1_000, bytes_sent: 64_000, ..of(second) };
        results.outcomes.at(at_ns).counts = counts;
        // a few replies that stand for all, with a long tail
        for nth in 0..counts.ok.min(10) {
            let ns = 20_000 << (nth + second % 3);
            results.round_trips.record(at_ns, ns);
            results.from_actual.record(ns - 5_000);
        }
        results.slip.record(700 << (second % 10));
    }
    results.thread_times.push(ThreadTimes {
        elapsed_ns: seconds * 1_000_000_000,
        span_ns: seconds * 1_000_000_000,
        cpu_ns: seconds * 400_000_000,
        ..ThreadTimes::default()
    });
    let mut facts = facts();
    facts.load.mode = "open".into();
    facts.load.rate_per_s = Some(1_000.0);
    facts.load.flows = 64;
    Report::new(facts, &results)
}

fn good(seconds: u64) -> Report {
    report(seconds, |_| Counts { ok: 1_000, ..Counts::default() })
}

/// Something of every class, with long texts.
fn lossy() -> Report {
    let mut report = report(20, |second| {
        let lost = 5 + second;
        let wrong = Counts {
            corrupted: 4,
            truncated: 3 + second % 2,
            misdirected: 2,
            late: 8,
            lost,
            unreachable: 1 + second % 5,
            duplicated: 7,
            reordered: 123_456_789,
            ..Counts::default()
        };
        let not_ok: u64 = wrong.classes().map(|(_, count)| count).sum();
        Counts { ok: 1_000 - not_ok, ..wrong }
    });
    report.load.targets = vec!["192.0.2.0/24:1024-65535".into(), "[2001:db8:1234:5678::/64]:any".into()];
    report.warnings = vec![
        "blaster was the bottleneck: one datagram in a hundred left 5.42 ms late or more; latency from the intended \
         send time includes that"
            .into(),
    ];
    report.fail_if = [("lost>1%", "1.45%", true), ("p99>1s", "5.12 ms", false)]
        .map(|(condition, measured, failed)| ConditionResult {
            condition: condition.into(),
            measured: measured.into(),
            failed,
        })
        .into();
    report.icmp_errors = vec![IcmpErrors {
        from: "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".into(),
        about: "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535".into(),
        icmp_type: 1,
        icmp_code: 4,
        count: 1_234_567,
    }];
    report
}

fn dead() -> Report {
    report(5, |_| Counts { lost: 1_000, ..Counts::default() })
}

/// Served for a while, then silent, then served again.
fn interrupted() -> Report {
    report(30, |second| match second {
        10..20 => Counts { lost: 1_000, ..Counts::default() },
        _ => Counts { ok: 1_000, ..Counts::default() },
    })
}

/// The same 20 seconds for a day.
fn day() -> Report {
    const SECONDS: u64 = 86_400;
    let short = lossy();
    let intervals = short.intervals.iter().cycle().zip(0..SECONDS);
    let intervals = intervals.map(|(interval, second)| Interval { second, ..interval.clone() }).collect();
    Report { intervals, elapsed_ns: SECONDS * 1_000_000_000, ..short }
}

/// A search with runs of every verdict.
fn search() -> Series {
    let met = NamedRun { verdict: Some(Verdict::Met), ..NamedRun::new("1,000/s", good(2)) };
    let mut missed = NamedRun::new("2,000/s", lossy());
    missed.report.load.rate_per_s = Some(2_000.0);
    missed.verdict = Some(Verdict::Missed("p99 5.12 ms".into()));
    let mut own = NamedRun::new("4,000/s", good(1));
    own.report.load.rate_per_s = Some(4_000.0);
    own.verdict = Some(Verdict::Generator("only 3,120/s were sent; a thread used up its core".into()));
    let end = |rate_per_s, met, missed, generator| {
        Some(BracketEnd { rate_per_s, runs: RunCounts { met, missed, generator }, confirmed: true })
    };
    let answer = Answer {
        met: end(1_000, 5, 0, 0),
        not_met: end(2_000, 0, 5, 0),
        limit: Limit::Server,
        confidence: 0.9375,
        settled: true,
        between: Vec::new(),
    };
    let objective = Objective { loss_percent: 0.1, p99_ns: Some(1_000_000) };
    let found = SearchResult {
        objective,
        duration_ns: 2_000_000_000,
        unit: None,
        answer,
        precision_percent: Some(5.0),
        bound: Some(Bound { runs: 48, time_ns: 192_000_000_000 }),
        took: Some(Bound { runs: 24, time_ns: 50_000_000_000 }),
        ended_by: Some(SearchEnd::Done),
    };
    Series { found: Some(found), ..Series::new(vec![met, missed, own]) }
}

fn samples() -> Vec<(&'static str, Document)> {
    let of_one = |report| Document::Run(Box::new(report));
    let files = ["a.json", "a/rather/long/name/of-a-file-of-another-host.json", "b.json"];
    let beside = files.into_iter().zip([good(12), lossy(), dead()]);
    let beside = beside.map(|(name, report)| NamedRun::new(name, report)).collect();
    vec![
        ("good", of_one(good(12))),
        ("lossy", of_one(lossy())),
        ("dead", of_one(dead())),
        ("second", of_one(good(1))),
        ("nothing", of_one(report(0, |_| Counts::default()))),
        ("interrupted", of_one(interrupted())),
        ("day", of_one(day())),
        ("beside", Document::Series(Box::new(Series::new(beside)))),
        ("search", Document::Series(Box::new(search()))),
    ]
}

#[test]
fn pages_for_the_browser() {
    let directory = std::env::var_os(DIRECTORY);
    for (name, document) in samples() {
        let begin = Instant::now();
        let page = render(&document);
        // even a day's page takes a second in a debug build; the machine may have other work
        assert!(begin.elapsed() < Duration::from_secs(20), "{name} took {:?}", begin.elapsed());
        assert!(page.len() < 400_000, "{name} has {} bytes", page.len());
        assert!(!page.contains("NaN") && !page.contains(">inf"), "{name}: {page}");
        if let Some(directory) = &directory {
            let path = Path::new(directory).join(format!("{name}.html"));
            fs::write(&path, page).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        }
    }
}

#[test]
fn what_is_not_there_is_said() {
    let samples = samples();
    let said = |name: &str| {
        let (_, document) = samples.iter().find(|(known, _)| *known == name).expect("a sample");
        render(document)
    };
    let no_latency = "No right reply came back, so there is no latency.";
    // two plots and the table
    assert_eq!(said("dead").matches(no_latency).count(), 3);
    assert!(said("dead").contains("no right reply</span>"), "tiles say so, too");
    assert!(said("good").contains("All ok: 12,000 datagrams sent, each came back right and in time."));
    assert!(!said("lossy").contains("class=\"nothing\""), "there, everything is");
    assert_eq!(said("nothing").matches("Nothing was sent.").count(), 2);
    // a run of one second is a line from its begin to its end
    assert!(said("second").contains("<polyline points=\"0,0 1000,0\""), "{}", said("second"));
    // ten seconds without a reply are a gap between two lines: one line more for each of the six percentiles
    let lines = |name| said(name).matches("<polyline").count();
    assert_eq!(lines("interrupted"), lines("good") + 6 + 1, "and one class that is not ok");
}
