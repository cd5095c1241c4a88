//! Pauses of flows that nothing is delivered for: else a closed loop would send as fast as errors come back.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The second error in a row costs this pause. Each further one doubles it. The first costs none: with --spray, one
/// destination of many may be dead.
const SHORTEST_NS: u64 = 1_000_000;
const LONGEST_NS: u64 = 100_000_000;

/// The flows of one worker.
#[derive(Debug)]
pub(crate) struct Backoff {
    flows: Vec<FlowState>,
    /// The flows that rest, and the ends of their pauses.
    resting: BinaryHeap<Reverse<(u64, u32)>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct FlowState {
    /// Errors since the last reply.
    errors: u32,
    is_resting: bool,
}

impl Backoff {
    pub(crate) fn new(flows: u32) -> Self {
        Self { flows: vec![FlowState::default(); flows as usize], resting: BinaryHeap::new() }
    }

    /// A reply came.
    pub(crate) fn note_reply(&mut self, flow: u32) {
        self.flows[flow as usize].errors = 0;
    }

    /// A datagram could not be delivered, or not even be sent.
    pub(crate) fn note_error(&mut self, flow: u32, now_ns: u64) {
        let state = &mut self.flows[flow as usize];
        state.errors = state.errors.saturating_add(1);
        let doublings = state.errors.saturating_sub(2).min(LONGEST_NS.ilog2());
        if state.errors > 1 && !state.is_resting {
            state.is_resting = true;
            let pause_ns = (SHORTEST_NS << doublings).min(LONGEST_NS);
            self.resting.push(Reverse((now_ns.saturating_add(pause_ns), flow)));
        }
    }

    pub(crate) fn is_resting(&self, flow: u32) -> bool {
        self.flows[flow as usize].is_resting
    }

    /// A flow whose pause is over.
    pub(crate) fn take_rested(&mut self, now_ns: u64) -> Option<u32> {
        let Reverse((end_ns, flow)) = *self.resting.peek()?;
        if end_ns > now_ns {
            return None;
        }
        self.resting.pop();
        self.flows[flow as usize].is_resting = false;
        Some(flow)
    }

    /// The end of the next pause.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.resting.peek().map(|Reverse((end_ns, _))| *end_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn each_error_in_a_row_doubles_the_pause() {
        let mut backoff = Backoff::new(2);
        let mut now_ns = 5;
        for wanted_ms in [0, 1, 2, 4, 8, 16, 32, 64, 100, 100] {
            backoff.note_error(1, now_ns);
            let end_ns = backoff.next_ns().unwrap_or(now_ns);
            assert_eq!(end_ns - now_ns, wanted_ms * MS);
            assert_eq!((backoff.is_resting(0), backoff.is_resting(1)), (false, wanted_ms > 0));
            assert_eq!(backoff.take_rested(end_ns.saturating_sub(1)), None);
            assert_eq!(backoff.take_rested(end_ns), (wanted_ms > 0).then_some(1));
            now_ns = end_ns;
        }
        backoff.note_reply(1);
        backoff.note_error(1, now_ns);
        assert_eq!(backoff.next_ns(), None, "one error alone costs no pause");
    }

    #[test]
    fn errors_of_one_train_make_one_pause() {
        let mut backoff = Backoff::new(1);
        for _ in 0..64 {
            backoff.note_error(0, 0);
        }
        assert_eq!((backoff.take_rested(MS), backoff.take_rested(u64::MAX)), (Some(0), None));
        backoff.note_error(0, MS);
        assert_eq!(backoff.next_ns(), Some(101 * MS), "the next one is long");
    }
}
