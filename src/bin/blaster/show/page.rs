//! `--html`: one page that loads nothing else. Drawings are inline, colors follow the reader's choice of light or dark, and
//! there is no script: the texts under the pointer are titles.

#[cfg(test)]
mod colors;
mod facts;
mod plot;
mod plots;
#[cfg(test)]
mod samples;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::plot::Ink;
use crate::model::latency::Percentiles;
use crate::model::units::{count, counted, duration, percent, rounded};
use crate::report::schema::{Document, NamedRun, Report, Series, Verdict};
use crate::report::whole;

const STYLE: &str = include_str!("page/style.css");

/// The whole page.
pub(crate) fn render(document: &Document) -> String {
    let (title, body) = match document {
        Document::Run(report) => (facts::title(report), run(report)),
        Document::Series(series) => (series_title(series), several(series)),
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                // without it browsers ask the server for an icon
                link rel="icon" href="data:,";
                title { "blaster: " (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { main { (body) } footer { "blaster " (env!("CARGO_PKG_VERSION")) } }
        }
    };
    page.into_string()
}

/// The page of one run.
fn run(report: &Report) -> Markup {
    html! {
        header { h1 { (facts::title(report)) } p.about { (facts::load(report)) } }
        (notices(report))
        (results(report))
    }
}

/// The results of a run.
fn results(report: &Report) -> Markup {
    html! {
        (tiles(report))
        div.plots {
            @for plot in [
                plots::rate(report),
                plots::not_ok(report),
                plots::latency_by_percentile(report),
                plots::latency_over_time(report),
            ] { (plot.card()) }
        }
        div.tables {
            (facts::outcomes(report))
            (facts::places(report))
            (facts::reply_headers(report))
            (facts::latencies(report))
            (facts::wrong_replies(report))
            (facts::details(report))
        }
    }
}

fn series_title(series: &Series) -> String {
    let first = series.runs.first().map_or(String::new(), |run| facts::title(&run.report));
    let has_one_title = series.runs.iter().all(|run| facts::title(&run.report) == first);
    let runs = counted(series.runs.len() as u64, "run");
    if has_one_title { format!("{first}, {runs}") } else { runs }
}

/// The page of several runs.
fn several(series: &Series) -> Markup {
    let runs = &series.runs;
    html! {
        header { h1 { (series_title(series)) } }
        @if let Some(found) = &series.found { p.answer { (found.sentence()) } }
        div.plots {
            @if plots::have_rates(runs) {
                (plots::latency_by_rate(runs).card())
                (plots::not_ok_by_rate(runs).card())
            }
            // a plot can show as many lines as there are colors
            @if runs.len() <= Ink::SERIES.len() {
                (plots::percentiles_of_each(runs).card())
                (plots::p99_of_each(runs).card())
            }
        }
        (overview(runs))
        @if runs.len() > whole::MOST {
            p.about { "Of these, " (whole::MOST) " are shown whole:" }
        }
        @for run in whole::chosen(series).into_iter().map(|nth| &runs[nth]) {
            details {
                summary { (run.name) }
                p.about { (facts::load(&run.report)) }
                (notices(&run.report))
                (results(&run.report))
            }
        }
    }
}

fn overview(runs: &[NamedRun]) -> Markup {
    let has_verdicts = runs.iter().any(|run| run.verdict.is_some());
    let has_slip = runs.iter().any(|run| run.report.generator.slip.is_some());
    let figure = |ns: Option<u64>| ns.map_or("–".into(), duration);
    html! {
        section.card.wide {
            h2 { "Runs" }
            div.scroll { table.overview {
                thead { tr {
                    th { "run" }
                    @if has_verdicts { th { "objective" } }
                    @for name in ["sent/s", "ok/s", "not ok"] { th.number { (name) } }
                    @for (name, _) in Percentiles::NAMED { th.number { (name) } }
                    @if has_slip { th.number { "slip p99" } }
                } }
                tbody { @for run in runs {
                    @let totals = &run.report.totals;
                    @let not_ok = totals.counts.not_ok();
                    @let latency = run.report.latency.from_intended.as_ref();
                    tr {
                        td { (run.name) }
                        @if let Some(verdict) = &run.verdict { td.bad[*verdict != Verdict::Met] { (verdict.word()) } }
                        td.number { (rounded(totals.sent_per_s)) }
                        td.number { (rounded(totals.ok_per_s)) }
                        td.number.bad[not_ok > 0] { (percent(not_ok, totals.counts.sent)) }
                        @for (_, of) in Percentiles::NAMED { td.number { (figure(latency.map(of))) } }
                        @if has_slip { td.number { (figure(run.report.generator.slip.as_ref().map(|slip| slip.p99_ns))) } }
                    }
                    @if let Some(reason) = run.verdict.as_ref().map(Verdict::reason).filter(|reason| !reason.is_empty()) {
                        tr.reason { td {} td colspan="12" { (reason) } }
                    }
                } }
            } }
        }
    }
}

/// Warnings and conditions.
fn notices(report: &Report) -> Markup {
    html! {
        @if !report.warnings.is_empty() || !report.fail_if.is_empty() {
            ul.notices {
                @for warning in &report.warnings {
                    li.warning { (warning) }
                }
                @for condition in &report.fail_if {
                    li.failed[condition.failed].passed[!condition.failed] {
                        // a word and a sign, so that no reader needs the color
                        b { (if condition.failed { "✗ failed" } else { "✓ passed" }) } ": " code { (condition.condition) } ", measured " (condition.measured)
                    }
                }
            }
        }
    }
}

/// A figure, and what it says.
struct Tile {
    name: &'static str,
    figure: String,
    note: String,
    is_bad: bool,
}

/// A rate in a narrow tile: 156k.
fn at_a_glance(per_s: f64) -> String {
    match per_s {
        ..99_950.0 => rounded(per_s),
        ..999_500.0 => format!("{}k", rounded(per_s / 1e3)),
        _ => format!("{:.2}M", per_s / 1e6),
    }
}

/// The most important figures.
fn tiles(report: &Report) -> Markup {
    let totals = &report.totals;
    let not_ok = totals.counts.not_ok();
    let latency = report.latency.from_intended.as_ref();
    let figure = |ns: Option<u64>| ns.map_or("–".into(), duration);
    let plain = |name, ns: Option<u64>, note: &str| {
        let note = if ns.is_some() { note } else { "no right reply" };
        Tile { name, figure: figure(ns), note: note.into(), is_bad: false }
    };
    let tiles = [
        Tile {
            name: "ok",
            figure: format!("{}/s", at_a_glance(totals.ok_per_s)),
            note: format!(
                "{} in\u{a0}{}",
                count(totals.counts.ok),
                duration(report.elapsed_ns).replace(' ', "\u{a0}")
            ),
            is_bad: totals.counts.ok == 0,
        },
        Tile {
            name: "not ok",
            figure: percent(not_ok, totals.counts.sent),
            note: format!("{} of {}", count(not_ok), count(totals.counts.sent)),
            is_bad: not_ok > 0,
        },
        plain("p50", latency.map(|latency| latency.p50_ns), "half took longer"),
        plain("p90", latency.map(|latency| latency.p90_ns), "1 in 10 took longer"),
        plain("p95", latency.map(|latency| latency.p95_ns), "1 in 20 took longer"),
        plain("p99", latency.map(|latency| latency.p99_ns), "1 in 100 took longer"),
        plain("p99.9", latency.map(|latency| latency.p99_9_ns), "1 in 1,000 took longer"),
        match &report.generator.slip {
            Some(slip) => plain("slip p99", Some(slip.p99_ns), "blaster's own delay"),
            None => plain("max", latency.map(|latency| latency.max_ns), "the slowest"),
        },
    ];
    html! {
        div.tiles { @for Tile { name, figure, note, is_bad } in tiles {
            div.tile { span.name { (name) } span.figure.bad[is_bad] { (figure) } span.note { (note) } }
        } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::counts::Counts;
    use crate::model::results::{Example, MessageNumber, SentMessage, first_bytes};
    use crate::report::sample::report;

    fn sample() -> Report {
        let mut report = report(Counts { sent: 1_000, ok: 990, lost: 9, late: 1, ..Counts::default() });
        report.load.targets = vec!["<script>alert(1)</script>".into()];
        report.warnings = vec!["\"quoted\" & <marked>".into()];
        report
    }

    /// A browser finds nothing to fetch, to run or to misread.
    fn assert_self_contained(page: &str) {
        assert!(!page.contains("<script") && !page.contains("<marked>"), "{page}");
        let references = ["src=", "url(", "@import", "<object", "<iframe", "<link rel=\"stylesheet"];
        for reference in references {
            assert!(!page.contains(reference), "{reference}");
        }
        let namespaces = page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count();
        assert_eq!(page.matches("http").count(), namespaces, "a link that is no name of a namespace");
    }

    #[test]
    fn a_rate_fits_its_tile() {
        for (per_s, wanted) in [
            (7.5, "7.50"),
            (19_998.0, "20,000"),
            (156_221.0, "156k"),
            (999_900.0, "1.00M"),
            (1_560_000.0, "1.56M"),
        ] {
            assert_eq!(at_a_glance(per_s), wanted);
        }
    }

    #[test]
    fn a_run_has_its_plots_and_tables() {
        let page = render(&Document::Run(Box::new(sample())));
        assert_self_contained(&page);
        assert_eq!(page.matches("<svg class=\"area\"").count(), 4);
        assert!(page.contains("&quot;quoted&quot; &amp; &lt;marked&gt;"), "{page}");
        for words in ["Rate", "Not ok", "Latency by percentile", "Latency over time", "Outcomes", "1.00 ms"] {
            assert!(page.contains(words), "{words}");
        }
    }

    #[test]
    fn a_series_has_a_table_and_every_run() {
        let named = |name: &str| NamedRun::new(name, sample());
        let page = render(&Document::Series(Box::new(Series::new(vec![named("a.json"), named("b.json")]))));
        assert_self_contained(&page);
        assert_eq!(page.matches("<details").count(), 2);
        // two plots of both runs, and four of each; runs without a rate have no plots by rate
        assert_eq!(page.matches("<svg class=\"area\"").count(), 2 + 2 * 4);
    }

    /// A page of many runs stays small: each has a line, and some are shown whole.
    #[test]
    fn of_many_runs_some_are_shown_whole() {
        let step = |nth: u32| {
            let mut run = NamedRun::new(format!("step {nth}"), sample());
            run.report.load.rate_per_s = Some(f64::from(1_000 + nth));
            run
        };
        let page =
            |count: u32| render(&Document::Series(Box::new(Series::new((0..count).map(step).collect()))));
        let (few, many) = (page(24), page(500));
        assert_self_contained(&many);
        assert_eq!((few.matches("<details").count(), many.matches("<details").count()), (24, 24));
        for nth in [0, 250, 499] {
            assert!(many.contains(&format!("<td>step {nth}</td>")), "step {nth} has its line");
        }
        for nth in [0, 499] {
            assert!(many.contains(&format!("<summary>step {nth}</summary>")), "the ends are shown whole");
        }
        let each = (many.len() - few.len()) / 476;
        assert!(each < 3_000, "a run that is not shown whole takes {each} bytes");
        assert!(!few.contains("are shown whole") && many.contains("Of these, 24 are shown whole"), "{few}");
    }

    #[test]
    fn a_page_shows_which_byte_differs() {
        let mut report = sample();
        let sent: Vec<u8> = (0..64).map(|nth| nth + 0x10).collect();
        let mut came = sent.clone();
        came[63] ^= 1;
        let number = MessageNumber { flow: 3, sequence: 9 };
        report.examples = vec![Example {
            kind: "corrupted".into(),
            came_from: Some("127.0.0.1:7".parse().unwrap()),
            came_bytes: 64,
            came_first: first_bytes(&came),
            answers: Some(SentMessage::new("127.0.0.1:7".parse().unwrap(), number, &sent, &came)),
            in_flight: None,
            bytes_of: None,
        }];
        let page = render(&Document::Run(Box::new(report)));
        assert_self_contained(&page);
        assert!(page.contains("Wrong replies"), "{page}");
        assert!(page.contains("byte 63 differs: sent 0x4f, got 0x4e (flow 3, number 9)"), "{page}");
    }

    #[test]
    fn a_run_without_replies_has_a_page_too() {
        let page = render(&Document::Run(Box::new(report(Counts { sent: 5, lost: 5, ..Counts::default() }))));
        assert_self_contained(&page);
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }
}
