//! The lines of --every, for logs.

use std::time::Duration;

use super::sample::{LiveTotals, Sample};
use crate::model::units::{duration, percent, rate};

/// When the next line is due, and what it begins with.
pub(super) struct Log {
    every: Duration,
    /// When the next line is due, since the start.
    due: Duration,
    /// The time and the counts of the last line.
    since: Duration,
    before: LiveTotals,
}

impl Log {
    pub(super) fn new(every: Duration, before: LiveTotals) -> Self {
        Self { every, due: every, since: Duration::ZERO, before }
    }

    /// The line for the time since the last one, if a line is due at `now`. If several are due, this is one for all.
    pub(super) fn line(&mut self, now: Duration, read: impl FnOnce() -> LiveTotals) -> Option<String> {
        if now < self.due {
            return None;
        }
        let totals = read();
        let latency = |ns| if ns == 0 { "-".into() } else { duration(ns) };
        let sample = Sample::new(&self.before, &totals, now.saturating_sub(self.since));
        // the next multiple of the interval, so that lines stay punctual after a delay
        let every_ns = self.every.as_nanos();
        self.due = now + Duration::from_nanos((every_ns - now.as_nanos() % every_ns) as u64);
        (self.since, self.before) = (now, totals);
        Some(format!(
            "{:.1}s: sent {}/s, ok {}/s, not ok {}, p50 {}, p99 {}\n",
            now.as_secs_f64(),
            rate(sample.sent_per_s),
            rate(sample.ok_per_s),
            percent(sample.not_ok.0, sample.not_ok.1),
            latency(sample.round_trips[0]),
            latency(sample.round_trips[1]),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::live::{BucketCounts, LiveCounts};

    #[test]
    fn a_log_has_a_line_for_each_stretch() {
        let at = |sent, ok| LiveTotals {
            counts: LiveCounts { sent, ok, ..LiveCounts::default() },
            round_trips: BucketCounts::default(),
            slip: BucketCounts::default(),
        };
        let mut log = Log::new(Duration::from_secs(2), at(0, 0));
        let mut line = |ms, sent, ok| log.line(Duration::from_millis(ms), || at(sent, ok));
        assert_eq!(line(1_999, 20, 20), None);
        assert_eq!(
            line(2_000, 20, 15).as_deref(),
            Some("2.0s: sent 10/s, ok 7.50/s, not ok 25.0 %, p50 -, p99 -\n")
        );
        assert_eq!(line(3_999, 40, 35), None);
        // after a delay there is one line, and the next ones are punctual
        assert_eq!(
            line(7_000, 70, 65).as_deref(),
            Some("7.0s: sent 10/s, ok 10/s, not ok 0, p50 -, p99 -\n")
        );
        assert_eq!(line(7_999, 80, 75), None);
        assert!(line(8_000, 80, 75).is_some());
    }
}
