//! The plots of a run, and of several runs.

use std::fmt;

use crate::model::counts::{Class, Counts};
use crate::model::latency::Percentiles;
use crate::model::units::{count, counted, duration, percent};
use crate::report::schema::{Interval, NamedRun, Report, Verdict};
use crate::show::page::plot::{Axis, Ink, Line, Plot, Scale, Stroke};

/// The most spans of a plot over time. More would be thinner than two pixels.
const SPANS_MAX: usize = 300;
/// The most spans that are drawn as steps.
const STEPS_MAX: usize = 60;

/// An axis of seconds up to `end_s`.
fn time(end_s: f64) -> Axis {
    /// Round times: seconds, minutes, hours, days.
    const STEPS: [f64; 20] = [
        1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0, 3_600.0, 7_200.0,
        10_800.0, 21_600.0, 43_200.0, 86_400.0, 172_800.0, 864_000.0,
    ];
    const TICKS_MAX: f64 = 6.0;
    let step = STEPS.into_iter().find(|step| end_s / step <= TICKS_MAX);
    let step = step.unwrap_or(864_000.0 * (end_s / 864_000.0 / TICKS_MAX).ceil());
    let ticks = (0..=(end_s / step + 1e-9) as u64).map(|nth| nth as f64 * step).collect();
    Axis {
        scale: Scale::Linear,
        is_tight: true,
        from: Some(0.0),
        to: None,
        // the tenths of a short run
        ticks: (end_s >= 2.0).then_some(ticks),
        label: |s| match s {
            _ if s >= 172_800.0 => format!("{} d", round(s / 86_400.0)),
            _ if s >= 3_600.0 => format!("{} h", round(s / 3_600.0)),
            _ if s >= 120.0 => format!("{} min", round(s / 60.0)),
            _ => format!("{} s", round(s)),
        },
    }
}

/// Where the last of these spans ends.
fn end_of(spans: &[Span]) -> f64 {
    spans.last().map_or(0.0, |span| span.end)
}

fn per_s() -> Axis {
    Axis {
        scale: Scale::Linear,
        is_tight: false,
        from: Some(0.0),
        to: Some(1.0),
        ticks: None,
        label: |rate| format!("{}/s", short(rate)),
    }
}

fn nanoseconds() -> Axis {
    Axis {
        scale: Scale::Logarithmic,
        is_tight: false,
        from: None,
        to: None,
        ticks: None,
        label: |ns| tick_duration(ns),
    }
}

fn share() -> Axis {
    Axis {
        scale: Scale::Linear,
        is_tight: false,
        from: Some(0.0),
        to: Some(0.001),
        ticks: None,
        label: |share| format!("{} %", round(share)),
    }
}

/// A number without trailing zeros.
fn round(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').into()
}

/// 1,500,000 as 1.5M.
fn short(value: f64) -> String {
    match value {
        _ if value >= 1e9 => format!("{}G", round(value / 1e9)),
        _ if value >= 1e6 => format!("{}M", round(value / 1e6)),
        _ if value >= 1e3 => format!("{}k", round(value / 1e3)),
        _ => round(value),
    }
}

/// A round duration, as in 20 µs.
fn tick_duration(ns: f64) -> String {
    match ns {
        _ if ns >= 1e9 => format!("{} s", round(ns / 1e9)),
        _ if ns >= 1e6 => format!("{} ms", round(ns / 1e6)),
        _ if ns >= 1e3 => format!("{} µs", round(ns / 1e3)),
        _ => format!("{} ns", round(ns)),
    }
}

/// Consecutive seconds: one, or several if they are one interval, or if there are more than a screen can show.
struct Span {
    /// In seconds.
    begin: f64,
    end: f64,
    counts: Counts,
    /// Of its worst interval, in the order of [`Percentiles::NAMED`]. `None`: no right reply came.
    latency: Option<[u64; FIGURES]>,
}

const FIGURES: usize = Percentiles::NAMED.len();

impl Span {
    fn new(intervals: &[Interval], elapsed_s: f64) -> Self {
        let begin = intervals[0].second as f64;
        let end = (intervals[intervals.len() - 1].span().end() as f64).min(elapsed_s);
        let mut span = Self { begin, end, counts: Counts::default(), latency: None };
        for interval in intervals {
            span.counts += &interval.counts;
            let Some(latency) = &interval.latency else { continue };
            let of_interval = Percentiles::NAMED.map(|(_, of)| of(latency));
            let worst = span.latency.get_or_insert(of_interval);
            worst.iter_mut().zip(of_interval).for_each(|(worst, ns)| *worst = (*worst).max(ns));
        }
        span
    }

    fn seconds(&self) -> f64 {
        self.end - self.begin
    }

    /// The text under the pointer.
    fn say(&self, said: impl fmt::Display) -> String {
        let (first, last) = (self.begin as u64, self.end.ceil() as u64 - 1);
        if first == last {
            format!("second {first}\n{said}")
        } else {
            format!("seconds {first} to {last}\n{said}")
        }
    }
}

/// The whole run in spans.
fn spans(report: &Report) -> Vec<Span> {
    let elapsed_s = report.elapsed_ns as f64 / 1e9;
    let intervals_each = report.intervals.len().div_ceil(SPANS_MAX).max(1);
    report
        .intervals
        .chunks(intervals_each)
        .map(|intervals| Span::new(intervals, elapsed_s))
        // the rest at the end of a run may be too short for a rate
        .filter(|span| span.seconds() >= 0.1)
        .collect()
}

/// A value for each span. Few spans are steps, so that a run of one second is a line from its begin to its end.
fn over_time(spans: &[Span], of: impl Fn(&Span) -> Option<f64>) -> Vec<(f64, f64)> {
    let is_stepped = spans.len() <= STEPS_MAX;
    let points = spans.iter().flat_map(|span| {
        let value = of(span).unwrap_or(f64::NAN);
        let middle = f64::midpoint(span.begin, span.end);
        let ends = [(span.begin, value), (span.end, value)];
        if is_stepped { ends.to_vec() } else { vec![(middle, value)] }
    });
    points.collect()
}

fn columns(spans: &[Span], say: impl Fn(&Span) -> String) -> Vec<(f64, String)> {
    spans.iter().map(|span| (f64::midpoint(span.begin, span.end), span.say(say(span)))).collect()
}

/// Why there is nothing to draw over time.
fn nothing_over_time(report: &Report, spans: &[Span]) -> Option<String> {
    if report.totals.counts.sent == 0 {
        Some("Nothing was sent.".into())
    } else {
        spans
            .is_empty()
            .then(|| "The run was too short: no second, and no tenth of one, was measured.".into())
    }
}

/// Why there is no latency to draw.
fn no_latency(has_latency: bool) -> Option<String> {
    (!has_latency).then(|| "No right reply came back, so there is no latency.".into())
}

/// Datagrams sent, and right replies in time, per second.
pub(super) fn rate(report: &Report) -> Plot {
    let spans = spans(report);
    let per_s =
        |of: fn(&Counts) -> u64| over_time(&spans, |span| Some(of(&span.counts) as f64 / span.seconds()));
    let sent = Line { stroke: Stroke::Dashed, ..Line::new("sent", Ink::PLAIN, per_s(|counts| counts.sent)) };
    let ok = Line { fill: true, ..Line::new("ok", Ink::GOOD, per_s(|counts| counts.ok)) };
    Plot {
        title: "Rate",
        x: time(end_of(&spans)),
        y: self::per_s(),
        lines: vec![ok, sent],
        columns: columns(&spans, |span| {
            let rate = |number: u64| count((number as f64 / span.seconds()).round() as u64);
            format!("sent {}/s\nok {}/s", rate(span.counts.sent), rate(span.counts.ok))
        }),
        nothing: nothing_over_time(report, &spans),
    }
}

/// The classes that are not ok, and their colors.
pub(super) const NOT_OK: [(Class, Ink); 6] = [
    (Class::Lost, Ink::BAD),
    (Class::Late, Ink("late")),
    (Class::Corrupted, Ink("corrupted")),
    (Class::Truncated, Ink("truncated")),
    (Class::Misdirected, Ink("misdirected")),
    (Class::Unreachable, Ink("unreachable")),
];

/// The share of each class that is not ok.
pub(super) fn not_ok(report: &Report) -> Plot {
    let totals = &report.totals.counts;
    let spans = spans(report);
    let shown = NOT_OK.iter().filter(|(class, _)| totals.of(*class) > 0);
    let shown: Vec<_> = shown.zip(Stroke::PATTERNS).collect();
    // areas over each other would hide the lines
    let fill = shown.len() == 1;
    let line = |((class, ink), stroke): (&(Class, Ink), Stroke)| {
        let percent = |counts: &Counts| counts.of(*class) as f64 * 100.0 / counts.sent.max(1) as f64;
        let points = over_time(&spans, |span| Some(percent(&span.counts)));
        Line { fill, stroke, ..Line::new(class.name(), *ink, points) }
    };
    let label = |(class, _): &(Class, Ink), counts: &Counts| {
        let number = counts.of(*class);
        let share = percent(number, counts.sent);
        (number > 0).then(|| format!("{} {} ({share})", class.name(), count(number)))
    };
    let sent = || counted(totals.sent, report.load.unit());
    let all_ok = || {
        (totals.not_ok() == 0).then(|| format!("All ok: {} sent, each came back right and in time.", sent()))
    };
    Plot {
        title: "Not ok",
        x: time(end_of(&spans)),
        y: share(),
        lines: shown.into_iter().map(line).collect(),
        columns: columns(&spans, |span| {
            let labels: Vec<_> = NOT_OK.iter().filter_map(|class| label(class, &span.counts)).collect();
            if labels.is_empty() { "all ok".into() } else { labels.join("\n") }
        }),
        nothing: nothing_over_time(report, &spans).or_else(all_ok),
    }
}

/// An axis of percentiles: each further nine has the same length.
fn nines() -> Axis {
    Axis {
        scale: Scale::Linear,
        is_tight: false,
        from: Some(0.0),
        to: None,
        ticks: Some(vec![std::f64::consts::LOG10_2, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]),
        label: |nines| match nines {
            _ if nines < 0.5 => "50 %".into(),
            _ => format!("{} %", round((1.0 - 10_f64.powf(-nines)) * 100.0)),
        },
    }
}

/// Durations by percentile, up to the percentile of the slowest reply.
fn by_percentile(percentiles: &Percentiles) -> Vec<(f64, f64)> {
    const STEPS_TO_A_NINE: u32 = 24;
    let latency = percentiles.histogram.unpack();
    let nines = (percentiles.count as f64).log10().max(0.4);
    let last = (nines * f64::from(STEPS_TO_A_NINE)).ceil() as u32;
    (0..=last)
        .map(|step| (f64::from(step) / f64::from(STEPS_TO_A_NINE)).min(nines))
        .map(|nines| (nines, latency.at(1.0 - 10_f64.powf(-nines)) as f64))
        .collect()
}

/// The duration of each percentile.
pub(super) fn latency_by_percentile(report: &Report) -> Plot {
    let is_scheduled = report.generator.slip.is_some();
    let rows = [
        (if is_scheduled { "from intended" } else { "round trip" }, Ink::GOOD, &report.latency.from_intended),
        ("from actual", Ink::SERIES[1], if is_scheduled { &report.latency.from_actual } else { &None }),
        ("generator slip", Ink::PLAIN, &report.generator.slip),
        ("reading slip", Ink::SERIES[2], &report.generator.reading_slip),
    ];
    let line = |(name, ink, percentiles): (&'static str, Ink, &Option<Percentiles>)| {
        let line = Line::new(name, ink, by_percentile(percentiles.as_ref()?));
        Some(Line { stroke: if ink == Ink::PLAIN { Stroke::Dashed } else { Stroke::Solid }, ..line })
    };
    let lines: Vec<Line> = rows.into_iter().filter_map(line).collect();
    let say = |nines: f64| {
        let share = (1.0 - 10_f64.powf(-nines)) * 100.0;
        let at = |line: &Line| {
            let point = line.points.iter().find(|(at, _)| *at >= nines - 1e-9).or(line.points.last());
            point.map_or(String::new(), |(_, ns)| format!("\n{} {}", line.name, duration(*ns as u64)))
        };
        format!("{} %{}", round(share), lines.iter().map(at).collect::<String>())
    };
    let places = lines.first().map(|line| line.points.iter().map(|(at, _)| *at).collect::<Vec<_>>());
    let columns = places.unwrap_or_default().into_iter().step_by(2).map(|at| (at, say(at))).collect();
    let nothing = no_latency(report.latency.from_intended.is_some());
    Plot { title: "Latency by percentile", x: nines(), y: nanoseconds(), lines, columns, nothing }
}

/// The colors of p50, p90, p95, p99 and p99.9: from light to strong. The place of each is that of its name in
/// [`Percentiles::NAMED`].
const PERCENTILES: [(usize, Ink); 5] =
    [(0, Ink("p50")), (1, Ink("p90")), (2, Ink("p95")), (3, Ink("p99")), (4, Ink("p99-9"))];
/// The place of the maximum.
const MAX: usize = FIGURES - 1;

/// Percentiles of each second.
pub(super) fn latency_over_time(report: &Report) -> Plot {
    let spans = spans(report);
    let line = |(nth, ink): (usize, Ink)| {
        let points = over_time(&spans, |span| span.latency.map(|latency| latency[nth] as f64));
        Line::new(Percentiles::NAMED[nth].0, ink, points)
    };
    let max = Line { stroke: Stroke::Dashed, ..line((MAX, Ink::PLAIN)) };
    Plot {
        title: "Latency over time",
        x: time(end_of(&spans)),
        y: nanoseconds(),
        lines: std::iter::once(max).chain(PERCENTILES.into_iter().rev().map(line)).collect(),
        columns: columns(&spans, |span| match span.latency {
            None => "no right reply".into(),
            Some(latency) => {
                let figures = Percentiles::NAMED.iter().zip(latency);
                figures
                    .map(|((name, _), ns)| format!("{name} {}", duration(ns)))
                    .collect::<Vec<_>>()
                    .join("\n")
            }
        }),
        nothing: no_latency(spans.iter().any(|span| span.latency.is_some())),
    }
}

/// Whether the runs have different rates.
pub(super) fn have_rates(runs: &[NamedRun]) -> bool {
    let rates: Option<Vec<f64>> = runs.iter().map(|run| run.report.load.rate_per_s).collect();
    rates.is_some_and(|rates| rates.iter().any(|rate| (rate - rates[0]).abs() > 0.5))
}

fn rates() -> Axis {
    Axis {
        scale: Scale::Logarithmic,
        is_tight: false,
        label: |rate| format!("{}/s", short(rate)),
        from: None,
        to: None,
        ticks: None,
    }
}

/// A point for each run, in the order of rates.
fn by_rate(runs: &[NamedRun], of: impl Fn(&NamedRun) -> Option<f64>) -> Vec<(f64, f64)> {
    let point = |run: &NamedRun| run.report.load.rate_per_s.zip(of(run));
    let mut points: Vec<(f64, f64)> = runs.iter().filter_map(point).collect();
    points.sort_by(|one, other| one.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal));
    points
}

/// Points with lines between them; a search runs rates again, so its points have no lines.
fn by_rate_line(runs: &[NamedRun], name: &str, ink: Ink, points: Vec<(f64, f64)>) -> Line {
    let is_search = runs.iter().any(|run| run.verdict.is_some());
    let stroke = if is_search { Stroke::Dots } else { Stroke::Dotted };
    Line { stroke, ..Line::new(name, ink, points) }
}

fn said_by_rate(runs: &[NamedRun], say: impl Fn(&Report) -> String) -> Vec<(f64, String)> {
    let mut columns: Vec<(f64, String)> = Vec::new();
    let mut runs: Vec<&NamedRun> = runs.iter().collect();
    let rate = |run: &&NamedRun| run.report.load.rate_per_s.unwrap_or(0.0);
    runs.sort_by(|one, other| rate(one).total_cmp(&rate(other)));
    for run in runs {
        let verdict = run.verdict.as_ref().map_or(String::new(), |verdict| format!(", {verdict}"));
        let said = format!("{}{verdict}\n{}", run.name, say(&run.report));
        match columns.last_mut() {
            Some((at, all)) if (*at - rate(&run)).abs() < 0.5 => *all = format!("{all}\n{said}"),
            _ => columns.push((rate(&run), said)),
        }
    }
    columns
}

/// Latency by rate.
pub(super) fn latency_by_rate(runs: &[NamedRun]) -> Plot {
    let line = |(nth, ink): (usize, Ink)| {
        let (name, of) = Percentiles::NAMED[nth];
        let points = by_rate(runs, |run| run.report.latency.from_intended.as_ref().map(|it| of(it) as f64));
        by_rate_line(runs, name, ink, points)
    };
    Plot {
        title: "Latency by rate",
        x: rates(),
        y: nanoseconds(),
        lines: PERCENTILES.into_iter().rev().map(line).collect(),
        columns: said_by_rate(runs, |report| match &report.latency.from_intended {
            None => "no right reply".into(),
            Some(it) => {
                let figures = PERCENTILES.map(|(nth, _)| {
                    let (name, of) = Percentiles::NAMED[nth];
                    format!("{name} {}", duration(of(it)))
                });
                figures.join(", ")
            }
        }),
        nothing: no_latency(runs.iter().any(|run| run.report.latency.from_intended.is_some())),
    }
}

/// A kind of verdict: its name, its color, and a test for it.
type Kind = (&'static str, Ink, fn(&Option<Verdict>) -> bool);

/// The share that is not ok at each rate; with an objective, also the verdict of each run.
pub(super) fn not_ok_by_rate(runs: &[NamedRun]) -> Plot {
    let percent_of = |report: &Report| {
        let counts = &report.totals.counts;
        counts.not_ok() as f64 * 100.0 / counts.sent.max(1) as f64
    };
    let kinds: [Kind; 4] = [
        ("share that is not ok", Ink::GOOD, Option::is_none),
        ("met", Ink::GOOD, |verdict| matches!(verdict, Some(Verdict::Met))),
        ("missed", Ink::BAD, |verdict| matches!(verdict, Some(Verdict::Missed(_)))),
        ("blaster's limit", Ink::PLAIN, |verdict| matches!(verdict, Some(Verdict::Generator(_)))),
    ];
    let lines = kinds.iter().map(|(name, ink, is_kind)| {
        let points = by_rate(runs, |run| is_kind(&run.verdict).then(|| percent_of(&run.report)));
        by_rate_line(runs, name, *ink, points)
    });
    let is_search = runs.iter().any(|run| run.verdict.is_some());
    let all_ok = runs.iter().all(|run| run.report.totals.counts.not_ok() == 0);
    Plot {
        title: "Not ok by rate",
        x: rates(),
        y: if all_ok { Axis { to: Some(1.0), ..share() } } else { share() },
        lines: lines.filter(|line| !line.points.is_empty()).collect(),
        columns: said_by_rate(runs, |report| {
            let counts = &report.totals.counts;
            format!("{} not ok", percent(counts.not_ok(), counts.sent))
        }),
        // the points of a search have its verdicts
        nothing: (all_ok && !is_search).then(|| "All ok at every rate.".into()),
    }
}

fn of_each(runs: &[NamedRun], points: impl Fn(&Report) -> Vec<(f64, f64)>) -> Vec<Line> {
    let looks = Ink::SERIES.into_iter().zip(Stroke::PATTERNS).cycle();
    runs.iter()
        .zip(looks)
        .map(|(run, (ink, stroke))| Line { stroke, ..Line::new(&run.name, ink, points(&run.report)) })
        .collect()
}

/// Latency by percentile, one line for each run.
pub(super) fn percentiles_of_each(runs: &[NamedRun]) -> Plot {
    let lines =
        of_each(runs, |report| report.latency.from_intended.as_ref().map_or(Vec::new(), by_percentile));
    let nothing = no_latency(lines.iter().any(|line| !line.points.is_empty()));
    Plot { title: "Latency by percentile", x: nines(), y: nanoseconds(), lines, columns: Vec::new(), nothing }
}

/// The p99 of each second, one line for each run.
pub(super) fn p99_of_each(runs: &[NamedRun]) -> Plot {
    const P99: usize = 3;
    let end_s = runs.iter().map(|run| end_of(&spans(&run.report))).fold(0.0, f64::max);
    let lines = of_each(runs, |report| {
        over_time(&spans(report), |span| span.latency.map(|latency| latency[P99] as f64))
    });
    let nothing = no_latency(lines.iter().any(|line| line.points.iter().any(|(_, ns)| !ns.is_nan())));
    Plot { title: "p99 over time", x: time(end_s), y: nanoseconds(), lines, columns: Vec::new(), nothing }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_round_and_short() {
        let labels = |end_s| {
            let axis = time(end_s);
            axis.ticks.unwrap_or_default().into_iter().map(axis.label).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(labels(1.0), "", "the axis has its own");
        assert_eq!(labels(12.0), "0 s, 2 s, 4 s, 6 s, 8 s, 10 s, 12 s");
        assert_eq!(labels(100.0), "0 s, 30 s, 60 s, 90 s");
        assert_eq!(labels(600.0), "0 s, 2 min, 4 min, 6 min, 8 min, 10 min");
        assert_eq!(labels(86_400.0), "0 s, 6 h, 12 h, 18 h, 24 h");
        assert_eq!(labels(864_000.0), "0 s, 2 d, 4 d, 6 d, 8 d, 10 d");
        // ten years, the longest report that is read
        assert!(time(3.2e8).ticks.is_some_and(|ticks| ticks.len() <= 7), "{}", labels(3.2e8));
    }
}
