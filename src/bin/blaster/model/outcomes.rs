//! The outcome of every sent datagram: it is in exactly one class, in the second of its intended send time.
//!
//! sent = ok + corrupted + truncated + misdirected + late + lost + unreachable. The other counts (duplicates, reordering)
//! describe datagrams that are in a class too, or that this run did not send.

use std::ops::AddAssign;
use std::time::Duration;

use crate::model::counts::Counts;

/// The datagrams of one second, by their intended send times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Second {
    pub(crate) counts: Counts,
    /// The sum of the distances by which datagrams were overtaken.
    pub(crate) reorder_distance_sum: u64,
    pub(crate) reorder_distance_max: u64,
}

impl Second {
    /// Counts an overtaken datagram.
    pub(crate) fn count_reordered(&mut self, distance: u64) {
        self.counts.reordered += 1;
        self.reorder_distance_sum += distance;
        self.reorder_distance_max = self.reorder_distance_max.max(distance);
    }
}

impl AddAssign<&Second> for Second {
    fn add_assign(&mut self, other: &Second) {
        self.counts += &other.counts;
        self.reorder_distance_sum += other.reorder_distance_sum;
        self.reorder_distance_max = self.reorder_distance_max.max(other.reorder_distance_max);
    }
}

/// The outcomes of one worker, or of a whole run. A datagram counts in the second of its intended send time, however late
/// its reply comes.
#[derive(Clone, Debug)]
pub(crate) struct Outcomes {
    warmup_ns: u64,
    warmup: Second,
    seconds: Vec<Second>,
}

impl Outcomes {
    /// No outcomes yet, in a run with this warmup.
    pub(crate) fn new(warmup: Duration) -> Self {
        Self { warmup_ns: warmup.as_nanos() as u64, warmup: Second::default(), seconds: Vec::new() }
    }

    /// Whether this intended send time is after the warmup.
    pub(crate) fn is_measured(&self, intended_ns: u64) -> bool {
        intended_ns >= self.warmup_ns
    }

    /// The second of `intended_ns`, which counts from the run's start; or the warmup.
    pub(crate) fn at(&mut self, intended_ns: u64) -> &mut Second {
        let Some(measured_ns) = intended_ns.checked_sub(self.warmup_ns) else {
            return &mut self.warmup;
        };
        let second = (measured_ns / 1_000_000_000) as usize;
        if second >= self.seconds.len() {
            self.seconds.resize_with(second + 1, Second::default);
        }
        &mut self.seconds[second]
    }

    pub(crate) fn warmup(&self) -> &Second {
        &self.warmup
    }

    /// Each second after the warmup.
    pub(crate) fn seconds(&self) -> &[Second] {
        &self.seconds
    }

    /// All seconds after the warmup together.
    pub(crate) fn total(&self) -> Second {
        let mut total = Second::default();
        for second in &self.seconds {
            total += second;
        }
        total
    }

    /// Adds the outcomes of another worker.
    pub(crate) fn merge(&mut self, other: &Outcomes) {
        self.warmup += &other.warmup;
        if self.seconds.len() < other.seconds.len() {
            self.seconds.resize_with(other.seconds.len(), Second::default);
        }
        for (ours, theirs) in self.seconds.iter_mut().zip(&other.seconds) {
            *ours += theirs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_that_of_the_intended_time() {
        let mut outcomes = Outcomes::new(Duration::from_millis(500));
        for intended_ns in [0, 499_999_999, 500_000_000, 1_499_999_999, 1_500_000_000, 4_000_000_000] {
            outcomes.at(intended_ns).counts.sent += 1;
        }
        assert_eq!(outcomes.warmup().counts.sent, 2);
        let sent: Vec<u64> = outcomes.seconds().iter().map(|second| second.counts.sent).collect();
        assert_eq!(sent, [2, 1, 0, 1]);
        assert_eq!(outcomes.total().counts.sent, 4);
    }

    #[test]
    fn merged_outcomes_are_the_sum() {
        let mut one = Outcomes::new(Duration::ZERO);
        one.at(0).count_reordered(2);
        let mut two = Outcomes::new(Duration::ZERO);
        two.at(1_000_000_000).counts.sent += 1;
        two.at(0).count_reordered(3);
        two.at(0).count_reordered(4);
        one.merge(&two);
        let total = one.total();
        assert_eq!(
            (total.counts.reordered, total.reorder_distance_sum, total.reorder_distance_max),
            (3, 9, 4)
        );
        assert_eq!(one.seconds().len(), 2);
    }
}
