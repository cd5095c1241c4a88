//! One worker thread: its ring, its flows and their sockets, and its part of the schedule.
//!
//! A turn composes what is due into the outgoing slots, notes the send time, and enters the kernel. Sends end inline, so
//! their slots are free when the kernel returns. Then the turn judges what has come and returns the buffers.

mod turn;

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tubular_echo::kernel::ring::{
    BufferConfig, BufferRing, Completion, DATAGRAM_HEADER_BYTES, File, FileTable, Outgoing, Ring, RingConfig,
    RingError, Step, Token, Wait,
};
use tubular_echo::kernel::sys;

use crate::model::pacer::Pause;
use crate::model::receive_clock::ReceiveClock;
use crate::model::results::{Results, ThreadTimes};
use crate::udp::error::UdpError;
use crate::udp::flow::{Flow, Train};
use crate::udp::plan::Plan;
use crate::udp::schedule::Schedule;
use crate::udp::socket;
use crate::workers::clock::{Clock, Usage};
use crate::workers::live::{Live, LiveCounts, Snapshot};
use crate::workers::stop::Stop;

/// The most trains of one turn. More would only delay each other.
const BATCH: u32 = 64;
/// Provided buffers. The kernel reports when they run out, so any number is correct.
const BUFFERS: u16 = 256;
/// Each buffer holds the largest datagram, or the largest train.
const BUFFER_BYTES: u32 = 65_536 + DATAGRAM_HEADER_BYTES as u32;
/// When all replies are there, a worker still waits until nothing has come for this long: a duplicate travels close
/// behind its original.
const QUIET_NS: u64 = 100_000_000;
/// So many refused datagrams, and none sent, end the run.
const REFUSED_MAX: u64 = 100;

const OP_RECEIVE: u8 = 1;
const OP_SEND: u8 = 2;
const OP_CANCEL: u8 = 3;
/// So many turns end the receives: the kernel cancels them in one, and their last completions come in the next.
const TURNS_TO_END: u32 = 3;

struct OpenFlow {
    flow: Flow,
    socket: Arc<UdpSocket>,
    /// ICMP reports that were read from the socket.
    icmp_reports: u64,
}

/// The train in an outgoing slot.
#[derive(Clone, Copy, Debug)]
struct SlotTrain {
    flow: u32,
    train: Train,
    tries: u8,
    /// The flow's ICMP reports at the time of the send.
    icmp_reports: u64,
    /// The kernel did not take it.
    is_refused: bool,
}

/// The outgoing slots of a turn.
struct Sending {
    slots: Outgoing,
    /// The trains in the slots, by slot.
    trains: Vec<SlotTrain>,
    /// Slots to be sent once more.
    retries: Vec<u32>,
}

struct Receiving {
    buffers: BufferRing,
    /// Flows whose multishot receive has ended.
    unarmed: Vec<u32>,
    clock: ReceiveClock,
}

/// The worker's view of its progress, which it shows to others.
struct Progress {
    live: Arc<Live>,
    counts: LiveCounts,
    last_received_ns: u64,
    /// When the last right reply in time came.
    last_ok_ns: u64,
    /// When all counts are to be shown next, to those who watch the run.
    publish_ns: u64,
    /// The flow whose datagrams without an answer are given up next, for the same.
    give_up_flow: usize,
}

pub(super) struct Worker {
    plan: Arc<Plan>,
    clock: Clock,
    stop: Arc<Stop>,
    ring: Ring,
    completions: Vec<Completion>,
    flows: Vec<OpenFlow>,
    schedule: Schedule,
    sending: Sending,
    receiving: Receiving,
    progress: Progress,
    results: Results,
    /// Datagrams that the sockets had dropped at the end of the warmup. `None`: it has not ended.
    warmup_drops: Option<u64>,
}

/// Opens the flows of worker `number`.
fn open_flows(
    plan: &Plan,
    number: u32,
    stop: &Stop,
    results: &mut Results,
) -> Result<Vec<OpenFlow>, UdpError> {
    let window = plan.window();
    let open = |id| {
        if stop.is_asked() {
            return Err(UdpError::Stopped);
        }
        let mut flow = Flow::new(plan, id, window);
        let opened = socket::open(&flow, plan, plan.gro)?;
        flow.set_own_port(opened.port);
        results.receive_buffer_bytes = results.receive_buffer_bytes.min(opened.receive_buffer_bytes);
        Ok(OpenFlow { flow, socket: Arc::new(opened.socket), icmp_reports: 0 })
    };
    plan.extent.flows_of(number).into_iter().map(open).collect()
}

/// A ring that knows the flows' sockets by their numbers.
fn open_ring(flows: &[OpenFlow]) -> Result<Ring, RingError> {
    let mut ring = Ring::new(RingConfig {
        submission_entries: 256,
        completion_entries: 4096,
        files: flows.len() as u32,
        file_table: FileTable::Registered,
        busy_poll: Duration::ZERO,
    })?;
    for (file, flow) in (0..).zip(flows) {
        ring.register_file(File(file), Arc::clone(&flow.socket))?;
    }
    Ok(ring)
}

impl Worker {
    /// Worker `number` with its sockets and its ring; its receives are armed. Call this on the worker's own thread.
    pub(super) fn new(
        number: u32,
        plan: Arc<Plan>,
        stop: Arc<Stop>,
        live: Arc<Live>,
    ) -> Result<Self, UdpError> {
        let mut results = Results::new(plan.extent.warmup);
        let own_flows = plan.extent.flows_of(number).len();
        results.destinations.reserve(plan.traffic.places(own_flows));
        results.sources.reserve(Some(own_flows));
        let flows = open_flows(&plan, number, &stop, &mut results)?;
        let mut ring = open_ring(&flows)?;
        let config = BufferConfig { count: BUFFERS, buffer_bytes: BUFFER_BYTES, incremental: false };
        let buffers = BufferRing::new(&mut ring, config)?;
        let slot_bytes = plan.traffic.sizes.max_bytes() * plan.train;
        let slots =
            Outgoing::new(BATCH, slot_bytes).map_err(|error| RingError::new(Step::ReserveMemory, &error))?;
        let flow_count = flows.len() as u32;
        let mut worker = Self {
            clock: Clock::starting_in(Duration::ZERO),
            stop,
            ring,
            completions: Vec::with_capacity(4096),
            flows,
            schedule: Schedule::new(&plan, number, flow_count),
            sending: Sending {
                slots,
                trains: Vec::with_capacity(BATCH as usize),
                retries: Vec::with_capacity(BATCH as usize),
            },
            receiving: Receiving {
                buffers,
                unarmed: (0..flow_count).collect(),
                clock: ReceiveClock::default(),
            },
            progress: Progress {
                live,
                counts: LiveCounts::default(),
                last_received_ns: 0,
                last_ok_ns: 0,
                publish_ns: plan
                    .traffic
                    .watchlist
                    .as_ref()
                    .map_or(u64::MAX, |watchlist| watchlist.next_ns(0)),
                give_up_flow: 0,
            },
            results,
            warmup_drops: plan.extent.warmup.is_zero().then_some(0),
            plan,
        };
        worker.arm();
        worker.ring.turn(Wait::No, &mut worker.completions).map_err(UdpError::Enter)?;
        if let Some(errno) = worker.completions.iter().find_map(|completion| completion.result().err()) {
            return Err(UdpError::Arm(errno));
        }
        sys::wake_punctually();
        Ok(worker)
    }

    /// Sends until the schedule ends, listens for the missing replies, and counts what is left.
    pub(super) fn run(mut self, clock: Clock) -> Result<Results, UdpError> {
        self.clock = clock;
        self.clock.wait_for_start();
        let mut times = self.send_all()?;
        self.listen()?;
        times.span_ns = self.schedule.span_ns(times.elapsed_ns, self.progress.last_ok_ns);
        self.results.thread_times.push(times);
        self.results.reading.clock_steps = self.receiving.clock.steps();
        self.count_the_rest();
        self.release_all()?;
        Ok(self.results)
    }

    /// Sends until the schedule ends. The span of the times is not known yet.
    fn send_all(&mut self) -> Result<ThreadTimes, UdpError> {
        let warmup_ns = self.plan.extent.warmup.as_nanos() as u64;
        let mut usage = Usage::begin(self.clock);
        loop {
            let now_ns = self.clock.now_ns();
            if self.is_over(now_ns) {
                break;
            }
            self.expire(now_ns);
            self.publish(now_ns);
            while let Some(flow) = self.schedule.take_rested(now_ns) {
                self.make_ready(flow);
            }
            if self.warmup_drops.is_none() && now_ns >= warmup_ns {
                self.warmup_drops = Some(self.drops());
            }
            self.compose(now_ns);
            let is_idle = self.sending.trains.is_empty();
            let longest_ns = self.look_every_ns().min(self.progress.publish_ns.saturating_sub(now_ns));
            let pause = self.schedule.pause(now_ns, longest_ns);
            self.exchange(pause)?;
            if is_idle && self.completions.is_empty() {
                let passed_ns = self.clock.now_ns() - now_ns;
                match pause {
                    Pause::Nanoseconds(asked_ns) => {
                        self.schedule.learn_overrun(passed_ns.saturating_sub(asked_ns));
                    }
                    Pause::None => usage.note_pacing(passed_ns),
                }
            }
            self.handle()?;
        }
        let times = usage.end();
        if !self.stop.is_asked() {
            self.results.unsent = self.schedule.unsent();
        }
        Ok(times)
    }

    /// Whether nothing more is to be sent.
    fn is_over(&self, now_ns: u64) -> bool {
        let LiveCounts { sent, refused, .. } = self.progress.counts;
        // if nothing can be sent at all, the first refusals show it as well as a million
        let has_only_refusals = sent == 0 && refused >= REFUSED_MAX && !self.plan.extent.is_endless();
        self.schedule.is_over(now_ns) || has_only_refusals || self.stop.is_asked()
    }

    /// Fills the outgoing slots with what is due.
    fn compose(&mut self, now_ns: u64) {
        let Self { plan, schedule, sending, results, .. } = self;
        while sending.trains.len() < BATCH as usize
            && let Some((flow, intended_ns)) = schedule.next(now_ns)
        {
            let slot = sending.trains.len() as u32;
            let datagrams = schedule.train_datagrams();
            let visits = plan.traffic.visits.as_ref();
            let visit = visits.map(|visits| (visits, visits.place(schedule.next_visit())));
            let flow = visit.map_or(flow, |(visits, place)| {
                first_fit(&self.flows, flow, visits.destination(place).port())
            });
            let composer = &mut self.flows[flow as usize].flow;
            let out = sending.slots.payload(slot);
            if let Some((_, place)) = visit {
                composer.visit(place);
            }
            let train = composer.compose(plan, intended_ns, now_ns, datagrams, out, results);
            if results.outcomes.is_measured(intended_ns) {
                schedule.count_measured(datagrams);
            }
            sending.trains.push(SlotTrain { flow, train, tries: 0, icmp_reports: 0, is_refused: false });
            schedule.after_train(flow, composer.waiting());
        }
    }

    fn make_ready(&mut self, flow: u32) {
        self.schedule.make_ready(flow, self.flows[flow as usize].flow.waiting());
    }

    /// Marks overdue datagrams, so that a closed loop does not wait for them forever.
    fn expire(&mut self, now_ns: u64) {
        if !self.schedule.must_expire(now_ns, self.look_every_ns()) {
            return;
        }
        let Some(sent_ns) = now_ns.checked_sub(self.plan.traffic.timeout_ns) else { return };
        for flow in 0..self.flows.len() as u32 {
            if self.flows[flow as usize].flow.expire(sent_ns) {
                self.make_ready(flow);
            }
        }
    }

    /// Shows all counts to those who watch the run, if they want them now.
    fn publish(&mut self, now_ns: u64) {
        /// In a turn, this many flows and datagrams are looked at: more than are sent in one.
        const OF_A_TURN: (usize, u64) = (8, 256);
        const OF_AN_INTERVAL: (usize, u64) = (usize::MAX, 1 << 14);
        let Some(watchlist) = &self.plan.traffic.watchlist else { return };
        let is_due = now_ns >= self.progress.publish_ns;
        let (flows, mut datagrams) = if is_due { OF_AN_INTERVAL } else { OF_A_TURN };
        let sent_ns = now_ns.saturating_sub(watchlist.patience_ns);
        for _ in 0..flows.min(self.flows.len()) {
            let nth = self.progress.give_up_flow;
            datagrams -= self.flows[nth].flow.give_up(&self.plan, sent_ns, datagrams);
            if datagrams == 0 {
                break;
            }
            self.progress.give_up_flow = if nth + 1 == self.flows.len() { 0 } else { nth + 1 };
        }
        if is_due {
            let mut counts = self.results.outcomes.total().counts;
            counts += &self.results.outcomes.warmup().counts;
            // the results count a datagram as lost only at the end, or when its place is needed
            counts.lost = self.flows.iter().map(|open| open.flow.given_up()).sum();
            self.progress.live.publish(Snapshot { at_ns: now_ns, counts });
            self.progress.publish_ns = watchlist.next_ns(now_ns);
        }
    }

    /// How often to look for overdue datagrams, and for the request to stop.
    fn look_every_ns(&self) -> u64 {
        (self.plan.traffic.timeout_ns / 8).clamp(1_000_000, 50_000_000)
    }

    /// Receives the missing replies. It ends when none is missing and nothing has come for a while, or when the linger
    /// time is up.
    fn listen(&mut self) -> Result<(), UdpError> {
        let linger_ns = self.plan.extent.linger.as_nanos() as u64;
        let begun_ns = self.clock.now_ns();
        loop {
            let now_ns = self.clock.now_ns();
            let quiet_ns = now_ns - begun_ns.max(self.progress.last_received_ns).min(now_ns);
            let linger_left_ns = (begun_ns + linger_ns).saturating_sub(now_ns);
            let is_complete = || self.flows.iter().all(|open| open.flow.unanswered() == 0);
            if linger_left_ns == 0 || self.stop.is_urgent() || (quiet_ns >= QUIET_NS && is_complete()) {
                return Ok(());
            }
            self.publish(now_ns);
            self.exchange(Pause::Nanoseconds(linger_left_ns.min(QUIET_NS / 4)))?;
            self.handle()?;
        }
    }

    /// Datagrams that the sockets have dropped so far.
    fn drops(&self) -> u64 {
        let drops = |open: &OpenFlow| u64::from(sys::socket_drops(open.socket.as_fd()).unwrap_or(0));
        self.flows.iter().map(drops).sum()
    }

    /// Counts the drops, the last ICMP reports, and the datagrams without an answer.
    fn count_the_rest(&mut self) {
        self.results.own_drops =
            self.warmup_drops.map_or(0, |of_warmup| self.drops().saturating_sub(of_warmup));
        for flow in 0..self.flows.len() as u32 {
            self.read_icmp_reports(flow);
            self.flows[flow as usize].flow.count_unanswered(&self.plan, &mut self.results);
        }
        let Self { plan, flows, results, .. } = self;
        results.destinations.name(|place| match &plan.traffic.visits {
            Some(visits) => visits.destination(place),
            None if plan.traffic.targets.spray() => plan.traffic.targets.at_place(place),
            None => flows[place].flow.home(),
        });
        let source = |place: usize| flows[place].flow.source(plan).expect("only sources are counted");
        results.sources.name(|place| source(place).ip());
    }

    /// Ends the receives, takes the sockets from the ring, and gives back its memory: the ring lives longer than the run,
    /// and a search has many runs.
    fn release_all(&mut self) -> Result<(), UdpError> {
        for flow in 0..self.flows.len() as u32 {
            self.ring.cancel(Token::new(OP_RECEIVE, 0, flow), Token::new(OP_CANCEL, 0, flow));
        }
        for _ in 0..TURNS_TO_END {
            self.enter(Wait::No)?;
            for completion in &self.completions {
                if let Some(part) = self.receiving.buffers.take(completion) {
                    self.receiving.buffers.recycle(part);
                }
            }
        }
        // a file that the kernel does not give up is closed when the process ends
        let _ = self.ring.unregister_files();
        self.flows.clear();
        if let Some(quiet) = self.ring.quiet() {
            self.receiving.buffers.give_back(quiet);
        }
        self.sending.slots.give_back();
        Ok(())
    }
}

/// The first flow from `flow` on that does not have `port` as its own: a server does not answer its own port.
fn first_fit(flows: &[OpenFlow], flow: u32, port: u16) -> u32 {
    let all = flows.len() as u32;
    let mut candidates = (flow..all).chain(0..flow);
    candidates.find(|flow| flows[*flow as usize].flow.own_port() != port).unwrap_or(flow)
}
