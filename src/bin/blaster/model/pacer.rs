//! The time at which each train is due. It is arithmetic only; the caller has the clock.
//!
//! The schedule of a run is one sequence of trains at `rate` datagrams per second. With several workers, worker w of n
//! takes the trains w, w + n, w + 2n, and so on: together they keep the schedule of one. Intended times are exact: the
//! remainder of each division is carried on, so the millionth train is as punctual as the first.

use std::time::Duration;

use crate::model::quantity::Rate;

/// Nanoseconds in 1000 seconds, since a [`Rate`] counts datagrams in 1000 seconds.
const NS_PER_1000_S: u128 = 1_000_000_000_000;

/// The part of one worker in the schedule. Times are nanoseconds since the run's start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pacer {
    /// The next intended time is `next_ns` + `next_rest` / `per_1000_s`.
    next_ns: u64,
    next_rest: u64,
    step_ns: u64,
    step_rest: u64,
    per_1000_s: u64,
    /// The time between two trains of the whole schedule.
    spacing_ns: u64,
    /// The intended time of the last train taken.
    last_ns: Option<u64>,
}

impl Pacer {
    /// For worker `worker` of `workers`; each train has `datagrams` datagrams.
    pub(crate) fn new(rate: Rate, datagrams: u32, worker: u32, workers: u32) -> Self {
        let per_1000_s = u128::from(rate.per_1000_s);
        let after = |trains: u32| {
            let numerator = u128::from(trains) * u128::from(datagrams) * NS_PER_1000_S;
            ((numerator / per_1000_s) as u64, (numerator % per_1000_s) as u64)
        };
        let (next_ns, next_rest) = after(worker);
        let (step_ns, step_rest) = after(workers);
        let (spacing_ns, _) = after(1);
        let per_1000_s = rate.per_1000_s;
        Self { next_ns, next_rest, step_ns, step_rest, per_1000_s, spacing_ns, last_ns: None }
    }

    /// For one worker, a train at each of these intervals.
    pub(crate) fn every(interval: Duration) -> Self {
        let spacing_ns = interval.as_nanos() as u64;
        Self {
            next_ns: 0,
            next_rest: 0,
            step_ns: spacing_ns,
            step_rest: 0,
            per_1000_s: 1,
            spacing_ns,
            last_ns: None,
        }
    }

    /// The time that the trains taken so far cover: up to the next train of the schedule, of any worker.
    pub(crate) fn covered_ns(&self) -> u64 {
        self.last_ns.map_or(0, |last_ns| last_ns + self.spacing_ns)
    }

    /// The intended time of the next train.
    pub(crate) fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// How many trains are left before `end_ns`.
    pub(crate) fn left(&self, end_ns: u64) -> u64 {
        let Some(ahead_ns) = end_ns.checked_sub(self.next_ns).filter(|ahead_ns| *ahead_ns > 0) else {
            return 0;
        };
        let per_1000_s = u128::from(self.per_1000_s);
        let step = u128::from(self.step_ns) * per_1000_s + u128::from(self.step_rest);
        let ahead = u128::from(ahead_ns) * per_1000_s - u128::from(self.next_rest);
        ahead.div_ceil(step) as u64
    }

    /// Takes the next train, if it is due at `now_ns`, and returns its intended time.
    pub(crate) fn take(&mut self, now_ns: u64) -> Option<u64> {
        if self.next_ns > now_ns {
            return None;
        }
        let intended_ns = self.next_ns;
        self.last_ns = Some(intended_ns);
        self.next_ns += self.step_ns;
        self.next_rest += self.step_rest;
        if self.next_rest >= self.per_1000_s {
            self.next_rest -= self.per_1000_s;
            self.next_ns += 1;
        }
        Some(intended_ns)
    }
}

/// How long the kernel may keep a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// Not at all: something is due, or will be very soon.
    None,
    Nanoseconds(u64),
}

/// How long before an intended send time a worker stops sleeping and watches the clock: of 200 recent sleeps, about one
/// overran by more. A quiet machine wakes a thread within microseconds, a virtual or busy one does not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WakeMargin {
    ns: u64,
}

impl WakeMargin {
    /// The time to read the clock and enter the kernel.
    const SHORTEST_NS: u64 = 4_000;
    /// More is not worth the processor time: such a delay has another cause than sleeping.
    const LONGEST_NS: u64 = 100_000;
    /// What a sleep within the margin takes off it.
    const STEP_DOWN_NS: u64 = 40;
    /// What a sleep beyond the margin adds to it. The two balance when one sleep of 200 is beyond.
    const STEP_UP_NS: u64 = 199 * Self::STEP_DOWN_NS;

    /// The margin before the first sleep.
    pub(crate) fn new() -> Self {
        Self { ns: 20_000 }
    }

    /// How long to sleep when the next send is due in `left_ns`.
    pub(crate) fn pause(self, left_ns: u64) -> Pause {
        match left_ns.checked_sub(self.ns) {
            None | Some(0) => Pause::None,
            Some(sleep_ns) => Pause::Nanoseconds(sleep_ns),
        }
    }

    /// Learns that a sleep ended `overrun_ns` too late.
    pub(crate) fn learn(&mut self, overrun_ns: u64) {
        let wanted_ns =
            if overrun_ns > self.ns { self.ns + Self::STEP_UP_NS } else { self.ns - Self::STEP_DOWN_NS };
        self.ns = wanted_ns.clamp(Self::SHORTEST_NS, Self::LONGEST_NS);
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    #[test]
    fn intended_times() {
        // rate, datagrams to a train, worker, workers, the first intended times in nanoseconds
        let table: &[(&str, u32, u32, u32, &[u64])] = &[
            ("1", 1, 0, 1, &[0, 1_000_000_000, 2_000_000_000]),
            ("1k", 1, 0, 1, &[0, 1_000_000, 2_000_000]),
            ("3", 1, 0, 1, &[0, 333_333_333, 666_666_666, 1_000_000_000]),
            ("0.5", 1, 0, 1, &[0, 2_000_000_000, 4_000_000_000]),
            ("200k", 1, 0, 1, &[0, 5_000, 10_000]),
            ("200k", 32, 0, 1, &[0, 160_000, 320_000]),
            ("1k", 1, 0, 2, &[0, 2_000_000, 4_000_000]),
            ("1k", 1, 1, 2, &[1_000_000, 3_000_000, 5_000_000]),
            ("3", 1, 2, 3, &[666_666_666, 1_666_666_666]),
            ("1G", 1, 0, 1, &[0, 1, 2]),
            ("700M", 1, 0, 1, &[0, 1, 2, 4, 5, 7, 8, 10]),
        ];
        for &(text, datagrams, worker, workers, wanted) in table {
            let mut pacer = Pacer::new(rate(text), datagrams, worker, workers);
            let found: Vec<u64> = wanted.iter().map_while(|_| pacer.take(u64::MAX)).collect();
            assert_eq!(found, wanted, "{text}, trains of {datagrams}, worker {worker} of {workers}");
        }
    }

    #[test]
    fn each_train_covers_the_time_until_the_next_of_any_worker() {
        let mut pacers = [0, 1].map(|worker| Pacer::new(rate("10"), 2, worker, 2));
        assert_eq!(pacers[0].covered_ns(), 0);
        for (worker, wanted_ns) in [(0, 200_000_000), (1, 400_000_000), (0, 600_000_000)] {
            pacers[worker].take(u64::MAX);
            assert_eq!(pacers[worker].covered_ns(), wanted_ns);
        }
    }

    #[test]
    fn nothing_before_its_time() {
        let mut pacer = Pacer::new(rate("1k"), 1, 1, 2);
        assert_eq!(pacer.take(999_999), None);
        assert_eq!(pacer.next_ns(), 1_000_000);
        assert_eq!(pacer.take(1_000_000), Some(1_000_000));
        assert_eq!(pacer.take(2_999_999), None);
    }

    #[test]
    fn what_is_left_is_what_would_be_taken() {
        for (text, datagrams, worker, workers) in
            [("1k", 1, 0, 1), ("3", 2, 1, 3), ("700M", 7, 0, 2), ("0.5", 1, 0, 1)]
        {
            let mut pacer = Pacer::new(rate(text), datagrams, worker, workers);
            for end_ns in [0, 1, 999, 1_000, 1_001, 1_000_000, 5_000_000, 7_000_000] {
                let left = pacer.left(end_ns);
                let taken =
                    std::iter::from_fn(|| end_ns.checked_sub(1).and_then(|now_ns| pacer.take(now_ns)));
                assert_eq!(left, taken.count() as u64, "{text}, until {end_ns}");
            }
        }
    }

    #[test]
    fn one_sleep_of_200_ends_beyond_the_margin() {
        let mut margin = WakeMargin::new();
        let mut draw = crate::model::draw::rng(1, 0, 0);
        // most within 10 µs, some up to 50
        let mut overruns = std::iter::repeat_with(|| {
            let longest_ns = if draw.random_ratio(1, 25) { 50_000 } else { 10_000 };
            draw.random_range(0..longest_ns)
        });
        overruns.by_ref().take(10_000).for_each(|overrun_ns| margin.learn(overrun_ns));
        let beyond = overruns.take(100_000).filter(|overrun_ns| {
            let is_beyond = *overrun_ns > margin.ns;
            margin.learn(*overrun_ns);
            is_beyond
        });
        let share = beyond.count() as f64 / 100_000.0;
        assert!((0.003..0.007).contains(&share), "{share}");
    }

    #[test]
    fn the_margin_has_bounds() {
        for (overrun_ns, bound_ns) in [(0, 4_000), (u64::MAX, 100_000)] {
            let mut margin = WakeMargin::new();
            (0..2_000).for_each(|_| margin.learn(overrun_ns));
            assert_eq!(margin.ns, bound_ns, "{overrun_ns}");
        }
    }

    #[test]
    fn a_sleep_ends_before_the_send_is_due() {
        let margin = WakeMargin { ns: 10_000 };
        let pauses = [0, 10_000, 10_001, 1_000_000].map(|left_ns| margin.pause(left_ns));
        assert_eq!(pauses, [Pause::None, Pause::None, Pause::Nanoseconds(1), Pause::Nanoseconds(990_000)]);
    }

    #[test]
    fn a_stall_shifts_no_intended_time() {
        let mut pacer = Pacer::new(rate("1k"), 1, 0, 1);
        assert_eq!(pacer.take(0), Some(0));
        let after_a_stall: Vec<u64> = std::iter::from_fn(|| pacer.take(200_000_000)).collect();
        assert_eq!(after_a_stall.len(), 200);
        assert_eq!((after_a_stall[0], after_a_stall[199]), (1_000_000, 200_000_000));
    }

    #[test]
    fn the_millionth_train_is_as_punctual_as_the_first() {
        for text in ["3", "7k", "333333", "0.007"] {
            let mut pacer = Pacer::new(rate(text), 7, 1, 3);
            for train in 0..1_000_000_u128 {
                let exact = (train * 3 + 1) * 7 * NS_PER_1000_S / u128::from(rate(text).per_1000_s);
                assert_eq!(pacer.take(u64::MAX).map(u128::from), Some(exact), "{text}, train {train}");
            }
        }
    }

    #[test]
    fn workers_together_keep_the_schedule_of_one() {
        let mut one = Pacer::new(rate("123456"), 5, 0, 1);
        let mut many: Vec<Pacer> = (0..4).map(|worker| Pacer::new(rate("123456"), 5, worker, 4)).collect();
        for train in 0..10_000 {
            assert_eq!(many[train % 4].take(u64::MAX), one.take(u64::MAX));
        }
    }
}
