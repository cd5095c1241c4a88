//! One flow: it composes datagrams and judges replies. No socket, no clock.

mod attribution;

use std::net::SocketAddr;

use crate::model::counts::{Class, Fault, Tally};
use crate::model::payload::{Content, Header};
use crate::model::receive_clock::Arrival;
use crate::model::reply_headers::ReceivedHeaders;
use crate::model::results::{Example, Results, SentMessage, first_bytes};
use crate::model::sent_log::{SentLog, State};
use crate::model::tallies::Place;
use crate::udp::plan::Plan;

/// A train, or a single datagram, that is ready to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Train {
    pub(crate) peer: SocketAddr,
    /// The sequence number of its first datagram.
    pub(crate) first: u64,
    pub(crate) datagrams: u32,
    /// Bytes of payload in all.
    pub(crate) bytes: u32,
}

/// What a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attributed {
    sequence: u64,
    content: Content,
    /// The bytes of the reply before the datagram.
    bytes_before: usize,
}

#[derive(Debug)]
pub(crate) struct Flow {
    id: u32,
    /// The destination of all its datagrams, unless each has its own.
    home: SocketAddr,
    /// Its place among the flows of its worker.
    place: usize,
    /// With --each-once: the places of the destinations of the remembered datagrams, by sequence number; else empty.
    visited: Box<[u32]>,
    /// With --each-once: the place of the next datagram's destination.
    next_visit: u32,
    /// The local port; 0 before the flow has a socket.
    own_port: u16,
    /// The size of all its datagrams. `None`: each draws one.
    size_bytes: Option<u32>,
    sent_log: SentLog,
}

impl Flow {
    /// Flow `id` of the plan; it remembers its last `window` datagrams.
    pub(crate) fn new(plan: &Plan, id: u32, window: usize) -> Self {
        let traffic = &plan.traffic;
        // the datagrams of a train have one size, and UDP_SEGMENT sets it for the whole socket
        let size_bytes = match traffic.sizes.fixed() {
            None if plan.train > 1 => Some(traffic.message_bytes(id, u64::MAX)),
            fixed => fixed,
        };
        let home = traffic.targets.of_flow(id);
        let place = (id / plan.extent.workers) as usize;
        let visited = vec![0; if traffic.visits.is_some() { window } else { 0 }].into();
        Self {
            id,
            home,
            place,
            visited,
            next_visit: 0,
            own_port: 0,
            size_bytes,
            sent_log: SentLog::new(window),
        }
    }

    /// The local address, with port 0. `None`: the routing table chooses it.
    pub(crate) fn source(&self, plan: &Plan) -> Option<SocketAddr> {
        plan.traffic.source_of(self.id, self.home)
    }

    /// Whether the flow can send from `port`: its datagrams must not go to the same port. With --each-once, no datagram
    /// should: the server may answer none of its ports.
    pub(crate) fn can_send_from(&self, plan: &Plan, port: u16) -> bool {
        let targets = &plan.traffic.targets;
        if plan.traffic.visits.is_some() {
            !targets.have_port(port)
        } else {
            !targets.always_sends_to(self.id, port)
        }
    }

    pub(crate) fn set_own_port(&mut self, port: u16) {
        self.own_port = port;
    }

    pub(crate) fn own_port(&self) -> u16 {
        self.own_port
    }

    /// Sets the place of the next datagram's destination, with --each-once.
    pub(crate) fn visit(&mut self, place: usize) {
        self.next_visit = place as u32;
    }

    /// The place of a remembered datagram's destination, with --each-once.
    fn visited(&self, sequence: u64) -> usize {
        self.visited[sequence as usize & (self.visited.len() - 1)] as usize
    }

    /// The first destination; with --spray, the others differ.
    pub(crate) fn home(&self) -> SocketAddr {
        self.home
    }

    /// The size of its datagrams, if all have one size.
    pub(crate) fn size_bytes(&self) -> Option<u32> {
        self.size_bytes
    }

    /// The address that a datagram goes to, with the flow's label.
    pub(crate) fn labelled(&self, plan: &Plan, peer: SocketAddr) -> SocketAddr {
        plan.traffic.labelled(peer, self.id.into())
    }

    pub(crate) fn waiting(&self) -> u32 {
        self.sent_log.waiting()
    }

    /// How many datagrams count as lost if the run ends now.
    pub(crate) fn unanswered(&self) -> u32 {
        self.sent_log.unanswered()
    }

    fn peer(&self, plan: &Plan, sequence: u64) -> SocketAddr {
        let targets = &plan.traffic.targets;
        if let Some(visits) = &plan.traffic.visits {
            visits.destination(self.visited(sequence))
        } else if targets.spray() {
            // a train has one destination: that of its first datagram
            targets.of_datagram(self.id, sequence - sequence % u64::from(plan.train), self.own_port)
        } else {
            self.home
        }
    }

    /// The place of the counts of a destination: that of datagram `sequence`, which goes to `peer`.
    fn place(&self, plan: &Plan, sequence: u64, peer: SocketAddr) -> Place<SocketAddr> {
        let targets = &plan.traffic.targets;
        if plan.traffic.visits.is_some() {
            Place::Table(self.visited(sequence))
        } else if targets.spray() {
            targets.place(peer)
        } else {
            Place::Table(self.place)
        }
    }

    /// Counts a fault of a datagram by its destination and its source, unless it belongs to the warmup.
    fn note_fault(
        &self,
        plan: &Plan,
        (sequence, intended_ns): (u64, u64),
        results: &mut Results,
        count: impl Fn(&mut Tally) -> &mut u64,
    ) {
        if results.outcomes.is_measured(intended_ns) {
            let place = self.place(plan, sequence, self.peer(plan, sequence));
            results.destinations.note_fault(place, &count);
            if plan.traffic.counted_sources() > 0 {
                results.sources.note_fault(Place::Table(self.place), count);
            }
        }
    }

    /// Notes the outcome of a datagram for those who watch the run.
    fn note_latest(&self, plan: &Plan, (sequence, intended_ns): (u64, u64), class: Class) {
        if let Some(watchlist) = &plan.traffic.watchlist
            && let Some(place) = self.watched_place(plan, sequence)
        {
            watchlist.outages.note(place, class, intended_ns);
        }
    }

    /// The place of a datagram's destination among those that are watched.
    fn watched_place(&self, plan: &Plan, sequence: u64) -> Option<usize> {
        let targets = &plan.traffic.targets;
        if plan.traffic.visits.is_some() {
            Some(self.visited(sequence))
        } else if targets.spray() {
            match targets.place(self.peer(plan, sequence)) {
                Place::Table(place) => Some(place),
                Place::Named(_) => None,
            }
        } else {
            plan.traffic.watchlist.as_ref()?.of_flow(self.id)
        }
    }

    /// Gives up datagrams that were sent at or before `sent_ns` and have no answer: for those who watch the run, they are
    /// lost. It looks at `most` datagrams at most, and returns how many it looked at.
    pub(super) fn give_up(&mut self, plan: &Plan, sent_ns: u64, most: u64) -> u64 {
        let mut looked = 0;
        while looked < most
            && let Some((sequence, lost)) = self.sent_log.give_up_next(sent_ns)
        {
            looked += 1;
            if let Some(entry) = lost {
                self.note_latest(plan, (sequence, entry.intended_ns), Class::Lost);
            }
        }
        looked
    }

    /// How many datagrams were given up so far.
    pub(super) fn given_up(&self) -> u64 {
        self.sent_log.given_up()
    }

    /// Counts a datagram in its class.
    pub(super) fn classify(&self, plan: &Plan, which: (u64, u64), class: Class, results: &mut Results) {
        self.note_latest(plan, which, class);
        *results.outcomes.at(which.1).counts.of_mut(class) += 1;
        if class != Class::Ok {
            self.note_fault(plan, which, results, |tally| tally.of_mut(class));
        }
    }

    /// Removes a datagram from a class that is not its class any more.
    pub(super) fn declassify(&self, plan: &Plan, which: (u64, u64), class: Class, results: &mut Results) {
        let (sequence, intended_ns) = which;
        *results.outcomes.at(intended_ns).counts.of_mut(class) -= 1;
        if results.outcomes.is_measured(intended_ns) {
            let place = self.place(plan, sequence, self.peer(plan, sequence));
            results.destinations.take_back(place, |tally| tally.of_mut(class));
            if plan.traffic.counted_sources() > 0 {
                results.sources.take_back(Place::Table(self.place), |tally| tally.of_mut(class));
            }
        }
    }

    fn bytes_of(&self, plan: &Plan, sequence: u64) -> u32 {
        self.size_bytes.unwrap_or_else(|| plan.traffic.message_bytes(self.id, sequence))
    }

    fn header(&self, plan: &Plan, sequence: u64, intended_ns: u64) -> Header {
        plan.traffic.header(self.id, sequence, intended_ns)
    }

    /// Writes the next `datagrams` datagrams into `out`, one behind the other, and logs them as sent at `sent_ns`.
    /// `out` has room for the largest datagrams.
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
            let (sequence, forgotten) = self.sent_log.add(intended_ns, sent_ns);
            if let Some(forgotten) = forgotten {
                let oldest = sequence - self.sent_log.window();
                self.classify(plan, (oldest, forgotten.intended_ns), Class::Lost, results);
                if forgotten.state == State::Waiting && results.outcomes.is_measured(forgotten.intended_ns) {
                    results.forgotten += 1;
                }
            }
            if plan.traffic.visits.is_some() {
                let visited = self.visited.len();
                self.visited[sequence as usize & (visited - 1)] = self.next_visit;
            }
            let size = self.bytes_of(plan, sequence) as usize;
            plan.traffic
                .bodies
                .write(&self.header(plan, sequence, intended_ns), &mut out[bytes..bytes + size]);
            bytes += size;
        }
        Train { peer: self.peer(plan, first), first, datagrams, bytes: bytes as u32 }
    }

    /// Sets the time at which the kernel got a train.
    pub(crate) fn set_sent(&mut self, train: &Train, sent_ns: u64) {
        for sequence in train.sequences() {
            self.sent_log.set_sent(sequence, sent_ns);
        }
    }

    /// Counts a train as sent: the kernel took it. Returns its delay behind the schedule in nanoseconds. `None`: there
    /// is no schedule, or the train belongs to the warmup.
    pub(crate) fn count_sent(&mut self, plan: &Plan, train: &Train, results: &mut Results) -> Option<u64> {
        let entry = self.sent_log.get(train.first).copied()?;
        let counts = &mut results.outcomes.at(entry.intended_ns).counts;
        counts.sent += u64::from(train.datagrams);
        counts.bytes_sent += u64::from(train.bytes);
        if results.outcomes.is_measured(entry.intended_ns) {
            let place = self.place(plan, train.first, train.peer);
            results.destinations.note_sent(place, train.datagrams.into());
            if plan.traffic.counted_sources() > 0 {
                results.sources.note_sent(Place::Table(self.place), train.datagrams.into());
            }
        }
        if !plan.is_scheduled() || !results.outcomes.is_measured(entry.intended_ns) {
            return None;
        }
        let slip_ns = entry.sent_ns.saturating_sub(entry.intended_ns);
        for _ in 0..train.datagrams {
            results.slip.record(slip_ns);
        }
        Some(slip_ns)
    }

    /// Removes a train from the log: the kernel refused it.
    pub(crate) fn count_refused(&mut self, plan: &Plan, train: &Train, errno: i32, results: &mut Results) {
        for sequence in train.sequences() {
            if let Some(entry) = self.sent_log.remove(sequence) {
                results.outcomes.at(entry.intended_ns).counts.send_failures += 1;
                results.note_local_error(errno);
                self.note_fault(plan, (sequence, entry.intended_ns), results, |tally| &mut tally.refused);
                if let Some(watchlist) = &plan.traffic.watchlist
                    && let Some(place) = self.watched_place(plan, sequence)
                {
                    watchlist.outages.note_fault(place, Fault::Unsendable, entry.intended_ns);
                }
            }
        }
    }

    /// Judges one datagram that came from `source`. Returns the class of the datagram that it answers first,
    /// and the round trip from the intended send time in nanoseconds. `None`: it is no first answer.
    pub(crate) fn judge(
        &mut self,
        plan: &Plan,
        source: Option<SocketAddr>,
        reply: &[u8],
        arrival: Arrival,
        headers: ReceivedHeaders,
        results: &mut Results,
    ) -> Option<(Class, u64)> {
        let Some(Attributed { sequence, content, bytes_before }) = self.attribute(plan, reply) else {
            return self.judge_stray(plan, source, reply, arrival.read_ns, results);
        };
        let before = self.sent_log.answer(sequence)?;
        let which = (sequence, before.intended_ns);
        let second = results.outcomes.at(before.intended_ns);
        second.counts.bytes_received += reply.len() as u64;
        if before.state == State::Answered {
            second.counts.duplicated += 1;
            return None;
        }
        match before.state {
            State::Unreachable => self.declassify(plan, which, Class::Unreachable, results),
            State::Presumed(stray) => self.correct(plan, sequence, &before, stray, results),
            _ => {}
        }
        let second = results.outcomes.at(before.intended_ns);
        if let Some(distance) = self.sent_log.overtaken(sequence) {
            second.count_reordered(distance);
        }
        let received_ns = arrival.received_ns(before.sent_ns);
        let came_ns = received_ns.unwrap_or(arrival.read_ns);
        let waited_ns = came_ns.saturating_sub(before.sent_ns);
        let is_overdue = before.state == State::Overdue && received_ns.is_none();
        let is_late = is_overdue || waited_ns > plan.traffic.timeout_ns;
        let class = match content {
            _ if source != Some(self.peer(plan, sequence)) => Class::Misdirected,
            Content::Truncated => Class::Truncated,
            Content::Corrupted | Content::Resembling | Content::Foreign => Class::Corrupted,
            Content::Intact if is_late => Class::Late,
            Content::Intact => Class::Ok,
        };
        self.classify(plan, which, class, results);
        if class.is_wrong() && results.wants_example(class.name()) {
            let bytes_before = Some(bytes_before).filter(|bytes| *bytes > 0);
            let compared = self.compare(plan, sequence, before.intended_ns, reply);
            results.examples.push(Example {
                kind: class.name().into(),
                came_from: source,
                came_bytes: reply.len(),
                came_first: first_bytes(reply),
                answers: Some(SentMessage { bytes_before, ..compared }),
                in_flight: None,
                bytes_of: None,
            });
        }
        let round_trip_ns =
            if plan.is_scheduled() { came_ns.saturating_sub(before.intended_ns) } else { waited_ns };
        if matches!(class, Class::Ok | Class::Late) {
            results.round_trips.record(before.intended_ns, round_trip_ns);
            if results.outcomes.is_measured(before.intended_ns) {
                results.reading.note(arrival, received_ns);
                results.reply_headers.note(headers);
            }
            if plan.is_scheduled() && results.outcomes.is_measured(before.intended_ns) {
                results.from_actual.record(waited_ns);
            }
        }
        Some((class, round_trip_ns))
    }

    /// Notes an ICMP report: the network could not deliver a datagram to `peer`. `quoted` is the beginning of its
    /// payload, as far as the report quotes it. Returns whether a datagram of this flow became unreachable by it.
    pub(crate) fn unreachable(
        &mut self,
        plan: &Plan,
        peer: SocketAddr,
        quoted: &[u8],
        results: &mut Results,
    ) -> bool {
        let quoted_sequence = self.attribute(plan, quoted).map(|found| found.sequence);
        // routers need to quote only the UDP header: then the report counts for the oldest datagram to that peer
        let sequence = quoted_sequence.or_else(|| {
            let mut unanswered = self.sent_log.iter_unanswered();
            unanswered.find(|(sequence, _)| self.peer(plan, *sequence) == peer).map(|(sequence, _)| sequence)
        });
        let found = sequence.and_then(|sequence| Some((sequence, self.sent_log.unreachable(sequence)?)));
        let Some((sequence, before)) = found else { return false };
        self.classify(plan, (sequence, before.intended_ns), Class::Unreachable, results);
        true
    }

    /// Marks as overdue the datagrams that were sent at or before `sent_ns`. Returns whether there were any.
    pub(crate) fn expire(&mut self, sent_ns: u64) -> bool {
        self.sent_log.expire(sent_ns) > 0
    }

    /// Counts what has no answer at the end of the run as lost.
    pub(crate) fn count_unanswered(&self, plan: &Plan, results: &mut Results) {
        for (sequence, entry) in self.sent_log.iter_unanswered() {
            self.classify(plan, (sequence, entry.intended_ns), Class::Lost, results);
        }
    }
}

impl Train {
    fn sequences(&self) -> std::ops::Range<u64> {
        self.first..self.first + u64::from(self.datagrams)
    }
}

#[cfg(test)]
mod tests;
