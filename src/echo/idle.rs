//! What is idle, told by a coarse clock: connections and reply sockets.
//!
//! The clock ticks a few times within the timeout, by one timer of the ring, and only while there is
//! anything to watch. It is marked with the tick of what happened to it last: no clock is read and no timer
//! is set for an echo, and a server that has nothing to watch sleeps undisturbed.

use std::time::Duration;

use crate::kernel::pause::{PAUSE, Pause};
use crate::kernel::ring::{Interval, Ring, Token};

/// Ticks within the timeout: what is idle is found at most one tick late.
pub const TICKS: u32 = 8;

/// The clock; without a timeout it stands still.
#[derive(Debug)]
pub struct IdleClock {
    tick: u32,
    interval: Option<Interval>,
    armed: bool,
    /// The kernel had no timer for us.
    pause: Pause,
}

impl IdleClock {
    /// A clock for this timeout; zero for none.
    pub fn new(timeout: Duration) -> Self {
        let interval = (!timeout.is_zero()).then(|| Interval::new(timeout / TICKS));
        Self { tick: 0, interval, armed: false, pause: Pause::new(PAUSE) }
    }

    /// What is marked when something happens to it.
    pub fn now(&self) -> u32 {
        self.tick
    }

    /// Has the clock tick once more, if it is wanted and does not already.
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

    /// How long a turn may sleep if the clock is to run; any time, unless it could not be set.
    pub fn sleep(&self) -> Option<Duration> {
        self.pause.sleep()
    }

    /// Nothing has happened for the whole timeout to what was marked so.
    pub fn is_idle(&self, mark: u32) -> bool {
        // the tick after the mark may have come at once
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
