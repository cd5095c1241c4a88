//! Whether runs belong together: the same load at the same time.

use std::time::{Duration, SystemTime};

use crate::model::units::duration;
use crate::report::schema::{Load, NamedRun, ReadError};

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
pub(super) struct Span {
    pub(super) begin: SystemTime,
    pub(super) end: SystemTime,
}

pub(super) fn check_same_load(one: &NamedRun, other: &NamedRun) -> Result<(), MergeError> {
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

pub(super) fn check_not_the_same_run(one: &NamedRun, other: &NamedRun) -> Result<(), MergeError> {
    match one.report.load.run_ids.iter().find(|run_id| other.report.load.run_ids.contains(run_id)) {
        None => Ok(()),
        Some(run_id) => Err(MergeError::Twice {
            one: one.name.clone(),
            other: other.name.clone(),
            run_id: run_id.clone(),
        }),
    }
}

pub(super) fn span(run: &NamedRun) -> Result<Span, MergeError> {
    let input = |error| MergeError::Input(run.name.clone(), error);
    let begin = run.report.measured_from().map_err(input)?;
    let length = Duration::from_nanos(run.report.elapsed_ns);
    let end = begin
        .checked_add(length)
        .ok_or_else(|| input(ReadError::Implausible(format!("elapsed_ns {}", run.report.elapsed_ns))))?;
    Ok(Span { begin, end })
}

/// From the first start to the last end. It is an error if the runs had no moment in common.
pub(super) fn check_together(
    runs: &[NamedRun],
    spans: &[Span],
) -> Result<(SystemTime, SystemTime), MergeError> {
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
pub(super) fn warnings(runs: &[NamedRun], spans: &[Span]) -> Vec<String> {
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
