//! How many per second: datagrams that are answered, or sockets that are opened. Arithmetic; time is an argument.

use std::num::NonZeroU32;
use std::time::Duration;

/// A rate as the time that one of them takes, and the time that may be taken ahead.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    interval_ns: u64,
    burst_ns: u64,
}

/// Until when the time is taken, in nanoseconds from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ahead(u64);

impl Rate {
    /// The rate of `per_second`. After a rest as many as fit in `burst` may come at once, and at least one.
    pub fn new(per_second: NonZeroU32, burst: Duration) -> Self {
        let interval_ns = 1_000_000_000 / u64::from(per_second.get());
        Self { interval_ns, burst_ns: (burst.as_nanos() as u64).max(interval_ns) }
    }

    /// Takes the time of `count` of them, if any is left. A train of datagrams is not cut: the time that it takes too much is
    /// missing afterwards.
    pub fn take(self, ahead: &mut Ahead, count: u32, now_ns: u64) -> bool {
        let from_ns = ahead.0.max(now_ns);
        let left = from_ns - now_ns < self.burst_ns;
        if left {
            ahead.0 = from_ns + self.interval_ns * u64::from(count);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn rate(per_second: u32, burst: Duration) -> Rate {
        Rate::new(NonZeroU32::new(per_second).unwrap(), burst)
    }

    /// How many of 1,000 pass at that time.
    fn passed(mut take: impl FnMut() -> bool) -> usize {
        (0..1000).filter(|_| take()).count()
    }

    #[test]
    fn so_many_a_second_and_a_burst_and_no_more() {
        let rate = rate(200, Duration::from_secs(1));
        let mut ahead = Ahead::default();
        let start_ns = 5 * SECOND_NS;
        for (after_ns, wanted) in
            [(0, 200), (0, 0), (SECOND_NS / 100, 2), (SECOND_NS / 2, 98), (9 * SECOND_NS, 200)]
        {
            assert_eq!(
                passed(|| rate.take(&mut ahead, 1, start_ns + after_ns)),
                wanted,
                "after {after_ns} ns"
            );
        }
        assert!(rate.take(&mut ahead, 64, 99 * SECOND_NS), "a train passes whole");
        assert_eq!(passed(|| rate.take(&mut ahead, 1, 99 * SECOND_NS)), 200 - 64);
    }

    #[test]
    fn the_smallest_rate_answers_trains_and_makes_up_for_them() {
        let rate = rate(1, Duration::from_millis(1));
        let mut ahead = Ahead::default();
        assert!(rate.take(&mut ahead, 64, SECOND_NS));
        assert!(!rate.take(&mut ahead, 1, 64 * SECOND_NS));
        assert!(rate.take(&mut ahead, 1, 65 * SECOND_NS));
    }

    #[test]
    fn one_passes_even_if_it_takes_longer_than_the_burst() {
        let (rate, mut ahead) = (rate(2, Duration::from_millis(100)), Ahead::default());
        assert_eq!(passed(|| rate.take(&mut ahead, 1, SECOND_NS)), 1);
        assert_eq!(passed(|| rate.take(&mut ahead, 1, SECOND_NS * 3 / 2)), 1);
    }
}
