//! Reports with extreme numbers, as a broken or hostile file may have them: nothing overflows.

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use crate::model::counts::Counts;
use crate::model::latency::Latency;
use crate::model::spans::Span;
use crate::report::schema::{Document, Interval, NamedRun, Report, Series, Totals, parse};
use crate::report::{hdr, merge, sample};
use crate::show::paint::Paint;
use crate::show::{compare, page, text};

/// Numbers that may overflow, or that blaster never writes.
const EXTREMES: [&str; 8] = [
    "0",
    "-1",
    "4294967295",
    "9007199254740992",
    "316224000000000000",
    "9223372036854775807",
    "18446744073709551615",
    "1e300",
];

/// JSON pointers to all numbers.
fn numbers(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| numbers(value, &format!("{at}/{name}"), found));
        }
        Value::Array(values) => {
            (0..)
                .zip(values)
                .for_each(|(nth, value): (u32, _)| numbers(value, &format!("{at}/{nth}"), found));
        }
        Value::Number(_) => found.push(at.to_owned()),
        _ => {}
    }
}

/// Does everything that blaster does with a report of a file.
fn use_up(document: &Document, beside: &Report) {
    let paint = Paint::PLAIN;
    hdr::log(document);
    page::render(document);
    let Document::Run(read) = document else { panic!("one run") };
    text::render(read, &paint);
    let named = |name: &str, report: &Report| NamedRun::new(name, report.clone());
    let mut others = beside.clone();
    others.load.run_ids = vec!["another".into()];
    compare::render(&Series::new(vec![named("here", read), named("there", &others)]), &paint);
    // merged with itself, so that large numbers are added to large numbers
    let mut again = (**read).clone();
    again.load.run_ids = vec!["again".into()];
    for merged in [
        vec![named("here", read), named("there", &others)],
        vec![named("here", read), named("again", &again)],
    ] {
        if let Ok(merged) = merge::merge(&merged) {
            let merged = Document::Run(Box::new(merged));
            hdr::log(&merged);
            page::render(&merged);
        }
    }
}

#[test]
fn no_number_of_a_file_is_too_great_to_reckon_with() {
    let counts = Counts { sent: 4, ok: 3, lost: 1, reordered: 1, ..Counts::default() };
    let plain = sample::report(counts);
    let value = serde_json::to_value(&plain).expect("JSON");
    let mut places = Vec::new();
    numbers(&value, "", &mut places);
    assert!(places.len() > 50, "{places:?}");
    let mut read = 0;
    for place in &places {
        for extreme in EXTREMES {
            let mut changed = value.clone();
            *changed.pointer_mut(place).expect("it is there") =
                serde_json::from_str(extreme).expect("a number");
            if let Ok(document) = parse(changed.to_string().as_bytes()) {
                read += 1;
                use_up(&document, &plain);
            }
        }
    }
    assert!(read > places.len(), "only {read} were taken for reports");
}

/// A day at 20,000/s. The latency of each interval spreads over four decades: half of it around 50 µs, one in a hundred
/// takes milliseconds.
fn day() -> Report {
    const DAY_S: u64 = 86_400;
    let mut rng = SmallRng::seed_from_u64(1);
    let mut interval = |span: Span| {
        let mut latency = Latency::new();
        for _ in 0..20_000 {
            let decades = 4.0 * rng.random_range(0.0..1.0_f64).powi(6) + rng.random_range(0.0..0.5);
            latency.record((30_000.0 * 10_f64.powf(decades)) as u64);
        }
        let counts = Counts { sent: 20_000 * span.seconds, ok: 20_000 * span.seconds, ..Counts::default() };
        Interval { second: span.begin, seconds: span.seconds, counts, latency: latency.summary() }
    };
    let intervals = Span::all(DAY_S - 1).map(&mut interval).collect();
    let counts = Counts { sent: 20_000 * DAY_S, ok: 20_000 * DAY_S, ..Counts::default() };
    let report = sample::report(Counts { sent: 1, ok: 1, ..Counts::default() });
    Report {
        elapsed_ns: DAY_S * 1_000_000_000,
        totals: Totals { counts, ..report.totals },
        intervals,
        ..report
    }
}

/// Debug builds are ten times slower, and the machine may be busy.
#[test]
fn the_report_of_a_day_is_small_and_quickly_shown() {
    let json = serde_json::to_vec(&day()).expect("JSON");
    assert!(json.len() < 10 << 20, "{} bytes", json.len());
    let begun = Instant::now();
    let document = parse(&json).expect("a report");
    let (page, log) = (page::render(&document), hdr::log(&document));
    let elapsed = begun.elapsed();
    assert!(page.len() < 2 << 20 && log.len() < 10 << 20, "{} and {} bytes", page.len(), log.len());
    assert!(elapsed < Duration::from_secs(30), "{elapsed:?}");
}

#[test]
fn a_time_of_a_file_can_be_any() {
    for started_at in ["1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z"] {
        let report = Report {
            started_at: started_at.into(),
            ..sample::report(Counts { sent: 1, ok: 1, ..Counts::default() })
        };
        let text = serde_json::to_vec(&report).expect("JSON");
        let document = parse(&text).expect("a report");
        use_up(&document, &sample::report(Counts::default()));
    }
}
