//! The counts and durations that a worker shows while it runs.

use std::ops::AddAssign;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::model::counts::Counts;

/// Defines [`LiveCounts`] and [`Live`].
macro_rules! live_counts {
    ($($(#[$about:meta])+ $name:ident,)+) => {
        /// The counts of datagrams (TCP: of messages) that others see while a worker runs. The results count on their own.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(crate) struct LiveCounts {
            $($(#[$about])+ pub(crate) $name: u64,)+
        }

        impl AddAssign for LiveCounts {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)+
            }
        }

        /// The place where one worker shows its counts. It has cache lines of its own.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct Live {
            $($name: AtomicU64,)+
            /// Round trips of right replies, from the intended send time.
            pub(crate) round_trips: LiveHistogram,
            /// Delays of sends behind the schedule, in the open loop.
            pub(crate) slip: LiveHistogram,
            /// Locked once for each interval.
            snapshot: Mutex<Snapshot>,
        }

        impl Live {
            /// Shows the counts. Only the worker itself calls this.
            pub(crate) fn show(&self, counts: LiveCounts) {
                $(self.$name.store(counts.$name, Ordering::Relaxed);)+
            }

            /// The counts of a moment ago.
            pub(crate) fn read(&self) -> LiveCounts {
                LiveCounts { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

live_counts! {
    /// Handed to the kernel.
    sent,
    /// Right replies in time.
    ok,
    /// Other replies, and reports that a datagram is undeliverable.
    damaged,
    /// Refused by the local kernel.
    refused,
}

/// All counts of a worker at one moment, with the warmup.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Snapshot {
    /// Nanoseconds since the start.
    pub(crate) at_ns: u64,
    pub(crate) counts: Counts,
}

impl Live {
    /// Shows all counts, for those who want more than the screen does.
    pub(crate) fn publish(&self, snapshot: Snapshot) {
        *self.snapshot.lock().expect("a panic ends the process") = snapshot;
    }

    /// What was published last.
    pub(crate) fn snapshot(&self) -> Snapshot {
        *self.snapshot.lock().expect("a panic ends the process")
    }
}

/// The power of two of the buckets in an octave: a bucket is an eighth of its octave wide.
const FINENESS: u32 = 3;
/// Up to 2^43 ns, more than two hours.
const BUCKETS: usize = 41 << FINENESS;

fn bucket(ns: u64) -> usize {
    let ns = ns.max(1 << FINENESS);
    let octave = ns.ilog2() - FINENESS;
    let eighth = (ns >> octave) as usize - (1 << FINENESS);
    (((octave as usize) << FINENESS) + eighth).min(BUCKETS - 1)
}

/// A coarse histogram of durations, cheap to write. Only the worker itself writes it.
#[derive(Debug)]
pub(crate) struct LiveHistogram {
    buckets: [AtomicU32; BUCKETS],
    sum_ns: AtomicU64,
}

impl Default for LiveHistogram {
    fn default() -> Self {
        Self { buckets: [const { AtomicU32::new(0) }; BUCKETS], sum_ns: AtomicU64::new(0) }
    }
}

impl LiveHistogram {
    pub(crate) fn note(&self, ns: u64) {
        let bucket = &self.buckets[bucket(ns)];
        // no other thread writes here, so no atomic addition is needed
        bucket.store(bucket.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        self.sum_ns.store(self.sum_ns.load(Ordering::Relaxed).wrapping_add(ns), Ordering::Relaxed);
    }

    /// The durations of a moment ago.
    pub(crate) fn read(&self) -> BucketCounts {
        BucketCounts {
            counts: self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect(),
            sum_ns: self.sum_ns.load(Ordering::Relaxed),
        }
    }
}

/// The number of durations in each bucket. The numbers wrap around; their differences are right all the same.
#[derive(Clone, Debug)]
pub(crate) struct BucketCounts {
    counts: Vec<u32>,
    sum_ns: u64,
}

impl Default for BucketCounts {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], sum_ns: 0 }
    }
}

impl AddAssign for BucketCounts {
    fn add_assign(&mut self, other: Self) {
        for (ours, theirs) in self.counts.iter_mut().zip(other.counts) {
            *ours = ours.wrapping_add(theirs);
        }
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
    }
}

impl BucketCounts {
    /// The durations that came after `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let counts = self.counts.iter().zip(&before.counts);
        Self {
            counts: counts.map(|(now, before)| now.wrapping_sub(*before)).collect(),
            sum_ns: self.sum_ns.wrapping_sub(before.sum_ns),
        }
    }

    /// The duration that the share `quantile` of all did not exceed, in nanoseconds; at most an eighth too long.
    pub(crate) fn at(&self, quantile: f64) -> Option<u64> {
        longest_of(self.counts.iter().map(|count| u64::from(*count)), quantile)
    }
}

/// The end of the bucket that holds the duration which the share `quantile` of all did not exceed.
fn longest_of(counts: impl Iterator<Item = u64> + Clone, quantile: f64) -> Option<u64> {
    let all: u64 = counts.clone().sum();
    let wanted = (all as f64 * quantile).ceil().max(1.0) as u64;
    let mut passed = 0;
    for (nth, count) in counts.enumerate() {
        passed += count;
        if passed >= wanted {
            let (octave, eighth) = (nth >> FINENESS, (nth & ((1 << FINENESS) - 1)) as u64);
            return Some((((1 << FINENESS) + eighth + 1) << octave) - 1);
        }
    }
    None
}

/// Durations of all workers and all time: they do not wrap around.
#[derive(Clone, Debug)]
pub(crate) struct DurationTotals {
    counts: Vec<u64>,
    sum_ns: u64,
}

impl Default for DurationTotals {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], sum_ns: 0 }
    }
}

impl DurationTotals {
    /// The powers of two, in nanoseconds, that [`DurationTotals::up_to`] names: from 4 µs to 17 s.
    const BOUNDS: std::ops::RangeInclusive<u32> = 12..=34;

    pub(crate) fn add(&mut self, more: &BucketCounts) {
        for (ours, more) in self.counts.iter_mut().zip(&more.counts) {
            *ours += u64::from(*more);
        }
        self.sum_ns += more.sum_ns;
    }

    /// The durations that came after `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let counts = self.counts.iter().zip(&before.counts);
        Self {
            counts: counts.map(|(now, before)| now - before).collect(),
            sum_ns: self.sum_ns - before.sum_ns,
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(crate) fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// As [`BucketCounts::at`].
    pub(crate) fn at(&self, quantile: f64) -> Option<u64> {
        longest_of(self.counts.iter().copied(), quantile)
    }

    /// Bounds in nanoseconds, and how many durations were shorter.
    pub(crate) fn up_to(&self) -> impl Iterator<Item = (u64, u64)> {
        let shorter = |power: u32| {
            let end = ((power - FINENESS) << FINENESS) as usize;
            (1 << power, self.counts[..end].iter().sum())
        };
        Self::BOUNDS.map(shorter)
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
            let found = durations.read().at(1.0).unwrap();
            assert!(found >= ns && found <= ns + ns / 8 + 8, "{ns} became {found}");
        }
        let durations = LiveHistogram::default();
        durations.note(u64::MAX);
        assert!(durations.read().at(0.5).unwrap() > 1 << 43);
        assert_eq!(BucketCounts::default().at(0.5), None);
    }

    #[test]
    fn bounds_are_exact_and_sums_do_not_wrap() {
        let live = LiveHistogram::default();
        for ns in [1_000, 4_095, 4_096, 1 << 20, 1 << 40] {
            live.note(ns);
        }
        let mut totals = DurationTotals::default();
        totals.add(&live.read());
        let before = totals.clone();
        totals.add(&BucketCounts { counts: vec![u32::MAX; BUCKETS], sum_ns: 7 });
        assert_eq!((totals.since(&before).sum_ns(), totals.at(0.5).is_some()), (7, true));
        let up_to: Vec<_> = before.up_to().collect();
        assert_eq!((up_to[0], up_to[1], up_to[9]), ((4_096, 2), (8_192, 3), (1 << 21, 4)));
        assert_eq!((up_to.last(), before.count()), (Some(&(1 << 34, 4)), 5));
        assert_eq!(before.sum_ns(), 1_000 + 4_095 + 4_096 + (1 << 20) + (1 << 40));
    }
}
