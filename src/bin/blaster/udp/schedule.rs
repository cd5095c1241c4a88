//! Which flow of a worker sends next, and when. No socket, no clock.

use std::collections::VecDeque;

use crate::model::backoff::Backoff;
use crate::model::pacer::{Pause, WakeMargin};
use crate::model::timetable::SendTimes;
use crate::udp::plan::{Mode, Plan};

/// The schedule of one worker.
#[derive(Debug)]
pub(super) struct Schedule {
    order: Order,
    flows: u32,
    train: u32,
    /// Measured datagrams that are still to be sent.
    remaining: u64,
    /// Intended send times are before this.
    end_ns: u64,
    /// The time after which a schedule that is not kept is given up.
    give_up_ns: u64,
    /// The number of the next visit, with --each-once.
    visit: u64,
    workers: u32,
}

#[derive(Debug)]
enum Order {
    /// The flows take turns.
    Open { times: SendTimes, margin: WakeMargin, next_flow: u32 },
    /// A queue of the flows that have room in flight.
    Closed {
        in_flight: u32,
        queue: VecDeque<u32>,
        is_queued: Vec<bool>,
        expired_at_ns: u64,
        backoff: Backoff,
    },
    /// The flows take turns.
    Flood { next_flow: u32 },
}

impl Schedule {
    pub(super) fn new(plan: &Plan, worker: u32, flows: u32) -> Self {
        let extent = &plan.extent;
        let order = match &plan.mode {
            Mode::Open(timetable) => Order::Open {
                times: timetable.send_times(plan.train, worker, extent.workers),
                margin: WakeMargin::new(),
                next_flow: 0,
            },
            Mode::Closed { in_flight } => Order::Closed {
                in_flight: in_flight.saturating_mul(plan.train),
                queue: (0..flows).collect(),
                is_queued: vec![true; flows as usize],
                expired_at_ns: 0,
                backoff: Backoff::new(flows),
            },
            Mode::Flood => Order::Flood { next_flow: 0 },
        };
        let end_ns = extent.end_ns();
        Self {
            order,
            flows,
            train: plan.train,
            remaining: extent.count_of(worker),
            end_ns,
            give_up_ns: end_ns.saturating_add(plan.traffic.timeout_ns),
            visit: worker.into(),
            workers: extent.workers,
        }
    }

    /// The flow that sends the next train, and the intended send time. `None`: no train is due at `now_ns`.
    pub(super) fn next(&mut self, now_ns: u64) -> Option<(u32, u64)> {
        if self.remaining == 0 {
            return None;
        }
        let (next_flow, intended_ns) = match &mut self.order {
            Order::Open { times, next_flow, .. } => (next_flow, times.take(now_ns.min(self.end_ns - 1))?),
            Order::Closed { queue, is_queued, backoff, .. } => {
                // it comes back when its pause is over
                while let Some(flow) = queue.pop_front_if(|flow| backoff.is_resting(*flow)) {
                    is_queued[flow as usize] = false;
                }
                return queue.front().map(|flow| (*flow, now_ns));
            }
            Order::Flood { next_flow } => (next_flow, now_ns),
        };
        let flow = *next_flow;
        *next_flow = if flow + 1 == self.flows { 0 } else { flow + 1 };
        Some((flow, intended_ns))
    }

    /// The number of the next visit: the workers take turns.
    pub(super) fn next_visit(&mut self) -> u64 {
        let visit = self.visit;
        self.visit += u64::from(self.workers);
        visit
    }

    /// The datagrams of the next train.
    pub(super) fn train_datagrams(&self) -> u32 {
        u64::from(self.train).min(self.remaining) as u32
    }

    /// Counts the measured datagrams of a train.
    pub(super) fn count_measured(&mut self, datagrams: u32) {
        self.remaining -= u64::from(datagrams);
    }

    /// Removes the first flow from the queue of the closed loop if it has no more room in flight; `waiting` of its
    /// datagrams have no reply. Until then it stays first: what was answered together is sent together, so that its
    /// datagrams may travel as one train.
    pub(super) fn after_train(&mut self, flow: u32, waiting: u32) {
        let Order::Closed { in_flight, queue, is_queued, .. } = &mut self.order else { return };
        if waiting + self.train > *in_flight {
            queue.pop_front();
            is_queued[flow as usize] = false;
        }
    }

    /// Adds a flow to the queue of the closed loop if it has room in flight; `waiting` of its datagrams have no reply.
    pub(super) fn make_ready(&mut self, flow: u32, waiting: u32) {
        let Order::Closed { in_flight, queue, is_queued, backoff, .. } = &mut self.order else { return };
        let is_ready = !is_queued[flow as usize] && !backoff.is_resting(flow);
        if is_ready && waiting + self.train <= *in_flight {
            is_queued[flow as usize] = true;
            queue.push_back(flow);
        }
    }

    /// Learns that a reply came for a flow.
    pub(super) fn note_reply(&mut self, flow: u32) {
        if let Order::Closed { backoff, .. } = &mut self.order {
            backoff.note_reply(flow);
        }
    }

    /// Learns that a datagram of a flow could not be delivered. A closed loop pauses after several: the error makes room in
    /// flight at once, and nobody wants a hundred thousand of them per second.
    pub(super) fn note_error(&mut self, flow: u32, now_ns: u64) {
        if let Order::Closed { backoff, .. } = &mut self.order {
            backoff.note_error(flow, now_ns);
        }
    }

    /// A flow whose pause is over.
    pub(super) fn take_rested(&mut self, now_ns: u64) -> Option<u32> {
        let Order::Closed { backoff, .. } = &mut self.order else { return None };
        backoff.take_rested(now_ns)
    }

    /// Whether to search overdue datagrams now. A closed loop does so at intervals of `every_ns`: they make room in flight.
    pub(super) fn must_expire(&mut self, now_ns: u64, every_ns: u64) -> bool {
        let Order::Closed { expired_at_ns, .. } = &mut self.order else { return false };
        let is_due = now_ns >= *expired_at_ns + every_ns;
        if is_due {
            *expired_at_ns = now_ns;
        }
        is_due
    }

    /// How long nothing is to be sent, at most `longest_ns`.
    pub(super) fn pause(&self, now_ns: u64, longest_ns: u64) -> Pause {
        match &self.order {
            Order::Open { times, margin, .. } => {
                let left_ns = times.next_ns().saturating_sub(now_ns).min(longest_ns);
                margin.pause(left_ns)
            }
            Order::Closed { queue, backoff, .. } if queue.is_empty() => {
                let rested_ns = backoff.next_ns().map_or(u64::MAX, |end_ns| end_ns.saturating_sub(now_ns));
                Pause::Nanoseconds(rested_ns.min(longest_ns))
            }
            Order::Closed { .. } | Order::Flood { .. } => Pause::None,
        }
    }

    /// Learns that a sleep lasted `overrun_ns` longer than asked.
    pub(super) fn learn_overrun(&mut self, overrun_ns: u64) {
        if let Order::Open { margin, .. } = &mut self.order {
            margin.learn(overrun_ns);
        }
    }

    /// Whether everything was sent, or the time is up.
    pub(super) fn is_over(&self, now_ns: u64) -> bool {
        let next_ns = match &self.order {
            Order::Open { times, .. } => times.next_ns(),
            Order::Closed { .. } | Order::Flood { .. } => now_ns,
        };
        next_ns >= self.end_ns || now_ns >= self.give_up_ns || self.remaining == 0
    }

    /// Datagrams of the schedule that were not sent.
    pub(super) fn unsent(&self) -> u64 {
        let Order::Open { times, .. } = &self.order else { return 0 };
        if self.end_ns == u64::MAX {
            // without a duration, the count is the end of the schedule; without a count, too, it has none
            return if self.remaining == u64::MAX { 0 } else { self.remaining };
        }
        times.left(self.end_ns).saturating_mul(u64::from(self.train)).min(self.remaining)
    }

    /// The time that the sent datagrams are spread over. The sending took `elapsed_ns`, and the last right reply in time
    /// came at `last_ok_ns`.
    pub(super) fn span_ns(&self, elapsed_ns: u64, last_ok_ns: u64) -> u64 {
        match &self.order {
            Order::Open { times, .. } => elapsed_ns.max(times.covered_ns().min(self.end_ns)),
            Order::Closed { .. } if self.remaining == 0 => elapsed_ns.max(last_ok_ns),
            Order::Closed { .. } | Order::Flood { .. } => elapsed_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::plan::{Extent, Traffic};
    use crate::model::quantity::Rate;
    use crate::model::targets::Targets;
    use crate::model::timetable::{Gaps, Timetable};
    use crate::udp::plan::ReceiveTime;

    const TIMEOUT_NS: u64 = 1_000;

    fn schedule(mode: Mode, train: u32, flows: u32, count: Option<u64>) -> Schedule {
        let targets = Targets::new(vec!["127.0.0.1:7".parse().unwrap()], 1, false).unwrap();
        let traffic = Traffic::sample(targets, 1, TIMEOUT_NS);
        let extent = Extent {
            flows,
            workers: 1,
            warmup: Duration::ZERO,
            duration: count.is_none().then_some(Duration::from_micros(10)),
            count,
            linger: Duration::ZERO,
        };
        Schedule::new(
            &Plan { traffic, extent, mode, train, gro: false, receive_time: ReceiveTime::Own },
            0,
            flows,
        )
    }

    #[test]
    fn open_flows_take_turns_and_stop_at_the_end() {
        let mut schedule = schedule(Mode::Open(Rate::whole(1_000_000).into()), 1, 3, None);
        let sent: Vec<_> = std::iter::from_fn(|| schedule.next(20_000)).collect();
        let wanted: Vec<_> = (0..10).map(|nth| (nth % 3, u64::from(nth) * 1_000)).collect();
        assert_eq!(sent, wanted, "10 µs at a datagram each microsecond");
        assert!(schedule.is_over(9_500) && schedule.unsent() == 0);
        assert_eq!(schedule.span_ns(9_000, 0), 10_000, "the last datagram covers a microsecond");
    }

    #[test]
    fn what_an_open_loop_did_not_send_is_counted() {
        let mut schedule = schedule(Mode::Open(Rate::whole(1_000_000).into()), 1, 3, None);
        schedule.next(0).expect("the first one is due");
        assert!(!schedule.is_over(10_000 + TIMEOUT_NS - 1) && schedule.is_over(10_000 + TIMEOUT_NS));
        assert_eq!(schedule.unsent(), 9);
    }

    #[test]
    fn a_burst_that_comes_late_is_sent_whole_and_at_last_given_up() {
        let timetable = Timetable::Bursts { datagrams: 4, every: Duration::from_micros(2) };
        let mut late = schedule(Mode::Open(timetable), 2, 3, None);
        let sent: Vec<_> = std::iter::from_fn(|| late.next(5_000)).collect();
        assert_eq!(
            sent,
            [(0, 0), (1, 0), (2, 2_000), (0, 2_000), (1, 4_000), (2, 4_000)],
            "three bursts of two trains"
        );
        assert_eq!(late.pause(5_000, 50_000), Pause::None, "the next one is near");
        assert!(!late.is_over(10_000 + TIMEOUT_NS - 1) && late.is_over(10_000 + TIMEOUT_NS));
        assert_eq!(late.unsent(), 2 * 4, "the bursts at 6 µs and 8 µs");
        assert_eq!(late.span_ns(5_000, 0), 6_000, "up to the next burst");
    }

    #[test]
    fn a_schedule_without_more_datagrams_is_over() {
        let silent = Timetable::Rate { curve: "1M:5us,0".parse().unwrap(), gaps: Gaps::Even, burst: 1 };
        let mut schedule = schedule(Mode::Open(silent), 1, 1, None);
        let sent: Vec<_> =
            std::iter::from_fn(|| schedule.next(7_000)).map(|(_, intended_ns)| intended_ns).collect();
        assert_eq!(sent, [0, 1_000, 2_000, 3_000, 4_000]);
        assert!(schedule.is_over(7_000) && schedule.unsent() == 0);
        assert_eq!(schedule.span_ns(4_000, 0), 10_000, "silence counts as well");
    }

    #[test]
    fn a_closed_flow_sends_while_it_has_room_and_again_after_a_reply() {
        let mut schedule = schedule(Mode::Closed { in_flight: 2 }, 1, 2, Some(5));
        for (wanted, waiting) in [(0, 1), (0, 2), (1, 1), (1, 2)] {
            assert_eq!(schedule.next(7), Some((wanted, 7)));
            schedule.count_measured(1);
            schedule.after_train(wanted, waiting);
        }
        assert_eq!((schedule.next(7), schedule.pause(7, 50)), (None, Pause::Nanoseconds(50)));
        schedule.make_ready(1, 2);
        assert_eq!(schedule.next(8), None, "there is no room");
        schedule.make_ready(1, 1);
        schedule.make_ready(1, 1);
        assert_eq!((schedule.next(8), schedule.pause(8, 50)), (Some((1, 8)), Pause::None));
        schedule.count_measured(1);
        schedule.after_train(1, 2);
        assert!(schedule.is_over(8) && schedule.next(9).is_none(), "the count is reached");
        assert_eq!(schedule.span_ns(8, 12), 12, "up to the last right reply");
    }

    #[test]
    fn a_closed_flow_rests_after_errors_and_no_reply() {
        let mut schedule = schedule(Mode::Closed { in_flight: 2 }, 1, 2, None);
        schedule.note_error(0, 7);
        assert_eq!(schedule.next(7), Some((0, 7)), "one error is none");
        schedule.note_error(0, 7);
        assert_eq!(schedule.next(7), Some((1, 7)), "the other flow does not rest");
        schedule.after_train(1, 2);
        assert_eq!((schedule.next(7), schedule.pause(7, u64::MAX)), (None, Pause::Nanoseconds(1_000_000)));
        schedule.make_ready(0, 0);
        assert_eq!((schedule.next(8), schedule.take_rested(1_000_006)), (None, None));
        assert_eq!(schedule.take_rested(1_000_007), Some(0));
        schedule.make_ready(0, 0);
        assert_eq!(schedule.next(9), Some((0, 9)));
    }

    #[test]
    fn only_a_closed_loop_searches_overdue_datagrams() {
        let mut closed = schedule(Mode::Closed { in_flight: 1 }, 1, 1, None);
        let due: Vec<_> = [99, 100, 150, 200].map(|now_ns| closed.must_expire(now_ns, 100)).into();
        assert_eq!(due, [false, true, false, true]);
        assert!(!schedule(Mode::Flood, 1, 1, None).must_expire(1_000, 100));
    }

    #[test]
    fn the_last_train_is_as_short_as_the_count_asks() {
        let mut schedule = schedule(Mode::Flood, 8, 2, Some(20));
        let mut sent = Vec::new();
        while let Some((flow, _)) = schedule.next(0) {
            let datagrams = schedule.train_datagrams();
            schedule.count_measured(datagrams);
            sent.push((flow, datagrams));
        }
        assert_eq!(sent, [(0, 8), (1, 8), (0, 4)]);
    }
}
