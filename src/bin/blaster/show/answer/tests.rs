use super::*;
use crate::report::schema::RunCounts;

fn end(rate_per_s: u64, met: u32, missed: u32, generator: u32) -> BracketEnd {
    let confirmed = met.max(missed + generator) >= 5;
    BracketEnd { rate_per_s, runs: RunCounts { met, missed, generator }, confirmed }
}

fn answer() -> Answer {
    Answer {
        met: Some(end(118_000, 5, 0, 0)),
        not_met: Some(end(123_000, 0, 5, 0)),
        limit: Limit::Server,
        confidence: 0.9375,
        settled: true,
        between: Vec::new(),
    }
}

fn said(answer: Answer, ended_by: SearchEnd) -> String {
    said_of(None, answer, ended_by)
}

fn said_of(unit: Option<&str>, answer: Answer, ended_by: SearchEnd) -> String {
    let found = SearchResult {
        objective: Objective { loss_percent: 0.1, p99_ns: Some(500_000) },
        duration_ns: 2_000_000_000,
        unit: unit.map(String::from),
        answer,
        precision_percent: Some(5.0),
        bound: Some(Bound { runs: 48, time_ns: 192_000_000_000 }),
        took: Some(Bound { runs: 48, time_ns: 99_000_000_000 }),
        ended_by: Some(ended_by),
    };
    found.sentence()
}

#[test]
fn what_a_search_found_is_said_without_claiming_more() {
    let said = |answer| said(answer, SearchEnd::Done);
    assert_eq!(
        said(answer()),
        "The highest rate with loss at most 0.1%, p99 at most 500 µs is at least 118,000/s (5 of 5 runs of \
         2.00 s met it) and less than 123,000/s (5 of 5 runs of 2.00 s missed it): 93.7% sure that most runs \
         meet it at the one rate and miss it at the other."
    );
    let own = Answer { not_met: Some(end(123_000, 0, 1, 4)), limit: Limit::Generator, ..answer() };
    assert!(said(own.clone()).contains("the server may carry more"), "{}", said(own));
    let every = Answer { not_met: None, limit: Limit::None, ..answer() };
    assert!(said(every.clone()).ends_with("No limit was met."), "{}", said(every));
    let none = Answer { met: None, not_met: Some(end(1, 0, 5, 0)), ..answer() };
    assert!(said(none.clone()).contains("even 1/s missed it"), "{}", said(none));
    let wide =
        Answer { not_met: Some(end(236_000, 0, 5, 0)), between: vec![end(160_000, 2, 2, 0)], ..answer() };
    assert!(
        said(wide.clone()).ends_with(
            "The ends are 100% apart, more than the precision of 5%. Unclear: 160,000/s (met in 2 of 4 runs)."
        ),
        "{}",
        said(wide)
    );
}

#[test]
fn what_is_not_confirmed_is_said_with_what_is_known() {
    let open =
        Answer { not_met: Some(end(123_000, 1, 3, 0)), settled: false, confidence: 0.96875, ..answer() };
    assert_eq!(
        said(open.clone(), SearchEnd::Runs),
        "Not confirmed is the highest rate with loss at most 0.1%, p99 at most 500 µs: 48 runs in 99.0 s were the most \
         allowed. It is at least 118,000/s: 5 of 5 runs of 2.00 s met it (96.8% sure that most runs there do). At \
         123,000/s 3 of 4 runs of 2.00 s missed it; chance may explain that. Longer runs (--duration) differ less; \
         --search-runs allows more of them."
    );
    let nothing = Answer { met: None, not_met: None, limit: Limit::None, confidence: 0.0, ..open.clone() };
    let low = Answer {
        met: Some(end(10_000, 1, 0, 0)),
        not_met: None,
        limit: Limit::None,
        confidence: 0.0,
        ..open.clone()
    };
    let high = Answer { met: None, confidence: 0.0, ..open.clone() };
    for answer in [open, nothing, low, high] {
        for ended_by in [
            SearchEnd::Done,
            SearchEnd::NoAnswer,
            SearchEnd::Runs,
            SearchEnd::Time,
            SearchEnd::Signal,
            SearchEnd::Failure,
        ] {
            let text = said(answer.clone(), ended_by);
            assert!(!text.contains("0 of 0") && !text.contains("0.0%") && !text.contains("  "), "{text}");
            assert!(text.ends_with('.') && !text.contains("The highest rate"), "{text}");
        }
    }
}

#[test]
fn the_bounds_are_told_at_the_start() {
    let objective = Objective { loss_percent: 0.1, p99_ns: None };
    assert_eq!(
        announcement(
            "datagram",
            &objective,
            Duration::from_secs(2),
            Bound { runs: 48, time_ns: 192_000_000_000 }
        ),
        "search for the highest rate with loss at most 0.1%: at most 48 runs of 2.00 s, 192 s in all"
    );
}

#[test]
fn a_search_of_tcp_says_what_its_rate_counts() {
    let objective = Objective { loss_percent: 0.1, p99_ns: None };
    let own = Answer { not_met: Some(end(123_000, 0, 1, 4)), limit: Limit::Generator, ..answer() };
    for (unit, wanted, cure) in [
        ("datagram", "the highest rate with ", "use more --threads"),
        ("message", "the highest rate of messages with ", "use more --threads"),
        ("connection", "the highest rate of new connections with ", "use more --connections or"),
    ] {
        let bound = Bound { runs: 48, time_ns: 192_000_000_000 };
        assert!(announcement(unit, &objective, Duration::from_secs(2), bound).contains(wanted));
        let text = said_of(Some(unit), own.clone(), SearchEnd::Done);
        assert!(text.starts_with(&wanted.replacen('t', "T", 1)) && text.contains(cure), "{text}");
        let open = Answer { settled: false, ..answer() };
        assert!(said_of(Some(unit), open, SearchEnd::Runs).contains(wanted));
    }
}
