//! The server's health: it is healthy while every worker is armed and turning, until the drain begins.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::exposition::http::LOOK_INTERVAL;

/// A worker whose turn counter has not changed in this many checks in a row is stuck. A single such check may only mean
/// that the machine was busy.
const CHECKS_MAX: u32 = 3;

const STARTING: u8 = 0;
const SERVING: u8 = 1;
const DRAINING: u8 = 2;

/// The phase of the server: starting, serving or draining, in this order.
#[derive(Debug, Default)]
pub struct Phase(AtomicU8);

impl Phase {
    /// Every worker is armed.
    pub(in crate::service) fn serving(&self) {
        self.0.store(SERVING, Ordering::Relaxed);
    }

    /// The drain has begun: load balancers should send no new traffic.
    pub(in crate::service) fn draining(&self) {
        self.0.store(DRAINING, Ordering::Relaxed);
    }
}

/// Why the server is unhealthy.
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
                write!(
                    f,
                    "worker {worker} has not turned for {} s",
                    LOOK_INTERVAL.as_secs() * u64::from(CHECKS_MAX)
                )
            }
        }
    }
}

/// For each worker, its turn counter at the last check, and the number of checks in a row that found it unchanged.
#[derive(Debug, Default)]
pub(super) struct Health(Vec<(u64, u32)>);

impl Health {
    /// Checks the workers' turn counters; called once every [`LOOK_INTERVAL`].
    pub(super) fn check(&mut self, turns: impl Iterator<Item = u64>) {
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

    /// Decides whether the server is healthy.
    pub(super) fn judge(&self, phase: &Phase) -> Result<(), Unwell> {
        match phase.0.load(Ordering::Relaxed) {
            STARTING => return Err(Unwell::Starting),
            DRAINING => return Err(Unwell::Draining),
            _ => {}
        }
        let stuck = self.0.iter().position(|(_, still)| *still >= CHECKS_MAX);
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
            health.check([turns, 5].into_iter());
            assert_eq!(health.judge(&phase), Ok(()));
        }
        health.check([3, 5].into_iter());
        assert_eq!(health.judge(&phase), Err(Unwell::Stuck { worker: 1 }));
        health.check([4, 6].into_iter());
        assert_eq!(health.judge(&phase), Ok(()));
    }
}
