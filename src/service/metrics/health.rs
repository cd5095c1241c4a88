//! Whether the server is well: every worker armed and turning, and no drain begun.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// How often the workers' turns are looked at.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// A worker that has not turned between so many looks in a row is stuck. One may be the machine's fault.
const TICKS_MAX: u32 = 3;

const STARTING: u8 = 0;
const SERVING: u8 = 1;
const DRAINING: u8 = 2;

/// How far the server's life is; it only goes forward.
#[derive(Debug, Default)]
pub struct Phase(AtomicU8);

impl Phase {
    /// Every worker is armed.
    pub fn serving(&self) {
        self.0.store(SERVING, Ordering::Relaxed);
    }

    /// The end has begun: nothing new shall be sent here.
    pub fn draining(&self) {
        self.0.store(DRAINING, Ordering::Relaxed);
    }
}

/// Why the server is not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwell {
    Starting,
    Draining,
    Stuck { worker: usize },
}

impl fmt::Display for Unwell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => write!(f, "starting: not every socket is armed yet"),
            Self::Draining => write!(f, "draining: the server is ending"),
            Self::Stuck { worker } => {
                write!(f, "worker {worker} has not turned for {} s", TICK.as_secs() * u64::from(TICKS_MAX))
            }
        }
    }
}

/// The turns of each worker as last seen, and in how many looks in a row they had not moved.
#[derive(Debug, Default)]
pub(super) struct Health(Vec<(u64, u32)>);

impl Health {
    /// Looks at the workers' counts of turns, once every [`TICK`].
    pub(super) fn look(&mut self, turns: impl Iterator<Item = u64>) {
        for (worker, now) in turns.enumerate() {
            match self.0.get_mut(worker) {
                Some((before, still)) => {
                    *still = if *before == now { *still + 1 } else { 0 };
                    *before = now;
                }
                None => self.0.push((now, 0)),
            }
        }
    }

    /// What is wrong, if anything is.
    pub(super) fn judge(&self, phase: &Phase) -> Result<(), Unwell> {
        match phase.0.load(Ordering::Relaxed) {
            STARTING => return Err(Unwell::Starting),
            DRAINING => return Err(Unwell::Draining),
            _ => {}
        }
        let stuck = self.0.iter().position(|(_, still)| *still >= TICKS_MAX);
        stuck.map_or(Ok(()), |worker| Err(Unwell::Stuck { worker }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_while_it_serves() {
        let (health, phase) = (Health::default(), Phase::default());
        assert_eq!(health.judge(&phase), Err(Unwell::Starting));
        phase.serving();
        assert_eq!(health.judge(&phase), Ok(()));
        phase.draining();
        assert_eq!(health.judge(&phase), Err(Unwell::Draining));
    }

    #[test]
    fn a_worker_that_does_not_turn_is_stuck_until_it_does() {
        let (mut health, phase) = (Health::default(), Phase::default());
        phase.serving();
        for turns in 0..3 {
            health.look([turns, 5].into_iter());
            assert_eq!(health.judge(&phase), Ok(()));
        }
        health.look([3, 5].into_iter());
        assert_eq!(health.judge(&phase), Err(Unwell::Stuck { worker: 1 }));
        health.look([4, 6].into_iter());
        assert_eq!(health.judge(&phase), Ok(()));
    }
}
