//! When a worker sends its next message, or makes its next connection. No socket, no clock.

use crate::model::pacer::{Pause, WakeMargin};
use crate::model::timetable::SendTimes;
use crate::tcp::plan::Plan;

/// The schedule of one worker. Times are nanoseconds since the run's start.
#[derive(Debug)]
pub(super) struct Schedule {
    /// `None`: messages are sent as soon as a connection may.
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
    times: SendTimes,
    margin: WakeMargin,
}

/// A message, or a connection, that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The intended send time.
    pub(super) intended_ns: u64,
    /// The size of the message. `None`: it was not recorded.
    pub(super) recorded_bytes: Option<u32>,
}

impl Due {
    /// Due at this time, with a size that was not recorded.
    pub(super) fn at(intended_ns: u64) -> Self {
        Self { intended_ns, recorded_bytes: None }
    }
}

impl Schedule {
    pub(super) fn new(plan: &Plan, worker: u32) -> Self {
        let extent = &plan.extent;
        let paced = plan.timetable.as_ref().map(|timetable| Paced {
            times: timetable.send_times(1, worker, extent.workers),
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

    /// What is due at `now_ns`, if there is something. Without a schedule that is always so.
    pub(super) fn next(&mut self, now_ns: u64) -> Option<Due> {
        if self.has_ended || self.remaining == 0 {
            return None;
        }
        let before_end_ns = now_ns.min(self.end_ns - 1);
        match &mut self.paced {
            Some(Paced { times, .. }) => {
                let intended_ns = times.take(before_end_ns)?;
                Some(Due { intended_ns, recorded_bytes: times.recorded_bytes() })
            }
            None => (now_ns < self.end_ns).then_some(Due::at(now_ns)),
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
        let Some(Paced { times, margin }) = self.paced.as_ref().filter(|_| !self.has_ended) else {
            return Pause::Nanoseconds(longest_ns);
        };
        let left_ns = times.next_ns().saturating_sub(now_ns).min(longest_ns);
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
        let next_ns = self.paced.as_ref().map_or(now_ns, |paced| paced.times.next_ns());
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

    /// Messages, or connections, of the schedule that were not sent, or made.
    pub(super) fn unsent(&self) -> u64 {
        match &self.paced {
            None => 0,
            // without a duration, the count is the end of the schedule; without a count, too, it has none
            Some(_) if self.is_endless() && self.remaining == u64::MAX => 0,
            Some(_) if self.is_endless() => self.remaining,
            Some(paced) => paced.times.left(self.end_ns).min(self.remaining),
        }
    }

    /// The time that the sent messages are spread over. The sending took `elapsed_ns`; the last message was sent, or came
    /// back right and in time, at `last_ns`.
    pub(super) fn span_ns(&self, elapsed_ns: u64, last_ns: u64) -> u64 {
        match &self.paced {
            Some(paced) => elapsed_ns.max(paced.times.covered_ns().min(self.end_ns)),
            // the worker notices a reached count some time after the last message, and the last echo comes later still
            None if self.remaining == 0 => last_ns,
            None => elapsed_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::model::plan::{Extent, Traffic};
    use crate::model::quantity::Rate;
    use crate::model::recording::Recording;
    use crate::model::targets::Targets;
    use crate::model::timetable::{Gaps, Timetable};
    use crate::tcp::plan::Mode;

    const TIMEOUT_NS: u64 = 1_000;

    /// The schedule of worker 0 in a run of 10 µs, or of a count.
    fn schedule(timetable: Option<Timetable>, workers: u32, count: Option<u64>) -> Schedule {
        let targets = Targets::new(vec!["127.0.0.1:7".parse().unwrap()], 1, false).unwrap();
        let traffic = Traffic::sample(targets, 1, TIMEOUT_NS);
        let extent = Extent {
            flows: 4,
            workers,
            warmup: Duration::ZERO,
            duration: count.is_none().then_some(Duration::from_micros(10)),
            count,
            linger: Duration::ZERO,
        };
        Schedule::new(&Plan { traffic, extent, mode: Mode::Open, timetable, follows_others: false }, 0)
    }

    /// The intended times of all that is due at `now_ns`.
    fn due(schedule: &mut Schedule, now_ns: u64) -> Vec<u64> {
        std::iter::from_fn(|| schedule.next(now_ns)).map(|due| due.intended_ns).collect()
    }

    fn each_microsecond() -> Timetable {
        Rate::whole(1_000_000).into()
    }

    #[test]
    fn what_is_due_is_sent_and_nothing_after_the_end() {
        let mut punctual = schedule(Some(each_microsecond()), 1, None);
        assert_eq!(due(&mut punctual, 2_500), [0, 1_000, 2_000]);
        assert_eq!((due(&mut punctual, 2_999), punctual.is_over(2_999)), (vec![], false));
        assert_eq!(due(&mut punctual, 50_000), [3_000, 4_000, 5_000, 6_000, 7_000, 8_000, 9_000]);
        assert!(punctual.is_over(9_500) && punctual.unsent() == 0);
        assert_eq!(punctual.span_ns(9_000, 0), 10_000, "the last message covers a microsecond");
        let mut half = schedule(Some(each_microsecond()), 2, None);
        assert_eq!(due(&mut half, 50_000), [0, 2_000, 4_000, 6_000, 8_000], "the workers take turns");
    }

    #[test]
    fn what_was_not_sent_is_given_up_at_last_and_counted() {
        let mut late = schedule(Some(each_microsecond()), 1, None);
        late.next(0).expect("the first one is due");
        assert!(!late.is_over(10_000 + TIMEOUT_NS - 1) && late.is_over(10_000 + TIMEOUT_NS));
        assert_eq!(late.unsent(), 9);
        late.end();
        assert_eq!((late.next(5_000), late.pause(5_000, 50)), (None, Pause::Nanoseconds(50)));
    }

    #[test]
    fn a_count_ends_the_schedule_or_nothing_does() {
        let mut counted = schedule(Some(each_microsecond()), 1, Some(3));
        for intended_ns in [0, 1_000, 2_000] {
            assert_eq!(counted.next(9_000), Some(Due::at(intended_ns)));
            counted.count_measured();
        }
        assert!(counted.next(9_000).is_none() && counted.is_over(9_000) && counted.unsent() == 0);
        assert_eq!(schedule(Some(each_microsecond()), 1, Some(3)).unsent(), 3);
        let mut endless = schedule(Some(each_microsecond()), 1, Some(1));
        endless.remaining = u64::MAX;
        assert_eq!(endless.unsent(), 0, "a run without end has no rest");
    }

    #[test]
    fn bursts_and_silence_have_their_times() {
        let bursts = Timetable::Bursts { datagrams: 3, every: Duration::from_micros(4) };
        let mut bursts = schedule(Some(bursts), 1, None);
        assert_eq!(due(&mut bursts, 0), [0, 0, 0]);
        assert_eq!(bursts.pause(1_000, 1_000_000), Pause::None, "the next one is near");
        assert_eq!(due(&mut bursts, 50_000), [4_000, 4_000, 4_000, 8_000, 8_000, 8_000]);
        assert_eq!(bursts.unsent(), 0);
        let silent = Timetable::Rate { curve: "1M:3us,0".parse().unwrap(), gaps: Gaps::Even, burst: 1 };
        let mut silent = schedule(Some(silent), 1, None);
        assert_eq!(due(&mut silent, 50_000), [0, 1_000, 2_000]);
        assert!(silent.is_over(3_000) && silent.unsent() == 0);
        assert_eq!(silent.span_ns(3_000, 0), 10_000, "silence counts as well");
    }

    #[test]
    fn a_recording_sets_the_sizes_too() {
        let lines = "0 64\n0.000001 100\n0.000001 32\n";
        let recording = Recording::read_lines(Path::new("FILE"), lines.as_bytes()).unwrap();
        let recorded = Timetable::Recorded(Arc::new(recording));
        let sent = |workers, count| {
            let mut schedule = schedule(Some(recorded.clone()), workers, Some(count));
            let due = std::iter::from_fn(|| {
                let due = schedule.next(50_000)?;
                schedule.count_measured();
                Some((due.intended_ns, due.recorded_bytes.unwrap()))
            });
            due.collect::<Vec<_>>()
        };
        assert_eq!(sent(1, 4), [(0, 64), (1_000, 100), (1_000, 32), (1_500, 64)], "again after a gap");
        assert_eq!(sent(2, 6), [(0, 64), (1_000, 32), (2_500, 100)], "the other worker has the rest");
    }

    #[test]
    fn without_a_schedule_something_is_always_due_until_the_end() {
        let mut closed = schedule(None, 1, None);
        assert_eq!(closed.next(7), Some(Due::at(7)));
        assert_eq!((closed.next(9_999), closed.next(10_000)), (Some(Due::at(9_999)), None));
        assert!(!closed.is_over(9_999) && closed.is_over(10_000) && closed.unsent() == 0);
        assert_eq!(closed.pause(7, 50), Pause::Nanoseconds(50));
        let mut counted = schedule(None, 1, Some(1));
        counted.count_measured();
        assert_eq!((counted.next(7), counted.span_ns(20, 15)), (None, 15), "up to the last echo");
    }
}
