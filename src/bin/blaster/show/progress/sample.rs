//! What has happened since the last look at the workers.

use std::sync::Arc;
use std::time::Duration;

use crate::workers::live::{BucketCounts, Live, LiveCounts};

/// The sum of what all workers show.
#[derive(Clone)]
pub(super) struct LiveTotals {
    pub(super) counts: LiveCounts,
    pub(super) round_trips: BucketCounts,
    pub(super) slip: BucketCounts,
}

impl LiveTotals {
    pub(super) fn new(lives: &[Arc<Live>]) -> Self {
        let mut totals = Self {
            counts: LiveCounts::default(),
            round_trips: BucketCounts::default(),
            slip: BucketCounts::default(),
        };
        for live in lives {
            totals.counts += live.read();
            totals.round_trips += live.round_trips.read();
            totals.slip += live.slip.read();
        }
        totals
    }
}

/// The difference of two totals.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    pub(super) sent_per_s: f64,
    pub(super) ok_per_s: f64,
    /// Datagrams without a right reply so far, of how many sent.
    pub(super) not_ok: (u64, u64),
    /// p50, p99 and the maximum, in nanoseconds; 0: not measured.
    pub(super) round_trips: [u64; 3],
    pub(super) slip: [u64; 3],
}

impl Sample {
    pub(super) fn new(before: &LiveTotals, now: &LiveTotals, over: Duration) -> Self {
        let per_s = |number: u64| number as f64 / over.as_secs_f64();
        let (sent, ok) = (now.counts.sent - before.counts.sent, now.counts.ok - before.counts.ok);
        let figures = |all: BucketCounts| [0.5, 0.99, 1.0].map(|quantile| all.at(quantile).unwrap_or(0));
        Self {
            sent_per_s: per_s(sent),
            ok_per_s: per_s(ok),
            not_ok: (sent.saturating_sub(ok), sent),
            round_trips: figures(now.round_trips.since(&before.round_trips)),
            slip: figures(now.slip.since(&before.slip)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_what_happened_since() {
        let live = Arc::new(Live::default());
        live.show(LiveCounts { sent: 10, ok: 5, damaged: 0, refused: 0 });
        live.round_trips.note(5_000_000);
        let before = LiveTotals::new(&[Arc::clone(&live)]);
        live.show(LiveCounts { sent: 30, ok: 20, damaged: 0, refused: 0 });
        (0..99).for_each(|_| live.round_trips.note(1_000));
        live.round_trips.note(2_000_000);
        let sample = Sample::new(&before, &LiveTotals::new(&[live]), Duration::from_millis(500));
        assert_eq!((sample.sent_per_s as u64, sample.ok_per_s as u64, sample.not_ok), (40, 30, (5, 20)));
        let [p50, p99, max] = sample.round_trips;
        assert!(p50.abs_diff(1_000) < 130 && p99 == p50 && max.abs_diff(2_000_000) < 250_000, "{sample:?}");
    }
}
