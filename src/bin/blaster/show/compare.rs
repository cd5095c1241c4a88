//! Several runs side by side, one line for each.

use std::fmt::Write;

use crate::model::latency::Percentiles;
use crate::model::units::{count, duration, percent};
use crate::model::wrap::wrap;
use crate::report::schema::{NamedRun, Report, Series, Verdict};
use crate::show::columns::{Column, fitting};
use crate::show::paint::Paint;

/// The table of a series; it ends with a newline.
pub(crate) fn render(series: &Series, paint: &Paint) -> String {
    let longest = series.runs.iter().map(|run| run.name.chars().count()).max().unwrap_or(0);
    // a longer name has a line of its own
    let most = paint.width.map_or(usize::MAX, |width| width.saturating_sub(columns_width()).max(10));
    let names_width = longest.clamp(3, most.max(3));
    let mut out = heading(names_width, paint);
    for run in &series.runs {
        out.push_str(&line(run, names_width, paint));
    }
    out.push_str(&footer(series, paint));
    out
}

/// The text below the lines.
pub(crate) fn footer(series: &Series, paint: &Paint) -> String {
    let mut out = String::new();
    for run in &series.runs {
        // the answer of a search takes the defects of its runs into account
        let warnings = if series.found.is_none() { run.report.warnings.as_slice() } else { &[] };
        for warning in warnings {
            let _ = writeln!(out, "{}", paint.marked("!", &format!("{}: {warning}", run.name)));
        }
        for condition in &run.report.fail_if {
            let text = format!("{} '{}': {}", run.name, condition.condition, condition.measured);
            let _ = writeln!(out, "{}", paint.condition(condition.failed, &text));
        }
    }
    if let Some(found) = &series.found {
        let _ = writeln!(out, "\n{}", wrap(&found.sentence(), paint.width, 0));
    }
    for condition in &series.fail_if {
        let text = format!("'{}': {}", condition.condition, condition.measured);
        let _ = writeln!(out, "{}", paint.condition(condition.failed, &text));
    }
    out
}

/// A figure of a run.
type RunColumn = Column<fn(&Report) -> String>;

/// The figures of a run. A narrow terminal shows the share that is not ok, p50 and p99.
const COLUMNS: [RunColumn; 10] = [
    Column { name: "sent/s", width: 11, rank: 1, of: |report| per_s(report.totals.sent_per_s) },
    Column { name: "ok/s", width: 11, rank: 5, of: |report| per_s(report.totals.ok_per_s) },
    Column {
        name: NOT_OK,
        width: 12,
        rank: 0,
        of: |report| percent(report.totals.counts.not_ok(), report.totals.counts.sent),
    },
    Column { name: "p50", width: 9, rank: 0, of: |report| latency(report, |it| it.p50_ns) },
    Column { name: "p90", width: 9, rank: 4, of: |report| latency(report, |it| it.p90_ns) },
    Column { name: "p95", width: 9, rank: 2, of: |report| latency(report, |it| it.p95_ns) },
    Column { name: "p99", width: 9, rank: 0, of: |report| latency(report, |it| it.p99_ns) },
    Column { name: "p99.9", width: 9, rank: 3, of: |report| latency(report, |it| it.p99_9_ns) },
    Column { name: "max", width: 9, rank: 2, of: |report| latency(report, |it| it.max_ns) },
    Column {
        name: "slip p99",
        width: 10,
        rank: 6,
        of: |report| report.generator.slip.as_ref().map_or("-".into(), |slip| duration(slip.p99_ns)),
    },
];

/// The column that is red if it is not 0.
const NOT_OK: &str = "not ok";

fn per_s(rate: f64) -> String {
    count(rate.round() as u64)
}

fn latency(report: &Report, of: fn(&Percentiles) -> u64) -> String {
    report.latency.from_intended.as_ref().map_or("-".into(), |latency| duration(of(latency)))
}

/// Characters of the columns that always stay, and of those that a middling terminal should not lose to long names.
fn columns_width() -> usize {
    COLUMNS.iter().filter(|column| column.rank <= 1).map(|column| column.width).sum()
}

/// The heading of the lines; names have up to `names_width` letters.
pub(crate) fn heading(names_width: usize, paint: &Paint) -> String {
    let mut line = format!("{:<names_width$}", "run");
    for Column { name, width, .. } in fitting(&COLUMNS, names_width, paint.width) {
        let _ = write!(line, "{name:>width$}");
    }
    format!("{}\n", paint.head(&line))
}

/// The line of one run. A verdict that does not fit into it has a line of its own, and so has a name.
pub(crate) fn line(run: &NamedRun, names_width: usize, paint: &Paint) -> String {
    let name_fits = run.name.chars().count() <= names_width;
    let mut line = if name_fits {
        format!("{:<names_width$}", run.name)
    } else {
        format!("{}\n{:names_width$}", run.name, "")
    };
    let mut used = names_width;
    for Column { name, width, of, .. } in fitting(&COLUMNS, names_width, paint.width) {
        let figure = format!("{:>width$}", of(&run.report));
        let is_bad = name == NOT_OK && run.report.totals.counts.not_ok() > 0;
        line.push_str(&if is_bad { paint.bad(&figure) } else { figure });
        used += width;
    }
    if let Some(verdict) = &run.verdict {
        let text = verdict.to_string();
        let fits = paint.width.is_none_or(|width| used + 2 + text.chars().count() <= width);
        let text = if fits { format!("  {text}") } else { format!("\n{}", paint.wrap(&format!("  {text}"))) };
        line.push_str(&if *verdict == Verdict::Met { text } else { paint.bad(&text) });
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::counts::Counts;
    use crate::report::sample::report;

    #[test]
    fn each_run_has_its_line_and_its_warnings() {
        let named = |name: &str, counts| NamedRun::new(name, report(counts));
        let mut runs = vec![
            named("a.json", Counts { sent: 1_000, ok: 1_000, ..Counts::default() }),
            named("longer.json", Counts { sent: 1_000, ok: 990, lost: 9, late: 1, ..Counts::default() }),
        ];
        runs[1].report.warnings = vec!["too slow".into()];
        let table = render(&Series::new(runs), &Paint::PLAIN);
        let lines: Vec<&str> = table.lines().collect();
        let of = |line: &str| line.split_whitespace().map(String::from).collect::<Vec<_>>();
        assert_eq!(of(lines[1])[..4], ["a.json", "1,000", "1,000", "0"]);
        assert_eq!(of(lines[2])[..5], ["longer.json", "1,000", "990", "1.00", "%"]);
        assert_eq!(lines[0].chars().count(), lines[1].chars().count());
        assert_eq!(lines[3], "! longer.json: too slow");
    }

    #[test]
    fn a_narrow_terminal_has_fewer_columns_and_no_broken_word() {
        let mut slow = NamedRun::new(
            "a/rather/long/name/of-a-file.json",
            report(Counts { sent: 9, ok: 9, ..Counts::default() }),
        );
        slow.verdict = Some(Verdict::Generator("only 156,220/s were sent".into()));
        slow.report.warnings = vec!["blaster was the bottleneck: it used up its processors".into()];
        let met = NamedRun { verdict: Some(Verdict::Met), ..NamedRun::new("20,000/s", slow.report.clone()) };
        let table = |runs: &[&NamedRun], width| {
            let series = Series::new(runs.iter().map(|run| (*run).clone()).collect());
            render(&series, &Paint { color: false, width: Some(width) })
        };
        for (width, columns) in [(120, 10), (100, 9), (80, 7), (50, 4)] {
            let text = table(&[&met], width);
            assert_eq!(
                text.lines()
                    .next()
                    .unwrap()
                    .replace("not ok", "not-ok")
                    .replace("slip p99", "slip")
                    .split_whitespace()
                    .count(),
                1 + columns,
                "{text}"
            );
            for text in [text, table(&[&met, &slow], width)] {
                assert!(text.lines().all(|line| line.chars().count() <= width), "{width}: {text}");
                assert!(text.contains("met"), "{text}");
            }
        }
        assert!(
            table(&[&slow], 50).contains("a/rather/long/name/of-a-file.json\n"),
            "{}",
            table(&[&slow], 50)
        );
        assert!(
            table(&[&slow], 50).contains("\n  blaster's limit: only 156,220/s were sent\n"),
            "{}",
            table(&[&slow], 50)
        );
    }
}
