//! Pauses between tries. What fails although nothing has changed must not be tried without end: that would take a whole
//! processor.
//!
//! A few failures in a row mean nothing. The network's errors come like that, one for each message of a stranger, who
//! could otherwise make us pause. So the first ones are tried again at once. After [`FAILURES_MAX`] without a success
//! in between, each try waits for a pause. The kernel may be short of memory, so nothing is set in it for that: the
//! worker's next turn sleeps no longer than the pause.

use std::time::{Duration, Instant};

use crate::kernel::sys;

/// Failures in a row that are tried again at once.
pub const FAILURES_MAX: u8 = 32;
/// How long to pause where whatever waits stays queued. A receive buffer of 4 MiB holds what comes in this time at half
/// a million datagrams a second.
pub const PAUSE: Duration = Duration::from_millis(10);

/// Failures in a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Failures(u8);

impl Failures {
    /// A try has succeeded.
    #[inline]
    pub fn forget(&mut self) {
        self.0 = 0;
    }

    /// One more failure. True if the next try has to wait for a pause.
    pub fn add(&mut self) -> bool {
        self.0 = self.0.saturating_add(1);
        self.0 > FAILURES_MAX
    }
}

/// A pause that all of one kind share. It begins with the first that needs it.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    time: Duration,
    until: Option<Instant>,
}

impl Pause {
    /// A pause of this length that has not begun.
    pub fn new(time: Duration) -> Self {
        Self { time, until: None }
    }

    /// Begins, unless it has begun already.
    pub fn begin(&mut self) {
        if self.until.is_none() {
            self.until = Some(sys::now() + self.time);
        }
    }

    /// How long a turn may sleep, so that the end of the pause is noticed. `None`: there is no pause.
    pub fn sleep(&self) -> Option<Duration> {
        self.until.map(|_| self.time)
    }

    /// True once, when the pause is over.
    pub fn ends(&mut self) -> bool {
        let ends = self.until.is_some_and(|until| sys::now() >= until);
        if ends {
            self.until = None;
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_without_a_success_in_between_are_too_many() {
        let mut failures = Failures::default();
        for _ in 0..2 {
            for _ in 0..FAILURES_MAX {
                assert!(!failures.add());
            }
            assert!(failures.add() && failures.add());
            failures.forget();
        }
        assert!((0..1000).all(|_| failures.add() || failures.0 <= FAILURES_MAX));
        assert!(failures.add(), "the count does not wrap");
    }

    #[test]
    fn a_pause_is_over_once() {
        let mut pause = Pause::new(Duration::from_millis(1));
        assert!(pause.sleep().is_none() && !pause.ends());
        pause.begin();
        let begun = Instant::now();
        assert_eq!(pause.sleep(), Some(Duration::from_millis(1)));
        while !pause.ends() {
            pause.begin();
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "it begins once");
        assert!(pause.sleep().is_none() && !pause.ends());
    }
}
