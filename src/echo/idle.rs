//! A coarse clock that finds what is idle: connections and reply sockets.
//!
//! The clock ticks a few times within the timeout, by one timer of the ring, and only while there is anything to watch.
//! Whatever is watched is marked with the tick of the last thing that happened to it. So an echo reads no clock and
//! sets no timer, and a server that has nothing to watch sleeps undisturbed.

use std::time::Duration;

use crate::kernel::pause::{PAUSE, Pause};
use crate::kernel::ring::{Interval, Ring, Token};

/// Ticks within the timeout. What is idle is found at most one tick late.
pub const TICKS: u32 = 8;

/// The clock. Without a timeout it stands still.
#[derive(Debug)]
pub struct IdleClock {
    tick: u32,
    interval: Option<Interval>,
    armed: bool,
    /// For a timer that the kernel refused.
    pause: Pause,
}

impl IdleClock {
    /// A clock for this timeout; zero for none.
    pub fn new(timeout: Duration) -> Self {
        let interval = (!timeout.is_zero()).then(|| Interval::new(timeout / TICKS));
        Self { tick: 0, interval, armed: false, pause: Pause::new(PAUSE) }
    }

    /// The mark for what something happens to now.
    pub fn now(&self) -> u32 {
        self.tick
    }

    /// Sets the timer for the next tick, if there is a timeout and no timer is set.
    pub fn run(&mut self, ring: &mut Ring, token: Token) {
        if let Some(interval) = self.interval
            && !self.armed
            && (self.pause.sleep().is_none() || self.pause.ends())
        {
            self.armed = true;
            ring.wake_after(interval, token);
        }
    }

    /// The timer has failed: no time has passed.
    pub fn failed(&mut self) {
        self.armed = false;
        self.pause.begin();
    }

    /// The timer has ended.
    pub fn ticked(&mut self) {
        self.armed = false;
        self.tick = self.tick.wrapping_add(1);
    }

    /// How long a turn may sleep if the clock is to run. `None`: any time.
    pub fn sleep(&self) -> Option<Duration> {
        self.pause.sleep()
    }

    /// Nothing has happened for the whole timeout to what has this mark.
    pub fn is_idle(&self, mark: u32) -> bool {
        // the first tick after the mark may have come at once
        self.tick.wrapping_sub(mark) > TICKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_has_passed_in_full_and_no_more_than_a_tick_longer() {
        let mut clock = IdleClock { tick: u32::MAX - 3, ..IdleClock::new(Duration::from_secs(8)) };
        let mark = clock.now();
        for _ in 0..TICKS {
            clock.ticked();
            assert!(!clock.is_idle(mark));
        }
        clock.ticked();
        assert!(clock.is_idle(mark));
        assert!(!clock.is_idle(clock.now()));
    }
}
