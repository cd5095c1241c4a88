//! The clock of a run: nanoseconds since its start. And what the kernel knows of time that a thread lost.

use std::time::{Duration, Instant};

use crate::tally::Waits;

/// Counts from the start of a run, which may lie a moment ahead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose run starts after `delay`.
    pub(crate) fn starting_in(delay: Duration) -> Self {
        Self { start: Instant::now() + delay }
    }

    /// Nanoseconds since the start (`CLOCK_MONOTONIC`); 0 before it.
    pub(crate) fn now_ns(self) -> u64 {
        let elapsed = self.start.elapsed();
        elapsed.as_secs() * 1_000_000_000 + u64::from(elapsed.subsec_nanos())
    }

    /// Sleeps until the start.
    pub(crate) fn wait_for_start(self) {
        std::thread::sleep(self.start.saturating_duration_since(Instant::now()));
    }
}

/// How long this thread has waited for a processor since it began, and how often it got one (proc(5), schedstat).
/// Nothing where the kernel does not count.
pub(crate) fn waits() -> Waits {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let mut numbers = text.split_whitespace().skip(1).map_while(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(waited_ns), Some(times)) => Waits { waited_ns, times },
        _ => Waits::default(),
    }
}
