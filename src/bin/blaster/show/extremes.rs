//! Reports with extreme numbers, as a broken or hostile file may have them: nothing overflows.

use serde_json::Value;

use crate::model::counts::Counts;
use crate::report::schema::{Document, NamedRun, Report, Series, parse};
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
