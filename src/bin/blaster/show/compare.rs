//! Several runs side by side, one line for each.

use std::fmt::Write;

use crate::model::units::{count, duration, percent};
use crate::report::schema::Verdict;
use crate::report::schema::{NamedRun, Report, Series};
use crate::show::paint::Paint;

/// The table of a series; it ends with a newline.
pub(crate) fn render(series: &Series, paint: &Paint) -> String {
    let width = series.runs.iter().map(|run| run.name.chars().count()).max().unwrap_or(0).max(3);
    let mut out = heading(width, paint);
    for run in &series.runs {
        out.push_str(&line(run, width, paint));
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
            let _ = writeln!(out, "{} {}: {warning}", paint.bad("!"), run.name);
        }
        for condition in &run.report.fail_if {
            let outcome = if condition.failed { paint.bad("FAILED") } else { "passed".into() };
            let _ =
                writeln!(out, "{outcome}  {} '{}': {}", run.name, condition.condition, condition.measured);
        }
    }
    if let Some(found) = &series.found {
        let _ = writeln!(out, "\n{}", found.sentence());
    }
    for condition in &series.fail_if {
        let outcome = if condition.failed { paint.bad("FAILED") } else { "passed".into() };
        let _ = writeln!(out, "{outcome}  '{}': {}", condition.condition, condition.measured);
    }
    out
}

/// The heading of the lines; names have up to `width` letters.
pub(crate) fn heading(width: usize, paint: &Paint) -> String {
    let columns = ["sent/s", "ok/s", "not ok", "p50", "p99", "p99.9", "max", "slip p99"];
    let mut line = format!("{:<width$}", "run");
    for column in columns {
        let _ = write!(line, "{column:>12}");
    }
    format!("{}\n", paint.head(&line))
}

/// The line of one run.
pub(crate) fn line(run: &NamedRun, width: usize, paint: &Paint) -> String {
    let report = &run.report;
    let totals = &report.totals;
    let not_ok = totals.counts.not_ok();
    let mut line = format!("{:<width$}", run.name);
    let _ = write!(line, "{:>12}", count(totals.sent_per_s.round() as u64));
    let _ = write!(line, "{:>12}", count(totals.ok_per_s.round() as u64));
    let share = format!("{:>12}", percent(not_ok, totals.counts.sent));
    line.push_str(&if not_ok > 0 { paint.bad(&share) } else { share });
    for ns in figures(report) {
        let _ = write!(line, "{:>12}", ns.map_or("-".into(), duration));
    }
    match &run.verdict {
        None => {}
        Some(Verdict::Met) => line.push_str("  met"),
        Some(verdict) => {
            let _ = write!(line, "  {}", paint.bad(&verdict.to_string()));
        }
    }
    line.push('\n');
    line
}

fn figures(report: &Report) -> [Option<u64>; 5] {
    let latency = report.latency.from_intended.as_ref();
    [
        latency.map(|latency| latency.p50_ns),
        latency.map(|latency| latency.p99_ns),
        latency.map(|latency| latency.p99_9_ns),
        latency.map(|latency| latency.max_ns),
        report.generator.slip.as_ref().map(|slip| slip.p99_ns),
    ]
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
        let table = render(&Series::new(runs), &Paint { color: false });
        let lines: Vec<&str> = table.lines().collect();
        let of = |line: &str| line.split_whitespace().map(String::from).collect::<Vec<_>>();
        assert_eq!(of(lines[1])[..4], ["a.json", "1,000", "1,000", "0"]);
        assert_eq!(of(lines[2])[..5], ["longer.json", "1,000", "990", "1.0000", "%"]);
        assert_eq!(lines[0].chars().count(), lines[1].chars().count());
        assert_eq!(lines[3], "! longer.json: too slow");
    }
}
