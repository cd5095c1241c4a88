//! What happened in one interval of a run, for `--jsonl` and `--csv`: both have the same fields, by the same names.
//!
//! A line counts what happened between its two moments: what was sent, what came back, what was given up. The intervals of
//! the report say of each datagram in the second of its intended send time what became of it in the end. The sums of all
//! lines are the totals of the report with its warmup, but for replies that come after `--linger`.

use serde::Serialize;
use serde_json::Value;

use crate::model::counts::{Counts, Fault};
use crate::workers::live::DurationTotals;
use crate::workers::observed::Observed;

/// The name of the format.
pub(crate) const SCHEMA: &str = "blaster-interval";
/// Its version: within it, fields are only added.
pub(crate) const VERSION: u32 = 1;

/// Defines [`IntervalLine`]: its fields before the counts, and those behind them.
macro_rules! line {
    (
        before: $($(#[$of_before:meta])+ $before:ident: $before_kind:ty,)+
        after: $($(#[$of_after:meta])+ $after:ident: $after_kind:ty,)+
    ) => {
        /// One interval of a run. Times are in nanoseconds since the start of the run. Counts are of datagrams (TCP: of
        /// messages), and of what happened in the interval.
        // one field for each column
        #[derive(Clone, Debug, Serialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        pub(crate) struct IntervalLine {
            $($(#[$of_before])+ pub(crate) $before: $before_kind,)+
            #[serde(flatten)]
            pub(crate) counts: Counts,
            $($(#[$of_after])+ pub(crate) $after: $after_kind,)+
        }

        impl IntervalLine {
            /// The first line of a CSV file.
            pub(crate) fn csv_header() -> String {
                let before = [$(stringify!($before),)+];
                let after = [$(stringify!($after),)+];
                let all = before.iter().chain(Counts::FIELDS).chain(&after);
                format!("{}\n", all.copied().collect::<Vec<_>>().join(","))
            }

            pub(crate) fn csv(&self) -> String {
                let cells = [$(cell(&self.$before),)+].into_iter();
                let cells = cells.chain(self.counts.values().map(|value| value.to_string()));
                let cells = cells.chain([$(cell(&self.$after),)+]);
                format!("{}\n", cells.collect::<Vec<_>>().join(","))
            }
        }
    };
}

line! {
    before:
        /// The name of the format.
        #[cfg_attr(test, schemars(extend("const" = SCHEMA)))]
        schema: &'static str,
        /// The version of the format. Within a version, fields are only added.
        #[cfg_attr(test, schemars(extend("const" = VERSION)))]
        version: u32,
        /// The number that marks the datagrams of the run, as in its report.
        run_id: String,
        /// The targets of the run; with --steps and --find-max, the number and the rate of the step.
        name: String,
        /// The time at its end, RFC 3339, UTC.
        at: String,
        /// When it begins.
        begin_ns: u64,
        /// When it ends.
        end_ns: u64,
        /// Whether it ends in the warmup, which the report does not contain.
        is_warmup: bool,
        /// Whether it is the last one of the run. It contains the wait for missing replies.
        is_last: bool,
    after:
        /// Datagrams sent so far whose reply has not come and that are not given up (--linger).
        waiting: u64,
        /// Datagrams sent per second.
        sent_per_s: f64,
        /// Right replies in time per second.
        ok_per_s: f64,
        /// The mean latency of right replies in time, from the intended send time. null: there was none.
        latency_mean_ns: Option<u64>,
        /// Half of these latencies were at most this long. This and the other percentiles are up to an eighth too long.
        latency_p50_ns: Option<u64>,
        /// Nine of ten.
        latency_p90_ns: Option<u64>,
        /// 99 of 100.
        latency_p99_ns: Option<u64>,
        /// 999 of 1,000.
        latency_p99_9_ns: Option<u64>,
        /// The longest.
        latency_max_ns: Option<u64>,
        /// Half of the delays of sends behind the schedule were at most this long. null: there is no schedule.
        slip_p50_ns: Option<u64>,
        /// 99 of 100.
        slip_p99_ns: Option<u64>,
        /// The longest.
        slip_max_ns: Option<u64>,
        /// At its end, the destinations whose latest message had no right reply in time.
        outages: u64,
        /// Of these: nothing came back.
        outages_silent: u64,
        /// Of these: the reply came from another address or port.
        outages_misdirected: u64,
        /// The longest time that one of them is without a right reply.
        longest_outage_ns: u64,
        /// The rounds of --each-once that are done at its end.
        rounds: u64,
}

/// The run that a line belongs to, and the interval.
#[derive(Clone, Debug)]
pub(crate) struct IntervalOf<'a> {
    pub(crate) run_id: &'a str,
    pub(crate) name: &'a str,
    pub(crate) at: String,
    pub(crate) begin_ns: u64,
    pub(crate) is_warmup: bool,
    pub(crate) is_last: bool,
}

impl IntervalLine {
    /// What happened between two moments.
    pub(crate) fn new(of: IntervalOf<'_>, before: &Observed, now: &Observed) -> Self {
        let counts = now.totals.counts.grown_from(&before.totals.counts);
        let elapsed_s = now.at_ns.saturating_sub(of.begin_ns).max(1) as f64 / 1e9;
        let latency = now.totals.round_trips.since(&before.totals.round_trips);
        let slip = now.totals.slip.since(&before.totals.slip);
        let faults = &now.outages.counts.by_fault;
        Self {
            schema: SCHEMA,
            version: VERSION,
            run_id: of.run_id.into(),
            name: of.name.into(),
            at: of.at,
            begin_ns: of.begin_ns,
            end_ns: now.at_ns,
            is_warmup: of.is_warmup,
            is_last: of.is_last,
            counts,
            waiting: now.waiting,
            sent_per_s: counts.sent as f64 / elapsed_s,
            ok_per_s: counts.ok as f64 / elapsed_s,
            latency_mean_ns: mean(&latency),
            latency_p50_ns: latency.at(0.5),
            latency_p90_ns: latency.at(0.9),
            latency_p99_ns: latency.at(0.99),
            latency_p99_9_ns: latency.at(0.999),
            latency_max_ns: latency.at(1.0),
            slip_p50_ns: slip.at(0.5),
            slip_p99_ns: slip.at(0.99),
            slip_max_ns: slip.at(1.0),
            outages: faults.iter().sum(),
            outages_silent: now.outages.of_fault(Fault::Silent),
            outages_misdirected: now.outages.of_fault(Fault::Misdirected),
            longest_outage_ns: now.outages.longest_ns(),
            rounds: now.rounds,
        }
    }

    pub(crate) fn json(&self) -> String {
        let mut text = serde_json::to_string(self).expect("every field can be written as JSON");
        text.push('\n');
        text
    }
}

fn mean(durations: &DurationTotals) -> Option<u64> {
    durations.sum_ns().checked_div(durations.count())
}

/// A value as RFC 4180 wants it. `null` is empty.
fn cell(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::Null) => String::new(),
        Ok(Value::String(text)) if !text.contains([',', '"', '\n', '\r']) => text,
        Ok(Value::String(text)) => format!("\"{}\"", text.replace('"', "\"\"")),
        Ok(value) => value.to_string(),
        Err(error) => unreachable!("every field can be written as JSON: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::live::LiveHistogram;

    fn line() -> IntervalLine {
        let mut before = Observed { at_ns: 1_000_000_000, ..Observed::default() };
        before.totals.counts.sent = 100;
        let mut now = Observed { at_ns: 3_000_000_000, waiting: 7, rounds: 2, ..before.clone() };
        now.totals.counts.sent = 150;
        now.totals.counts.ok = 40;
        let live = LiveHistogram::default();
        live.note(1_000_000);
        live.note(3_000_000);
        now.totals.round_trips.add(&live.read());
        let of = IntervalOf {
            run_id: "00ff",
            name: "step 1: \"1,000/s\"",
            at: "now".into(),
            begin_ns: 1_000_000_000,
            is_warmup: false,
            is_last: true,
        };
        IntervalLine::new(of, &before, &now)
    }

    #[test]
    fn a_line_tells_what_happened_since() {
        let line = line();
        assert_eq!((line.counts.sent, line.counts.ok, line.sent_per_s, line.ok_per_s), (50, 40, 25.0, 20.0));
        assert_eq!((line.latency_mean_ns, line.slip_p99_ns), (Some(2_000_000), None));
        assert!(line.latency_max_ns.unwrap().abs_diff(3_000_000) < 400_000);
        assert_eq!(line.json().matches('\n').count(), 1);
    }

    /// One definition: each field of the JSON is a column, and the other way round.
    #[test]
    fn both_formats_have_the_same_fields() {
        let (json, csv) = (serde_json::to_value(line()).unwrap(), line().csv());
        let header = IntervalLine::csv_header();
        let columns: Vec<&str> = header.trim_end().split(',').collect();
        let mut names = columns.clone();
        names.sort_unstable();
        assert_eq!(names, json.as_object().unwrap().keys().collect::<Vec<_>>());
        // the name has the only comma, and is in quotes
        let csv = csv.replacen("\"step 1: \"\"1,000/s\"\"\"", "NAME", 1);
        let cells: Vec<&str> = csv.trim_end().split(',').collect();
        assert_eq!(cells.len(), columns.len(), "{csv}");
        for (column, found) in columns.iter().zip(cells) {
            let wanted = if *column == "name" { "NAME".into() } else { cell(&json[column]) };
            assert_eq!(found, wanted, "{column}");
        }
    }
}
