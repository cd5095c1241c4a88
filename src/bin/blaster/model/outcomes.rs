//! The outcome of every sent datagram: it is in exactly one class, in the second of its intended send time.
//!
//! sent = ok + corrupted + truncated + misdirected + late + lost + unreachable. The other counts (duplicates, reordering)
//! describe datagrams that are in a class too, or that this run did not send.

use std::collections::{BTreeMap, VecDeque};
use std::ops::AddAssign;
use std::time::Duration;

use crate::model::counts::Counts;
use crate::model::spans::{Span, coarse_end, coarsen};

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
    /// The last few minutes, second by second.
    recent: VecDeque<Second>,
    /// The first of them.
    recent_begin: u64,
    /// The time before, by the first second of each interval.
    old: BTreeMap<u64, Second>,
}

impl Outcomes {
    /// No outcomes yet, in a run with this warmup.
    pub(crate) fn new(warmup: Duration) -> Self {
        Self {
            warmup_ns: warmup.as_nanos() as u64,
            warmup: Second::default(),
            recent: VecDeque::new(),
            recent_begin: 0,
            old: BTreeMap::new(),
        }
    }

    /// Whether this intended send time is after the warmup.
    pub(crate) fn is_measured(&self, intended_ns: u64) -> bool {
        intended_ns >= self.warmup_ns
    }

    /// The second of `intended_ns`, which counts from the run's start; or the warmup. An old one is a part of an interval.
    pub(crate) fn at(&mut self, intended_ns: u64) -> &mut Second {
        let Some(measured_ns) = intended_ns.checked_sub(self.warmup_ns) else {
            return &mut self.warmup;
        };
        self.of_second(measured_ns / 1_000_000_000)
    }

    fn of_second(&mut self, second: u64) -> &mut Second {
        if second >= self.recent_begin + self.recent.len() as u64 {
            self.go_on(second);
        }
        match second.checked_sub(self.recent_begin) {
            Some(nth) => &mut self.recent[nth as usize],
            None => self.old.entry(Span::of(second, self.newest()).begin).or_default(),
        }
    }

    /// The last second so far.
    fn newest(&self) -> u64 {
        (self.recent_begin + self.recent.len() as u64).saturating_sub(1)
    }

    /// Makes `newest` the last second.
    #[cold]
    fn go_on(&mut self, newest: u64) {
        let before = self.newest();
        let begin = coarse_end(1, newest);
        while self.recent_begin < begin {
            let Some(second) = self.recent.pop_front() else {
                self.recent_begin = begin;
                break;
            };
            if second != Second::default() {
                self.old.insert(self.recent_begin, second);
            }
            self.recent_begin += 1;
        }
        self.recent.resize((newest - self.recent_begin + 1) as usize, Second::default());
        coarsen(&mut self.old, before, newest, |sum, more| *sum += &more);
    }

    pub(crate) fn warmup(&self) -> &Second {
        &self.warmup
    }

    /// Each interval after the warmup, up to the last second with a datagram.
    pub(crate) fn spans(&self) -> impl Iterator<Item = (Span, Second)> {
        let end = self.recent_begin + self.recent.len() as u64;
        let of = |span: Span| match span.begin.checked_sub(self.recent_begin) {
            Some(nth) => self.recent[nth as usize],
            None => self.old.get(&span.begin).copied().unwrap_or_default(),
        };
        Span::all(self.newest()).filter(move |_| end > 0).map(move |span| (span, of(span)))
    }

    /// All seconds after the warmup together.
    pub(crate) fn total(&self) -> Second {
        let mut total = Second::default();
        self.old.values().chain(&self.recent).for_each(|second| total += second);
        total
    }

    /// Adds the outcomes of another worker.
    pub(crate) fn merge(&mut self, other: &Outcomes) {
        self.warmup += &other.warmup;
        for (begin, second) in &other.old {
            *self.of_second(*begin) += second;
        }
        for (second, outcomes) in (other.recent_begin..).zip(&other.recent) {
            *self.of_second(second) += outcomes;
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
        let sent: Vec<u64> = outcomes.spans().map(|(_, second)| second.counts.sent).collect();
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
        assert_eq!(one.spans().count(), 2);
    }

    /// Each second has as many datagrams as its number, except in the gaps.
    fn day(seconds: impl Iterator<Item = u64>) -> Outcomes {
        let mut outcomes = Outcomes::new(Duration::ZERO);
        for second in seconds {
            outcomes.at(second * 1_000_000_000).counts.sent += second;
            // a late reply to an old datagram
            outcomes.at(second / 2 * 1_000_000_000).counts.late += 1;
        }
        outcomes
    }

    #[test]
    fn old_seconds_are_taken_together() {
        const END: u64 = 40_000;
        let outcomes = day(0..END);
        let spans: Vec<_> = outcomes.spans().collect();
        assert!(spans.len() < 900 && outcomes.old.len() + outcomes.recent.len() < 900, "{}", spans.len());
        for (span, second) in &spans {
            assert_eq!(second.counts.sent, (span.begin..span.end()).sum::<u64>(), "{span:?}");
            let late =
                (span.begin..span.end()).map(|second| if second < END / 2 { 2 } else { 0 }).sum::<u64>();
            assert_eq!(second.counts.late, late, "{span:?}");
        }
        assert_eq!(outcomes.total().counts.sent, (0..END).sum::<u64>());
    }

    #[test]
    fn workers_that_end_at_different_times_add_up() {
        let of = |seconds: std::ops::Range<u64>, step: u64, rest: u64| {
            day(seconds.filter(move |second| second % step == rest))
        };
        let whole = of(0..20_000, 1, 0);
        for (longer, shorter) in [(0, 1), (1, 0)] {
            let mut parts = [of(0..20_000, 2, 1), of(0..20_000, 2, 0)];
            let part = parts[shorter].clone();
            parts[longer].merge(&part);
            let found: Vec<_> = parts[longer].spans().collect();
            assert_eq!(found, whole.spans().collect::<Vec<_>>());
        }
        let (mut long, short) = (of(0..20_000, 1, 0), of(0..500, 1, 0));
        long.merge(&short);
        assert_eq!(long.total().counts.sent, (0..20_000).chain(0..500).sum::<u64>());
        let mut merged = short;
        merged.merge(&of(0..20_000, 1, 0));
        assert_eq!(merged.spans().collect::<Vec<_>>(), long.spans().collect::<Vec<_>>());
    }
}
