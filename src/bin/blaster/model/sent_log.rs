//! What became of each datagram of one flow: a fixed table, indexed by sequence number.
//!
//! ```text
//!            post            settle             answer
//! (empty) ─────────► waiting ───────► overdue ─────────► answered
//!    ▲                │  │ │             │                  ▲
//!    └──── unsend ────┘  │ └── answer ───┼──────────────────┤
//!                        └─ unreachable ─┴► unreachable ────┘
//! ```
//!
//! A table remembers the last `window` datagrams. One that is still waiting when its place is needed
//! again is given up as lost ([`SentLog::post`] hands it out); the tables are sized so that this takes
//! longer than any timeout at the rates in sight.

/// What is known of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum State {
    /// Never left: no datagram.
    #[default]
    Empty,
    /// Sent, no answer yet.
    Waiting,
    /// Sent longer ago than the timeout, no answer yet.
    Overdue,
    /// The network said that it could not be delivered.
    Unreachable,
    /// Its first answer has come.
    SentMessage,
}

/// A datagram that was sent, or is about to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Entry {
    /// When it was meant to be sent, nanoseconds since the run's start.
    pub(crate) intended_ns: u64,
    /// When it was handed to the kernel.
    pub(crate) sent_ns: u64,
    /// What became of it.
    pub(crate) state: State,
}

impl Entry {
    /// Whether it would be lost, were the run over now.
    fn is_open(&self) -> bool {
        matches!(self.state, State::Waiting | State::Overdue)
    }
}

/// One flow's table.
#[derive(Debug)]
pub(crate) struct SentLog {
    entries: Box<[Entry]>,
    mask: u64,
    /// The sequence number that the next datagram gets.
    next: u64,
    /// No datagram before this one is waiting.
    oldest: u64,
    /// How many are waiting.
    waiting: u32,
    /// How many are waiting or overdue.
    open: u32,
    /// One past the highest sequence number answered.
    answered_end: u64,
}

impl SentLog {
    /// A table that remembers `window` datagrams, a power of two.
    pub(crate) fn new(window: usize) -> Self {
        assert!(window.is_power_of_two(), "sequence numbers are masked");
        Self {
            entries: vec![Entry::default(); window].into(),
            mask: window as u64 - 1,
            next: 0,
            oldest: 0,
            waiting: 0,
            open: 0,
            answered_end: 0,
        }
    }

    /// How many datagrams are waiting for their answer.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting
    }

    /// How many datagrams would be lost, were the run over now.
    pub(crate) fn unanswered(&self) -> u32 {
        self.open
    }

    /// The sequence number that the next datagram gets.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Enters a datagram that is about to be sent. Also returns what is forgotten for it, if that was
    /// still without an answer.
    pub(crate) fn post(&mut self, intended_ns: u64, sent_ns: u64) -> (u64, Option<Entry>) {
        let sequence = self.next;
        self.next += 1;
        let entry = Entry { intended_ns, sent_ns, state: State::Waiting };
        let before = std::mem::replace(&mut self.entries[(sequence & self.mask) as usize], entry);
        self.leave(before.state);
        self.waiting += 1;
        self.open += 1;
        (sequence, before.is_open().then_some(before))
    }

    /// The datagram `sequence`, if it was sent and is remembered.
    pub(crate) fn get(&self, sequence: u64) -> Option<&Entry> {
        let remembered = sequence < self.next && self.next - sequence <= self.mask + 1;
        let entry = &self.entries[(sequence & self.mask) as usize];
        (remembered && entry.state != State::Empty).then_some(entry)
    }

    fn get_mut(&mut self, sequence: u64) -> Option<&mut Entry> {
        self.get(sequence)?;
        Some(&mut self.entries[(sequence & self.mask) as usize])
    }

    /// Sets when `sequence` was really handed to the kernel.
    pub(crate) fn stamp(&mut self, sequence: u64, sent_ns: u64) {
        if let Some(entry) = self.get_mut(sequence) {
            entry.sent_ns = sent_ns;
        }
    }

    /// Takes back a datagram that the kernel refused, and returns it.
    pub(crate) fn unsend(&mut self, sequence: u64) -> Option<Entry> {
        let before = std::mem::take(self.get_mut(sequence)?);
        self.leave(before.state);
        Some(before)
    }

    /// Counts a datagram that is no longer in `state`.
    fn leave(&mut self, state: State) {
        self.waiting -= u32::from(state == State::Waiting);
        self.open -= u32::from(matches!(state, State::Waiting | State::Overdue));
    }

    /// Notes an answer to `sequence` and returns the datagram as it stood before: its first answer
    /// unless that state is [`State::Answered`].
    pub(crate) fn answer(&mut self, sequence: u64) -> Option<Entry> {
        self.close(sequence, State::SentMessage)
    }

    /// Notes that `sequence` could not be delivered, and returns the datagram as it stood before.
    /// `None` also when an answer came or the same was said before.
    pub(crate) fn unreachable(&mut self, sequence: u64) -> Option<Entry> {
        if !self.get(sequence)?.is_open() {
            return None;
        }
        self.close(sequence, State::Unreachable)
    }

    fn close(&mut self, sequence: u64, state: State) -> Option<Entry> {
        let entry = self.get_mut(sequence)?;
        let before = *entry;
        entry.state = state;
        self.leave(before.state);
        Some(before)
    }

    /// How far `sequence`, whose first answer came just now, was overtaken: the distance to the highest
    /// sequence number answered before it (RFC 4737 calls that reordered). `None`: it was not.
    pub(crate) fn overtaken(&mut self, sequence: u64) -> Option<u64> {
        if sequence >= self.answered_end {
            self.answered_end = sequence + 1;
            return None;
        }
        Some(self.answered_end - 1 - sequence)
    }

    /// Declares overdue what was sent at or before `sent_ns` and still waits; returns how many.
    pub(crate) fn settle(&mut self, sent_ns: u64) -> u32 {
        let mut overdue = 0;
        self.oldest = self.oldest.max(self.next.saturating_sub(self.mask + 1));
        while self.oldest < self.next {
            let entry = &mut self.entries[(self.oldest & self.mask) as usize];
            if entry.state == State::Waiting {
                if entry.sent_ns > sent_ns {
                    break;
                }
                entry.state = State::Overdue;
                self.waiting -= 1;
                overdue += 1;
            }
            self.oldest += 1;
        }
        overdue
    }

    /// The sequence numbers without an answer, oldest first.
    pub(crate) fn open(&self) -> impl Iterator<Item = (u64, &Entry)> {
        let first = self.next.saturating_sub(self.mask + 1);
        (first..self.next)
            .map(|sequence| (sequence, &self.entries[(sequence & self.mask) as usize]))
            .filter(|(_, entry)| entry.is_open())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_closes_its_datagram_once() {
        let mut sent_log = SentLog::new(4);
        let (sequence, forgotten) = sent_log.post(10, 12);
        assert_eq!((sequence, forgotten, sent_log.waiting()), (0, None, 1));
        let before = sent_log.answer(0).unwrap();
        assert_eq!((before.state, before.intended_ns, before.sent_ns), (State::Waiting, 10, 12));
        assert_eq!(sent_log.waiting(), 0);
        assert_eq!(sent_log.answer(0).unwrap().state, State::SentMessage);
        assert_eq!(sent_log.waiting(), 0);
        assert_eq!(sent_log.answer(1), None);
    }

    #[test]
    fn what_the_kernel_refused_was_never_sent() {
        let mut sent_log = SentLog::new(4);
        sent_log.post(1, 1);
        assert_eq!(sent_log.unsend(0).unwrap().state, State::Waiting);
        assert_eq!(sent_log.answer(0), None);
        assert_eq!((sent_log.waiting(), sent_log.unanswered(), sent_log.open().count()), (0, 0, 0));
    }

    #[test]
    fn old_ones_are_forgotten_and_handed_out_if_open() {
        let mut sent_log = SentLog::new(4);
        for time in 0..4 {
            sent_log.post(time, time);
        }
        sent_log.answer(1);
        assert_eq!(sent_log.post(4, 4).1.map(|entry| entry.intended_ns), Some(0));
        assert_eq!(sent_log.post(5, 5).1, None);
        assert_eq!(sent_log.answer(0), None, "forgotten");
        assert_eq!((sent_log.waiting(), sent_log.unanswered()), (4, 4));
        assert_eq!(sent_log.open().map(|(sequence, _)| sequence).collect::<Vec<_>>(), [2, 3, 4, 5]);
    }

    #[test]
    fn overdue_frees_the_flow_and_may_still_be_answered() {
        let mut sent_log = SentLog::new(8);
        for time in [10, 20, 30, 40] {
            sent_log.post(time, time);
        }
        sent_log.answer(1);
        assert_eq!(sent_log.settle(9), 0);
        assert_eq!(sent_log.settle(30), 2);
        assert_eq!(sent_log.settle(30), 0);
        assert_eq!((sent_log.waiting(), sent_log.unanswered()), (1, 3));
        assert_eq!(sent_log.answer(0).unwrap().state, State::Overdue);
        assert_eq!((sent_log.waiting(), sent_log.unanswered()), (1, 2));
        assert_eq!(sent_log.open().map(|(sequence, _)| sequence).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn unreachable_until_an_answer_says_otherwise() {
        let mut sent_log = SentLog::new(8);
        sent_log.post(1, 1);
        sent_log.post(2, 2);
        assert_eq!(sent_log.unreachable(0).unwrap().state, State::Waiting);
        assert_eq!(sent_log.unreachable(0), None);
        assert_eq!(sent_log.waiting(), 1);
        assert_eq!(sent_log.answer(0).unwrap().state, State::Unreachable);
        sent_log.answer(1);
        assert_eq!(sent_log.unreachable(1), None);
    }

    #[test]
    fn the_distance_of_the_overtaken() {
        let mut sent_log = SentLog::new(16);
        let distances: Vec<_> =
            [0, 2, 1, 5, 3, 4, 6].into_iter().map(|seq| sent_log.overtaken(seq)).collect();
        assert_eq!(distances, [None, None, Some(1), None, Some(2), Some(1), None]);
    }
}
