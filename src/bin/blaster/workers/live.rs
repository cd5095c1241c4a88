//! The counts and durations that a worker shows while it runs.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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
}

impl Default for LiveHistogram {
    fn default() -> Self {
        Self { buckets: [const { AtomicU32::new(0) }; BUCKETS] }
    }
}

impl LiveHistogram {
    pub(crate) fn note(&self, ns: u64) {
        let bucket = &self.buckets[bucket(ns)];
        // no other thread writes here, so no atomic addition is needed
        bucket.store(bucket.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// The durations of a moment ago.
    pub(crate) fn read(&self) -> BucketCounts {
        BucketCounts { counts: self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect() }
    }
}

/// The number of durations in each bucket. The numbers wrap around; their differences are right all the same.
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
    /// The durations that came after `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let counts = self.counts.iter().zip(&before.counts);
        Self { counts: counts.map(|(now, before)| now.wrapping_sub(*before)).collect() }
    }

    /// The duration that the share `quantile` of all did not exceed, in nanoseconds; at most an eighth too long.
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
            let found = durations.read().at(1.0).unwrap();
            assert!(found >= ns && found <= ns + ns / 8 + 8, "{ns} became {found}");
        }
        let durations = LiveHistogram::default();
        durations.note(u64::MAX);
        assert!(durations.read().at(0.5).unwrap() > 1 << 43);
        assert_eq!(BucketCounts::default().at(0.5), None);
    }
}
