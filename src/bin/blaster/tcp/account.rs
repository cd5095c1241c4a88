//! What a worker counts, and what it shows of it while it runs.

use std::sync::Arc;

use crate::model::counts::Class;
use crate::model::results::Results;
use crate::tcp::echo::Expected;
use crate::tcp::plan::Plan;
use crate::workers::live::{Live, LiveCounts, Snapshot};

/// The counts of one worker. Times are nanoseconds since the run's start.
pub(super) struct Account {
    pub(super) plan: Arc<Plan>,
    pub(super) results: Results,
    live: Arc<Live>,
    live_counts: LiveCounts,
    /// When bytes came last; 0 if none have come.
    pub(super) last_received_ns: u64,
    /// When the last right echo in time was complete.
    pub(super) last_ok_ns: u64,
    pub(super) last_sent_ns: u64,
    /// Messages without a whole echo.
    pub(super) waiting: u64,
    /// When all counts are to be shown next, to those who watch the run.
    publish_ns: u64,
}

impl Account {
    /// For worker `number`.
    pub(super) fn new(number: u32, plan: Arc<Plan>, live: Arc<Live>) -> Self {
        let mut results = Results::new(plan.extent.warmup);
        let own_connections = plan.extent.flows_of(number).len();
        results.destinations.reserve(plan.traffic.places(own_connections));
        results.sources.reserve(Some(plan.traffic.counted_sources()));
        Self {
            plan,
            results,
            live,
            live_counts: LiveCounts::default(),
            last_received_ns: 0,
            last_ok_ns: 0,
            last_sent_ns: 0,
            waiting: 0,
            publish_ns: 0,
        }
    }

    pub(super) fn is_measured(&self, intended_ns: u64) -> bool {
        self.results.outcomes.is_measured(intended_ns)
    }

    /// Counts a message of `bytes` bytes that a connection gets to send.
    pub(super) fn note_sent(&mut self, intended_ns: u64, bytes: usize) {
        let counts = &mut self.results.outcomes.at(intended_ns).counts;
        counts.sent += 1;
        counts.bytes_sent += bytes as u64;
        self.waiting += 1;
        self.live_counts.sent += 1;
    }

    /// Notes how late blaster is with what was due at `intended_ns`.
    pub(super) fn note_slip(&mut self, intended_ns: u64, slip_ns: u64) {
        self.live.slip.note(slip_ns);
        if self.is_measured(intended_ns) {
            self.results.slip.record(slip_ns);
        }
    }

    /// Notes whether a connection had to wait until another one had ended.
    pub(super) fn note_wait(&mut self, intended_ns: u64, has_waited: bool) {
        self.results.connections.waited += u64::from(has_waited && self.is_measured(intended_ns));
    }

    /// The class of a message whose echo is complete at `now_ns`, and differs or not. Notes how long it took.
    pub(super) fn note_echo(&mut self, expected: &Expected, differs: bool, now_ns: u64) -> Class {
        let Expected { intended_ns, sent_ns, .. } = *expected;
        let waited_ns = now_ns.saturating_sub(sent_ns);
        self.waiting -= 1;
        if differs {
            self.live_counts.damaged += 1;
            return Class::Corrupted;
        }
        let latency_ns = now_ns.saturating_sub(intended_ns);
        self.results.round_trips.record(intended_ns, latency_ns);
        if self.plan.is_scheduled() && self.is_measured(intended_ns) {
            self.results.from_actual.record(waited_ns);
        }
        if waited_ns > self.plan.traffic.timeout_ns {
            self.live_counts.damaged += 1;
            return Class::Late;
        }
        self.live_counts.ok += 1;
        self.last_ok_ns = now_ns;
        self.live.round_trips.note(latency_ns);
        Class::Ok
    }

    /// Shows all counts to those who watch the run, if they want them now.
    pub(super) fn publish(&mut self, now_ns: u64) {
        let due_ns = self.publish_ns;
        let Some(watchlist) = self.plan.traffic.watchlist.as_ref().filter(|_| now_ns >= due_ns) else {
            return;
        };
        let mut counts = self.results.outcomes.total().counts;
        counts += &self.results.outcomes.warmup().counts;
        self.live.publish(Snapshot { at_ns: now_ns, counts });
        self.publish_ns = watchlist.next_ns(now_ns);
    }

    /// Shows the counts of the turn to others.
    pub(super) fn show(&self) {
        self.live.show(self.live_counts);
    }
}
