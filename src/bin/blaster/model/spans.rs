//! The intervals of a run: single seconds, and longer ones the older they are. So a run of days takes no more memory than
//! one of hours.
//!
//! ```text
//!   the start                                                              now
//!   ├─ … ─┼──── 10 min ────┼──────── 1 min ────────┼────── 10 s ──────┼─ 1 s ─┤
//!         50 h ago         5 h ago                 50 min ago         5 min ago
//! ```

use std::collections::BTreeMap;

/// The lengths in seconds. Each is a multiple of the one before, and an interval begins at a multiple of its length: so two
/// intervals have nothing in common, or one contains the other.
pub(crate) const LENGTHS: [u64; 6] = [1, 10, 60, 600, 3_600, 86_400];

/// The number of intervals of one length, beside those that fill up the next longer one.
const KEPT: u64 = 300;

/// An interval of whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    /// Its first second.
    pub(crate) begin: u64,
    /// Its length, one of [`LENGTHS`].
    pub(crate) seconds: u64,
}

impl Span {
    /// The interval of this length that contains `second`.
    pub(crate) fn around(second: u64, seconds: u64) -> Self {
        Self { begin: second - second % seconds, seconds }
    }

    /// The interval that contains `second` while `newest` is the last second.
    pub(crate) fn of(second: u64, newest: u64) -> Self {
        let is_coarse = |nth: &usize| second < coarse_end(*nth, newest);
        let nth = (1..LENGTHS.len()).rev().find(is_coarse).unwrap_or(0);
        Self::around(second, LENGTHS[nth])
    }

    /// All intervals of a run whose last second is `newest`.
    pub(crate) fn all(newest: u64) -> impl Iterator<Item = Self> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let span = (next <= newest).then(|| Self::of(next, newest))?;
            next = span.end();
            Some(span)
        })
    }

    /// The first second after it.
    pub(crate) fn end(self) -> u64 {
        self.begin.saturating_add(self.seconds)
    }

    pub(crate) fn contains(self, second: u64) -> bool {
        self.begin <= second && second < self.end()
    }
}

/// Seconds before this one are in intervals of `LENGTHS[nth]` or longer. `nth`: from 1 on.
pub(crate) fn coarse_end(nth: usize, newest: u64) -> u64 {
    let end = newest.saturating_sub(KEPT * LENGTHS[nth - 1]);
    end - end % LENGTHS[nth]
}

/// Takes the values of intervals together that have become old since `before` was the last second; now it is `newest`.
pub(crate) fn coarsen<V>(
    values: &mut BTreeMap<u64, V>,
    before: u64,
    newest: u64,
    mut add: impl FnMut(&mut V, V),
) {
    for (nth, length) in LENGTHS.iter().enumerate().skip(1) {
        let moved = coarse_end(nth, before)..coarse_end(nth, newest);
        let begins: Vec<u64> = values.range(moved).map(|(begin, _)| *begin).collect();
        for begin in begins {
            let Some(value) = values.remove(&begin) else { continue };
            let begin = Span::around(begin, *length).begin;
            match values.get_mut(&begin) {
                Some(sum) => add(sum, value),
                None => drop(values.insert(begin, value)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_is_in_one_interval_and_old_ones_are_long() {
        for newest in [0, 1, 299, 300, 309, 310, 3_599, 3_600, 20_000, 86_399, 1_000_000, 3_000_000] {
            let spans: Vec<_> = Span::all(newest).collect();
            assert_eq!((spans[0].begin, spans.last().unwrap().end()), (0, newest + 1), "{newest}");
            assert!(spans.windows(2).all(|pair| pair[0].end() == pair[1].begin), "{newest}");
            assert!(spans.windows(2).all(|pair| pair[0].seconds >= pair[1].seconds), "{newest}");
            assert!(spans.iter().rev().take(300).all(|span| span.seconds == 1), "{newest}");
        }
        let spans: Vec<_> = Span::all(86_399).collect();
        assert!((900..1_100).contains(&spans.len()), "a day has {}", spans.len());
        assert!(Span::all(10 * 366 * 86_400).count() < 6_000, "and ten years");
    }

    #[test]
    fn values_are_taken_together_as_they_age() {
        let mut values = BTreeMap::new();
        let mut before = 0;
        for newest in 0..20_000 {
            values.insert(newest, 1);
            coarsen(&mut values, before, newest, |sum, more| *sum += more);
            before = newest;
        }
        let wanted: BTreeMap<u64, u64> = Span::all(before).map(|span| (span.begin, span.seconds)).collect();
        assert_eq!(values, wanted);
    }

    #[test]
    fn a_long_gap_makes_it_all_old_at_once() {
        let mut values: BTreeMap<u64, u64> = (0..100).map(|second| (second, 1)).collect();
        coarsen(&mut values, 99, 1_000_000, |sum, more| *sum += more);
        assert_eq!(values, BTreeMap::from([(0, 100)]));
    }
}
