//! One flow: composes its datagrams, judges what comes back. No socket, no clock.

use std::net::SocketAddr;

use crate::model::outcomes::Class;
use crate::model::payload::{self, Bodies, Content, Header};
use crate::model::quantity::Sizes;
use crate::model::results::{Example, Results, SentMessage};
use crate::model::sent_log::{Entry, SentLog, State};
use crate::model::target::{Source, Targets};

/// What all flows of a run share.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Tells this run's datagrams from any other's.
    pub(crate) run_id: u64,
    /// Where random choices come from.
    pub(crate) seed: u64,
    /// Where datagrams go.
    pub(crate) targets: Targets,
    /// Where they come from, if that is not left to the routing table.
    pub(crate) source: Option<Source>,
    /// How large they are.
    pub(crate) sizes: Sizes,
    /// What they carry.
    pub(crate) bodies: Bodies,
    /// A reply that takes longer is late.
    pub(crate) timeout_ns: u64,
    /// Datagrams in a train; 1: no trains.
    pub(crate) train: u32,
    /// Whether datagrams have an intended send time of their own (the open loop).
    pub(crate) scheduled: bool,
}

/// A train (or a single datagram) that is ready to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Train {
    /// Where it goes.
    pub(crate) peer: SocketAddr,
    /// The first datagram's sequence number.
    pub(crate) first: u64,
    /// How many datagrams.
    pub(crate) datagrams: u32,
    /// Bytes of payload in all.
    pub(crate) bytes: u32,
}

/// One flow.
#[derive(Debug)]
pub(crate) struct Flow {
    id: u32,
    home: SocketAddr,
    /// The port that it sends from; 0 until it has one.
    own_port: u16,
    /// The size of every datagram, unless each draws its own.
    size_bytes: Option<u32>,
    sent_log: SentLog,
}

impl Flow {
    /// Flow `id` of the plan, which remembers its last `window` datagrams.
    pub(crate) fn new(plan: &Plan, id: u32, window: usize) -> Self {
        // the datagrams of a train are of one size, and a flow's socket knows but one train layout
        let size_bytes = match plan.sizes.fixed() {
            None if plan.train > 1 => Some(plan.sizes.of_message(plan.seed, id, u64::MAX)),
            fixed => fixed,
        };
        Self { id, home: plan.targets.of_flow(id), own_port: 0, size_bytes, sent_log: SentLog::new(window) }
    }

    /// The address, with port 0, that it is to send from. `None`: that is left to the routing table.
    pub(crate) fn source(&self, plan: &Plan) -> Option<SocketAddr> {
        plan.source
            .as_ref()
            .map(|source| source.of_flow(plan.seed, self.id, self.home, plan.targets.no_hosts()))
    }

    /// Whether `port` is one that it can send from: not one that its datagrams go to.
    pub(crate) fn can_send_from(&self, plan: &Plan, port: u16) -> bool {
        !plan.targets.always_sends_to(self.id, port)
    }

    /// It sends from `port`.
    pub(crate) fn sends_from(&mut self, port: u16) {
        self.own_port = port;
    }

    /// Where it sends, if that does not change with each datagram.
    pub(crate) fn home(&self) -> SocketAddr {
        self.home
    }

    /// The size of each of its datagrams, if they are all of one size.
    pub(crate) fn size_bytes(&self) -> Option<u32> {
        self.size_bytes
    }

    /// How many datagrams are waiting for their answer.
    pub(crate) fn waiting(&self) -> u32 {
        self.sent_log.waiting()
    }

    /// How many datagrams would be lost, were the run over now.
    pub(crate) fn unanswered(&self) -> u32 {
        self.sent_log.unanswered()
    }

    fn peer(&self, plan: &Plan, sequence: u64) -> SocketAddr {
        if plan.targets.spray() {
            // a train has one destination: that of its first datagram
            plan.targets.of_datagram(self.id, sequence - sequence % u64::from(plan.train), self.own_port)
        } else {
            self.home
        }
    }

    fn bytes_of(&self, plan: &Plan, sequence: u64) -> u32 {
        self.size_bytes.unwrap_or_else(|| plan.sizes.of_message(plan.seed, self.id, sequence))
    }

    fn header(&self, plan: &Plan, sequence: u64, intended_ns: u64) -> Header {
        Header { run_id: plan.run_id, flow: self.id, sequence, intended_ns }
    }

    /// Writes the next `datagrams` datagrams into `out`, one behind the other, and enters them as sent at
    /// `sent_ns`. `out` has room for the largest of them.
    pub(crate) fn compose(
        &mut self,
        plan: &Plan,
        intended_ns: u64,
        sent_ns: u64,
        datagrams: u32,
        out: &mut [u8],
        results: &mut Results,
    ) -> Train {
        let first = self.sent_log.next();
        let mut bytes = 0;
        for _ in 0..datagrams {
            let (sequence, forgotten) = self.sent_log.post(intended_ns, sent_ns);
            if let Some(forgotten) = forgotten {
                lose(&forgotten, results);
                if forgotten.state == State::Waiting && results.outcomes.is_measured(forgotten.intended_ns) {
                    results.forgotten += 1;
                }
            }
            let size = self.bytes_of(plan, sequence) as usize;
            plan.bodies.write(&self.header(plan, sequence, intended_ns), &mut out[bytes..bytes + size]);
            bytes += size;
        }
        Train { peer: self.peer(plan, first), first, datagrams, bytes: bytes as u32 }
    }

    /// Sets when a train was really handed to the kernel.
    pub(crate) fn stamp(&mut self, train: &Train, sent_ns: u64) {
        for sequence in train.sequences() {
            self.sent_log.stamp(sequence, sent_ns);
        }
    }

    /// Books a train as sent: the kernel took it. Returns how late it left, in nanoseconds; `None`: there is
    /// no schedule, or it is not measured.
    pub(crate) fn sent(&mut self, plan: &Plan, train: &Train, results: &mut Results) -> Option<u64> {
        let entry = self.sent_log.get(train.first).copied()?;
        let counts = &mut results.outcomes.page(entry.intended_ns).counts;
        counts.sent += u64::from(train.datagrams);
        counts.bytes_sent += u64::from(train.bytes);
        if !plan.scheduled || !results.outcomes.is_measured(entry.intended_ns) {
            return None;
        }
        let slip_ns = entry.sent_ns.saturating_sub(entry.intended_ns);
        for _ in 0..train.datagrams {
            results.slip.record(slip_ns);
        }
        Some(slip_ns)
    }

    /// Takes a train back: the kernel refused it.
    pub(crate) fn refused(&mut self, train: &Train, errno: i32, results: &mut Results) {
        for sequence in train.sequences() {
            if let Some(entry) = self.sent_log.unsend(sequence) {
                results.outcomes.page(entry.intended_ns).counts.send_failures += 1;
                results.refuse(errno);
            }
        }
    }

    /// Judges one datagram that came from `source` at `now_ns`; the class of the one that it settles, and
    /// its round trip from the intended send time in nanoseconds. `None`: it settles none.
    pub(crate) fn judge(
        &mut self,
        plan: &Plan,
        source: Option<SocketAddr>,
        reply: &[u8],
        now_ns: u64,
        results: &mut Results,
    ) -> Option<(Class, u64)> {
        let Some((sequence, content)) = self.attribute(plan, reply) else {
            let counts = &mut results.outcomes.page(now_ns).counts;
            counts.unattributed += 1;
            counts.bytes_received += reply.len() as u64;
            if results.wants_example("unattributed") {
                let came_bytes = reply.len();
                let kind = "unattributed".into();
                results.examples.push(Example { kind, came_from: source, came_bytes, answers: None });
            }
            return None;
        };
        let before = self.sent_log.answer(sequence)?;
        let page = results.outcomes.page(before.intended_ns);
        page.counts.bytes_received += reply.len() as u64;
        if before.state == State::SentMessage {
            page.counts.duplicated += 1;
            return None;
        }
        if before.state == State::Unreachable {
            *page.counts.of(Class::Unreachable) -= 1;
        }
        if let Some(distance) = self.sent_log.overtaken(sequence) {
            page.reordered(distance);
        }
        let waited_ns = now_ns.saturating_sub(before.sent_ns);
        let is_late = before.state == State::Overdue || waited_ns > plan.timeout_ns;
        let class = match content {
            _ if source != Some(self.peer(plan, sequence)) => Class::Misdirected,
            Content::Truncated => Class::Truncated,
            Content::Corrupted | Content::Resembling | Content::Foreign => Class::Corrupted,
            Content::Intact if is_late => Class::Late,
            Content::Intact => Class::Ok,
        };
        *page.counts.of(class) += 1;
        if let Some(kind) = class.wrong().filter(|kind| results.wants_example(kind)) {
            let answers = Some(self.compare(plan, sequence, before.intended_ns, reply));
            let came_bytes = reply.len();
            results.examples.push(Example { kind: kind.into(), came_from: source, came_bytes, answers });
        }
        let round_trip_ns =
            if plan.scheduled { now_ns.saturating_sub(before.intended_ns) } else { waited_ns };
        if matches!(class, Class::Ok | Class::Late) {
            results.round_trips.record(before.intended_ns, round_trip_ns);
            if plan.scheduled && results.outcomes.is_measured(before.intended_ns) {
                results.from_actual.record(waited_ns);
            }
        }
        Some((class, round_trip_ns))
    }

    /// What was sent as `sequence`, and where `reply` begins to be another.
    fn compare(&self, plan: &Plan, sequence: u64, intended_ns: u64, reply: &[u8]) -> SentMessage {
        let mut sent = vec![0; self.bytes_of(plan, sequence) as usize];
        plan.bodies.write(&self.header(plan, sequence, intended_ns), &mut sent);
        let is_another = |(came, sent): (&u8, &u8)| came != sent;
        SentMessage {
            sent_to: self.peer(plan, sequence),
            sent_bytes: sent.len(),
            flow: self.id,
            sequence,
            differs_at: reply.iter().zip(&sent).position(is_another),
        }
    }

    /// Which of our datagrams `reply` answers, and how well.
    fn attribute(&self, plan: &Plan, reply: &[u8]) -> Option<(u64, Content)> {
        let claimed = payload::sequence(reply)?;
        let content = self.sent_log.get(claimed).map_or(Content::Foreign, |entry| {
            let header = self.header(plan, claimed, entry.intended_ns);
            plan.bodies.judge(&header, self.bytes_of(plan, claimed) as usize, reply)
        });
        if !matches!(content, Content::Foreign | Content::Resembling) {
            return Some((claimed, content));
        }
        // the sequence number itself may be what was damaged: then all else in the header is whole, and
        // in a train that is the only way to tell it from its neighbours
        let intended_ns = payload::intended_ns(reply)?;
        let is_meant = |&(sequence, entry): &(u64, &Entry)| {
            entry.intended_ns == intended_ns
                && payload::differs_in_sequence_only(&self.header(plan, sequence, intended_ns), reply)
        };
        let meant = self.sent_log.open().find(is_meant).map(|(sequence, _)| (sequence, Content::Corrupted));
        meant.or_else(|| (content == Content::Resembling).then_some((claimed, Content::Corrupted)))
    }

    /// Notes that the network could not deliver the datagram to `peer` whose payload began with `quoted`,
    /// as far as the report quotes it. Says whether it settled one of ours.
    pub(crate) fn unreachable(
        &mut self,
        plan: &Plan,
        peer: SocketAddr,
        quoted: &[u8],
        results: &mut Results,
    ) -> bool {
        let quoted_sequence = self.attribute(plan, quoted).map(|(sequence, _)| sequence);
        // routers need to quote no more than the UDP header: then the oldest one to that peer is meant
        let sequence = quoted_sequence.or_else(|| {
            let mut open = self.sent_log.open();
            open.find(|(sequence, _)| self.peer(plan, *sequence) == peer).map(|(sequence, _)| sequence)
        });
        let Some(before) = sequence.and_then(|sequence| self.sent_log.unreachable(sequence)) else {
            return false;
        };
        *results.outcomes.page(before.intended_ns).counts.of(Class::Unreachable) += 1;
        true
    }

    /// Declares overdue what was sent at or before `sent_ns`; says whether there was any.
    pub(crate) fn settle(&mut self, sent_ns: u64) -> bool {
        self.sent_log.settle(sent_ns) > 0
    }

    /// The end: what has no answer by now is lost.
    pub(crate) fn close(&self, results: &mut Results) {
        for (_, entry) in self.sent_log.open() {
            lose(entry, results);
        }
    }
}

fn lose(entry: &Entry, results: &mut Results) {
    *results.outcomes.page(entry.intended_ns).counts.of(Class::Lost) += 1;
}

impl Train {
    fn sequences(&self) -> std::ops::Range<u64> {
        self.first..self.first + u64::from(self.datagrams)
    }
}

#[cfg(test)]
mod tests;
