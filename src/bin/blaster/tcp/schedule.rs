//! When a worker sends its next message, or makes its next connection. No socket, no clock.

use crate::model::pacer::{Pacer, Pause, WakeMargin};
use crate::tcp::plan::Plan;

/// The schedule of one worker. Times are nanoseconds since the run's start.
#[derive(Debug)]
pub(super) struct Schedule {
    /// With a rate: when each is due.
    paced: Option<Paced>,
    /// Measured messages that are still to be sent.
    remaining: u64,
    /// Intended send times are before this.
    end_ns: u64,
    /// The time after which a schedule that is not kept is given up.
    give_up_ns: u64,
    /// The number of the next visit, with --each-once.
    visit: u64,
    workers: u32,
    /// Nothing more is sent.
    has_ended: bool,
}

#[derive(Debug)]
struct Paced {
    pacer: Pacer,
    margin: WakeMargin,
}

impl Schedule {
    pub(super) fn new(plan: &Plan, worker: u32) -> Self {
        let extent = &plan.extent;
        let paced = plan.rate.map(|rate| Paced {
            pacer: Pacer::new(rate, 1, worker, extent.workers),
            margin: WakeMargin::new(),
        });
        let end_ns = extent.end_ns();
        Self {
            paced,
            remaining: extent.count_of(worker),
            end_ns,
            give_up_ns: end_ns.saturating_add(plan.traffic.timeout_ns),
            visit: worker.into(),
            workers: extent.workers,
            has_ended: false,
        }
    }

    /// Whether something is due at `now_ns`.
    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        let next_ns = self.paced.as_ref().map_or(now_ns, |paced| paced.pacer.next_ns());
        !self.has_ended && self.remaining > 0 && next_ns <= now_ns && next_ns < self.end_ns
    }

    /// The intended send time of the next message, if it is due at `now_ns`. Without a schedule that is `now_ns`.
    pub(super) fn next(&mut self, now_ns: u64) -> Option<u64> {
        if !self.is_due(now_ns) {
            return None;
        }
        match &mut self.paced {
            Some(paced) => paced.pacer.take(now_ns),
            None => Some(now_ns),
        }
    }

    /// Counts a measured message.
    pub(super) fn count_measured(&mut self) {
        self.remaining -= 1;
    }

    /// The number of the next visit: the workers take turns.
    pub(super) fn next_visit(&mut self) -> u64 {
        let visit = self.visit;
        self.visit += u64::from(self.workers);
        visit
    }

    /// How long nothing is to be sent, at most `longest_ns`.
    pub(super) fn pause(&self, now_ns: u64, longest_ns: u64) -> Pause {
        let Some(Paced { pacer, margin }) = self.paced.as_ref().filter(|_| !self.has_ended) else {
            return Pause::Nanoseconds(longest_ns);
        };
        let left_ns = pacer.next_ns().saturating_sub(now_ns).min(longest_ns);
        margin.pause(left_ns)
    }

    /// Learns that a sleep lasted `overrun_ns` longer than asked.
    pub(super) fn learn_overrun(&mut self, overrun_ns: u64) {
        if let Some(paced) = &mut self.paced {
            paced.margin.learn(overrun_ns);
        }
    }

    /// Whether everything was sent, or the time is up.
    pub(super) fn is_over(&self, now_ns: u64) -> bool {
        let next_ns = self.paced.as_ref().map_or(now_ns, |paced| paced.pacer.next_ns());
        self.has_ended || next_ns >= self.end_ns || now_ns >= self.give_up_ns || self.remaining == 0
    }

    /// Nothing more is sent.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
    }

    /// Whether only a count ends the run.
    pub(super) fn is_endless(&self) -> bool {
        self.end_ns == u64::MAX
    }

    /// Messages of the schedule that were not sent.
    pub(super) fn unsent(&self) -> u64 {
        match &self.paced {
            None => 0,
            // without a duration, the count is the end of the schedule
            Some(_) if self.is_endless() => self.remaining,
            Some(paced) => paced.pacer.left(self.end_ns).min(self.remaining),
        }
    }

    /// The time that the sent messages are spread over. The sending took `elapsed_ns`; the last message was sent, or came
    /// back right and in time, at `last_ns`.
    pub(super) fn span_ns(&self, elapsed_ns: u64, last_ns: u64) -> u64 {
        match &self.paced {
            Some(paced) => elapsed_ns.max(paced.pacer.covered_ns().min(self.end_ns)),
            // the worker notices a reached count some time after the last message, and the last echo comes later still
            None if self.remaining == 0 => last_ns,
            None => elapsed_ns,
        }
    }
}
