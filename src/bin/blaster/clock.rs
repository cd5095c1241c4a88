//! The clock of a run: nanoseconds since its start.

use std::time::{Duration, Instant};

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
