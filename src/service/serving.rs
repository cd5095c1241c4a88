//! The main thread once the server is ready: it waits, logs, notifies the service manager, and drains.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::first_losses::FirstLosses;
use super::notify::Ready;
use super::schedule::Schedule;
use super::signals::LAST_LINES_TIMEOUT;
use super::workers::{Wakeup, Workers, WorkersError};
use crate::policy::counters::DroppedMessages;

/// A drain may take this much longer than its time limit before the process ends without its workers.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// A server whose workers are all armed.
pub(super) struct Serving {
    pub(super) workers: Workers,
    pub(super) ready: Ready,
    pub(super) dropped_messages: DroppedMessages,
    pub(super) schedule: Schedule,
    pub(super) losses: FirstLosses,
    /// Each worker's count of turns when all of them had last moved. A turn is one round of a worker's loop.
    pub(super) turns: Vec<u64>,
}

impl Serving {
    /// Serves until a signal comes.
    pub(super) fn serve(&mut self) -> Result<(), WorkersError> {
        loop {
            match self.wait(self.schedule.until_next(Instant::now()))? {
                Wakeup::Signal => return Ok(()),
                Wakeup::Ended(index) => return Err(WorkersError::Ended(index)),
                Wakeup::Timeout => self.perform_due(),
            }
        }
    }

    /// Waits for an event, or until a message to the service manager is to be sent again, `timeout` at most.
    fn wait(&self, timeout: Duration) -> Result<Wakeup, WorkersError> {
        self.workers.wait(self.ready.retry_interval().map_or(timeout, |retry| retry.min(timeout)))
    }

    /// Writes the log lines and notifies the service manager as the schedule says.
    fn perform_due(&mut self) {
        let due = self.schedule.due(Instant::now());
        let snapshot = || self.workers.snapshot().with(&self.dropped_messages);
        if due.losses {
            for text in self.losses.news(&snapshot()) {
                warn!("{text}; said once");
            }
        }
        if due.stats {
            info!("counters: {}", snapshot());
        }
        // a manager that does not read now misses a notification; `ready` counts it
        let _ = self.ready.send_pending();
        if due.status {
            let now = snapshot();
            let _ = self.ready.status(&format!(
                "{} connections open, {} accepted; {} datagrams in, {} out",
                now.tcp_open, now.tcp_accepted, now.udp_datagrams_in, now.udp_datagrams_out
            ));
        }
        if due.watchdog {
            self.check_workers();
        }
    }

    /// Sends a sign of life to the service manager if every worker has turned since the last one.
    fn check_workers(&mut self) {
        let turns = self.workers.turns();
        let all_turned = turns.iter().zip(&self.turns).all(|(now, before)| now != before);
        if all_turned && self.ready.watchdog().is_ok() {
            self.turns = turns;
        } else {
            self.schedule.check_again(Instant::now());
        }
    }

    /// Makes every worker answer all that it has received, and end. A second signal ends the drain at once.
    pub(super) fn drain(&mut self, timeout: Duration) -> Result<(), WorkersError> {
        info!("draining for up to {}", humantime::format_duration(timeout));
        let _ = self.ready.stopping(timeout + DRAIN_GRACE + LAST_LINES_TIMEOUT);
        self.workers.drain();
        let deadline = Instant::now() + timeout + DRAIN_GRACE;
        let mut left = self.workers.len();
        while left > 0 {
            match self.wait(deadline.saturating_duration_since(Instant::now()))? {
                Wakeup::Ended(_) => left -= 1,
                Wakeup::Signal => {
                    warn!("a second signal: ending at once");
                    return Ok(());
                }
                Wakeup::Timeout if Instant::now() < deadline => {
                    let _ = self.ready.send_pending();
                }
                Wakeup::Timeout => {
                    warn!("{left} worker(s) did not end in time");
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
