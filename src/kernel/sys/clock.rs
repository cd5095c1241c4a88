//! Time, and time of processors.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::kernel::seam;

/// What time it is (clock_gettime(2), `CLOCK_MONOTONIC`).
#[inline]
pub fn now() -> Instant {
    if let Some(now) = seam::now() {
        return now;
    }
    Instant::now()
}

/// Sleeps, for want of anything else that can be done.
pub fn sleep(time: Duration) {
    if seam::sleep(time).is_some() {
        return;
    }
    std::thread::sleep(time);
}

/// The processor time that the calling thread has used so far (clock_gettime(2),
/// `CLOCK_THREAD_CPUTIME_ID`).
pub fn thread_cpu_time() -> Duration {
    cpu_time(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// The processor time that all threads have used so far (clock_gettime(2), `CLOCK_PROCESS_CPUTIME_ID`).
pub fn process_cpu_time() -> Duration {
    cpu_time(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

fn cpu_time(clock: ClockId) -> Duration {
    // these clocks always exist
    clock_gettime(clock).map(Duration::from).unwrap_or_default()
}

/// Lets the calling thread's sleeps end on time instead of up to 50 microseconds later (prctl(2),
/// `PR_SET_TIMERSLACK`).
pub fn wake_punctually() {
    // it can't fail for 1 nanosecond
    let _ = nix::sys::prctl::set_timerslack(1);
}
