//! Replies that wait for room in a send buffer, and leave in the order in which they came.
//!
//! All replies of a turn are sent at once, and none of them waits in the kernel. A reply that finds the send buffer full
//! is not lost, and no later reply of its flow may overtake it. So the file that it leaves by has a backlog for a while:
//!
//! ```text
//!  replies ─► newer ─► older ─► in flight ─► out
//!                        ▲          │ no room
//!                        └──────────┘
//! ```
//!
//! Replies that are in flight together never belong to one flow, so none overtakes another of its flow, whichever of them
//! the kernel takes or refuses. After a refusal the first reply of the backlog is sent alone and patiently: it waits in
//! the kernel until half the send buffer is free, and the others wait for it.
//!
//! A backlog remains for a minute after the buffer was full for the last time. Only replies that were sent in the turn in
//! which it filled could have been overtaken, by others of that turn.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::kernel::ring::{File, Message, Patience, Ring, Token};
use crate::kernel::sys;
use crate::policy::flow::Flow;

/// How long a file has a backlog after its send buffer was full.
const BACKLOG_LIFE: Duration = Duration::from_mins(1);
/// Replies of a backlog that are in flight at a time.
const IN_FLIGHT_MAX: usize = 16;

/// A finished reply, and what it is submitted as.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueuedReply {
    pub(super) token: Token,
    pub(super) message: Message,
    pub(super) flow: Flow,
}

/// Replies that wait for a file whose send buffer was full lately.
#[derive(Debug)]
struct Backlog {
    /// Replies that were in flight, or found no room before there was a backlog.
    older: VecDeque<QueuedReply>,
    /// Replies that came since.
    newer: VecDeque<QueuedReply>,
    in_flight: Vec<QueuedReply>,
    /// Completed replies that found no room, or that another datagram of their group follows. They go to the front when
    /// nothing is in flight.
    returned: Vec<QueuedReply>,
    /// How the replies in flight were sent.
    patience: Patience,
    /// There was no room: the next reply is sent patiently.
    full: bool,
    /// It is in the list of backlogs that have something to do.
    ready: bool,
    until: Instant,
}

/// The backlogs of a worker.
#[derive(Debug, Default)]
pub(super) struct Backlogs {
    by_file: HashMap<u32, Backlog>,
    /// Files whose backlogs have something to do.
    ready: Vec<File>,
}

impl Backlogs {
    /// No send buffer was full lately.
    pub(super) fn is_empty(&self) -> bool {
        self.by_file.is_empty()
    }

    /// The send buffer of this file was full lately. A backlog that has had its time ends with this.
    pub(super) fn has(&mut self, file: File) -> bool {
        if self.is_empty() {
            return false;
        }
        let Some(backlog) = self.by_file.get(&file.0) else { return false };
        let is_over = backlog.is_idle() && sys::now() >= backlog.until;
        if is_over {
            self.by_file.remove(&file.0);
        }
        !is_over
    }

    /// Ends the backlogs that have had their time.
    pub(super) fn tidy(&mut self) {
        if !self.is_empty() {
            let now = sys::now();
            self.by_file.retain(|_, backlog| !backlog.is_idle() || now < backlog.until);
        }
    }

    /// A reply waits for this file, or is in flight in its backlog.
    pub(super) fn is_used(&self, file: File) -> bool {
        self.by_file.get(&file.0).is_some_and(|backlog| !backlog.is_idle())
    }

    /// Sends a reply, or queues it behind those that wait.
    pub(super) fn send(&mut self, file: File, reply: QueuedReply, ring: &mut Ring) {
        if self.has(file) {
            self.push(file, reply);
        } else {
            ring.send_message(file, reply.message, Patience::Inline, reply.token);
        }
    }

    /// Queues a reply at the end of a backlog that is there.
    pub(super) fn push(&mut self, file: File, reply: QueuedReply) {
        let backlog = self.by_file.get_mut(&file.0).expect("a backlog");
        backlog.newer.push_back(reply);
        backlog.make_ready(file, &mut self.ready);
    }

    /// A reply that was sent without a backlog found no room: its file has one from now on.
    pub(super) fn open(&mut self, file: File, reply: QueuedReply) {
        let until = sys::now() + BACKLOG_LIFE;
        let backlog = self.by_file.entry(file.0).or_insert_with(|| Backlog::new(until));
        backlog.full = true;
        backlog.until = until;
        backlog.older.push_back(reply);
        backlog.make_ready(file, &mut self.ready);
    }

    /// A reply has completed: how it was sent, if that was from a backlog. [`Self::settle`] follows.
    pub(super) fn completed(&mut self, file: File, token: Token) -> Option<Patience> {
        let backlog = self.by_file.get_mut(&file.0)?;
        let place = backlog.in_flight.iter().position(|reply| reply.token == token)?;
        backlog.in_flight.remove(place);
        Some(backlog.patience)
    }

    /// A reply that has just completed in a backlog found no room: it is sent again, before all others.
    pub(super) fn retry(&mut self, file: File, reply: QueuedReply) {
        self.precede(file, reply);
        let backlog = self.by_file.get_mut(&file.0).expect("it was sent from a backlog");
        backlog.full = true;
        backlog.until = sys::now() + BACKLOG_LIFE;
    }

    /// The next datagram of a group, the one before having just completed in a backlog: it is sent before all others.
    pub(super) fn precede(&mut self, file: File, reply: QueuedReply) {
        let backlog = self.by_file.get_mut(&file.0).expect("it was sent from a backlog");
        debug_assert!(
            backlog.in_flight.iter().chain(&backlog.returned).all(|other| other.flow != reply.flow),
            "a flow has one reply in flight"
        );
        backlog.returned.push(reply);
    }

    /// When all replies of a backlog that were in flight have completed, it is the turn of the next.
    pub(super) fn settle(&mut self, file: File) {
        if let Some(backlog) = self.by_file.get_mut(&file.0)
            && backlog.in_flight.is_empty()
        {
            for reply in backlog.returned.drain(..).rev() {
                backlog.older.push_front(reply);
            }
            backlog.make_ready(file, &mut self.ready);
        }
    }

    /// Sends what comes next in each backlog.
    pub(super) fn send_next(&mut self, ring: &mut Ring) {
        for file in self.ready.drain(..) {
            if let Some(backlog) = self.by_file.get_mut(&file.0) {
                backlog.ready = false;
                backlog.send_next(|reply, patience| {
                    ring.send_message(file, reply.message, patience, reply.token);
                });
            }
        }
    }

    /// The replies that wait, and those in flight from backlogs.
    pub(super) fn all(&self) -> impl Iterator<Item = Token> {
        self.by_file.values().flat_map(Backlog::all).map(|reply| reply.token)
    }
}

impl Backlog {
    fn new(until: Instant) -> Self {
        Self {
            older: VecDeque::new(),
            newer: VecDeque::new(),
            in_flight: Vec::new(),
            returned: Vec::new(),
            patience: Patience::Inline,
            full: false,
            ready: false,
            until,
        }
    }

    fn all(&self) -> impl Iterator<Item = &QueuedReply> {
        self.in_flight.iter().chain(&self.returned).chain(&self.older).chain(&self.newer)
    }

    fn is_idle(&self) -> bool {
        self.all().next().is_none()
    }

    fn make_ready(&mut self, file: File, ready: &mut Vec<File>) {
        if !self.ready && self.in_flight.is_empty() {
            self.ready = true;
            ready.push(file);
        }
    }

    /// Gives the replies to `send` that may be in flight together: one after a refusal, else several of different flows.
    fn send_next(&mut self, mut send: impl FnMut(&QueuedReply, Patience)) {
        let full = std::mem::take(&mut self.full);
        let (most, patience) = if full { (1, Patience::Wait) } else { (IN_FLIGHT_MAX, Patience::Inline) };
        self.patience = patience;
        while self.in_flight.len() < most
            && let Some(next) = self.older.front().or(self.newer.front())
            && self.in_flight.iter().all(|reply| reply.flow != next.flow)
        {
            let queue = if self.older.is_empty() { &mut self.newer } else { &mut self.older };
            let reply = queue.pop_front().expect("seen above");
            send(&reply, patience);
            self.in_flight.push(reply);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::ring::{Messages, Transmit};

    const FILE: File = File(3);

    /// Reply `number` of the flow of `port`.
    fn reply(port: u16, number: u32) -> QueuedReply {
        let (peer, origdst) = (([192, 0, 2, 1], port).into(), ([192, 0, 2, 2], 1234).into());
        let transmit = Transmit { peer, source: None, segment_bytes: None, dscp: 0, hops: 0 };
        let message = Messages::<1>::new(1).finish(0, &transmit);
        QueuedReply { token: Token::new(1, 0, number), message, flow: Flow { peer, origdst } }
    }

    /// The replies that the file's backlog sends next, and how.
    fn send_next(backlogs: &mut Backlogs) -> (Vec<u32>, Option<Patience>) {
        let (mut sent, mut how) = (Vec::new(), None);
        if std::mem::take(&mut backlogs.ready) == [FILE] {
            let backlog = backlogs.by_file.get_mut(&FILE.0).unwrap();
            backlog.ready = false;
            backlog.send_next(|reply, patience| {
                sent.push(reply.token.index());
                how = Some(patience);
            });
        }
        (sent, how)
    }

    #[test]
    fn after_a_refusal_one_is_sent_patiently_and_then_several_of_different_flows() {
        let mut backlogs = Backlogs::default();
        assert!(backlogs.is_empty() && !backlogs.has(FILE));
        backlogs.open(FILE, reply(1, 10));
        assert!(backlogs.has(FILE) && backlogs.is_used(FILE));
        for (port, number) in [(2, 20), (3, 30), (2, 21), (4, 40)] {
            backlogs.push(FILE, reply(port, number));
        }
        assert_eq!(send_next(&mut backlogs), (vec![10], Some(Patience::Wait)));
        assert_eq!(send_next(&mut backlogs), (vec![], None), "the others wait for it");
        assert_eq!(backlogs.completed(FILE, reply(1, 10).token), Some(Patience::Wait));
        backlogs.settle(FILE);
        assert_eq!(
            send_next(&mut backlogs),
            (vec![20, 30], Some(Patience::Inline)),
            "21 is of a flow in flight"
        );
        for number in [20, 30] {
            assert_eq!(backlogs.completed(FILE, Token::new(1, 0, number)), Some(Patience::Inline));
            backlogs.settle(FILE);
        }
        assert_eq!(send_next(&mut backlogs), (vec![21, 40], Some(Patience::Inline)));
    }

    #[test]
    fn replies_that_found_no_room_leave_first_and_in_order() {
        let mut backlogs = Backlogs::default();
        backlogs.open(FILE, reply(1, 10));
        assert_eq!(send_next(&mut backlogs).0, [10]);
        for (port, number) in [(2, 20), (3, 30), (4, 40)] {
            backlogs.push(FILE, reply(port, number));
        }
        backlogs.completed(FILE, reply(1, 10).token);
        backlogs.settle(FILE);
        assert_eq!(send_next(&mut backlogs).0, [20, 30, 40]);
        backlogs.push(FILE, reply(2, 21));
        backlogs.completed(FILE, reply(2, 20).token);
        backlogs.retry(FILE, reply(2, 20));
        backlogs.settle(FILE);
        assert_eq!(send_next(&mut backlogs), (vec![], None), "two are in flight");
        backlogs.completed(FILE, reply(3, 30).token);
        backlogs.precede(FILE, reply(3, 31));
        backlogs.completed(FILE, reply(4, 40).token);
        backlogs.settle(FILE);
        assert_eq!(send_next(&mut backlogs), (vec![20], Some(Patience::Wait)));
        backlogs.completed(FILE, reply(2, 20).token);
        backlogs.settle(FILE);
        assert_eq!(send_next(&mut backlogs).0, [31, 21], "the datagram that follows, then what came later");
    }

    #[test]
    fn a_reply_that_was_sent_without_a_backlog_is_not_taken_for_one_of_it() {
        let mut backlogs = Backlogs::default();
        backlogs.open(FILE, reply(1, 10));
        assert_eq!(backlogs.completed(FILE, reply(2, 20).token), None);
        assert_eq!(backlogs.completed(File(9), reply(1, 10).token), None);
        assert_eq!(backlogs.all().collect::<Vec<_>>(), [reply(1, 10).token]);
    }

    #[test]
    #[should_panic(expected = "a flow has one reply in flight")]
    fn a_flow_has_one_reply_in_flight() {
        let mut backlogs = Backlogs::default();
        backlogs.open(FILE, reply(1, 10));
        send_next(&mut backlogs);
        backlogs.precede(FILE, reply(1, 11));
    }

    #[test]
    fn a_backlog_ends_a_minute_after_the_buffer_was_full() {
        let mut backlogs = Backlogs::default();
        backlogs.open(FILE, reply(1, 10));
        let backlog = backlogs.by_file.get_mut(&FILE.0).unwrap();
        backlog.until = sys::now();
        backlogs.tidy();
        assert!(backlogs.has(FILE), "something waits");
        send_next(&mut backlogs);
        backlogs.completed(FILE, reply(1, 10).token);
        backlogs.settle(FILE);
        backlogs.tidy();
        assert!(!backlogs.has(FILE) && backlogs.is_empty());
        backlogs.open(FILE, reply(1, 10));
        assert!(backlogs.has(FILE), "the next one lasts a minute");
    }
}
