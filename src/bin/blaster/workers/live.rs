//! What a running worker shows to the others, and what it hears from them.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Counts that a worker keeps up to date for whoever looks on; the books are in the tally.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LiveCounts {
    /// Datagrams or messages sent.
    pub(crate) sent: u64,
    /// Answered rightly and in time.
    pub(crate) ok: u64,
    /// Answered otherwise, or reported undeliverable.
    pub(crate) damaged: u64,
    /// Refused by the local kernel.
    pub(crate) refused: u64,
}

/// The place where one worker shows its counts. It has cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Live {
    sent: AtomicU64,
    ok: AtomicU64,
    damaged: AtomicU64,
    refused: AtomicU64,
    /// Round trips of right replies, from the intended send time.
    pub(crate) round_trips: LiveHistogram,
    /// Actual less intended send times, in the open loop.
    pub(crate) slip: LiveHistogram,
}

impl Live {
    /// Shows the worker's counts; only that worker does.
    pub(crate) fn show(&self, shown: LiveCounts) {
        self.sent.store(shown.sent, Ordering::Relaxed);
        self.ok.store(shown.ok, Ordering::Relaxed);
        self.damaged.store(shown.damaged, Ordering::Relaxed);
        self.refused.store(shown.refused, Ordering::Relaxed);
    }

    /// The counts as they were a moment ago.
    pub(crate) fn look(&self) -> LiveCounts {
        LiveCounts {
            sent: self.sent.load(Ordering::Relaxed),
            ok: self.ok.load(Ordering::Relaxed),
            damaged: self.damaged.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}

/// Buckets to an octave, as a power of two: a bucket is an eighth of its octave wide.
const FINENESS: u32 = 3;
/// Up to 2^43 ns, more than two hours.
const BUCKETS: usize = 41 << FINENESS;

fn bucket(ns: u64) -> usize {
    let ns = ns.max(1 << FINENESS);
    let octave = ns.ilog2() - FINENESS;
    let eighth = (ns >> octave) as usize - (1 << FINENESS);
    (((octave as usize) << FINENESS) + eighth).min(BUCKETS - 1)
}

/// Durations as a worker shows them: coarse, and cheap to note. Only that worker notes any.
#[derive(Debug)]
pub(crate) struct LiveHistogram {
    buckets: [AtomicU32; BUCKETS],
}

impl Default for LiveHistogram {
    fn default() -> Self {
        Self { buckets: [const { AtomicU32::new(0) }; BUCKETS] }
    }
}

impl LiveHistogram {
    /// Notes one.
    pub(crate) fn note(&self, ns: u64) {
        let bucket = &self.buckets[bucket(ns)];
        // no other thread writes here, so nothing can come between
        bucket.store(bucket.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// Those of a moment ago.
    pub(crate) fn look(&self) -> BucketCounts {
        BucketCounts { counts: self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect() }
    }
}

/// How many durations fell into each bucket. Counts wrap around; differences don't mind.
#[derive(Clone, Debug)]
pub(crate) struct BucketCounts {
    counts: Vec<u32>,
}

impl Default for BucketCounts {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS] }
    }
}

impl AddAssign for BucketCounts {
    fn add_assign(&mut self, other: Self) {
        for (ours, theirs) in self.counts.iter_mut().zip(other.counts) {
            *ours = ours.wrapping_add(theirs);
        }
    }
}

impl BucketCounts {
    /// What came after `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let counts = self.counts.iter().zip(&before.counts);
        Self { counts: counts.map(|(now, before)| now.wrapping_sub(*before)).collect() }
    }

    /// What the share `quantile` of all did not exceed, in nanoseconds, an eighth too much at the most.
    pub(crate) fn at(&self, quantile: f64) -> Option<u64> {
        let all: u64 = self.counts.iter().map(|count| u64::from(*count)).sum();
        let wanted = (all as f64 * quantile).ceil().max(1.0) as u64;
        let mut passed = 0;
        for (nth, count) in self.counts.iter().enumerate() {
            passed += u64::from(*count);
            if passed >= wanted {
                let (octave, eighth) = (nth >> FINENESS, (nth & ((1 << FINENESS) - 1)) as u64);
                return Some((((1 << FINENESS) + eighth + 1) << octave) - 1);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_apart_to_an_eighth() {
        for ns in [0, 1, 8, 9, 15, 16, 17, 1_000, 123_456_789, 3_600_000_000_000, 1 << 43] {
            let durations = LiveHistogram::default();
            durations.note(ns);
            let found = durations.look().at(1.0).unwrap();
            assert!(found >= ns && found <= ns + ns / 8 + 8, "{ns} became {found}");
        }
        let durations = LiveHistogram::default();
        durations.note(u64::MAX);
        assert!(durations.look().at(0.5).unwrap() > 1 << 43);
        assert_eq!(BucketCounts::default().at(0.5), None);
    }
}
