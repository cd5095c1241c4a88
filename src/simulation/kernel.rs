//! The ring as the kernel keeps it: what was submitted, what is in flight, what has completed.

mod queues;
mod registered;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::iter;
use std::ops::Range;
use std::os::fd::RawFd;
use std::time::Duration;

use io_uring::opcode;

use super::abi::{FIXED_FILE, Message, Sqe};
use super::buffers::Group;
use super::chance::{Chance, Faults, Persistent};
use super::ledger::Ledger;

/// Turns in a row that brought nothing to anybody: the process spins.
const IDLE_TURNS_MAX: u32 = 3000;

/// Sleeps in a row that nothing came of: the process waits for what never comes. A drain takes so many.
const DOZES_MAX: u32 = 20_000;

/// Something that a file of the process is, or somebody at its other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Object {
    Wake,
    Udp(usize),
    Reply(usize),
    Listener(usize),
    Connection(usize),
    /// The other end of a connection.
    Peer(usize),
    /// The ends of the worker's pipe, to read from and to write to.
    PipeOut,
    PipeIn,
    /// A stream inside the process, and its other end.
    Stream(usize),
    StreamEnd(usize),
}

/// When what ends by its own submission completes. A kernel keeps it until everything is submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Before anything that a multishot brings later.
    Kept,
    /// Behind it: `ring::order` names such kernels.
    Late,
    /// The same, except where it is tried: a trial that sees nothing.
    LateUnseen,
    /// What ends by its own submission completes in reverse. No kernel is known to do that.
    LastFirst,
    /// What is woken together does. No kernel is known to do that.
    WokenLastFirst,
}

/// A completion: user data, result, flags.
pub(crate) type Cqe = (u64, i32, u32);

/// An operation, from its queueing on.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) sqe: Sqe,
    /// What its file was when it was queued.
    pub(super) object: Option<Object>,
    pub(super) message: Option<Message>,
    pub(super) cancelled: bool,
    /// The turn in which it was queued.
    pub(super) turn: u64,
}

impl Operation {
    /// The memory that it sends from.
    fn memory(&self) -> Vec<Range<u64>> {
        match (&self.message, self.sqe.opcode()) {
            (Some(message), _) => message.parts().to_vec(),
            (None, opcode::Send::CODE) => {
                iter::once(self.sqe.addr()..self.sqe.addr() + u64::from(self.sqe.len())).collect()
            }
            _ => Vec::new(),
        }
    }

    /// It may not wait (`MSG_DONTWAIT`).
    pub(super) fn is_inline(&self) -> bool {
        self.sqe.op_flags & libc::MSG_DONTWAIT as u32 != 0
    }
}

/// An operation in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct InFlight(usize);

/// The ring.
// many fields: each is a queue of the kernel, or a fault that it has
#[allow(clippy::struct_excessive_bools)] // each is a fault or a property of its own
pub(crate) struct Kernel {
    pub(super) chance: Chance,
    pub(super) faults: Faults,
    pub(super) now: Duration,
    /// The worker has shown that everything works.
    pub(super) started: bool,
    pub(super) ledger: Ledger,
    /// Completions, and turns.
    pub(super) steps: u64,
    queued: VecDeque<Operation>,
    pub(super) queue_room: usize,
    completed: VecDeque<Cqe>,
    completed_room: usize,
    overflown: VecDeque<Cqe>,
    pub(super) order: Order,
    /// Operations are being submitted.
    submitting: bool,
    /// What has ended by that.
    ended: Vec<Cqe>,
    /// The completion queue was found full by one of them, and stays so for the others.
    found_full: bool,
    files: Vec<Option<Object>>,
    direct: Range<usize>,
    fds: HashMap<RawFd, Object>,
    groups: BTreeMap<u16, Group>,
    in_flight: Vec<Option<Operation>>,
    free: Vec<usize>,
    /// Who has something to do, and the same as a set.
    active: Vec<Object>,
    is_active: HashSet<Object>,
    timers: Vec<(Duration, InFlight)>,
    idle_turns: u32,
    dozes: u32,
    pub(super) incremental: bool,
    /// It makes ordinary descriptors of direct ones.
    pub(super) installs: bool,
    /// No send buffer that is full gets room again: a device stands still.
    pub(super) stuck: bool,
}

impl Kernel {
    pub(super) fn new(mut chance: Chance) -> Self {
        let faults = Faults::draw(&mut chance);
        let queue_room = chance.pick(&[1, 4, 16, 256]);
        let completed_room = chance.pick(&[4, 32, 4096]);
        let incremental = !chance.one_in(3);
        let installs = !chance.one_in(4);
        let order = chance.pick(&[Order::Kept, Order::Kept, Order::Late]);
        Self {
            chance,
            faults,
            now: Duration::ZERO,
            started: false,
            ledger: Ledger::default(),
            steps: 0,
            queued: VecDeque::new(),
            queue_room,
            completed: VecDeque::new(),
            completed_room,
            overflown: VecDeque::new(),
            order,
            submitting: false,
            ended: Vec::new(),
            found_full: false,
            files: Vec::new(),
            direct: 0..0,
            fds: HashMap::new(),
            groups: BTreeMap::new(),
            in_flight: Vec::new(),
            free: Vec::new(),
            active: Vec::new(),
            is_active: HashSet::new(),
            timers: Vec::new(),
            idle_turns: 0,
            dozes: 0,
            incremental,
            installs,
            stuck: false,
        }
    }

    // Buffers.

    pub(super) fn group(&mut self, number: u16) -> &mut Group {
        self.groups.get_mut(&number).expect("the group is registered")
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    /// Takes note of the buffers that came back.
    pub(super) fn sync(&mut self) {
        let memory = || {
            let in_flight = self.in_flight.iter().flatten();
            in_flight.chain(&self.queued).flat_map(Operation::memory).collect()
        };
        for group in self.groups.values_mut() {
            group.sync(memory);
        }
    }

    // Who has something to do.

    pub(super) fn activate(&mut self, object: Object) {
        if self.is_active.insert(object) {
            self.active.push(object);
        }
    }

    pub(super) fn next_active(&mut self) -> Option<Object> {
        let count = self.active.len();
        if count == 0 {
            return None;
        }
        let object = self.active.swap_remove(self.chance.below(count));
        self.is_active.remove(&object);
        Some(object)
    }

    pub(super) fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    // Time.

    /// What fails each time for a while does so now; not before the worker has started.
    pub(super) fn persists(&self, until: impl FnOnce(&Persistent) -> Duration) -> bool {
        self.started && self.now < until(&self.faults.persistent)
    }

    /// A TIMEOUT is submitted.
    pub(super) fn begin_timer(&mut self, operation: Operation) {
        let deadline = self.now + operation.sqe.timeout();
        let operation = self.begin(operation);
        self.timers.push((deadline, operation));
    }

    /// Time goes on until `end`, or until a timer ends. True if one has.
    pub(super) fn sleep(&mut self, end: Duration) -> bool {
        let next = self.timers.iter().map(|(deadline, _)| *deadline).min();
        self.now = self.now.max(next.unwrap_or(end).min(end));
        let now = self.now;
        let due: Vec<_> = self.timers.extract_if(.., |(deadline, _)| *deadline <= now).collect();
        for (_, timer) in &due {
            let operation = self.end(*timer);
            self.complete(&operation.sqe, -libc::ETIME, 0);
        }
        !due.is_empty()
    }

    pub(super) fn has_timers(&self) -> bool {
        !self.timers.is_empty()
    }

    // Progress.

    /// A turn begins.
    pub(super) fn turn(&mut self) {
        self.steps += 1;
        self.idle_turns += 1;
        self.now += Duration::from_micros(self.chance.between(1, 50) as u64);
        assert!(self.idle_turns < IDLE_TURNS_MAX, "the worker spins");
    }

    /// Something useful has happened.
    pub(super) fn progress(&mut self) {
        (self.idle_turns, self.dozes) = (0, 0);
    }

    /// The process sleeps for a while.
    pub(super) fn doze(&mut self) {
        self.idle_turns = 0;
        self.dozes += 1;
        assert!(self.dozes < DOZES_MAX, "the worker looks again and again, and nothing comes");
    }
}

/// The operation works on a file of the table.
fn is_fixed(sqe: &Sqe) -> bool {
    uses_file(sqe) && sqe.flags & FIXED_FILE != 0
}

/// The operation works on a file.
fn uses_file(sqe: &Sqe) -> bool {
    !matches!(sqe.opcode(), opcode::AsyncCancel::CODE | opcode::Close::CODE | opcode::Timeout::CODE)
}
