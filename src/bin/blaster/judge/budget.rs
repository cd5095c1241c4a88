//! `--search-runs` and `--search-time`: how many more runs a search may make. No clock.

use std::time::Duration;

use crate::report::schema::{Bound, SearchEnd};

/// How long it may take until a run sends, and after its end until the next one begins.
const BETWEEN_RUNS: Duration = Duration::from_millis(250);

/// What a search may take, and what it has taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    runs_max: u32,
    time_max: Duration,
    /// The longest that a run takes.
    longest: Duration,
    runs: u32,
    /// The time of these runs.
    spent: Duration,
}

impl Budget {
    /// Without `time_max`, every run may take as long as the longest.
    pub(crate) fn new(runs_max: u32, time_max: Option<Duration>, longest: Duration) -> Self {
        let time_max = time_max.unwrap_or((longest + BETWEEN_RUNS).saturating_mul(runs_max));
        Self { runs_max, time_max, longest, runs: 0, spent: Duration::ZERO }
    }

    /// Notes a run that took this long.
    pub(crate) fn note(&mut self, took: Duration) {
        self.runs += 1;
        self.spent += took;
        self.longest = self.longest.max(took);
    }

    /// How many more runs may begin when `elapsed` has passed since the start: each as long as those so far, but the last one
    /// may be the longest.
    pub(crate) fn left(&self, elapsed: Duration) -> u32 {
        let runs = self.runs_max.saturating_sub(self.runs);
        let Some(room) = self.time_max.checked_sub(elapsed + self.longest) else { return 0 };
        let usual = if self.runs > 0 { self.spent / self.runs } else { self.longest };
        let further = room.as_nanos() / usual.as_nanos().max(1);
        runs.min(u32::try_from(further).unwrap_or(u32::MAX).saturating_add(1))
    }

    pub(crate) fn bound(&self) -> Bound {
        Bound { runs: self.runs_max, time_ns: nanoseconds(self.time_max) }
    }

    /// What was taken until `elapsed` had passed.
    pub(crate) fn taken(&self, elapsed: Duration) -> Bound {
        Bound { runs: self.runs, time_ns: nanoseconds(elapsed) }
    }

    /// Which bound ended the search; [`Budget::left`] is 0.
    pub(crate) fn ended_by(&self) -> SearchEnd {
        if self.runs >= self.runs_max { SearchEnd::Runs } else { SearchEnd::Time }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn no_run_begins_that_could_end_too_late() {
        for (runs_max, time_max, took) in
            [(48, None, 2), (48, None, 4), (48, Some(30), 2), (5, Some(300), 3), (48, Some(4), 1)]
        {
            let mut budget = Budget::new(runs_max, time_max.map(|s| S * s), S * 4);
            let mut elapsed = Duration::ZERO;
            let mut runs = 0;
            while budget.left(elapsed) > 0 {
                elapsed += S * took;
                budget.note(S * took);
                runs += 1;
            }
            let bound = budget.bound();
            assert!(runs <= runs_max && elapsed.as_nanos() <= u128::from(bound.time_ns), "{budget:?}");
            let fits_no_more = runs == runs_max || elapsed + S * 4 > S * time_max.unwrap_or(u32::MAX);
            assert!(fits_no_more, "{budget:?} after {elapsed:?}");
            let end = if runs == runs_max { SearchEnd::Runs } else { SearchEnd::Time };
            assert_eq!(budget.ended_by(), end);
        }
    }

    #[test]
    fn runs_are_expected_to_be_as_long_as_those_so_far() {
        let mut budget = Budget::new(100, Some(S * 44), S * 4);
        assert_eq!(budget.left(Duration::ZERO), 11);
        budget.note(S * 2);
        assert_eq!(budget.left(S * 2), 1 + 19);
        // one that took much longer makes the last one as long
        budget.note(S * 20);
        assert_eq!(budget.left(S * 22), 1);
        assert_eq!(budget.left(S * 25), 0);
    }
}
