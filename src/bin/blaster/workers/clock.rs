//! The clock of a run, in nanoseconds since its start; and the time that a thread waited for a processor.

use std::time::{Duration, Instant, SystemTime};

use crate::model::receive_clock::Reading;
use crate::model::results::CpuWaits;

/// A clock that counts from the start of a run; the start may be a moment ahead.
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

    /// Reads this clock and `CLOCK_REALTIME`.
    pub(crate) fn read_with_real(self) -> Reading {
        let before_ns = self.now_ns();
        let real_ns = real_ns();
        Reading { before_ns, real_ns, after_ns: self.now_ns() }
    }

    /// Sleeps until the start.
    pub(crate) fn wait_for_start(self) {
        std::thread::sleep(self.start.saturating_duration_since(Instant::now()));
    }
}

/// Nanoseconds since 1970 (`CLOCK_REALTIME`); 0 before it.
pub(crate) fn real_ns() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs() as i64 * 1_000_000_000 + i64::from(since.subsec_nanos())
}

/// The only source of the time that a thread has waited for a processor (proc(5)).
const SCHEDSTAT: &str = "/proc/thread-self/schedstat";

/// A warning if the kernel does not tell how long threads wait for a processor.
pub(crate) fn cpu_waits_unknown() -> Option<String> {
    let error = std::fs::read_to_string(SCHEDSTAT).err()?;
    Some(format!(
        "how long blaster waited for processors is unknown ({SCHEDSTAT}: {error}): it may have been the bottleneck \
         without a warning"
    ))
}

/// How long this thread has waited for a processor since it began, and how often it got one; zero if the kernel does not
/// count that.
pub(crate) fn cpu_waits() -> CpuWaits {
    let text = std::fs::read_to_string(SCHEDSTAT).unwrap_or_default();
    let mut numbers = text.split_whitespace().skip(1).map_while(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(waited_ns), Some(times)) => CpuWaits { waited_ns, times },
        _ => CpuWaits::default(),
    }
}
