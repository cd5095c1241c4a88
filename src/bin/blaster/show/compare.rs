//! Several runs side by side: a line for each.

use std::fmt::Write;

use crate::judge::objective::Verdict;
use crate::judge::search::{End, Limit};
use crate::report::schema::{Found, Named, Report, Series};
use crate::show::text::{Paint, count, duration, percent};

/// The table of a series, ending with a newline.
pub(crate) fn render(series: &Series, paint: &Paint) -> String {
    let width = series.runs.iter().map(|run| run.name.chars().count()).max().unwrap_or(0).max(3);
    let mut out = heading(width, paint);
    for run in &series.runs {
        out.push_str(&line(run, width, paint));
    }
    out.push_str(&footer(series, paint));
    out
}

/// What stands below the lines.
pub(crate) fn footer(series: &Series, paint: &Paint) -> String {
    let mut out = String::new();
    for run in &series.runs {
        // what a search found takes into account what was wrong with its runs
        let warnings = if series.found.is_none() { run.report.warnings.as_slice() } else { &[] };
        for warning in warnings {
            let _ = writeln!(out, "{} {}: {warning}", paint.bad("!"), run.name);
        }
        for judged in &run.report.fail_if {
            let verdict = if judged.failed { paint.bad("FAILED") } else { "passed".into() };
            let _ = writeln!(out, "{verdict}  {} '{}': {}", run.name, judged.condition, judged.measured);
        }
    }
    if let Some(found) = &series.found {
        let _ = writeln!(out, "\n{}", found.sentence());
    }
    for judged in &series.fail_if {
        let verdict = if judged.failed { paint.bad("FAILED") } else { "passed".into() };
        let _ = writeln!(out, "{verdict}  '{}': {}", judged.condition, judged.measured);
    }
    out
}

/// What stands above the lines of runs whose names have up to `width` letters.
pub(crate) fn heading(width: usize, paint: &Paint) -> String {
    let columns = ["sent/s", "ok/s", "not ok", "p50", "p99", "p99.9", "max", "slip p99"];
    let mut line = format!("{:<width$}", "run");
    for column in columns {
        let _ = write!(line, "{column:>12}");
    }
    format!("{}\n", paint.head(&line))
}

/// One run's line.
pub(crate) fn line(run: &Named, width: usize, paint: &Paint) -> String {
    let report = &run.report;
    let totals = &report.totals;
    let bad = totals.counts.sent - totals.counts.ok.min(totals.counts.sent);
    let mut line = format!("{:<width$}", run.name);
    let _ = write!(line, "{:>12}", count(totals.sent_per_s.round() as u64));
    let _ = write!(line, "{:>12}", count(totals.ok_per_s.round() as u64));
    let share = format!("{:>12}", percent(bad, totals.counts.sent));
    line.push_str(&if bad > 0 { paint.bad(&share) } else { share });
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

impl Found {
    /// The answer in words.
    pub(crate) fn sentence(&self) -> String {
        let Self { objective, answer, duration_ns } = self;
        let runs =
            |end: &End, many: u32| format!("{many} of {} runs of {}", end.runs.all(), duration(*duration_ns));
        let rate = |end: &End| format!("{}/s", count(end.rate_per_s));
        let sure = format!("{:.1}%", (answer.confidence * 1_000.0).floor() / 10.0);
        let below = answer.met.as_ref().map(|met| {
            let held = format!("{} ({} met it)", rate(met), runs(met, met.runs.met));
            let most = format!("{sure} sure that most runs at that rate meet it");
            (held, most)
        });
        let unsettled = if answer.settled {
            ""
        } else {
            " This is not settled: the search was cut short, or the answer changes from run to run."
        };
        let text = match (below, &answer.not_met, answer.limit) {
            (Some((held, _)), Some(above), Limit::Server) => format!(
                "The highest rate with {objective} is at least {held} and less than {} ({} missed it): {sure} sure \
                 that most runs meet it at the one rate and miss it at the other.",
                rate(above),
                runs(above, above.runs.missed)
            ),
            (Some((held, most)), Some(above), _) => format!(
                "The highest rate with {objective} is at least {held}: {most}. At {} blaster itself was the \
                 bottleneck in {}, so the server may carry more (use more --threads, other processors than the \
                 server's, or several machines).",
                rate(above),
                runs(above, above.runs.generator)
            ),
            (Some((held, most)), None, _) => {
                format!("The highest rate with {objective} is at least {held}: {most}. No limit was met.")
            }
            (None, Some(above), Limit::Server) => {
                format!("No rate was found with {objective}: even {} missed it.", rate(above))
            }
            (None, Some(above), _) => format!(
                "No rate was found with {objective}, and blaster itself was the bottleneck even at {}.",
                rate(above)
            ),
            (None, None, _) => format!("No rate was tried for {objective}."),
        };
        text + unsettled
    }
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
    use crate::judge::objective::Objective;
    use crate::judge::search::{Answer, Runs};
    use crate::model::outcomes::Counts;
    use crate::report::sample::report;

    #[test]
    fn each_run_has_its_line_and_its_warnings() {
        let named = |name: &str, counts| Named::new(name, report(counts));
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

    #[test]
    fn what_a_search_found_is_said_without_claiming_more() {
        let end = |rate_per_s, met, missed, generator| {
            Some(End { rate_per_s, runs: Runs { met, missed, generator } })
        };
        let objective = Objective { loss_percent: 0.1, p99_ns: Some(500_000) };
        let answer = Answer {
            met: end(118_000, 5, 0, 0),
            not_met: end(123_000, 0, 5, 0),
            limit: Limit::Server,
            confidence: 0.9375,
            settled: true,
        };
        let said = |answer| Found { objective, duration_ns: 2_000_000_000, answer }.sentence();
        assert_eq!(
            said(answer),
            "The highest rate with loss at most 0.1%, p99 at most 500 µs is at least 118,000/s (5 of 5 runs of \
             2.00 s met it) and less than 123,000/s (5 of 5 runs of 2.00 s missed it): 93.7% sure that most runs \
             meet it at the one rate and miss it at the other."
        );
        let own = Answer { not_met: end(123_000, 0, 1, 4), limit: Limit::Generator, ..answer };
        assert!(said(own).contains("the server may carry more"), "{}", said(own));
        let cut = Answer { not_met: None, limit: Limit::None, settled: false, ..answer };
        assert!(said(cut).contains("No limit was met. This is not settled"), "{}", said(cut));
        let none = Answer { met: None, not_met: end(1, 0, 5, 0), ..answer };
        assert!(said(none).contains("even 1/s missed it"), "{}", said(none));
    }
}
