//! One generator thread: its ring, its flows' sockets, its part of the schedule.
//!
//! A turn: compose what is due into the outgoing slots, stamp it, enter the kernel (sends end inline,
//! so their slots are free again when it returns), judge what came, put the buffers back.

use std::collections::VecDeque;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tubular_echo::kernel::ring::{
    BufferConfig, BufferRing, Completion, DATAGRAM_HEADER_BYTES, Errno, File, FileTable, Outgoing,
    ReceivedPart, Ring, RingConfig, RingError, Step, Token, Wait,
};
use tubular_echo::kernel::sys;
use tubular_echo::kernel::{addr, cmsg};

use super::flow::{Flow, Plan, Train};
use super::socket;
use super::{Load, Mode, UdpError};
use crate::model::outcomes::Class;
use crate::model::pacer::{Pacer, WakeMargin};
use crate::model::results::{IcmpReport, Results, ThreadTimes};
use crate::workers::clock::{self, Clock};
use crate::workers::live::{Live, LiveCounts};
use crate::workers::stop::Stop;

/// Trains in one turn at the most. More would only make each other wait.
const BATCH: u32 = 64;
/// Provided buffers. The kernel tells when they run out, so their number is no limit to correctness.
const BUFFERS: u16 = 256;
/// Room for the largest datagram, or the largest train, in each.
const BUFFER_BYTES: u32 = 65_536 + DATAGRAM_HEADER_BYTES as u32;
/// How long nothing may come before a worker whose books are complete believes that nothing will:
/// a duplicate travels close behind its original.
const QUIET_NS: u64 = 100_000_000;
/// A train that met another one's error, though no ICMP error came that could explain it, is tried again this
/// often: the kernel may mean this train itself.
const TRIES_MAX: u8 = 3;

/// So many refused sends, and not one that went out, end the run.
const FAILURES_MAX: u64 = 100;

const OP_RECEIVE: u8 = 1;
const OP_SEND: u8 = 2;

/// Where the next train comes from.
#[derive(Debug)]
enum Source {
    Open(Pacer),
    Closed { in_flight: u32, ready: VecDeque<u32>, is_ready: Vec<bool> },
    Flood,
}

/// What lies in an outgoing slot.
#[derive(Clone, Copy, Debug)]
struct Sending {
    flow: u32,
    train: Train,
    tries: u8,
    /// ICMP errors that its flow had heard of when it was handed to the kernel.
    heard: u64,
    /// The kernel did not take it.
    is_refused: bool,
}

/// One generator thread's everything.
pub(super) struct Worker {
    plan: Arc<Plan>,
    clock: Clock,
    stop: Arc<Stop>,
    live: Arc<Live>,
    ring: Ring,
    buffers: BufferRing,
    outgoing: Outgoing,
    flows: Vec<Flow>,
    sockets: Vec<Arc<UdpSocket>>,
    /// For each flow, how many ICMP errors were read.
    heard: Vec<u64>,
    source: Source,
    guard: WakeMargin,
    /// The flow that sends next, where flows take turns.
    turn_of: u32,
    /// What the slots hold in this turn.
    sending: Vec<Sending>,
    /// Slots to be sent once more.
    again: Vec<u32>,
    /// Flows whose multishot receive has ended.
    unarmed: Vec<u32>,
    completions: Vec<Completion>,
    results: Results,
    shown: LiveCounts,
    /// Measured datagrams still to be sent.
    remaining: u64,
    /// Intended send times end here.
    end_ns: u64,
    linger_ns: u64,
    settled_at_ns: u64,
    last_received_ns: u64,
    /// When the last right reply in time came.
    right_at_ns: u64,
    /// The warmup ends here.
    warm_at_ns: u64,
    /// Datagrams that the sockets had dropped by then. `None`: it has not ended.
    drops_of_warmup: Option<u64>,
}

impl Worker {
    /// Worker `number` of `load`: its sockets and its ring, armed. To be called on its own thread.
    pub(super) fn new(number: u32, load: &Load, stop: Arc<Stop>, live: Arc<Live>) -> Result<Self, UdpError> {
        let plan = Arc::clone(&load.plan);
        let ids: Vec<u32> = (number..load.flows).step_by(load.workers as usize).collect();
        let mut flows: Vec<Flow> = ids.iter().map(|&id| Flow::new(&plan, id, load.window)).collect();
        let mut results = Results::new(load.warmup);
        let mut sockets = Vec::with_capacity(flows.len());
        for flow in &mut flows {
            if stop.is_asked() {
                return Err(UdpError::Stopped);
            }
            let made = socket::open(flow, &plan, load.gro)?;
            flow.sends_from(made.port);
            results.receive_buffer_bytes = results.receive_buffer_bytes.min(made.receive_buffer_bytes);
            sockets.push(Arc::new(made.socket));
        }
        let mut ring = Ring::new(RingConfig {
            submission_entries: 256,
            completion_entries: 4096,
            files: flows.len() as u32,
            file_table: FileTable::Registered,
            busy_poll: Duration::ZERO,
        })?;
        for (file, socket) in (0..).zip(&sockets) {
            ring.register_file(File(file), Arc::clone(socket))?;
        }
        let config =
            BufferConfig { group: 0, count: BUFFERS, buffer_bytes: BUFFER_BYTES, incremental: false };
        let buffers = BufferRing::new(&ring, config)?;
        let slot_bytes = plan.sizes.max_bytes() * plan.train;
        let outgoing =
            Outgoing::new(BATCH, slot_bytes).map_err(|error| RingError::new(Step::ReserveMemory, &error))?;
        let source = match load.mode {
            Mode::Open(rate) => Source::Open(Pacer::new(rate, plan.train, number, load.workers)),
            Mode::Closed { in_flight } => Source::Closed {
                in_flight: in_flight.saturating_mul(plan.train),
                ready: (0..flows.len() as u32).collect(),
                is_ready: vec![true; flows.len()],
            },
            Mode::Flood => Source::Flood,
        };
        let unarmed = (0..flows.len() as u32).collect();
        let heard = vec![0; flows.len()];
        let mut worker = Self {
            plan,
            clock: Clock::starting_in(Duration::ZERO),
            stop,
            live,
            ring,
            buffers,
            outgoing,
            flows,
            sockets,
            heard,
            source,
            guard: WakeMargin::new(),
            turn_of: 0,
            sending: Vec::with_capacity(BATCH as usize),
            again: Vec::with_capacity(BATCH as usize),
            unarmed,
            completions: Vec::with_capacity(4096),
            results,
            shown: LiveCounts::default(),
            remaining: load.share_of_count(number),
            end_ns: load.end_ns(),
            linger_ns: load.linger.as_nanos() as u64,
            settled_at_ns: 0,
            last_received_ns: 0,
            right_at_ns: 0,
            warm_at_ns: load.warmup.as_nanos() as u64,
            drops_of_warmup: load.warmup.is_zero().then_some(0),
        };
        worker.arm();
        worker.ring.turn(Wait::No, &mut worker.completions).map_err(UdpError::Enter)?;
        if let Some(errno) = worker.completions.iter().find_map(|completion| completion.result().err()) {
            return Err(UdpError::Arm(errno));
        }
        sys::wake_punctually();
        Ok(worker)
    }

    /// Sends until the end of the schedule, listens for what is still on its way, closes the books.
    pub(super) fn run(mut self, clock: Clock) -> Result<Results, UdpError> {
        self.clock = clock;
        self.clock.wait_for_start();
        let start_ns = self.clock.now_ns();
        let cpu_at_start = sys::thread_cpu_time();
        let waits_at_start = clock::waits();
        let mut pacing_ns = 0;
        loop {
            let now_ns = self.clock.now_ns();
            if self.is_over(now_ns) {
                break;
            }
            self.settle(now_ns);
            if self.drops_of_warmup.is_none() && now_ns >= self.warm_at_ns {
                self.drops_of_warmup = Some(self.drops());
            }
            self.compose(now_ns);
            let idle = self.sending.is_empty();
            let wait = self.wait(now_ns);
            self.exchange(wait)?;
            if idle && self.completions.is_empty() {
                let passed_ns = self.clock.now_ns() - now_ns;
                match wait {
                    Wait::Timeout(asked) => {
                        self.guard.learn(passed_ns.saturating_sub(asked.as_nanos() as u64));
                    }
                    Wait::No | Wait::Completion => pacing_ns += passed_ns,
                }
            }
            self.handle()?;
        }
        let cpu_ns = sys::thread_cpu_time().saturating_sub(cpu_at_start).as_nanos() as u64;
        let elapsed_ns = self.clock.now_ns() - start_ns;
        if let Source::Open(pacer) = &self.source
            && !self.stop.is_asked()
        {
            let left = pacer.left(self.end_ns).saturating_mul(u64::from(self.plan.train));
            // without a duration the count is the schedule's end
            self.results.unsent =
                if self.end_ns == u64::MAX { self.remaining } else { left.min(self.remaining) };
        }
        let waits = clock::waits() - waits_at_start;
        let is_counted_out = self.remaining == 0;
        self.listen()?;
        let span_ns = match &self.source {
            Source::Open(pacer) => elapsed_ns.max(pacer.covered_ns().min(self.end_ns)),
            Source::Closed { .. } if is_counted_out => elapsed_ns.max(self.right_at_ns),
            Source::Closed { .. } | Source::Flood => elapsed_ns,
        };
        self.results.thread_times.push(ThreadTimes { elapsed_ns, span_ns, cpu_ns, pacing_ns, waits });
        self.close();
        Ok(self.results)
    }

    /// Whether nothing more is to be sent.
    fn is_over(&self, now_ns: u64) -> bool {
        let next_ns = match &self.source {
            Source::Open(pacer) => pacer.next_ns(),
            Source::Closed { .. } | Source::Flood => now_ns,
        };
        // where nothing can be sent at all, the first refusals say so as well as a million
        let is_hopeless = self.shown.sent == 0 && self.shown.refused >= FAILURES_MAX;
        // a schedule that can't be kept is given up some time after its end, and the rest is reported
        let is_overrun = now_ns >= self.end_ns.saturating_add(self.plan.timeout_ns);
        next_ns >= self.end_ns || is_overrun || self.remaining == 0 || is_hopeless || self.stop.is_asked()
    }

    /// Fills the outgoing slots with what is due.
    fn compose(&mut self, now_ns: u64) {
        while self.sending.len() < BATCH as usize && self.remaining > 0 {
            let (flow, intended_ns) = match &mut self.source {
                Source::Open(pacer) => {
                    let until_ns = now_ns.min(self.end_ns - 1);
                    let Some(intended_ns) = pacer.take(until_ns) else { break };
                    (self.turn_of, intended_ns)
                }
                Source::Closed { ready, .. } => {
                    let Some(flow) = ready.front() else { break };
                    (*flow, now_ns)
                }
                Source::Flood => (self.turn_of, now_ns),
            };
            self.turn_of = if self.turn_of + 1 == self.flows.len() as u32 { 0 } else { self.turn_of + 1 };
            let slot = self.sending.len() as u32;
            let datagrams = u64::from(self.plan.train).min(self.remaining) as u32;
            let train = self.flows[flow as usize].compose(
                &self.plan,
                intended_ns,
                now_ns,
                datagrams,
                self.outgoing.payload(slot),
                &mut self.results,
            );
            if self.results.outcomes.is_measured(intended_ns) {
                self.remaining -= u64::from(datagrams);
            }
            self.sending.push(Sending { flow, train, tries: 0, heard: 0, is_refused: false });
            self.leave_line(flow);
        }
    }

    /// Ends the turn of the closed loop's first flow in line when it has no more room in flight: what was
    /// answered together is sent together, so that its datagrams may travel as one.
    fn leave_line(&mut self, flow: u32) {
        let Source::Closed { in_flight, ready, is_ready } = &mut self.source else { return };
        if self.flows[flow as usize].waiting() + self.plan.train > *in_flight {
            ready.pop_front();
            is_ready[flow as usize] = false;
        }
    }

    /// How long the kernel may keep us.
    fn wait(&self, now_ns: u64) -> Wait {
        let longest_ns = self.look_every_ns();
        match &self.source {
            Source::Open(pacer) => {
                match pacer.next_ns().saturating_sub(now_ns).min(longest_ns).checked_sub(self.guard.ns()) {
                    None | Some(0) => Wait::No,
                    Some(sleep_ns) => Wait::Timeout(Duration::from_nanos(sleep_ns)),
                }
            }
            Source::Closed { ready, .. } if ready.is_empty() => {
                Wait::Timeout(Duration::from_nanos(longest_ns))
            }
            Source::Closed { .. } | Source::Flood => Wait::No,
        }
    }

    /// Enters the kernel: sends what the slots hold, fetches what has come.
    fn exchange(&mut self, wait: Wait) -> Result<(), UdpError> {
        self.arm();
        if !self.sending.is_empty() {
            let sent_ns = self.clock.now_ns();
            for (slot, sending) in (0..).zip(&mut self.sending) {
                sending.heard = self.heard[sending.flow as usize];
                let Sending { flow, train, .. } = sending;
                self.flows[*flow as usize].stamp(train, sent_ns);
                let datagram = self.outgoing.address(slot, train.peer, train.bytes);
                self.ring.send_to(File(*flow), datagram, Token::new(OP_SEND, 0, slot));
            }
        }
        self.completions.clear();
        self.ring.turn(wait, &mut self.completions).map_err(UdpError::Enter)?;
        Ok(())
    }

    /// Arms the receives that have ended, as long as there are buffers for them.
    fn arm(&mut self) {
        if self.buffers.available() == 0 {
            return;
        }
        for flow in self.unarmed.drain(..) {
            self.ring.receive_datagrams(File(flow), &self.buffers, Token::new(OP_RECEIVE, 0, flow));
        }
    }

    /// Handles what the last turn brought, and what comes while refused trains are tried again.
    fn handle(&mut self) -> Result<(), UdpError> {
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
            if self.again.is_empty() {
                break;
            }
            for slot in self.again.drain(..) {
                let sending = &mut self.sending[slot as usize];
                sending.heard = self.heard[sending.flow as usize];
                let Sending { flow, train, .. } = *sending;
                let datagram = self.outgoing.address(slot, train.peer, train.bytes);
                self.ring.send_to(File(flow), datagram, Token::new(OP_SEND, 0, slot));
            }
            self.completions.clear();
            self.ring.turn(Wait::No, &mut self.completions).map_err(UdpError::Enter)?;
        }
        for Sending { flow, train, .. } in self.sending.drain(..).filter(|sending| !sending.is_refused) {
            if let Some(slip_ns) = self.flows[flow as usize].sent(&self.plan, &train, &mut self.results) {
                self.live.slip.note(slip_ns);
            }
            self.shown.sent += u64::from(train.datagrams);
        }
        self.live.show(self.shown);
        Ok(())
    }

    /// A send has failed, as all have that have a completion.
    fn after_refusal(&mut self, slot: u32, errno: Errno) {
        if is_about_another(errno) {
            self.read_errors(self.sending[slot as usize].flow);
        }
        let sending = &mut self.sending[slot as usize];
        let Sending { flow, train, .. } = *sending;
        // Each ICMP error refuses one send, and was caused by one that went out: as long as they come there is
        // progress, however often this train is met by another one's.
        let is_explained = self.heard[flow as usize] > sending.heard;
        if is_about_another(errno) && (is_explained || sending.tries < TRIES_MAX) {
            sending.tries += u8::from(!is_explained);
            self.again.push(slot);
        } else {
            sending.is_refused = true;
            self.flows[flow as usize].refused(&train, errno.0, &mut self.results);
            self.shown.refused += u64::from(train.datagrams);
            self.make_ready(flow);
        }
    }

    fn after_receive(&mut self, flow: u32, completion: &Completion, now_ns: u64) -> Result<(), UdpError> {
        if !completion.more() {
            self.unarmed.push(flow);
        }
        match completion.result() {
            Ok(_) => {
                if let Some(part) = self.buffers.take(completion) {
                    self.last_received_ns = now_ns;
                    self.judge(flow, &part, now_ns);
                    self.buffers.recycle(part);
                }
            }
            // armed again when buffers are back, and that is at the end of this turn
            Err(Errno(libc::ENOBUFS)) => {}
            Err(errno) if is_about_another(errno) => self.read_errors(flow),
            Err(errno) => return Err(UdpError::Receive(errno)),
        }
        Ok(())
    }

    /// Judges each datagram of what was received.
    fn judge(&mut self, flow: u32, part: &ReceivedPart, now_ns: u64) {
        // cannot fail: the buffers are larger than any datagram, the control area larger than any control
        let Ok(datagram) = self.buffers.datagram(part) else { return };
        let source = addr::decode(datagram.name);
        let mut rest = &self.buffers.bytes(part)[datagram.payload_offset as usize..];
        let segment_bytes =
            cmsg::decode(datagram.control).segment_bytes.map_or(rest.len(), usize::from).max(1);
        // once even if it is empty: an empty datagram is one too
        loop {
            let (reply, next) = rest.split_at(segment_bytes.min(rest.len()));
            let judged =
                self.flows[flow as usize].judge(&self.plan, source, reply, now_ns, &mut self.results);
            match judged {
                None => {}
                Some((Class::Ok, round_trip_ns)) => {
                    self.shown.ok += 1;
                    self.right_at_ns = now_ns;
                    self.live.round_trips.note(round_trip_ns);
                }
                Some(_) => self.shown.damaged += 1,
            }
            rest = next;
            if rest.is_empty() {
                break;
            }
        }
        self.make_ready(flow);
    }

    /// Empties the flow's error queue. A queue that can't be read is as good as empty: what it holds
    /// then counts as lost.
    fn read_errors(&mut self, flow: u32) {
        let mut quoted = [0; 2048];
        while let Ok(Some(error)) = sys::next_icmp_error(self.sockets[flow as usize].as_fd(), &mut quoted) {
            let quote = &quoted[..error.quoted_bytes];
            self.heard[flow as usize] += 1;
            let flow = &mut self.flows[flow as usize];
            if flow.unreachable(&self.plan, error.destination, quote, &mut self.results) {
                self.shown.damaged += 1;
            }
            self.results.complain(IcmpReport {
                from: error.report.offender.unwrap_or(error.destination.ip()),
                about: error.destination,
                icmp_type: error.report.icmp_type,
                icmp_code: error.report.icmp_code,
            });
        }
        self.make_ready(flow);
    }

    /// Lines a flow up for sending, if it is a closed loop's and has room in flight.
    fn make_ready(&mut self, flow: u32) {
        let Source::Closed { in_flight, ready, is_ready } = &mut self.source else { return };
        let waiting = self.flows[flow as usize].waiting();
        if !is_ready[flow as usize] && waiting + self.plan.train <= *in_flight {
            is_ready[flow as usize] = true;
            ready.push_back(flow);
        }
    }

    /// A closed loop must not wait for ever: what is overdue makes room in flight.
    fn settle(&mut self, now_ns: u64) {
        if !matches!(self.source, Source::Closed { .. }) || now_ns < self.settled_at_ns + self.look_every_ns()
        {
            return;
        }
        self.settled_at_ns = now_ns;
        let Some(sent_ns) = now_ns.checked_sub(self.plan.timeout_ns) else { return };
        for flow in 0..self.flows.len() as u32 {
            if self.flows[flow as usize].settle(sent_ns) {
                self.make_ready(flow);
            }
        }
    }

    /// How often to look for what is overdue, and whether to stop.
    fn look_every_ns(&self) -> u64 {
        (self.plan.timeout_ns / 8).clamp(1_000_000, 50_000_000)
    }

    /// Takes in what is still on its way: until nothing is missing and nothing came for a while, or the
    /// patience is at an end.
    fn listen(&mut self) -> Result<(), UdpError> {
        let begun_ns = self.clock.now_ns();
        loop {
            let now_ns = self.clock.now_ns();
            let quiet_ns = now_ns - begun_ns.max(self.last_received_ns).min(now_ns);
            let linger_left_ns = (begun_ns + self.linger_ns).saturating_sub(now_ns);
            let is_complete = || self.flows.iter().all(|flow| flow.unanswered() == 0);
            if linger_left_ns == 0 || self.stop.is_urgent() || (quiet_ns >= QUIET_NS && is_complete()) {
                return Ok(());
            }
            let sleep_ns = linger_left_ns.min(QUIET_NS / 4);
            self.exchange(Wait::Timeout(Duration::from_nanos(sleep_ns)))?;
            self.handle()?;
        }
    }

    /// Datagrams that our sockets have dropped so far.
    fn drops(&self) -> u64 {
        self.sockets.iter().map(|socket| u64::from(sys::socket_drops(socket.as_fd()).unwrap_or(0))).sum()
    }

    /// Closes the books.
    fn close(&mut self) {
        self.results.own_drops =
            self.drops_of_warmup.map_or(0, |of_warmup| self.drops().saturating_sub(of_warmup));
        for flow in 0..self.flows.len() as u32 {
            self.read_errors(flow);
            self.flows[flow as usize].close(&mut self.results);
        }
    }
}

/// Errnos that a socket reports once for an ICMP error, in whatever call comes next.
fn is_about_another(errno: Errno) -> bool {
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
