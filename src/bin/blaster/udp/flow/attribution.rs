//! Which datagram of the flow a reply answers, and what becomes of a reply that answers none.

use std::net::SocketAddr;

use super::{Attributed, Flow};
use crate::model::counts::Class;
use crate::model::payload::{self, ATTRIBUTABLE_BYTES, Content, Header};
use crate::model::results::{Example, MessageNumber, Results, SentMessage, first_bytes};
use crate::model::sent_log::{Entry, Stray};
use crate::udp::plan::Plan;

/// The most bytes that a server may have put before a datagram for its reply to be known.
const BYTES_BEFORE_MAX: usize = 64;

impl Flow {
    /// The datagram that `reply` answers, and the judgement of its content. `None`: it answers no datagram of this flow.
    pub(super) fn attribute(&self, plan: &Plan, reply: &[u8]) -> Option<Attributed> {
        let claimed = payload::sequence(reply)?;
        let content = self.judge_as(plan, claimed, reply);
        let found = |sequence, content| Some(Attributed { sequence, content, bytes_before: 0 });
        if !matches!(content, Content::Foreign | Content::Resembling) {
            return found(claimed, content);
        }
        // the datagram of another flow may resemble one of this flow
        if self.other_flow_of(plan, reply).is_some() {
            return None;
        }
        self.find_by_time(plan, reply)
            .or((content == Content::Resembling).then_some(claimed))
            .map_or_else(|| self.find_behind_other_bytes(plan, reply), |it| found(it, Content::Corrupted))
    }

    /// The datagram of another flow that `reply` begins like.
    fn other_flow_of(&self, plan: &Plan, reply: &[u8]) -> Option<MessageNumber> {
        let header = Header::decode(reply)
            .filter(|header| header.run_id == plan.traffic.run_id && header.flow != self.id)?;
        Some(MessageNumber { flow: header.flow, sequence: header.sequence })
    }

    /// Judges `reply` as the answer to datagram `sequence`.
    fn judge_as(&self, plan: &Plan, sequence: u64, reply: &[u8]) -> Content {
        self.sent_log.get(sequence).map_or(Content::Foreign, |entry| {
            let header = self.header(plan, sequence, entry.intended_ns);
            plan.traffic.bodies.judge(&header, self.bytes_of(plan, sequence) as usize, reply)
        })
    }

    /// The sequence number itself may be damaged. Then the intended send time finds the datagram, and in a train only the
    /// rest of the header, or the body, tells it from its neighbours.
    fn find_by_time(&self, plan: &Plan, reply: &[u8]) -> Option<u64> {
        let intended_ns = payload::intended_ns(reply)?;
        let bodies = &plan.traffic.bodies;
        let is_meant = |&(sequence, entry): &(u64, &Entry)| {
            let header = self.header(plan, sequence, intended_ns);
            let sent_bytes = self.bytes_of(plan, sequence) as usize;
            entry.is_unanswered()
                && (payload::differs_in_sequence_only(&header, reply)
                    || bodies.differs_before_run_only(&header, sent_bytes, reply))
        };
        self.sent_log.iter_intended(intended_ns).find(is_meant).map(|(sequence, _)| sequence)
    }

    /// The server may have put something before the datagram.
    fn find_behind_other_bytes(&self, plan: &Plan, reply: &[u8]) -> Option<Attributed> {
        let most = reply.len().saturating_sub(ATTRIBUTABLE_BYTES).min(BYTES_BEFORE_MAX);
        (1..=most).find_map(|bytes_before| {
            let rest = &reply[bytes_before..];
            let sequence = payload::sequence(rest)?;
            let content = self.judge_as(plan, sequence, rest);
            (!matches!(content, Content::Foreign | Content::Resembling)).then_some(Attributed {
                sequence,
                content: Content::Corrupted,
                bytes_before,
            })
        })
    }

    /// Judges a reply that answers no datagram of the flow. If only one datagram is in flight, to where the reply came from,
    /// the reply is taken for the answer to that one, until another comes.
    pub(super) fn judge_stray(
        &mut self,
        plan: &Plan,
        source: Option<SocketAddr>,
        reply: &[u8],
        now_ns: u64,
        results: &mut Results,
    ) -> Option<(Class, u64)> {
        let bytes_of = self.other_flow_of(plan, reply);
        // an intact header: it answers an earlier run, or a datagram that is forgotten
        let is_of_the_past = bytes_of.is_none() && Header::decode(reply).is_some();
        let oldest = self.sent_log.oldest_waiting(now_ns.saturating_sub(plan.traffic.timeout_ns));
        let in_flight = oldest.and_then(|sequence| Some((sequence, *self.sent_log.get(sequence)?)));
        let is_alone = self.sent_log.waiting() == 1 && !is_of_the_past;
        let presumed =
            in_flight.filter(|(sequence, _)| is_alone && source == Some(self.peer(plan, *sequence)));
        let counts = &mut results.outcomes.at(now_ns).counts;
        counts.bytes_received += reply.len() as u64;
        counts.crossed += u64::from(bytes_of.is_some());
        counts.unattributed += u64::from(bytes_of.is_none() && presumed.is_none());
        let stray = if bytes_of.is_some() { Stray::Crossed } else { Stray::Foreign };
        if let Some((sequence, entry)) = presumed {
            self.sent_log.presume(sequence, stray);
            self.classify(plan, (sequence, entry.intended_ns), Class::Corrupted, results);
        }
        let kind = match (bytes_of, presumed) {
            (Some(_), _) => "crossed",
            (None, Some(_)) => Class::Corrupted.name(),
            (None, None) => "unattributed",
        };
        if results.wants_example(kind) {
            let compared =
                in_flight.map(|(sequence, entry)| self.compare(plan, sequence, entry.intended_ns, reply));
            let (answers, in_flight) = if presumed.is_some() { (compared, None) } else { (None, compared) };
            results.examples.push(Example {
                kind: kind.into(),
                came_from: source,
                came_bytes: reply.len(),
                came_first: first_bytes(reply),
                answers,
                in_flight,
                bytes_of,
            });
        }
        presumed.map(|(_, entry)| (Class::Corrupted, now_ns.saturating_sub(entry.sent_ns)))
    }

    /// A reply was taken for the answer to a datagram whose true answer has come.
    pub(super) fn correct(
        &self,
        plan: &Plan,
        sequence: u64,
        entry: &Entry,
        stray: Stray,
        results: &mut Results,
    ) {
        self.declassify(plan, (sequence, entry.intended_ns), Class::Corrupted, results);
        let counts = &mut results.outcomes.at(entry.intended_ns).counts;
        counts.unattributed += u64::from(stray == Stray::Foreign);
        results.correct_example(MessageNumber { flow: self.id, sequence });
    }

    /// The datagram `sequence` as it was sent, and the first byte in which `reply` differs.
    pub(super) fn compare(&self, plan: &Plan, sequence: u64, intended_ns: u64, reply: &[u8]) -> SentMessage {
        let mut sent = vec![0; self.bytes_of(plan, sequence) as usize];
        plan.traffic.bodies.write(&self.header(plan, sequence, intended_ns), &mut sent);
        let number = MessageNumber { flow: self.id, sequence };
        SentMessage::new(self.peer(plan, sequence), number, &sent, reply)
    }
}
