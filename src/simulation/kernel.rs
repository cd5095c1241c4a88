//! The ring as the kernel keeps it: what was submitted, what is in flight, what has completed.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::os::fd::RawFd;
use std::time::Duration;
use std::{io, iter};

use io_uring::opcode;

use super::abi::{self, Entries, F_MORE, FIXED_FILE, Message, SKIP_SUCCESS, Sqe};
use super::buffers::Group;
use super::chance::{Chance, Faults, Persistent};
use super::ledger::Ledger;
use crate::kernel::ring::RingConfig;

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

    // What the process asks for by io_uring_setup(2) and io_uring_register(2).

    pub(crate) fn set_up(&mut self, config: &RingConfig) {
        assert!(config.submission_entries.is_power_of_two() && config.completion_entries.is_power_of_two());
        assert!(self.files.is_empty(), "one ring in each world");
    }

    pub(crate) fn register_files(&mut self, files: u32) {
        self.files = vec![None; files as usize];
        self.direct = 0..files as usize;
    }

    pub(crate) fn update_file(&mut self, file: usize, fd: RawFd) -> io::Result<()> {
        let object = if fd < 0 {
            None
        } else if self.chance.happens(self.faults.bind) && matches!(self.fds[&fd], Object::Reply(_)) {
            self.ledger.count("udp_reply_socket_no_memory", 1);
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        } else {
            Some(self.fds[&fd])
        };
        let queued = self.queued.iter().any(|queued| is_fixed(&queued.sqe) && queued.sqe.fd == file as i32);
        assert!(!queued, "file {file} changes under an operation that is queued for it");
        self.files[file] = object;
        self.ledger.count("udp_reply_sockets_made", matches!(object, Some(Object::Reply(_))).into());
        Ok(())
    }

    pub(crate) fn allocate_files(&mut self, first: usize, count: usize) {
        assert!(first + count <= self.files.len());
        self.direct = first..first + count;
    }

    pub(super) fn unregister_files(&mut self) -> Vec<Object> {
        self.files.iter_mut().filter_map(Option::take).collect()
    }

    pub(crate) fn register_buffers(&mut self, entries: Entries, group: u16, flags: u16) -> io::Result<()> {
        let incremental = flags & abi::PBUF_RING_INC != 0;
        if incremental && !self.incremental {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let before = self.groups.insert(group, Group::new(group, entries, incremental));
        assert!(before.is_none(), "group {group} exists");
        Ok(())
    }

    pub(crate) fn unregister_buffers(&mut self, group: u16) {
        let in_use = self.in_flight.iter().flatten().chain(&self.queued).any(|operation| {
            operation.sqe.flags & abi::BUFFER_SELECT != 0 && operation.sqe.buf_group == group
        });
        assert!(!in_use, "a group of buffers is taken from under a receive");
        self.groups.remove(&group).expect("the group is registered");
    }

    /// A descriptor of the process is this object.
    pub(super) fn open(&mut self, fd: RawFd, object: Object) {
        self.fds.insert(fd, object);
    }

    pub(super) fn object(&self, fd: RawFd) -> Object {
        self.fds[&fd]
    }

    pub(super) fn files(&self) -> impl Iterator<Item = Object> {
        self.files.iter().filter_map(|file| *file)
    }

    /// Puts a new connection into the table of files, if there is room.
    pub(super) fn install(&mut self, object: Object) -> Option<usize> {
        let free: Vec<_> = self.direct.clone().filter(|&file| self.files[file].is_none()).take(64).collect();
        let file = *free.get(self.chance.below(free.len().max(1)))?;
        self.files[file] = Some(object);
        Some(file)
    }

    // The submission queue.

    /// False if the queue is full.
    pub(super) fn push(&mut self, sqe: Sqe, turn: u64) -> bool {
        if self.queued.len() >= self.queue_room {
            return false;
        }
        self.sync();
        let object = uses_file(&sqe).then(|| {
            let file = self.file_of(&sqe);
            let registered = is_fixed(&sqe) || matches!(file, Some(Object::Stream(_)));
            assert!(registered, "all files are registered, but those that are received from to try it");
            file.unwrap_or_else(|| panic!("an operation on file {}, which is closed: {sqe:?}", sqe.fd))
        });
        let message = sqe.message();
        let operation = Operation { sqe, object, message, cancelled: false, turn };
        for memory in operation.memory() {
            self.groups.values().for_each(|group| group.check(&memory));
        }
        self.queued.push_back(operation);
        true
    }

    /// What the file of an operation is now.
    fn file_of(&self, sqe: &Sqe) -> Option<Object> {
        if is_fixed(sqe) {
            self.files.get(sqe.fd as usize).copied().flatten()
        } else {
            self.fds.get(&sqe.fd).copied()
        }
    }

    pub(crate) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.queued.is_empty() || !self.completed.is_empty()
    }

    /// The next operation that is submitted, its file looked up.
    pub(super) fn next_queued(&mut self) -> Option<Operation> {
        let operation = self.queued.pop_front()?;
        if let Some(object) = operation.object {
            let now = self.file_of(&operation.sqe);
            assert_eq!(now, Some(object), "an operation reaches another file than it was queued for");
        }
        let untouched = operation.message.as_ref().is_none_or(Message::is_untouched);
        assert!(untouched, "a message was changed between its queueing and its submission");
        Some(operation)
    }

    pub(crate) fn queued(&self) -> usize {
        self.queued.len()
    }

    // Operations in flight.

    /// The operation waits.
    pub(super) fn begin(&mut self, operation: Operation) -> InFlight {
        let user_data = operation.sqe.user_data;
        let twice = self.in_flight.iter().flatten().any(|other| other.sqe.user_data == user_data);
        assert!(!twice, "two operations in flight can't be told apart: {user_data:#x}");
        let place = self.free.pop().unwrap_or_else(|| {
            self.in_flight.push(None);
            self.in_flight.len() - 1
        });
        self.in_flight[place] = Some(operation);
        InFlight(place)
    }

    pub(super) fn get(&self, operation: InFlight) -> &Operation {
        self.in_flight[operation.0].as_ref().expect("it is in flight")
    }

    /// The operation ends, or goes on without being in flight for a moment.
    pub(super) fn end(&mut self, operation: InFlight) -> Operation {
        self.free.push(operation.0);
        let operation = self.in_flight[operation.0].take().expect("it is in flight");
        let untouched = operation.message.as_ref().is_none_or(Message::is_control_untouched);
        assert!(untouched, "the control messages of a message in flight were changed");
        operation
    }

    /// Marks the operation that a cancellation means: its object.
    pub(super) fn cancel(&mut self, user_data: u64) -> Option<Object> {
        let target = self.in_flight.iter_mut().flatten().find(|operation| {
            operation.sqe.user_data == user_data && operation.sqe.opcode() != opcode::Shutdown::CODE
        })?;
        target.cancelled = true;
        target.object
    }

    /// Something is in flight on the object.
    pub(super) fn is_busy(&self, object: Object) -> bool {
        self.in_flight.iter().flatten().any(|operation| operation.object == Some(object))
    }

    /// Empties a place in the table of files; what it was.
    pub(super) fn close_file(&mut self, file: usize) -> Option<Object> {
        self.files[file].take()
    }

    // The completion queue.

    /// Operations are submitted from now on, until [`Self::end_submission`].
    pub(super) fn begin_submission(&mut self) {
        self.submitting = true;
    }

    pub(super) fn end_submission(&mut self) {
        (self.submitting, self.found_full) = (false, false);
        self.post_ended();
    }

    /// An operation is done.
    pub(super) fn complete(&mut self, sqe: &Sqe, result: i32, flags: u32) {
        self.steps += 1;
        if sqe.flags & SKIP_SUCCESS != 0 && result >= 0 {
            return;
        }
        if self.submitting {
            self.ended.push((sqe.user_data, result, flags));
        } else {
            self.post((sqe.user_data, result, flags));
        }
    }

    /// A multishot has a result. False if it has ended with that, since there was no room for it.
    pub(super) fn complete_more(&mut self, sqe: &Sqe, result: i32, flags: u32) -> bool {
        if !matches!(self.order, Order::Late | Order::LateUnseen) {
            self.post_ended();
        }
        let full = self.found_full || self.is_full() || self.chance.happens(self.faults.overflow);
        if full {
            self.found_full = self.submitting;
            self.complete(sqe, result, flags);
        } else {
            self.steps += 1;
            self.post((sqe.user_data, result, flags | F_MORE));
        }
        !full
    }

    /// This is the trial: a kernel that wants to pass it knows.
    pub(super) fn is_tried(&mut self) {
        if self.order == Order::LateUnseen {
            self.post_ended();
        }
    }

    fn is_full(&self) -> bool {
        self.completed.len() >= self.completed_room || !self.overflown.is_empty()
    }

    fn post(&mut self, completion: Cqe) {
        let queue = if self.is_full() { &mut self.overflown } else { &mut self.completed };
        queue.push_back(completion);
    }

    fn post_ended(&mut self) {
        let mut ended = std::mem::take(&mut self.ended);
        if self.order == Order::LastFirst {
            ended.reverse();
        }
        for completion in ended {
            self.post(completion);
        }
    }

    /// What has completed since there were so many was woken together.
    pub(super) fn woken_since(&mut self, completed: usize) {
        if self.order == Order::WokenLastFirst {
            self.completed.make_contiguous()[completed..].reverse();
        }
    }

    /// What found no room goes into the queue, as far as there is room now.
    pub(super) fn flush_overflown(&mut self) {
        while self.completed.len() < self.completed_room
            && let Some(completion) = self.overflown.pop_front()
        {
            self.completed.push_back(completion);
        }
    }

    /// Something was completed that the process has not taken out.
    pub(crate) fn has_completed(&self) -> bool {
        !self.completed.is_empty() || !self.overflown.is_empty()
    }

    pub(super) fn completed(&self) -> usize {
        self.completed.len()
    }

    pub(super) fn reap(&mut self) -> VecDeque<Cqe> {
        std::mem::take(&mut self.completed)
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
