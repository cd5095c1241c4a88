//! Of many runs, those that a page shows whole, and that the JSON of a search holds whole: so both stay small.

use std::borrow::Cow;

use crate::model::latency::{Latency, PackedHistogram, Percentiles};
use crate::report::schema::{Document, NamedRun, Report, Series};

/// The most runs that are whole.
pub(crate) const MOST: usize = 24;

/// Which runs are whole, in their order: those at the two rates of a search's answer, the last ones first, and then its last
/// ones; of steps and files an even sample with the first and the last.
pub(crate) fn chosen(series: &Series) -> Vec<usize> {
    let runs = &series.runs;
    let few = runs.len().min(MOST);
    let mut chosen: Vec<usize> = match &series.found {
        _ if few == runs.len() => (0..few).collect(),
        None => (0..few).map(|nth| nth * (runs.len() - 1) / (few - 1)).collect(),
        Some(found) => {
            let ends = [found.answer.met, found.answer.not_met];
            let rates: Vec<f64> = ends.into_iter().flatten().map(|end| end.rate_per_s as f64).collect();
            let is_end = |nth: &usize| {
                let rate = runs[*nth].report.load.rate_per_s;
                !runs[*nth].summed_up
                    && rate.is_some_and(|rate| rates.iter().any(|end| (rate - end).abs() < 0.5))
            };
            let (at_ends, others): (Vec<usize>, Vec<usize>) = (0..runs.len()).rev().partition(is_end);
            let (summed_up, others): (Vec<usize>, Vec<usize>) =
                others.into_iter().partition(|nth| runs[*nth].summed_up);
            at_ends.into_iter().chain(others).chain(summed_up).take(few).collect()
        }
    };
    chosen.sort_unstable();
    chosen
}

/// A document in which the other runs of a search are summed up.
pub(crate) fn summed_up(document: &Document) -> Cow<'_, Document> {
    match document {
        Document::Series(series) if series.found.is_some() && series.runs.len() > MOST => {
            let whole = chosen(series);
            let runs = series.runs.iter().enumerate();
            let runs = runs.map(|(nth, run)| if whole.contains(&nth) { run.clone() } else { sum_up(run) });
            Cow::Owned(Document::Series(Box::new(Series { runs: runs.collect(), ..(**series).clone() })))
        }
        _ => Cow::Borrowed(document),
    }
}

/// A run without its intervals and histograms.
fn sum_up(run: &NamedRun) -> NamedRun {
    let mut report = Report { intervals: Vec::new(), ..run.report.clone() };
    let latencies = [
        &mut report.latency.from_intended,
        &mut report.latency.from_actual,
        &mut report.generator.slip,
        &mut report.generator.reading_slip,
    ];
    for percentiles in latencies.into_iter().flatten() {
        let histogram = PackedHistogram::new(&Latency::new());
        *percentiles = Percentiles { histogram, ..percentiles.clone() };
    }
    NamedRun { report, summed_up: true, ..run.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::counts::Counts;
    use crate::report::sample::report;
    use crate::report::schema::{
        self, Answer, BracketEnd, Limit, Objective, RunCounts, SearchResult, Verdict,
    };

    /// A search of as many runs: each tenth is at one of the two rates of the answer.
    fn search(count: u64) -> Document {
        let run = |nth: u64| {
            let rate_per_s = if nth.is_multiple_of(10) { 1_000 + nth % 20 } else { 5_000 + nth };
            let mut report = report(Counts { sent: 1_000, ok: 990, lost: 10, ..Counts::default() });
            report.load.rate_per_s = Some(rate_per_s as f64);
            NamedRun { verdict: Some(Verdict::Met), ..NamedRun::new(format!("run {nth}"), report) }
        };
        let end = |rate_per_s| Some(BracketEnd { rate_per_s, runs: RunCounts::default(), confirmed: true });
        let answer = Answer {
            met: end(1_000),
            not_met: end(1_010),
            limit: Limit::Server,
            confidence: 0.9,
            settled: true,
            between: Vec::new(),
        };
        let found = SearchResult {
            objective: Objective { loss_percent: 1.0, p99_ns: None },
            duration_ns: 1,
            unit: None,
            answer,
            precision_percent: Some(5.0),
            bound: None,
            took: None,
            ended_by: None,
        };
        let series = Series::new((0..count).map(run).collect());
        Document::Series(Box::new(Series { found: Some(found), ..series }))
    }

    fn runs(document: &Document) -> &[NamedRun] {
        match document {
            Document::Series(series) => &series.runs,
            Document::Run(_) => panic!("one run"),
        }
    }

    #[test]
    fn the_runs_of_the_answer_stay_whole() {
        let document = search(100);
        let small = summed_up(&document);
        let whole: Vec<&NamedRun> = runs(&small).iter().filter(|run| !run.summed_up).collect();
        assert_eq!(whole.len(), MOST);
        for (nth, run) in runs(&small).iter().enumerate() {
            let is_whole = nth.is_multiple_of(10) || nth >= 85;
            assert!(!is_whole || !run.summed_up, "run {nth}");
            assert_eq!(run.report.totals.counts.lost, 10, "the counts stay");
            let original = &runs(&document)[nth].report;
            assert_eq!(run.summed_up, run.report.intervals.len() != original.intervals.len(), "run {nth}");
        }
        // it can be read, and the same runs are whole then
        let text = serde_json::to_vec(&*small).expect("JSON");
        let read = schema::parse(&text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(chosen_of(&read), chosen_of(&document));
        let each = (text.len() - serde_json::to_vec(&*summed_up(&search(50))).expect("JSON").len()) / 50;
        assert!(each < 4_000, "a run that is summed up takes {each} bytes");
        assert!(matches!(summed_up(&search(24)), Cow::Borrowed(_)));
    }

    fn chosen_of(document: &Document) -> Vec<usize> {
        match document {
            Document::Series(series) => chosen(series),
            Document::Run(_) => panic!("one run"),
        }
    }
}
