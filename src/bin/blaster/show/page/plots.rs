//! The plots of a run, and of several runs.

use crate::model::counts::{Class, Counts};
use crate::model::latency::Percentiles;
use crate::model::units::{count, duration, percent};
use crate::show::page::plot::{Axis, Ink, Line, Plot, Scale, Stroke};

use crate::report::schema::{Interval, NamedRun, Report, Verdict};

/// The most places of a plot that show a text under the pointer.
const COLUMNS_MAX: usize = 300;

fn time() -> Axis {
    Axis {
        scale: Scale::Linear,
        from: Some(0.0),
        to: None,
        ticks: None,
        label: |s| format!("{} s", round(s)),
    }
}

fn per_s() -> Axis {
    Axis {
        scale: Scale::Linear,
        from: Some(0.0),
        to: Some(1.0),
        ticks: None,
        label: |rate| format!("{}/s", short(rate)),
    }
}

fn nanoseconds() -> Axis {
    Axis { scale: Scale::Logarithmic, from: None, to: None, ticks: None, label: |ns| tick_duration(ns) }
}

fn share() -> Axis {
    Axis {
        scale: Scale::Linear,
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

/// Each interval: its middle, its measured length, and its interval.
fn seconds(report: &Report) -> impl Iterator<Item = (f64, f64, &Interval)> {
    report.intervals.iter().filter_map(|interval| {
        let begin = interval.second as f64;
        let length = (report.elapsed_ns as f64 / 1e9 - begin).min(interval.seconds as f64);
        // the rest at the end of a run may be too short for a rate
        (length >= 0.1).then_some((begin + length / 2.0, length, interval))
    })
}

/// The texts of the seconds; if there are too many seconds, of every nth.
fn columns(report: &Report, say: impl Fn(&Interval, f64) -> String) -> Vec<(f64, String)> {
    let step = report.intervals.len().div_ceil(COLUMNS_MAX).max(1);
    seconds(report)
        .step_by(step)
        .map(|(at, length, interval)| {
            let span = interval.span();
            let when = match span.seconds {
                1 => format!("second {}", span.begin),
                _ => format!("seconds {} to {}", span.begin, span.end() - 1),
            };
            (at, format!("{when}\n{}", say(interval, length)))
        })
        .collect()
}

/// Datagrams sent, and right replies in time, per second.
pub(super) fn rate(report: &Report) -> Plot {
    let per_s = |of: fn(&Counts) -> u64| {
        seconds(report).map(|(at, length, interval)| (at, of(&interval.counts) as f64 / length)).collect()
    };
    let sent = Line { stroke: Stroke::Dashed, ..Line::new("sent", Ink::PLAIN, per_s(|counts| counts.sent)) };
    let ok = Line { fill: true, ..Line::new("ok", Ink::GOOD, per_s(|counts| counts.ok)) };
    Plot {
        title: "Rate",
        x: time(),
        y: self::per_s(),
        lines: vec![ok, sent],
        columns: columns(report, |interval, length| {
            let rate = |number: u64| count((number as f64 / length).round() as u64);
            format!("sent {}/s\nok {}/s", rate(interval.counts.sent), rate(interval.counts.ok))
        }),
    }
}

/// The classes that are not ok, and their colors.
const NOT_OK: [(Class, Ink); 6] = [
    (Class::Lost, Ink::BAD),
    (Class::Late, Ink::SERIES[1]),
    (Class::Corrupted, Ink::SERIES[2]),
    (Class::Truncated, Ink::SERIES[3]),
    (Class::Misdirected, Ink::SERIES[4]),
    (Class::Unreachable, Ink::SERIES[5]),
];

/// The share of each class that is not ok.
pub(super) fn not_ok(report: &Report) -> Plot {
    let totals = &report.totals.counts;
    let shown = NOT_OK.iter().filter(|(class, _)| *class == Class::Lost || totals.of(*class) > 0);
    let line = |(class, ink): &(Class, Ink)| {
        let percent = |counts: &Counts| counts.of(*class) as f64 * 100.0 / counts.sent.max(1) as f64;
        let points = seconds(report).map(|(at, _, interval)| (at, percent(&interval.counts))).collect();
        Line { fill: true, ..Line::new(class.name(), *ink, points) }
    };
    let label = |(class, _): &(Class, Ink), counts: &Counts| {
        let number = counts.of(*class);
        let share = percent(number, counts.sent);
        (number > 0).then(|| format!("{} {} ({share})", class.name(), count(number)))
    };
    Plot {
        title: "Not ok",
        x: time(),
        y: share(),
        lines: shown.map(line).collect(),
        columns: columns(report, |interval, _| {
            let labels: Vec<_> = NOT_OK.iter().filter_map(|class| label(class, &interval.counts)).collect();
            if labels.is_empty() { "all ok".into() } else { labels.join("\n") }
        }),
    }
}

/// An axis of percentiles: each further nine has the same length.
fn nines() -> Axis {
    Axis {
        scale: Scale::Linear,
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
    Plot { title: "Latency by percentile", x: nines(), y: nanoseconds(), lines, columns }
}

/// Percentiles of each second.
pub(super) fn latency_over_time(report: &Report) -> Plot {
    let line = |name: &str, ink: Ink, of: fn(&Percentiles) -> u64| {
        let points = seconds(report).filter_map(|(at, _, interval)| {
            interval.latency.as_ref().map(|latency| (at, of(latency) as f64))
        });
        Line::new(name, ink, points.collect())
    };
    Plot {
        title: "Latency over time",
        x: time(),
        y: nanoseconds(),
        lines: vec![
            Line { stroke: Stroke::Dashed, ..line("max", Ink::PLAIN, |latency| latency.max_ns) },
            line("p99.9", Ink::SERIES[3], |latency| latency.p99_9_ns),
            line("p99", Ink::SERIES[1], |latency| latency.p99_ns),
            line("p50", Ink::GOOD, |latency| latency.p50_ns),
        ],
        columns: columns(report, |interval, _| match &interval.latency {
            None => "no right reply".into(),
            Some(latency) => format!(
                "p50 {}\np99 {}\np99.9 {}\nmax {}",
                duration(latency.p50_ns),
                duration(latency.p99_ns),
                duration(latency.p99_9_ns),
                duration(latency.max_ns)
            ),
        }),
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
    let line = |name: &str, ink: Ink, of: fn(&Percentiles) -> u64| {
        let points = by_rate(runs, |run| run.report.latency.from_intended.as_ref().map(|it| of(it) as f64));
        by_rate_line(runs, name, ink, points)
    };
    Plot {
        title: "Latency by rate",
        x: rates(),
        y: nanoseconds(),
        lines: vec![
            line("p99.9", Ink::SERIES[3], |latency| latency.p99_9_ns),
            line("p99", Ink::SERIES[1], |latency| latency.p99_ns),
            line("p50", Ink::GOOD, |latency| latency.p50_ns),
        ],
        columns: said_by_rate(runs, |report| match &report.latency.from_intended {
            None => "no right reply".into(),
            Some(it) => format!(
                "p50 {}, p99 {}, p99.9 {}",
                duration(it.p50_ns),
                duration(it.p99_ns),
                duration(it.p99_9_ns)
            ),
        }),
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
        ("runs", Ink::GOOD, Option::is_none),
        ("objective met", Ink::GOOD, |verdict| matches!(verdict, Some(Verdict::Met))),
        ("missed", Ink::BAD, |verdict| matches!(verdict, Some(Verdict::Missed(_)))),
        ("blaster's limit", Ink::PLAIN, |verdict| matches!(verdict, Some(Verdict::Generator(_)))),
    ];
    let lines = kinds.iter().map(|(name, ink, is_kind)| {
        let points = by_rate(runs, |run| is_kind(&run.verdict).then(|| percent_of(&run.report)));
        by_rate_line(runs, name, *ink, points)
    });
    Plot {
        title: "Not ok by rate",
        x: rates(),
        y: share(),
        lines: lines.filter(|line| !line.points.is_empty()).collect(),
        columns: said_by_rate(runs, |report| format!("{} % not ok", round(percent_of(report)))),
    }
}

fn of_each(runs: &[NamedRun], points: impl Fn(&Report) -> Vec<(f64, f64)>) -> Vec<Line> {
    let inks = Ink::SERIES.iter().cycle();
    runs.iter().zip(inks).map(|(run, ink)| Line::new(&run.name, *ink, points(&run.report))).collect()
}

/// Latency by percentile, one line for each run.
pub(super) fn percentiles_of_each(runs: &[NamedRun]) -> Plot {
    let lines =
        of_each(runs, |report| report.latency.from_intended.as_ref().map_or(Vec::new(), by_percentile));
    Plot { title: "Latency by percentile", x: nines(), y: nanoseconds(), lines, columns: Vec::new() }
}

/// The p99 of each second, one line for each run.
pub(super) fn p99_of_each(runs: &[NamedRun]) -> Plot {
    let lines = of_each(runs, |report| {
        seconds(report)
            .filter_map(|(at, _, interval)| interval.latency.as_ref().map(|it| (at, it.p99_ns as f64)))
            .collect()
    });
    Plot { title: "p99 over time", x: time(), y: nanoseconds(), lines, columns: Vec::new() }
}
