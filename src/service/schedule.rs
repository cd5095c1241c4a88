//! When each periodic task of the main thread is due. Pure arithmetic: the caller passes the time.

use std::time::{Duration, Instant};

/// How often the counters are searched for new losses.
const LOSSES_INTERVAL: Duration = Duration::from_secs(1);
/// How often `systemctl status` gets new numbers.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// Checks of the workers within the watchdog's time. A check sends a sign of life if every worker has turned since the
/// last one. With 20 checks the server survives a stall of any thread for nine tenths of the watchdog's time: at worst
/// one check interval passes before the stall, and one repeated check follows it.
const WATCHDOG_CHECKS: u32 = 20;
/// After a check that found a worker standing still, the next one follows sooner: after 1/50 of the watchdog's time.
const WATCHDOG_REPEATED_CHECKS: u32 = 50;
/// The shortest interval of checks, for a watchdog with a very short time.
const WATCHDOG_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// When each task is due.
pub(super) struct Schedule {
    losses: Periodic,
    stats: Periodic,
    status: Periodic,
    watchdog: Periodic,
    /// Time to the next check of the workers after one of them had not turned.
    repeat_interval: Duration,
}

/// The tasks that are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // they are independent of each other
pub(super) struct Due {
    pub(super) losses: bool,
    pub(super) stats: bool,
    pub(super) status: bool,
    pub(super) watchdog: bool,
}

/// A task that is due every `interval`, or never.
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
    /// A schedule that begins at `now`. `stats` is the interval at which the counters are logged. `has_manager` says that
    /// there is a service manager, and `watchdog` is the time that it allows between two signs of life.
    pub(super) fn new(
        stats: Option<Duration>,
        has_manager: bool,
        watchdog: Option<Duration>,
        now: Instant,
    ) -> Self {
        let check = watchdog.filter(|_| has_manager).map(check_interval);
        Self {
            losses: Periodic::new(Some(LOSSES_INTERVAL), now),
            stats: Periodic::new(stats, now),
            status: Periodic::new(has_manager.then_some(STATUS_INTERVAL), now),
            watchdog: Periodic::new(check, now),
            repeat_interval: part_of(watchdog.unwrap_or_default(), WATCHDOG_REPEATED_CHECKS),
        }
    }

    /// Time from `now` until the next task is due.
    pub(super) fn until_next(&self, now: Instant) -> Duration {
        let all = [&self.losses, &self.stats, &self.status, &self.watchdog];
        let next =
            all.iter().filter(|periodic| periodic.interval.is_some()).map(|periodic| periodic.next).min();
        next.map_or(LOSSES_INTERVAL, |next| next.saturating_duration_since(now))
    }

    /// The tasks that are due at `now`. Each is due again after its interval.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        Due {
            losses: self.losses.is_due(now),
            stats: self.stats.is_due(now),
            status: self.status.is_due(now),
            watchdog: self.watchdog.is_due(now),
        }
    }

    /// Makes the watchdog due again soon, after a check that sent no sign of life.
    pub(super) fn check_again(&mut self, now: Instant) {
        self.watchdog.next = now + self.repeat_interval;
    }
}

/// Interval of the checks for a watchdog that allows this time. A worker's turn may take no longer than that.
pub(super) fn check_interval(watchdog: Duration) -> Duration {
    part_of(watchdog, WATCHDOG_CHECKS)
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
        assert_eq!(due(&mut schedule, 2), Due { losses: true, watchdog: true, ..none }, "40 s, 20 checks");
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
    fn a_check_without_a_sign_of_life_is_repeated_soon() {
        let start = Instant::now();
        let mut schedule = Schedule::new(None, true, Some(seconds(10)), start);
        let check = start + check_interval(seconds(10));
        assert!(schedule.due(check).watchdog);
        schedule.check_again(check);
        assert_eq!(schedule.until_next(check), seconds(10) / WATCHDOG_REPEATED_CHECKS);
        assert_eq!(check_interval(Duration::from_nanos(1)), WATCHDOG_INTERVAL_MIN);
    }
}
