//! The clock of a run, in nanoseconds since its start; and the time that a thread waited for a processor.

use std::time::{Duration, Instant, SystemTime};

use tubular_echo::kernel::sys;

use crate::model::receive_clock::Reading;
use crate::model::results::{CpuWaits, ThreadTimes};

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

/// What a worker thread uses while it sends.
#[derive(Debug)]
pub(crate) struct Usage {
    clock: Clock,
    start_ns: u64,
    cpu_at_start: Duration,
    waits_at_start: CpuWaits,
    pacing_ns: u64,
}

impl Usage {
    /// It counts from now on. Call this on the worker's own thread, and [`Usage::end`], too.
    pub(crate) fn begin(clock: Clock) -> Self {
        let start_ns = clock.now_ns();
        let (cpu_at_start, waits_at_start) = (sys::thread_cpu_time(), cpu_waits());
        Self { clock, start_ns, cpu_at_start, waits_at_start, pacing_ns: 0 }
    }

    /// The thread has watched the clock for so long.
    pub(crate) fn note_pacing(&mut self, passed_ns: u64) {
        self.pacing_ns += passed_ns;
    }

    /// The times until now; their span is not known yet.
    pub(crate) fn end(self) -> ThreadTimes {
        let cpu_ns = sys::thread_cpu_time().saturating_sub(self.cpu_at_start).as_nanos() as u64;
        let elapsed_ns = self.clock.now_ns() - self.start_ns;
        let waits = cpu_waits() - self.waits_at_start;
        ThreadTimes { elapsed_ns, span_ns: 0, cpu_ns, pacing_ns: self.pacing_ns, waits }
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
