//! The datagrams of one flow and what became of each: a fixed table, indexed by sequence number.
//!
//! ```text
//!             add            expire             answer
//! (empty) ─────────► waiting ───────► overdue ─────────► answered
//!    ▲                │  │ │             │                  ▲
//!    └──── remove ────┘  │ └── answer ───┼──────────────────┤
//!                        ├─ unreachable ─┴► unreachable ────┤
//!                        └─ presume ──────► presumed ───────┘
//! ```
//!
//! A table remembers the last `window` datagrams. When the place of a waiting datagram is needed again, the datagram
//! counts as lost ([`SentLog::add`] returns it). The tables are so large that this takes longer than any timeout at
//! the usual rates.

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum State {
    /// No datagram.
    #[default]
    Empty,
    /// Sent; no answer yet.
    Waiting,
    /// Sent longer ago than the timeout; no answer yet.
    Overdue,
    /// The network reported that it could not deliver the datagram.
    Unreachable,
    /// A reply came that answers nothing, while this was the only datagram in flight: it is taken for the answer.
    Presumed(Stray),
    /// The first answer has come.
    Answered,
}

/// A reply whose header is that of no datagram of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stray {
    /// It has the bytes of another flow's datagram.
    Crossed,
    /// Nobody knows whose bytes these are.
    Foreign,
}

/// A datagram that was sent or is about to be sent. Times are nanoseconds since the run's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Entry {
    pub(crate) intended_ns: u64,
    /// The time at which the kernel got it.
    pub(crate) sent_ns: u64,
    pub(crate) state: State,
}

impl Entry {
    /// Whether the datagram counts as lost if the run ends now.
    pub(crate) fn is_unanswered(&self) -> bool {
        matches!(self.state, State::Waiting | State::Overdue)
    }
}

/// The table of one flow.
#[derive(Debug)]
pub(crate) struct SentLog {
    entries: Box<[Entry]>,
    mask: u64,
    /// The sequence number of the next datagram.
    next: u64,
    /// No datagram before this one is waiting.
    oldest: u64,
    waiting: u32,
    /// Waiting or overdue.
    unanswered: u32,
    /// One past the highest sequence number answered.
    answered_end: u64,
    /// Datagrams before this one have an outcome for those who watch the run.
    given_up_end: u64,
    given_up: u64,
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
            unanswered: 0,
            answered_end: 0,
            given_up_end: 0,
            given_up: 0,
        }
    }

    /// How many datagrams it remembers.
    pub(crate) fn window(&self) -> u64 {
        self.mask + 1
    }

    pub(crate) fn waiting(&self) -> u32 {
        self.waiting
    }

    /// How many datagrams count as lost if the run ends now.
    pub(crate) fn unanswered(&self) -> u32 {
        self.unanswered
    }

    /// The sequence number of the next datagram.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Adds a datagram that is about to be sent, and returns its sequence number. Also returns the datagram that it
    /// replaces, if that one has no answer.
    pub(crate) fn add(&mut self, intended_ns: u64, sent_ns: u64) -> (u64, Option<Entry>) {
        let sequence = self.next;
        self.next += 1;
        let entry = Entry { intended_ns, sent_ns, state: State::Waiting };
        let before = std::mem::replace(&mut self.entries[(sequence & self.mask) as usize], entry);
        self.leave(before.state);
        self.waiting += 1;
        self.unanswered += 1;
        let is_new = sequence > self.mask && sequence - self.mask > self.given_up_end;
        self.given_up += u64::from(before.is_unanswered() && is_new);
        (sequence, before.is_unanswered().then_some(before))
    }

    /// The first datagram that is waiting, after those sent at or before `sent_ns` are marked as overdue.
    pub(crate) fn oldest_waiting(&mut self, sent_ns: u64) -> Option<u64> {
        self.expire(sent_ns);
        (self.oldest < self.next).then_some(self.oldest)
    }

    /// The datagrams with this intended send time. Intended times grow with the sequence numbers, so that a few steps find
    /// them, however many datagrams are remembered.
    pub(crate) fn iter_intended(&self, intended_ns: u64) -> impl Iterator<Item = (u64, &Entry)> {
        let (mut first, mut end) = (self.first(), self.next);
        while first < end {
            let middle = first + (end - first) / 2;
            if self.entry(middle).intended_ns < intended_ns { first = middle + 1 } else { end = middle }
        }
        (first..self.next)
            .map(|sequence| (sequence, self.entry(sequence)))
            .take_while(move |(_, entry)| entry.intended_ns == intended_ns)
    }

    /// The oldest datagram that is remembered.
    fn first(&self) -> u64 {
        self.next.saturating_sub(self.mask + 1)
    }

    fn entry(&self, sequence: u64) -> &Entry {
        &self.entries[(sequence & self.mask) as usize]
    }

    /// The datagram `sequence`, if it was sent and is remembered.
    pub(crate) fn get(&self, sequence: u64) -> Option<&Entry> {
        let remembered = sequence < self.next && self.next - sequence <= self.mask + 1;
        let entry = self.entry(sequence);
        (remembered && entry.state != State::Empty).then_some(entry)
    }

    fn get_mut(&mut self, sequence: u64) -> Option<&mut Entry> {
        self.get(sequence)?;
        Some(&mut self.entries[(sequence & self.mask) as usize])
    }

    /// Sets the time at which the kernel got `sequence`.
    pub(crate) fn set_sent(&mut self, sequence: u64, sent_ns: u64) {
        if let Some(entry) = self.get_mut(sequence) {
            entry.sent_ns = sent_ns;
        }
    }

    /// Removes a datagram that the kernel refused, and returns it. Its place keeps the time, for the search.
    pub(crate) fn remove(&mut self, sequence: u64) -> Option<Entry> {
        self.close(sequence, State::Empty)
    }

    /// Takes a reply that answers nothing for the answer to `sequence`, which is waiting, and returns the datagram as it was
    /// before.
    pub(crate) fn presume(&mut self, sequence: u64, stray: Stray) -> Option<Entry> {
        self.close(sequence, State::Presumed(stray))
    }

    /// Updates the counts for a datagram that is no longer in `state`.
    fn leave(&mut self, state: State) {
        self.waiting -= u32::from(state == State::Waiting);
        self.unanswered -= u32::from(matches!(state, State::Waiting | State::Overdue));
        debug_assert!(self.waiting <= self.unanswered, "what waits has no answer");
    }

    /// Notes an answer to `sequence`, and returns the datagram as it was before. The answer is the first one unless
    /// that state is [`State::Answered`].
    pub(crate) fn answer(&mut self, sequence: u64) -> Option<Entry> {
        self.close(sequence, State::Answered)
    }

    /// Notes that `sequence` is unreachable, and returns the datagram as it was before. `None`: it has an answer, or
    /// was unreachable before.
    pub(crate) fn unreachable(&mut self, sequence: u64) -> Option<Entry> {
        if !self.get(sequence)?.is_unanswered() {
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

    /// How far later answers have overtaken the first answer to `sequence`, which has come just now: the distance to
    /// the highest sequence number answered before it (RFC 4737: reordered). `None`: none has.
    pub(crate) fn overtaken(&mut self, sequence: u64) -> Option<u64> {
        if sequence >= self.answered_end {
            self.answered_end = sequence + 1;
            return None;
        }
        Some(self.answered_end - 1 - sequence)
    }

    /// Marks as overdue the waiting datagrams that were sent at or before `sent_ns`, and returns their number.
    pub(crate) fn expire(&mut self, sent_ns: u64) -> u32 {
        let mut overdue = 0;
        self.oldest = self.oldest.max(self.first());
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

    /// Looks at the next datagram that was sent at or before `sent_ns`, and gives it up if it has no answer: for those who
    /// watch the run, it is lost. Its state stays. Returns its sequence number, and the datagram if it was given up.
    /// `None`: there is no further one.
    pub(crate) fn give_up_next(&mut self, sent_ns: u64) -> Option<(u64, Option<Entry>)> {
        self.given_up_end = self.given_up_end.max(self.first());
        let sequence = self.given_up_end;
        let entry = *self.entry(sequence);
        if sequence == self.next || entry.sent_ns > sent_ns {
            return None;
        }
        self.given_up_end += 1;
        let lost = entry.is_unanswered().then_some(entry);
        self.given_up += u64::from(lost.is_some());
        Some((sequence, lost))
    }

    /// How many datagrams were given up, or forgotten before that.
    pub(crate) fn given_up(&self) -> u64 {
        self.given_up
    }

    /// The datagrams without an answer and their sequence numbers, oldest first.
    pub(crate) fn iter_unanswered(&self) -> impl Iterator<Item = (u64, &Entry)> {
        (self.first()..self.next)
            .map(|sequence| (sequence, self.entry(sequence)))
            .filter(|(_, entry)| entry.is_unanswered())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_closes_its_datagram_once() {
        let mut sent_log = SentLog::new(4);
        let (sequence, forgotten) = sent_log.add(10, 12);
        assert_eq!((sequence, forgotten, sent_log.waiting()), (0, None, 1));
        let before = sent_log.answer(0).unwrap();
        assert_eq!((before.state, before.intended_ns, before.sent_ns), (State::Waiting, 10, 12));
        assert_eq!(sent_log.waiting(), 0);
        assert_eq!(sent_log.answer(0).unwrap().state, State::Answered);
        assert_eq!(sent_log.waiting(), 0);
        assert_eq!(sent_log.answer(1), None);
    }

    #[test]
    fn what_the_kernel_refused_was_never_sent() {
        let mut sent_log = SentLog::new(4);
        sent_log.add(1, 1);
        assert_eq!(sent_log.remove(0).unwrap().state, State::Waiting);
        assert_eq!(sent_log.answer(0), None);
        assert_eq!(
            (sent_log.waiting(), sent_log.unanswered(), sent_log.iter_unanswered().count()),
            (0, 0, 0)
        );
    }

    #[test]
    fn old_ones_are_forgotten_and_handed_out_if_open() {
        let mut sent_log = SentLog::new(4);
        for time in 0..4 {
            sent_log.add(time, time);
        }
        sent_log.answer(1);
        assert_eq!(sent_log.add(4, 4).1.map(|entry| entry.intended_ns), Some(0));
        assert_eq!(sent_log.add(5, 5).1, None);
        assert_eq!(sent_log.answer(0), None, "forgotten");
        assert_eq!((sent_log.waiting(), sent_log.unanswered()), (4, 4));
        assert_eq!(
            sent_log.iter_unanswered().map(|(sequence, _)| sequence).collect::<Vec<_>>(),
            [2, 3, 4, 5]
        );
    }

    #[test]
    fn each_datagram_is_given_up_once() {
        let mut sent_log = SentLog::new(4);
        for time in [10, 20, 30] {
            sent_log.add(time, time);
        }
        sent_log.answer(1);
        let lost = |sent_log: &mut SentLog, sent_ns| {
            let next = std::iter::from_fn(|| sent_log.give_up_next(sent_ns));
            next.filter_map(|(sequence, lost)| Some((sequence, lost?.intended_ns))).collect::<Vec<_>>()
        };
        assert_eq!(lost(&mut sent_log, 20), [(0, 10)]);
        assert_eq!(lost(&mut sent_log, 20), []);
        assert_eq!((sent_log.given_up(), sent_log.unanswered()), (1, 2), "an answer may still come");
        // into the places of 0, which is given up, and of 2, which is not
        for time in [40, 50, 60, 70] {
            sent_log.add(time, time);
        }
        assert_eq!(sent_log.given_up(), 2);
        assert_eq!(lost(&mut sent_log, 60), [(3, 40), (4, 50), (5, 60)]);
        assert_eq!(sent_log.given_up(), 5);
        assert_eq!(lost(&mut sent_log, 99), [(6, 70)]);
        assert_eq!(lost(&mut sent_log, 99), []);
    }

    #[test]
    fn overdue_frees_the_flow_and_may_still_be_answered() {
        let mut sent_log = SentLog::new(8);
        for time in [10, 20, 30, 40] {
            sent_log.add(time, time);
        }
        sent_log.answer(1);
        assert_eq!(sent_log.expire(9), 0);
        assert_eq!(sent_log.expire(30), 2);
        assert_eq!(sent_log.expire(30), 0);
        assert_eq!((sent_log.waiting(), sent_log.unanswered()), (1, 3));
        assert_eq!(sent_log.answer(0).unwrap().state, State::Overdue);
        assert_eq!((sent_log.waiting(), sent_log.unanswered()), (1, 2));
        assert_eq!(sent_log.iter_unanswered().map(|(sequence, _)| sequence).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn unreachable_until_an_answer_says_otherwise() {
        let mut sent_log = SentLog::new(8);
        sent_log.add(1, 1);
        sent_log.add(2, 2);
        assert_eq!(sent_log.unreachable(0).unwrap().state, State::Waiting);
        assert_eq!(sent_log.unreachable(0), None);
        assert_eq!(sent_log.waiting(), 1);
        assert_eq!(sent_log.answer(0).unwrap().state, State::Unreachable);
        sent_log.answer(1);
        assert_eq!(sent_log.unreachable(1), None);
    }

    #[test]
    fn datagrams_are_found_by_their_time() {
        let mut sent_log = SentLog::new(8);
        // two each, so that the table goes round
        for time in (0..20).flat_map(|time| [time * 10; 2]) {
            sent_log.add(time, time);
        }
        let found = |sent_log: &SentLog, time: u64| {
            sent_log.iter_intended(time).map(|(sequence, _)| sequence).collect::<Vec<_>>()
        };
        assert_eq!(found(&sent_log, 160), [32, 33]);
        assert_eq!(found(&sent_log, 190), [38, 39]);
        for time in [0, 150, 161, 189, 191, u64::MAX] {
            assert!(found(&sent_log, time).is_empty(), "{time}");
        }
        // refused datagrams keep their places in the search
        for sequence in 34..38 {
            sent_log.remove(sequence);
        }
        assert_eq!((found(&sent_log, 160), found(&sent_log, 190)), (vec![32, 33], vec![38, 39]));
        assert_eq!(sent_log.get(35), None);
    }

    #[test]
    fn the_only_one_in_flight_is_the_oldest_that_waits() {
        let mut sent_log = SentLog::new(8);
        assert_eq!(sent_log.oldest_waiting(100), None);
        for time in [10, 20, 30, 40] {
            sent_log.add(time, time);
        }
        sent_log.answer(1);
        assert_eq!((sent_log.oldest_waiting(9), sent_log.waiting()), (Some(0), 3));
        assert_eq!((sent_log.oldest_waiting(10), sent_log.waiting()), (Some(2), 2));
        sent_log.presume(2, Stray::Foreign);
        assert_eq!((sent_log.oldest_waiting(10), sent_log.waiting()), (Some(3), 1));
        assert_eq!(sent_log.answer(2).unwrap().state, State::Presumed(Stray::Foreign));
        assert_eq!((sent_log.oldest_waiting(40), sent_log.unanswered()), (None, 2));
    }

    #[test]
    fn the_distance_of_the_overtaken() {
        let mut sent_log = SentLog::new(16);
        let distances: Vec<_> =
            [0, 2, 1, 5, 3, 4, 6].into_iter().map(|seq| sent_log.overtaken(seq)).collect();
        assert_eq!(distances, [None, None, Some(1), None, Some(2), Some(1), None]);
    }
}
