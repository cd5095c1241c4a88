//! How far a worker is, from its start to its end.
//!
//! ```text
//! Serving ── told to end ──► Draining ── no worker has connections, or the deadline ──► Leaving ──► the end
//! ```
//!
//! No socket and no clock: the time and the number of the other workers are arguments.

use std::time::{Duration, Instant};

use crate::echo::udp::StopReceiving;

/// How long sockets that the next process gets are still read, unless they become empty before. The last replies may
/// take as long again.
const LEAVING: Duration = Duration::from_millis(100);

/// How far a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Serving,
    /// It was told to end. It answers what it has received.
    Draining(Drain),
    /// Nothing else is left to do: it leaves the sockets that the next process gets.
    Leaving {
        drain: Drain,
        /// Until when it reads them.
        until: Instant,
    },
}

/// A drain that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Drain {
    deadline: Instant,
    /// The worker has no connection left, or had none at some time.
    has_drained_tcp: bool,
}

impl Stage {
    /// Told to end. False if it was told before.
    pub(super) fn begin_drain(&mut self, now: Instant, timeout: Duration) -> bool {
        let begins = *self == Self::Serving;
        if begins {
            *self = Self::Draining(Drain { deadline: now + timeout, has_drained_tcp: false });
        }
        begins
    }

    /// The drain, once it has begun.
    pub(super) fn drain(&self) -> Option<&Drain> {
        match self {
            Self::Serving => None,
            Self::Draining(drain) | Self::Leaving { drain, .. } => Some(drain),
        }
    }

    /// The worker has no connection left. True for the first time.
    pub(super) fn tcp_drained(&mut self) -> bool {
        match self {
            Self::Serving => panic!("nothing drains while the worker serves"),
            Self::Draining(drain) | Self::Leaving { drain, .. } => {
                !std::mem::replace(&mut drain.has_drained_tcp, true)
            }
        }
    }

    /// Goes on to leave. The next process starts when the last worker has ended, and nobody else reads the sockets that
    /// it gets until then. So a worker leaves only when no worker has a connection left, or at the deadline.
    pub(super) fn leave(&mut self, now: Instant, workers_with_tcp: usize) {
        if let Self::Draining(drain) = *self
            && (workers_with_tcp == 0 || now >= drain.deadline)
        {
            *self = Self::Leaving { drain, until: now + LEAVING };
        }
    }

    /// When receiving stops on the sockets that the next process gets.
    pub(super) fn stops_receiving(&self, now: Instant) -> StopReceiving {
        match self {
            Self::Leaving { until, .. } if now >= *until => StopReceiving::Now,
            Self::Leaving { .. } => StopReceiving::WhenEmpty,
            Self::Serving | Self::Draining(_) => StopReceiving::NotYet,
        }
    }

    /// True at the end, whatever is left then: the last replies have had the time that they may take.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.drain().is_some_and(|drain| now >= drain.deadline + 2 * LEAVING)
    }
}

#[cfg(test)]
mod tests {
    use std::panic;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);
    const MS: Duration = Duration::from_millis(1);
    /// A moment before that.
    const ALMOST: Duration = Duration::from_millis(9_999);

    fn draining(now: Instant) -> Stage {
        let mut stage = Stage::Serving;
        assert!(stage.begin_drain(now, TIMEOUT));
        stage
    }

    #[test]
    fn a_worker_that_serves_neither_drains_nor_leaves() {
        let now = Instant::now();
        let mut stage = Stage::Serving;
        stage.leave(now, 0);
        assert_eq!((stage, stage.drain()), (Stage::Serving, None));
        assert_eq!(stage.stops_receiving(now), StopReceiving::NotYet);
        assert!(!stage.is_overdue(now + 100 * TIMEOUT));
        assert!(panic::catch_unwind(move || stage.tcp_drained()).is_err());
    }

    #[test]
    fn a_drain_begins_once() {
        let now = Instant::now();
        let mut stage = draining(now);
        let begun = stage;
        assert!(!stage.begin_drain(now + MS, TIMEOUT));
        assert_eq!(stage, begun, "the deadline stays");
        assert!(stage.tcp_drained() && !stage.tcp_drained(), "it is told once");
        stage.leave(now, 0);
        assert!(!stage.tcp_drained() && !stage.begin_drain(now, TIMEOUT));
    }

    #[test]
    fn a_worker_leaves_when_nobody_has_connections_and_not_before() {
        let now = Instant::now();
        let mut stage = draining(now);
        stage.leave(now + ALMOST, 1);
        assert_eq!(stage.stops_receiving(now + ALMOST), StopReceiving::NotYet, "another one has some");
        stage.leave(now + MS, 0);
        assert_eq!(stage.stops_receiving(now + MS), StopReceiving::WhenEmpty);
        stage.leave(now + 50 * MS, 0);
        assert_eq!(stage.stops_receiving(now + LEAVING), StopReceiving::WhenEmpty);
        assert_eq!(stage.stops_receiving(now + MS + LEAVING), StopReceiving::Now, "it began to leave once");
    }

    #[test]
    fn the_deadline_ends_what_does_not_end() {
        let now = Instant::now();
        let mut stage = draining(now);
        stage.leave(now + TIMEOUT, 1);
        assert_eq!(stage.stops_receiving(now + TIMEOUT), StopReceiving::WhenEmpty);
        assert!(stage.tcp_drained(), "it may still come to that");
        assert!(!stage.is_overdue(now + ALMOST + 2 * LEAVING));
        assert!(stage.is_overdue(now + TIMEOUT + 2 * LEAVING));
    }
}
