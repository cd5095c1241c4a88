//! A report for tests of everything that reads reports.

use std::time::{Duration, SystemTime};

use crate::model::counts::Counts;
use crate::model::results::{Results, ThreadTimes};
use crate::report::compile::{RunFacts, Scope};
use crate::report::schema::{Host, Load, Report};

/// The facts of a closed loop that began at the epoch.
pub(crate) fn facts() -> RunFacts {
    RunFacts {
        command_line: vec!["blaster".into(), "udp".into(), "127.0.0.1:7".into()],
        started_at: SystemTime::UNIX_EPOCH,
        host: Host { name: "here".into(), ..Host::default() },
        load: Load {
            protocol: "udp".into(),
            mode: "closed".into(),
            targets: vec!["127.0.0.1:7".into()],
            run_ids: vec!["1".into()],
            seed: Some(1),
            size: "64".into(),
            flows: 1,
            threads: 1,
            ..Load::default()
        },
        scope: Scope::default(),
        ended_early: false,
    }
}

/// The results of a worker after one second with these counts. Each right reply took a millisecond.
pub(crate) fn results(counts: Counts) -> Results {
    let mut results = Results::new(Duration::ZERO);
    results.outcomes.at(0).counts = counts;
    for _ in 0..counts.ok {
        results.round_trips.record(0, 1_000_000);
    }
    results.thread_times.push(ThreadTimes {
        elapsed_ns: 1_000_000_000,
        span_ns: 1_000_000_000,
        cpu_ns: 400_000_000,
        pacing_ns: 100_000_000,
        ..ThreadTimes::default()
    });
    results
}

/// The report of such a run.
pub(crate) fn report(counts: Counts) -> Report {
    Report::new(facts(), &results(counts))
}
