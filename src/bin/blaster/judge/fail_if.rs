//! `--fail-if`: conditions on a report, for scripts.

use std::fmt;
use std::str::FromStr;

use crate::model::counts::Counts;
use crate::model::latency::Percentiles;
use crate::model::quantity;
use crate::model::units;
use crate::report::schema::{ConditionResult, Places, Report};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConditionError {
    #[error("{0:?} is not NAME>VALUE (or >=, <, <=)")]
    Shape(String),
    #[error("{0:?} is not a measure: use one of {names}", names = names())]
    Name(String),
    #[error("{0:?} wants a {1}")]
    Value(String, &'static str),
}

/// Counts of a report that are not among [`Counts::NAMES`].
const FURTHER_COUNTS: [&str; 13] = [
    "own_drops",
    "unsent",
    "failed",
    "broken",
    "stuck",
    "silent",
    "lost_there",
    "lost_back",
    "not_answered",
    "other_dscp",
    "other_ecn",
    "ttl_min",
    "ttl_max",
];

/// The names of `lost`, and of what is no count and no percentile, in the error of an unknown name.
const LOST_NAMES: &str = "lost (or loss)";
const OTHER_NAMES: &str = "the same with actual_, slip_ or reading_ before them, rate, found, mtu";

/// The start of a latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Intended,
    Actual,
    Slip,
    /// The receive time; blaster reads the reply later.
    Reading,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Measure {
    /// A count, by its name.
    Count(&'static str),
    /// The same in percent of what was sent.
    Share(&'static str),
    /// In nanoseconds: the figure at this place of [`Percentiles::NAMED`].
    Latency(From, usize),
    /// Right replies per second.
    Rate,
    /// The answer of `--find-max`, which belongs to no single run.
    SearchResult,
    /// The result of `blaster mtu`, in bytes.
    PathMtu,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    More,
    MoreOrEqual,
    Less,
    LessOrEqual,
}

/// One condition, as in `p99>1ms`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition {
    text: String,
    measure: Measure,
    comparison: Comparison,
    value: f64,
}

/// The conditions of one `--fail-if`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conditions(Vec<Condition>);

impl FromStr for Conditions {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        text.split(',').map(|one| one.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

impl Conditions {
    /// Checks the conditions on single runs.
    pub(crate) fn judge(&self, report: &Report) -> Vec<ConditionResult> {
        let all = self.0.iter().filter(|condition| condition.measure != Measure::SearchResult);
        all.map(|condition| condition.judge(condition.measure.of(report))).collect()
    }

    /// The first condition that is not about the path MTU.
    pub(crate) fn not_of_mtu(&self) -> Option<String> {
        self.0.iter().find(|condition| condition.measure != Measure::PathMtu).map(ToString::to_string)
    }

    /// Checks the conditions on the smallest path MTU. `None`: nothing came back on one of the paths.
    pub(crate) fn judge_mtu(&self, mtu: Option<u32>) -> Vec<ConditionResult> {
        self.0.iter().map(|condition| condition.judge(mtu.map(f64::from))).collect()
    }

    /// Checks the conditions on the answer of a search; 0: no rate met the objective. `None`: there was no search, or no
    /// answer is confirmed.
    pub(crate) fn judge_found(&self, per_s: Option<f64>) -> Vec<ConditionResult> {
        let all = self.0.iter().filter(|condition| condition.measure == Measure::SearchResult);
        all.map(|condition| condition.judge(per_s)).collect()
    }
}

impl FromStr for Condition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        let at = text.find(['<', '>']).ok_or_else(|| ConditionError::Shape(text.into()))?;
        let (name, rest) = text.split_at(at);
        let (comparison, value) = match (rest.strip_prefix(">="), rest.strip_prefix("<=")) {
            (Some(value), _) => (Comparison::MoreOrEqual, value),
            (_, Some(value)) => (Comparison::LessOrEqual, value),
            _ if rest.starts_with('>') => (Comparison::More, &rest[1..]),
            _ => (Comparison::Less, &rest[1..]),
        };
        let (name, value) = (name.trim(), value.trim());
        let wants = |what| move || ConditionError::Value(text.into(), what);
        let name = if name == "loss" { "lost" } else { name };
        let (measure, value) =
            if let Some(name) = Counts::NAMES.iter().chain(&FURTHER_COUNTS).find(|known| **known == name) {
                match value.strip_suffix('%') {
                    Some(share) => {
                        let share: f64 = share.trim().parse().map_err(|_| wants("number before %")())?;
                        (Measure::Share(name), Some(share).filter(|share| share.is_finite() && *share >= 0.0))
                    }
                    None => (Measure::Count(name), quantity::count(value).ok().map(|count| count as f64)),
                }
            } else if name == "mtu" {
                (Measure::PathMtu, quantity::count(value).ok().map(|count| count as f64))
            } else if name == "rate" || name == "found" {
                let measure = if name == "rate" { Measure::Rate } else { Measure::SearchResult };
                (measure, value.parse::<quantity::Rate>().ok().map(quantity::Rate::per_s))
            } else {
                let starts = [("actual_", From::Actual), ("slip_", From::Slip), ("reading_", From::Reading)];
                let mut starts = starts.into_iter();
                let from = starts.find_map(|(prefix, from)| Some((from, name.strip_prefix(prefix)?)));
                let (from, percentile) = from.unwrap_or((From::Intended, name));
                let known = Percentiles::NAMED.iter().position(|(known, _)| *known == percentile);
                let percentile = known.ok_or_else(|| ConditionError::Name(name.into()))?;
                let value = quantity::duration_or_zero(value).ok().map(|duration| duration.as_nanos() as f64);
                (Measure::Latency(from, percentile), value)
            };
        let value = value.ok_or_else(wants(match measure {
            Measure::Count(_) => "whole number, or a percentage",
            Measure::Share(_) => "percentage of at least 0",
            Measure::Latency(..) => "duration, as in 500us or 1ms",
            Measure::Rate | Measure::SearchResult | Measure::PathMtu => "number",
        }))?;
        Ok(Self { text: text.into(), measure, comparison, value })
    }
}

impl Condition {
    /// Whether the condition holds. A value that could not be measured counts as bad: the condition holds.
    fn holds(&self, measured: Option<f64>) -> bool {
        let Some(measured) = measured else { return true };
        match self.comparison {
            Comparison::More => measured > self.value,
            Comparison::MoreOrEqual => measured >= self.value,
            Comparison::Less => measured < self.value,
            Comparison::LessOrEqual => measured <= self.value,
        }
    }

    fn judge(&self, measured: Option<f64>) -> ConditionResult {
        ConditionResult {
            condition: self.to_string(),
            measured: self.words(measured),
            failed: self.holds(measured),
        }
    }

    /// The measured value as text.
    fn words(&self, measured: Option<f64>) -> String {
        match (self.measure, measured) {
            (_, None) => "not measured".into(),
            (Measure::Count(_) | Measure::Rate | Measure::SearchResult | Measure::PathMtu, Some(value)) => {
                format!("{value:.0}")
            }
            (Measure::Share(_), Some(value)) => format!("{}%", units::percentage(value)),
            (Measure::Latency(..), Some(ns)) => units::duration(ns as u64),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Measure {
    fn of(self, report: &Report) -> Option<f64> {
        let totals = &report.totals;
        match self {
            Self::Count(name) => count(report, name).map(|count| count as f64),
            Self::Share("silent") => {
                let destinations = silent(report).filter(|it| it.visited > 0)?;
                Some(destinations.silent as f64 * 100.0 / destinations.visited as f64)
            }
            Self::Share(name) if totals.counts.sent > 0 => {
                count(report, name).map(|count| count as f64 * 100.0 / totals.counts.sent as f64)
            }
            Self::Share(_) | Self::SearchResult | Self::PathMtu => None,
            Self::Rate => Some(totals.ok_per_s),
            Self::Latency(from, percentile) => {
                let percentiles = match from {
                    From::Intended => report.latency.from_intended.as_ref(),
                    From::Actual => report.latency.from_actual.as_ref(),
                    From::Slip => report.generator.slip.as_ref(),
                    From::Reading => report.generator.reading_slip.as_ref(),
                }?;
                Some((Percentiles::NAMED[percentile].1)(percentiles) as f64)
            }
        }
    }
}

/// The destinations of a report, if it knows which of them are silent.
fn silent(report: &Report) -> Option<&Places> {
    report.destinations.as_ref().filter(|it| !it.only_faults)
}

/// The count `name` of a report. `None`: it has none, as UDP has no connections.
fn count(report: &Report, name: &str) -> Option<u64> {
    match name {
        "own_drops" => Some(report.totals.own_drops),
        "unsent" => Some(report.generator.unsent),
        "failed" => Some(report.connections?.failed),
        "broken" => Some(report.connections?.broken),
        "stuck" => Some(report.connections?.stuck),
        // destinations
        "silent" => silent(report).map(|it| it.silent),
        "lost_there" => Some(report.server.as_ref()?.losses?.on_the_way_there),
        "lost_back" => Some(report.server.as_ref()?.losses?.on_the_way_back),
        "not_answered" => Some(report.server.as_ref()?.losses?.in_the_server),
        "other_dscp" => Some(report.replies.as_ref()?.other_dscp),
        "other_ecn" => Some(report.replies.as_ref()?.other_ecn),
        "ttl_min" => Some(report.replies.as_ref()?.ttl.first()?.ttl.into()),
        "ttl_max" => Some(report.replies.as_ref()?.ttl.last()?.ttl.into()),
        name => report.totals.counts.by_name(name),
    }
}

/// All names, for the error of an unknown one.
fn names() -> String {
    let counts = Counts::NAMES.iter().chain(&FURTHER_COUNTS);
    let counts = counts.map(|name| if *name == "lost" { LOST_NAMES } else { name });
    let names: Vec<&str> = counts.chain(Percentiles::NAMED.map(|(name, _)| name)).collect();
    format!("{}, {OTHER_NAMES}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::counts::Counts;
    use crate::report::sample::report;

    #[test]
    fn what_is_a_condition() {
        for text in [
            "loss>0.01%",
            "lost>0",
            "p99>1ms",
            "misdirected>0",
            "actual_p99.9>=500us",
            "slip_max<=1s",
            "reading_p99.9>1ms",
            "rate<100k",
            "ok < 10",
            "sent<1",
            "own_drops>0",
            "p99.99>1s",
            "late>1k",
            "found<100k",
            "failed>0",
            "broken>1%",
            "other_dscp>0",
            "other_ecn>1%",
            "ttl_min<60",
            "mtu<1500",
        ] {
            text.parse::<Condition>().unwrap_or_else(|error| panic!("{text}: {error}"));
        }
        for text in [
            "",
            "loss",
            "loss>",
            "loss>x",
            "loss>-1",
            "loss>-1%",
            "loss>nan%",
            "p98>1ms",
            "p99>5",
            "p99>1%x",
            "=3",
            ">3",
            "sloss>0",
            "rate>fast",
            "slip_loss>0",
            "loss=0",
            "loss>0,,p99>1ms",
        ] {
            let parsed = text.parse::<Conditions>();
            assert!(parsed.is_err(), "{text}: {parsed:?}");
        }
    }

    #[test]
    fn conditions_on_a_known_report() {
        let report = report(Counts { sent: 1_000, ok: 990, lost: 10, ..Counts::default() });
        for (text, wanted) in [
            ("lost>10", false),
            ("lost>=10", true),
            ("loss>1%", false),
            ("loss>0.99%", true),
            ("ok<990", false),
            ("ok<=990", true),
            ("misdirected>0", false),
            ("p99>1us", true),
            ("p99>1h", false),
            ("rate<1M", true),
            ("unsent>0", false),
            ("unsent>=0", true),
        ] {
            let judged = &text.parse::<Conditions>().unwrap().judge(&report)[0];
            assert_eq!(judged.failed, wanted, "{text}");
        }
    }

    #[test]
    fn what_was_not_measured_fails() {
        let mut report = report(Counts::default());
        report.latency.from_intended = None;
        // UDP has no connections
        for text in ["p99>1h", "loss>50%", "broken>5", "other_dscp>0", "ttl_min<1", "mtu<1500"] {
            assert!(text.parse::<Conditions>().unwrap().judge(&report)[0].failed, "{text}");
        }
    }
}
