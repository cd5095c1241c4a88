//! `--hdr`: the latency of each second, as a log for HdrHistogram's tools (format 1.3).
//!
//! Values are in nanoseconds. The column with the maximum of each interval is in milliseconds, as those tools expect. In a
//! series, each interval has the name of its run as tag.

use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::report::schema::{Document, Report};

/// One line for each interval that has right replies.
pub(crate) fn log(document: &Document) -> Vec<u8> {
    let runs: Vec<(Option<String>, &Report)> = match document {
        Document::Run(report) => vec![(None, report)],
        Document::Series(series) => {
            series.runs.iter().map(|run| (Some(tag(&run.name)), &run.report)).collect()
        }
    };
    let begins = |report: &Report| report.measured_from().unwrap_or(SystemTime::UNIX_EPOCH);
    let start = runs.iter().map(|(_, report)| begins(report)).min().unwrap_or(SystemTime::UNIX_EPOCH);
    let mut text = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment(&format!(
            "[Histogram log format version 1.3]\nblaster {}, latency in nanoseconds",
            env!("CARGO_PKG_VERSION")
        ))
        .with_base_time(start)
        .with_start_time(start)
        .with_max_value_divisor(1e6)
        .begin_log_with(&mut text, &mut serializer)
        .expect("memory takes what is written");
    for (name, report) in &runs {
        let ahead = begins(report).duration_since(start).unwrap_or_default();
        for interval in &report.intervals {
            let Some(latency) = &interval.latency else { continue };
            let left_ns = report.elapsed_ns.saturating_sub(interval.second.saturating_mul(1_000_000_000));
            let length_ns = interval.seconds.saturating_mul(1_000_000_000);
            log.write_histogram(
                latency.histogram.unpack().histogram(),
                ahead.saturating_add(Duration::from_secs(interval.second)),
                Duration::from_nanos(left_ns.clamp(1_000_000, length_ns)),
                name.as_deref().and_then(Tag::new),
            )
            .expect("memory takes what is written, and the encoding every count");
        }
    }
    drop(log);
    text
}

/// A name as a tag: without commas, blanks and line breaks.
fn tag(name: &str) -> String {
    name.chars().map(|letter| if letter == ',' || letter.is_whitespace() { '_' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::model::counts::Counts;
    use crate::report::compile::RunFacts;
    use crate::report::sample;
    use crate::report::schema::{NamedRun, Series};

    /// Seconds 0 and 2 have replies, second 1 has none.
    fn report(started_s: u64) -> Report {
        let mut results = sample::results(Counts { sent: 3, ok: 3, ..Counts::default() });
        results.outcomes.at(2_000_000_000).counts = Counts { sent: 2, ok: 2, ..Counts::default() };
        results.round_trips.record(2_000_000_000, 5_000);
        results.round_trips.record(2_500_000_000, 7_000_000);
        results.thread_times[0].span_ns = 2_600_000_000;
        let started_at = SystemTime::UNIX_EPOCH + Duration::from_secs(started_s);
        Report::new(RunFacts { started_at, ..sample::facts() }, &results)
    }

    type Row = (Option<String>, Duration, Duration, f64, Histogram<u64>);

    fn read(log: &[u8]) -> Vec<Row> {
        let mut rows = Vec::new();
        for entry in IntervalLogIterator::new(log) {
            let LogEntry::Interval(interval) = entry.unwrap() else { continue };
            let encoded = base64::Engine::decode(
                &base64::engine::general_purpose::STANDARD,
                interval.encoded_histogram(),
            );
            let histogram = Deserializer::new().deserialize(&mut encoded.unwrap().as_slice()).unwrap();
            rows.push((
                interval.tag().map(|tag| tag.as_str().to_string()),
                interval.start_timestamp(),
                interval.duration(),
                interval.max(),
                histogram,
            ));
        }
        rows
    }

    #[test]
    fn the_library_reads_back_what_was_measured() {
        let log = log(&Document::Run(Box::new(report(1_000))));
        let rows = read(&log);
        assert!(String::from_utf8(log).unwrap().contains("#[StartTime: 1000.000 (seconds since epoch)]"));
        assert_eq!(rows.len(), 2, "a second without replies has no line");
        let (tag, start, duration, max_ms, histogram) = &rows[1];
        assert_eq!((tag, *start), (&None, Duration::from_secs(2)));
        assert_eq!(*duration, Duration::from_millis(600));
        assert!((max_ms - 7.0).abs() < 0.01, "{max_ms}");
        assert_eq!((histogram.len(), histogram.min()), (2, 5_000));
        assert_eq!(rows[0].4.len(), 3);
    }

    #[test]
    fn the_runs_of_a_series_are_told_apart_by_tags() {
        let named = |name: &str, started_s| NamedRun::new(name, report(started_s));
        let series = Series::new(vec![named("1,000/s", 1_000), named("2,000/s now", 1_010)]);
        let rows = read(&log(&Document::Series(Box::new(series))));
        let found: Vec<_> =
            rows.iter().map(|(tag, start, ..)| (tag.as_deref().unwrap(), start.as_secs())).collect();
        let wanted = [("1_000/s", 0), ("1_000/s", 2), ("2_000/s_now", 10), ("2_000/s_now", 12)];
        assert_eq!(found, wanted);
    }
}
