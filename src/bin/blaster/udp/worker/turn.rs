//! A turn of the ring: the slots go out, and what has come goes to its flow.

use std::os::fd::AsFd;
use std::time::Duration;

use tubular_echo::kernel::ring::{Completion, Errno, File, ReceivedPart, Token, Wait};
use tubular_echo::kernel::{addr, cmsg, sys};

use super::{OP_RECEIVE, OP_SEND, OpenFlow, Progress, Receiving, SlotTrain, Worker};
use crate::model::counts::Class;
use crate::model::flow_label;
use crate::model::pacer::Pause;
use crate::model::reply_headers::ReceivedHeaders;
use crate::model::results::IcmpReport;
use crate::udp::error::UdpError;
use crate::udp::plan::ReceiveTime;
use crate::workers::clock;

/// A send can fail with the ICMP error of an earlier datagram. If no ICMP report explains the failure, the worker tries
/// the train again this often: the kernel may mean this train itself.
const TRIES_MAX: u8 = 3;

impl Worker {
    /// Enters the kernel: it sends the slots and fetches what has come.
    pub(super) fn exchange(&mut self, pause: Pause) -> Result<(), UdpError> {
        self.arm();
        if !self.sending.trains.is_empty() {
            let sent_ns = self.clock.now_ns();
            for slot in 0..self.sending.trains.len() as u32 {
                let SlotTrain { flow, train, .. } = self.sending.trains[slot as usize];
                self.flows[flow as usize].flow.set_sent(&train, sent_ns);
                self.submit(slot);
            }
        }
        self.enter(match pause {
            Pause::None => Wait::No,
            Pause::Nanoseconds(ns) => Wait::Timeout(Duration::from_nanos(ns)),
        })
    }

    /// Submits the send of a slot.
    fn submit(&mut self, slot: u32) {
        let sent = &mut self.sending.trains[slot as usize];
        let OpenFlow { flow, icmp_reports, .. } = &self.flows[sent.flow as usize];
        sent.icmp_reports = *icmp_reports;
        let to = flow.labelled(&self.plan, sent.train.peer);
        let datagram = self.sending.slots.address(slot, to, sent.train.bytes);
        self.ring.send_to(File(sent.flow), datagram, Token::new(OP_SEND, 0, slot));
    }

    pub(super) fn enter(&mut self, wait: Wait) -> Result<(), UdpError> {
        self.completions.clear();
        self.ring.turn(wait, &mut self.completions).map_err(UdpError::Enter)?;
        Ok(())
    }

    /// Arms the receives that have ended, if there are buffers.
    pub(super) fn arm(&mut self) {
        let Receiving { buffers, unarmed, .. } = &mut self.receiving;
        if buffers.available() == 0 {
            return;
        }
        for flow in unarmed.drain(..) {
            self.ring.receive_datagrams(File(flow), buffers, Token::new(OP_RECEIVE, 0, flow));
        }
    }

    /// Handles the completions of the last turn, and sends refused trains again.
    pub(super) fn handle(&mut self) -> Result<(), UdpError> {
        loop {
            let now_ns = self.clock.now_ns();
            let completions = std::mem::take(&mut self.completions);
            for completion in &completions {
                let index = completion.token().index();
                match completion.result() {
                    Err(errno) if completion.token().operation() == OP_SEND => {
                        self.after_refusal(index, errno);
                    }
                    _ => self.after_receive(index, completion, now_ns)?,
                }
            }
            self.completions = completions;
            if self.sending.retries.is_empty() {
                break;
            }
            let retries = std::mem::take(&mut self.sending.retries);
            for slot in &retries {
                self.submit(*slot);
            }
            self.sending.retries = retries;
            self.sending.retries.clear();
            self.enter(Wait::No)?;
        }
        self.count_sent();
        Ok(())
    }

    /// Counts the trains of the turn that the kernel took, and empties the slots.
    fn count_sent(&mut self) {
        let Progress { live, counts, .. } = &mut self.progress;
        for SlotTrain { flow, train, .. } in self.sending.trains.drain(..).filter(|sent| !sent.is_refused) {
            let flow = &mut self.flows[flow as usize].flow;
            if let Some(slip_ns) = flow.count_sent(&self.plan, &train, &mut self.results) {
                live.slip.note(slip_ns);
            }
            counts.sent += u64::from(train.datagrams);
        }
        live.show(*counts);
    }

    /// A send has failed; a send that succeeds has no completion.
    fn after_refusal(&mut self, slot: u32, errno: Errno) {
        if is_icmp_errno(errno) {
            self.read_icmp_reports(self.sending.trains[slot as usize].flow);
        }
        let refused = &mut self.sending.trains[slot as usize];
        let SlotTrain { flow, train, .. } = *refused;
        let flow_state = &mut self.flows[flow as usize];
        // Each ICMP error refuses one send, and an earlier send caused it. So while reports come there is progress,
        // however often this train meets the error of another one.
        let is_explained = flow_state.icmp_reports > refused.icmp_reports;
        if is_icmp_errno(errno) && (is_explained || refused.tries < TRIES_MAX) {
            refused.tries += u8::from(!is_explained);
            self.sending.retries.push(slot);
        } else {
            refused.is_refused = true;
            flow_state.flow.count_refused(&self.plan, &train, errno.0, &mut self.results);
            self.progress.counts.refused += u64::from(train.datagrams);
            self.schedule.note_error(flow, self.clock.now_ns());
            self.make_ready(flow);
        }
    }

    fn after_receive(&mut self, flow: u32, completion: &Completion, now_ns: u64) -> Result<(), UdpError> {
        if !completion.more() {
            self.receiving.unarmed.push(flow);
        }
        match completion.result() {
            Ok(_) => {
                if let Some(part) = self.receiving.buffers.take(completion) {
                    self.follow_clock(now_ns);
                    self.progress.last_received_ns = now_ns;
                    self.judge(flow, &part, now_ns);
                    self.receiving.buffers.recycle(part);
                }
            }
            // the next turn arms it again: the buffers are back at the end of this one
            Err(Errno(libc::ENOBUFS)) => {}
            Err(errno) if is_icmp_errno(errno) => self.read_icmp_reports(flow),
            Err(errno) => return Err(UdpError::Receive(errno)),
        }
        Ok(())
    }

    /// Follows `CLOCK_REALTIME`, in which the kernel tells receive times, once for all that was read at `now_ns`.
    fn follow_clock(&mut self, now_ns: u64) {
        // what is read together has the same time; the first is the only one that is new
        if self.plan.receive_time == ReceiveTime::Own || self.progress.last_received_ns == now_ns {
            return;
        }
        let clock = self.clock;
        self.receiving.clock.follow(now_ns, clock::real_ns, || clock.read_with_real());
    }

    /// Judges each datagram of what was received.
    fn judge(&mut self, flow: u32, part: &ReceivedPart, now_ns: u64) {
        let Receiving { buffers, clock, .. } = &mut self.receiving;
        // cannot fail: the buffers are larger than any datagram, and their control area is larger than any control data
        let Ok(datagram) = buffers.datagram(part) else { return };
        let source = addr::decode(datagram.name);
        let mut rest = &buffers.bytes(part)[datagram.payload_offset as usize..];
        let receipt = cmsg::decode_receipt(datagram.control);
        let segment_bytes = receipt.segment_bytes.map_or(rest.len(), usize::from).max(1);
        let arrival = clock.arrival(now_ns, receipt.times);
        let headers = ReceivedHeaders { traffic_class: receipt.traffic_class, ttl: receipt.hops };
        let Self { plan, results, progress, .. } = self;
        let flow_state = &mut self.flows[flow as usize].flow;
        let mut has_answer = false;
        // at least once: an empty datagram is a datagram
        loop {
            let (reply, next) = rest.split_at(segment_bytes.min(rest.len()));
            let answer = flow_state.judge(plan, source, reply, arrival, headers, results);
            has_answer |= answer.is_some();
            match answer {
                None => {}
                Some((Class::Ok, round_trip_ns)) => {
                    progress.counts.ok += 1;
                    progress.last_ok_ns = now_ns;
                    progress.live.round_trips.note(round_trip_ns);
                }
                Some(_) => progress.counts.damaged += 1,
            }
            rest = next;
            if rest.is_empty() {
                break;
            }
        }
        if has_answer {
            self.schedule.note_reply(flow);
        }
        self.make_ready(flow);
    }

    /// Empties the error queue of a flow's socket. If the queue can't be read, its datagrams count as lost.
    pub(super) fn read_icmp_reports(&mut self, flow: u32) {
        let mut quoted = [0; 2048];
        let open = &mut self.flows[flow as usize];
        while let Ok(Some(error)) = sys::next_icmp_error(open.socket.as_fd(), &mut quoted) {
            let quote = &quoted[..error.quoted_bytes];
            // the kernel tells the flow label, too
            let destination = flow_label::with_flow_info(error.destination, 0);
            open.icmp_reports += 1;
            if open.flow.unreachable(&self.plan, destination, quote, &mut self.results) {
                self.progress.counts.damaged += 1;
                self.schedule.note_error(flow, self.clock.now_ns());
            }
            self.results.note_icmp_report(IcmpReport {
                from: error.report.offender.unwrap_or(destination.ip()),
                about: destination,
                icmp_type: error.report.icmp_type,
                icmp_code: error.report.icmp_code,
            });
        }
        self.make_ready(flow);
    }
}

/// Whether a socket reports an ICMP error by this errno, once and in whatever call comes next.
fn is_icmp_errno(errno: Errno) -> bool {
    matches!(
        errno.0,
        libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::ENOPROTOOPT
            | libc::EPROTO
            | libc::EOPNOTSUPP
            | libc::EACCES
            | libc::EMSGSIZE
    )
}
