//! One worker thread: its ring with its connections, from the first connect to the last count.
//!
//! A turn gives what is due to connections, writes what they have to send into the outgoing slots, and enters the kernel.
//! Sends end inline, so the slots are free when the kernel returns. Then the turn judges what has come, and each connection
//! goes on. A connection sends from one slot at a time, so its messages stay in order. When its socket has no room, its
//! messages wait in its own queue until the socket is writable again.

mod calls;
mod turn;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tubular_echo::kernel::ring::{
    BufferConfig, BufferRing, Completion, Errno, File, FileTable, Outgoing, Ring, RingConfig, RingError, Step,
};
use tubular_echo::kernel::sys::{self, IntOption};

use crate::model::pacer::Pause;
use crate::model::results::{Results, ThreadTimes};
use crate::tcp::account::Account;
use crate::tcp::buffers::{BUFFER_BYTES, BUFFERS, Receiving, SLOT_BYTES, SLOTS, Sending};
use crate::tcp::calls::Calls;
use crate::tcp::connect::{Connected, FirstConnections};
use crate::tcp::connection::{Connection, Stage};
use crate::tcp::error::TcpError;
use crate::tcp::plan::{Mode, Plan, SHUTDOWN_LONGEST};
use crate::tcp::schedule::{Due, Schedule};
use crate::workers::clock::{Clock, Usage};
use crate::workers::live::Live;
use crate::workers::stop::Stop;
use crate::workers::threads::StartGate;

/// How often a worker looks whether it is time to end.
const LOOK_EVERY_NS: u64 = 10_000_000;
/// So many failed connections, and none established, end the run.
const FAILURES_MAX: u64 = 100;
/// So many messages of a worker may be without an echo by the schedule. Each takes 64 bytes of memory.
const WAITING_MAX: u64 = 1 << 22;
/// So much of a stream is sent in one call, unless a message is longer.
const STREAM_BYTES: usize = 16 << 10;

const OP_RECEIVE: u8 = 1;
const OP_SEND: u8 = 2;
const OP_POLL: u8 = 3;

struct Worker {
    account: Account,
    clock: Clock,
    stop: Arc<Stop>,
    ring: Ring,
    completions: Vec<Completion>,
    connections: Vec<Connection>,
    schedule: Schedule,
    sending: Sending,
    receiving: Receiving,
    calls: Calls,
    /// Connections that are not over.
    running: usize,
    /// The place of the connection that gets the next message of the schedule.
    next_place: usize,
}

/// Runs worker `number`. `None`: another worker failed, and there is no run.
pub(super) fn run(
    number: u32,
    plan: &Arc<Plan>,
    stop: &Arc<Stop>,
    first: &FirstConnections,
    live: Arc<Live>,
    start_gate: StartGate,
) -> Result<Option<Results>, TcpError> {
    let ids = plan.extent.flows_of(number);
    let mut worker = Worker::new(number, &ids, plan, stop, live)?;
    let connected = first.connect(plan, &ids, stop)?;
    // a worker without a connection has nothing to do, and its times say nothing
    let has_load = connected.is_empty() || connected.iter().any(Result::is_ok);
    worker.take_in(connected)?;
    let Some(clock) = start_gate.ready() else { return Ok(None) };
    first.check(plan)?;
    let mut results = worker.run(clock, has_load)?;
    results.destinations.name(|place| match &plan.traffic.visits {
        Some(visits) => visits.destination(place),
        None => plan.addresses(ids[place]).0,
    });
    let sources = plan.traffic.visits.as_ref().map_or(&[][..], |visits| visits.sources());
    results.sources.name(|place| sources[place].ip());
    Ok(Some(results))
}

impl Worker {
    /// Call this on the worker's own thread.
    fn new(
        number: u32,
        ids: &[u32],
        plan: &Arc<Plan>,
        stop: &Arc<Stop>,
        live: Arc<Live>,
    ) -> Result<Self, TcpError> {
        let mut ring = Ring::new(RingConfig {
            submission_entries: 256,
            completion_entries: (ids.len() * 2).next_power_of_two().clamp(4096, 65_536) as u32,
            files: ids.len() as u32,
            // before Linux 6.13 a file that leaves a table stays open as long as others are in use
            file_table: if plan.mode == Mode::Connect { FileTable::Ordinary } else { FileTable::Registered },
            busy_poll: Duration::ZERO,
        })?;
        let config = BufferConfig { count: BUFFERS, buffer_bytes: BUFFER_BYTES, incremental: false };
        let buffers = BufferRing::new(&mut ring, config)?;
        let slots =
            Outgoing::new(SLOTS, SLOT_BYTES).map_err(|error| RingError::new(Step::ReserveMemory, &error))?;
        sys::wake_punctually();
        Ok(Self {
            account: Account::new(number, Arc::clone(plan), live),
            clock: Clock::starting_in(Duration::ZERO),
            stop: Arc::clone(stop),
            ring,
            completions: Vec::with_capacity(4096),
            connections: ids.iter().map(|id| Connection::new(plan, *id)).collect(),
            schedule: Schedule::new(plan, number),
            sending: Sending::new(slots),
            receiving: Receiving { buffers, unarmed: Vec::new() },
            calls: Calls::new(ids.len()),
            running: 0,
            next_place: 0,
        })
    }

    /// Takes in the connections that were made before the clock starts, and counts those that were not.
    fn take_in(&mut self, connected: Vec<Connected>) -> Result<(), TcpError> {
        for (place, connected) in (0..).zip(connected) {
            self.account.results.connections.attempted += 1;
            match connected {
                Ok(socket) => {
                    let socket = Arc::new(socket);
                    self.register(place, &socket)?;
                    self.running += 1;
                    self.open(place);
                }
                // it belongs to the measured time, too
                Err(error) => {
                    self.connections[place as usize].note_failure(&mut self.account, &error, true);
                }
            }
        }
        Ok(())
    }

    /// Makes the socket of a connection known to the ring.
    fn register(&mut self, place: u32, socket: &Arc<OwnedFd>) -> Result<(), RingError> {
        self.ring.register_file(File(place), Arc::clone(socket))?;
        self.connections[place as usize].link.socket = Some(Arc::clone(socket));
        Ok(())
    }

    /// A connection is established: it is read from now on.
    fn open(&mut self, place: u32) {
        self.account.results.connections.established += 1;
        let connection = &mut self.connections[place as usize];
        connection.link.stage = Stage::Open;
        self.receiving.unarmed.push(place);
        // each message is sent at once
        let socket = connection.link.socket.as_ref().expect("an open connection has a socket");
        if let Err(error) = sys::set_option(socket.as_fd(), IntOption::NO_DELAY, 1) {
            self.end(place, Err(error));
        }
    }

    /// Sends until the time is up, waits for the missing echoes, and counts what is left.
    fn run(mut self, clock: Clock, has_load: bool) -> Result<Results, TcpError> {
        self.clock = clock;
        self.clock.wait_for_start();
        let start_ns = self.clock.now_ns();
        let mut times = self.send_all()?;
        self.schedule.end();
        for place in 0..self.connections.len() as u32 {
            self.proceed(place, self.clock.now_ns());
        }
        self.wait_for_ends(self.patience_ns())?;
        let last_ns = self.account.last_ok_ns.max(self.account.last_sent_ns);
        times.span_ns = self.schedule.span_ns(times.elapsed_ns, last_ns.saturating_sub(start_ns));
        if has_load {
            self.account.results.thread_times.push(times);
        }
        self.shut_down_the_rest()?;
        Ok(self.account.results)
    }

    /// Sends until it is time to stop. The span of the times is not known yet.
    fn send_all(&mut self) -> Result<ThreadTimes, TcpError> {
        let mut usage = Usage::begin(self.clock);
        for place in 0..self.connections.len() as u32 {
            self.start(place, self.clock.now_ns());
        }
        loop {
            let now_ns = self.clock.now_ns();
            if self.is_time_to_end(now_ns) {
                break;
            }
            self.follow_schedule(now_ns);
            self.expire(now_ns);
            self.account.publish(now_ns);
            let pause = self.pause(now_ns);
            let is_idle = !self.sending.has_ready();
            self.turn(pause)?;
            if is_idle && self.completions.is_empty() {
                let passed_ns = self.clock.now_ns() - now_ns;
                match pause {
                    Pause::Nanoseconds(asked_ns) => {
                        self.schedule.learn_overrun(passed_ns.saturating_sub(asked_ns));
                    }
                    Pause::None => usage.note_pacing(passed_ns),
                }
            }
        }
        let times = usage.end();
        if !self.stop.is_asked() {
            self.account.results.unsent += self.schedule.unsent();
        }
        Ok(times)
    }

    /// Whether it is time to stop sending.
    fn is_time_to_end(&self, now_ns: u64) -> bool {
        let plan = &self.account.plan;
        let has_nobody = plan.mode != Mode::Connect && self.running == 0;
        self.schedule.is_over(now_ns)
            || self.stop.is_asked()
            || has_nobody
            || self.has_only_failures()
            || self.is_given_up(now_ns)
    }

    /// Whether every connection has failed so far. In the other modes, the run would not have begun.
    fn has_only_failures(&self) -> bool {
        let plan = &self.account.plan;
        let connections = &self.account.results.connections;
        plan.mode == Mode::Connect
            && plan.traffic.visits.is_none()
            && !plan.extent.is_endless()
            && connections.established == 0
            && connections.failed >= FAILURES_MAX
    }

    /// Whether a run that only a count ends has received nothing for the linger time. A run with a duration waits: the
    /// server may come back. And a schedule has an end.
    fn is_given_up(&self, now_ns: u64) -> bool {
        let linger_ns = self.account.plan.extent.linger.as_nanos() as u64;
        self.schedule.is_endless()
            && !self.account.plan.extent.is_endless()
            && !self.account.plan.is_scheduled()
            && now_ns > self.account.last_received_ns.saturating_add(linger_ns)
    }

    /// Gives the messages that are due to the connections in turns, or makes the connections that are due.
    fn follow_schedule(&mut self, now_ns: u64) {
        let plan = &self.account.plan;
        match plan.mode {
            Mode::Connect => self.call(now_ns),
            Mode::Open => {
                while let Some(due) = self.schedule.next(now_ns) {
                    self.send_by_schedule(due, now_ns);
                }
            }
            Mode::PingPong | Mode::Stream => {}
        }
    }

    /// Gives a message to the next connection.
    fn send_by_schedule(&mut self, due: Due, now_ns: u64) {
        let intended_ns = due.intended_ns;
        let all = self.connections.len();
        let mut places = (0..all).map(|nth| (self.next_place + nth) % all);
        let place = places.find(|place| self.connections[*place].link.stage == Stage::Open);
        let Some(place) = place.filter(|_| self.account.waiting < WAITING_MAX) else {
            if self.account.is_measured(intended_ns) {
                self.schedule.count_measured();
                self.account.results.unsent += 1;
            }
            return;
        };
        self.next_place = (place + 1) % all;
        self.account.note_slip(intended_ns, now_ns - intended_ns);
        self.add_message(place as u32, due, now_ns);
    }

    /// Gives a message to a connection, to send it from `now_ns` on. Returns its size.
    fn add_message(&mut self, place: u32, due: Due, now_ns: u64) -> usize {
        if self.account.is_measured(due.intended_ns) && self.account.plan.mode != Mode::Connect {
            self.schedule.count_measured();
        }
        self.account.last_sent_ns = now_ns;
        let bytes = self.connections[place as usize].add_message(&mut self.account, due, now_ns);
        self.make_ready(place);
        bytes
    }

    /// Starts the load of a connection.
    fn start(&mut self, place: u32, now_ns: u64) {
        let plan = &self.account.plan;
        match plan.mode {
            Mode::Connect if plan.is_scheduled() => {}
            Mode::Connect => self.call_again(place, now_ns),
            Mode::PingPong | Mode::Stream | Mode::Open => self.proceed(place, now_ns),
        }
    }

    /// Goes on with a connection after something was sent on it, or has come.
    fn proceed(&mut self, place: u32, now_ns: u64) {
        let connection = &self.connections[place as usize];
        if connection.link.stage != Stage::Open {
            return;
        }
        let (is_complete, has_unsent) = (connection.is_complete(), connection.has_unsent());
        match self.account.plan.mode {
            Mode::PingPong if is_complete => {
                if let Some(due) = self.schedule.next(now_ns) {
                    self.add_message(place, due, now_ns);
                } else {
                    let ended = self.finish(place);
                    self.end(place, ended);
                }
            }
            Mode::Stream if !has_unsent => {
                let mut bytes = 0;
                while bytes < STREAM_BYTES
                    && let Some(due) = self.schedule.next(now_ns)
                {
                    bytes += self.add_message(place, due, now_ns);
                }
                if bytes == 0 {
                    self.finish_or_end(place);
                }
            }
            Mode::Open if !has_unsent && self.schedule.is_over(now_ns) => self.finish_or_end(place),
            Mode::Connect if is_complete && !has_unsent => self.finish_or_end(place),
            Mode::PingPong | Mode::Stream | Mode::Open | Mode::Connect => {}
        }
    }

    /// Tells the server that everything was sent. It echoes the rest and ends its side.
    fn finish(&mut self, place: u32) -> io::Result<()> {
        let link = &mut self.connections[place as usize].link;
        link.stage = Stage::Finishing;
        link.socket.as_ref().map_or(Ok(()), |socket| sys::end_stream(socket.as_fd()))
    }

    fn finish_or_end(&mut self, place: u32) {
        if let Err(error) = self.finish(place) {
            self.end(place, Err(error));
        }
    }

    /// Nothing more comes from the server: with `error`, or without one.
    fn after_end(&mut self, place: u32, error: Option<Errno>) {
        let connection = &self.connections[place as usize];
        if connection.is_running() {
            let ended = connection.ending(self.account.plan.mode, error);
            self.end(place, ended);
        }
    }

    /// Counts the end of a connection that was established.
    fn end(&mut self, place: u32, ended: io::Result<()>) {
        let connection = &mut self.connections[place as usize];
        // after an error nothing is waited for; else the server ends its side
        if ended.is_err() {
            connection.abandon();
        }
        connection.link.must_rest = ended.is_err();
        connection.note_end(&mut self.account, ended);
        connection.link.stage = Stage::Ended;
        self.running -= 1;
    }

    /// How long to wait for connections after the last send. A visit may have to connect first.
    fn patience_ns(&self) -> u64 {
        let Plan { traffic, extent, .. } = &*self.account.plan;
        let linger_ns = extent.linger.as_nanos() as u64;
        if traffic.visits.is_some() { traffic.timeout_ns + linger_ns } else { linger_ns }
    }

    /// Waits until every connection has ended, at most for `longest_ns`.
    fn wait_for_ends(&mut self, longest_ns: u64) -> Result<(), TcpError> {
        let until_ns = self.clock.now_ns() + longest_ns;
        while self.running > 0 && !self.stop.is_urgent() {
            let now_ns = self.clock.now_ns();
            if now_ns >= until_ns {
                break;
            }
            self.expire(now_ns);
            self.account.publish(now_ns);
            let pause = match self.pause(now_ns) {
                Pause::Nanoseconds(pause_ns) => Pause::Nanoseconds(pause_ns.min(until_ns - now_ns)),
                Pause::None => Pause::None,
            };
            self.turn(pause)?;
        }
        Ok(())
    }

    /// Shuts down the connections that are still there, and counts them. Afterwards no socket is open any more: the ring
    /// lives longer than the run.
    fn shut_down_the_rest(&mut self) -> Result<(), TcpError> {
        for connection in self.connections.iter_mut().filter(|connection| connection.is_running()) {
            connection.shut_down();
            if connection.link.stage == Stage::Connecting {
                connection.link.stage = Stage::Ended;
                self.running -= 1;
            }
        }
        self.wait_for_ends(SHUTDOWN_LONGEST.as_nanos() as u64)?;
        for place in 0..self.connections.len() as u32 {
            let connection = &self.connections[place as usize];
            match connection.link.stage {
                Stage::Open | Stage::Finishing => self.end(place, Err(io::ErrorKind::TimedOut.into())),
                // ping-pong does not wait for the server's end
                Stage::Idle | Stage::Connecting | Stage::Ended => connection.abandon(),
            }
            let is_in_order = self.connections[place as usize].is_in_order;
            if self.account.plan.traffic.visits.is_none() {
                self.account.results.connections.in_order_at_end += u64::from(is_in_order);
            }
        }
        self.release_all()
    }

    /// Ends what waits on the sockets, takes them from the ring, and gives back its memory.
    fn release_all(&mut self) -> Result<(), TcpError> {
        for _ in 0..2 {
            self.turn(Pause::None)?;
        }
        // a file that the kernel does not give up is closed when the process ends
        let _ = self.ring.unregister_files();
        self.connections.clear();
        if let Some(quiet) = self.ring.quiet() {
            self.receiving.buffers.give_back(quiet);
        }
        self.sending.give_back();
        Ok(())
    }

    /// How long the next turn may sleep.
    fn pause(&self, now_ns: u64) -> Pause {
        if self.sending.has_ready() {
            return Pause::None;
        }
        let next_ns = self.calls.next_ns().unwrap_or(u64::MAX);
        let longest_ns = LOOK_EVERY_NS.min(next_ns.saturating_sub(now_ns));
        // a connection that is due may have to wait for a place
        if self.account.plan.mode == Mode::Connect && !self.calls.has_room() {
            return Pause::Nanoseconds(longest_ns);
        }
        self.schedule.pause(now_ns, longest_ns)
    }
}
