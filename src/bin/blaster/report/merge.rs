//! The reports of several machines that loaded the same targets at the same time, as one report.
//!
//! Counts, rates and histograms are added, each second of the wall clock with its own. Percentiles are never averaged: they
//! come from the sum of the histograms.

mod parts;
#[cfg(test)]
mod tests;
mod together;

use std::time::SystemTime;

use self::parts::{
    connections, counts, examples, generator, icmp_errors, load, places, refusals, sum, totals,
};
pub(crate) use self::together::MergeError;
use self::together::{Span, check_not_the_same_run, check_same_load, check_together, span, warnings};
use crate::model::latency::Percentiles;
use crate::model::spans::Span as Seconds;
use crate::report::replies::Replies;
use crate::report::schema::{self, Interval, Latencies, NamedRun, Report, SCHEMA, VERSION, distinct_hosts};

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
