//! What the main thread does from time to time, as arithmetic: the clock is outside.

use std::time::{Duration, Instant};

/// How often the counters are searched for new losses.
const LOSSES_INTERVAL: Duration = Duration::from_secs(1);
/// How often `systemctl status` gets new numbers.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// Looks at the workers within the watchdog's time. Each look sends a sign of life if all workers have turned. The
/// server survives a stall of nine tenths of that time, of whichever thread: one look's interval before it, the stall,
/// and a second look if a worker turns a moment later.
const WATCHDOG_LOOKS: u32 = 20;
/// After a look that found a worker standing still, the next one follows after this part of the time.
const WATCHDOG_SECOND_LOOKS: u32 = 50;
/// The shortest interval of looks, for a watchdog that allows hardly any time.
const WATCHDOG_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// When each thing is due.
pub(super) struct Schedule {
    losses: Periodic,
    stats: Periodic,
    status: Periodic,
    watchdog: Periodic,
    /// Interval to the next look at the workers when one of them had not turned.
    second_look: Duration,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // they are independent of each other
pub(super) struct Due {
    pub(super) losses: bool,
    pub(super) stats: bool,
    pub(super) status: bool,
    pub(super) watchdog: bool,
}

/// Something that is due every `interval`, or never.
struct Periodic {
    interval: Option<Duration>,
    next: Instant,
}

impl Periodic {
    fn new(interval: Option<Duration>, now: Instant) -> Self {
        Self { interval, next: now + interval.unwrap_or_default() }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let Some(interval) = self.interval.filter(|_| now >= self.next) else { return false };
        self.next = now + interval;
        true
    }
}

impl Schedule {
    /// A schedule that begins now. `stats`: interval of the counters in the log; `is_heard`: there is a service manager;
    /// `watchdog`: the time that it allows between two signs of life.
    pub(super) fn new(
        stats: Option<Duration>,
        is_heard: bool,
        watchdog: Option<Duration>,
        now: Instant,
    ) -> Self {
        let look = watchdog.filter(|_| is_heard).map(look_interval);
        Self {
            losses: Periodic::new(Some(LOSSES_INTERVAL), now),
            stats: Periodic::new(stats, now),
            status: Periodic::new(is_heard.then_some(STATUS_INTERVAL), now),
            watchdog: Periodic::new(look, now),
            second_look: part_of(watchdog.unwrap_or_default(), WATCHDOG_SECOND_LOOKS),
        }
    }

    /// Time from `now` until something is due.
    pub(super) fn until_next(&self, now: Instant) -> Duration {
        let all = [&self.losses, &self.stats, &self.status, &self.watchdog];
        let next =
            all.iter().filter(|periodic| periodic.interval.is_some()).map(|periodic| periodic.next).min();
        next.map_or(LOSSES_INTERVAL, |next| next.saturating_duration_since(now))
    }

    /// What is due at `now`; each is due again after its interval.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        Due {
            losses: self.losses.is_due(now),
            stats: self.stats.is_due(now),
            status: self.status.is_due(now),
            watchdog: self.watchdog.is_due(now),
        }
    }

    /// Has the watchdog due again soon: the look at `now` brought no sign of life.
    pub(super) fn look_again(&mut self, now: Instant) {
        self.watchdog.next = now + self.second_look;
    }
}

/// Interval of the looks at the workers for a watchdog that allows this time. A worker's turn may take no longer.
pub(super) fn look_interval(watchdog: Duration) -> Duration {
    part_of(watchdog, WATCHDOG_LOOKS)
}

fn part_of(watchdog: Duration, parts: u32) -> Duration {
    (watchdog / parts).max(WATCHDOG_INTERVAL_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn each_is_due_after_its_interval_and_not_before() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Some(seconds(3)), true, Some(seconds(40)), start);
        assert_eq!(schedule.until_next(start), LOSSES_INTERVAL);
        let due = |schedule: &mut Schedule, after_s| schedule.due(start + seconds(after_s));
        let none = Due { losses: false, stats: false, status: false, watchdog: false };
        assert_eq!(due(&mut schedule, 0), none);
        assert_eq!(due(&mut schedule, 1), Due { losses: true, ..none });
        assert_eq!(due(&mut schedule, 2), Due { losses: true, watchdog: true, ..none }, "40 s, 20 looks");
        assert_eq!(due(&mut schedule, 3), Due { losses: true, stats: true, ..none });
        assert_eq!(due(&mut schedule, 10), Due { losses: true, stats: true, status: true, watchdog: true });
        assert_eq!(schedule.until_next(start + seconds(12)), Duration::ZERO, "the losses are late");
    }

    #[test]
    fn without_a_manager_nothing_is_due_for_it() {
        let start = Instant::now();
        let mut schedule = Schedule::new(None, false, Some(seconds(1)), start);
        let due = schedule.due(start + seconds(1000));
        assert_eq!(due, Due { losses: true, stats: false, status: false, watchdog: false });
    }

    #[test]
    fn a_look_without_a_sign_of_life_is_repeated_soon() {
        let start = Instant::now();
        let mut schedule = Schedule::new(None, true, Some(seconds(10)), start);
        let look = start + look_interval(seconds(10));
        assert!(schedule.due(look).watchdog);
        schedule.look_again(look);
        assert_eq!(schedule.until_next(look), seconds(10) / WATCHDOG_SECOND_LOOKS);
        assert_eq!(look_interval(Duration::from_nanos(1)), WATCHDOG_INTERVAL_MIN);
    }
}
