//! Latency without averages: histograms of nanoseconds, exact to three digits.

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest that is told apart: an hour. Anything longer counts as that.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// A histogram of durations in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    histogram: Histogram<u64>,
}

impl Latency {
    /// An empty one. All have the same shape, so they can be added.
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are valid");
        Self { histogram }
    }

    /// Notes a duration.
    pub(crate) fn record(&mut self, ns: u64) {
        self.histogram.saturating_record(ns);
    }

    /// Adds another one.
    pub(crate) fn merge(&mut self, other: &Latency) {
        self.histogram.add(&other.histogram).expect("all have the same shape");
    }

    /// What people ask of it. `None`: nothing was recorded.
    pub(crate) fn summary(&self) -> Option<Percentiles> {
        if self.histogram.is_empty() {
            return None;
        }
        let at = |quantile| self.histogram.value_at_quantile(quantile);
        Some(Percentiles {
            count: self.histogram.len(),
            min_ns: self.histogram.min(),
            mean_ns: self.histogram.mean() as u64,
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p99_9_ns: at(0.999),
            p99_99_ns: at(0.9999),
            max_ns: self.histogram.max(),
        })
    }
}

/// A histogram in numbers: nanoseconds, exact to three digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Percentiles {
    /// How many durations went in.
    pub(crate) count: u64,
    /// The shortest.
    pub(crate) min_ns: u64,
    /// The mean.
    pub(crate) mean_ns: u64,
    /// Half of them were at most this long.
    pub(crate) p50_ns: u64,
    /// Nine of ten.
    pub(crate) p90_ns: u64,
    /// 99 of 100.
    pub(crate) p99_ns: u64,
    /// 999 of 1,000.
    pub(crate) p99_9_ns: u64,
    /// 9,999 of 10,000.
    pub(crate) p99_99_ns: u64,
    /// The longest.
    pub(crate) max_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_known_row() {
        let mut latency = Latency::new();
        assert_eq!(latency.summary(), None);
        for ns in 1..=10_000 {
            latency.record(ns * 1_000);
        }
        let found = latency.summary().unwrap();
        for (wanted, found) in [
            (5_000_000, found.p50_ns),
            (9_000_000, found.p90_ns),
            (9_900_000, found.p99_ns),
            (9_990_000, found.p99_9_ns),
            (9_999_000, found.p99_99_ns),
            (10_000_000, found.max_ns),
        ] {
            assert!(found.abs_diff(wanted) <= wanted / 1_000, "{found} is not {wanted}");
        }
        assert_eq!(found.count, 10_000);
    }

    #[test]
    fn halves_add_up_to_the_whole() {
        let (mut whole, mut one, mut two) = (Latency::new(), Latency::new(), Latency::new());
        for ns in (1..100_000).step_by(7) {
            whole.record(ns);
            if ns % 2 == 0 { one.record(ns) } else { two.record(ns) }
        }
        one.merge(&two);
        assert_eq!(one.summary(), whole.summary());
    }

    #[test]
    fn longer_than_an_hour_counts_as_an_hour() {
        let mut latency = Latency::new();
        latency.record(u64::MAX);
        assert!(latency.summary().unwrap().max_ns >= LONGEST_NS);
    }
}
