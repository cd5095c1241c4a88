//! When to look for completions without sleeping.
//!
//! Waking a thread takes longer than echoing a datagram, so one that looks again and again for a few
//! microseconds answers a ping-pong several times as fast. It also burns the processor and keeps trains
//! short. So: only for a bounded time, only while turns bring next to nothing, and not while it has
//! proved fruitless; it begins anew when sleeps turn out to be so short that polling would have paid.
//!
//! Pure arithmetic: time comes in as an argument.

use std::time::Duration;

/// Turns with more completions than this have trains to gather, which polling would cut short.
const COMPLETIONS_MAX: usize = 2;
/// So many fruitless polls in a row end polling.
const FRUITLESS_MAX: u32 = 4;
/// So many short sleeps in a row begin it again.
const SHORT_SLEEPS: u32 = 8;

/// Decides whether the next wait polls before it sleeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Polling {
    /// How long a poll lasts at the most; zero for never.
    duration: Duration,
    on: bool,
    /// Fruitless polls in a row while it is on, short sleeps in a row while it is off.
    streak: u32,
    last_completions: usize,
}

impl Polling {
    pub(super) fn new(duration: Duration) -> Self {
        Self { duration, on: true, streak: 0, last_completions: 0 }
    }

    /// Whether anybody wants polling at all.
    pub(super) fn is_wanted(&self) -> bool {
        !self.duration.is_zero()
    }

    /// How long to poll before the next sleep, if at all.
    pub(super) fn duration(&self) -> Option<Duration> {
        (self.is_wanted() && self.on && self.last_completions <= COMPLETIONS_MAX).then_some(self.duration)
    }

    /// A turn has brought so many completions.
    pub(super) fn turned(&mut self, completions: usize) {
        self.last_completions = completions;
    }

    /// A poll has ended.
    pub(super) fn polled(&mut self, fruitful: bool) {
        self.streak = if fruitful { 0 } else { self.streak + 1 };
        if self.streak >= FRUITLESS_MAX {
            self.on = false;
            self.streak = 0;
        }
    }

    /// A sleep has lasted so long.
    pub(super) fn slept(&mut self, time: Duration) {
        if self.on {
            return;
        }
        self.streak = if time <= self.duration { self.streak + 1 } else { 0 };
        if self.streak >= SHORT_SLEEPS {
            self.on = true;
            self.streak = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_micros(20);

    #[test]
    fn nobody_polls_who_does_not_want_to() {
        let mut polling = Polling::new(Duration::ZERO);
        assert_eq!(polling.duration(), None);
        (0..100).for_each(|_| polling.slept(Duration::ZERO));
        assert_eq!(polling.duration(), None);
    }

    #[test]
    fn fruitless_polls_end_it_and_short_sleeps_begin_it_again() {
        let mut polling = Polling::new(DURATION);
        for _ in 0..FRUITLESS_MAX {
            assert_eq!(polling.duration(), Some(DURATION));
            polling.polled(false);
        }
        assert_eq!(polling.duration(), None);
        // a trickle: every sleep is long
        for _ in 0..100 {
            polling.slept(DURATION * 100);
            assert_eq!(polling.duration(), None);
        }
        for _ in 0..SHORT_SLEEPS {
            assert_eq!(polling.duration(), None);
            polling.slept(DURATION / 2);
        }
        assert_eq!(polling.duration(), Some(DURATION));
    }

    #[test]
    fn a_fruitful_poll_forgives_and_a_full_turn_does_not_poll() {
        let mut polling = Polling::new(DURATION);
        for _ in 0..100 {
            polling.polled(false);
            polling.polled(true);
        }
        assert_eq!(polling.duration(), Some(DURATION));
        polling.turned(COMPLETIONS_MAX + 1);
        assert_eq!(polling.duration(), None);
        polling.turned(1);
        assert_eq!(polling.duration(), Some(DURATION));
    }
}
