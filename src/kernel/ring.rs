//! One `io_uring`: how it is set up, how operations go in, how completions come out.
//!
//! A turn: submit what was queued, wait, copy the completions out. Whoever owns the ring then handles
//! them, which queues new operations; nothing runs from inside the reap.
//!
//! Operations point only at memory that is never unmapped (see [`PinnedBytes`], [`Message`]), so queueing
//! one is safe whatever happens to its result. A ring lives as long as the process.

#![allow(unsafe_code)]

mod arena;
mod buffers;
mod files;
mod identity;
mod memory;
mod message;
mod name;
mod order;
mod outgoing;
#[cfg(ring_poison)]
mod poison;
mod poll;
mod restrictions;
#[cfg(test)]
mod simulated;
mod token;
mod uring;

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{DestinationSlot, Fd, Fixed, Timespec};
use io_uring::{cqueue, opcode, squeue};

pub use self::arena::{Arena, Chunk};
pub use self::buffers::{BufferConfig, BufferRing, DATAGRAM_HEADER_BYTES, Datagram, ReceivedPart, Unusable};
use self::files::Descriptors;
pub use self::files::FileTable;
use self::identity::{Brings, Identity, Operations, Tokens};
pub use self::memory::PinnedBytes;
pub use self::message::{Message, Messages, SEGMENTS_MAX, Transmit};
pub use self::name::PeerName;
pub use self::order::{WholeBuffers, try_order};
pub use self::outgoing::{Addressed, Outgoing};
use self::poll::Polling;
#[cfg(test)]
use self::simulated::Uring;
pub use self::token::Token;
#[cfg(not(test))]
use self::uring::Uring;
use crate::kernel::pause::Failures;
use crate::kernel::sys::{self, MemoryLimit};

/// How long to wait until the kernel is asked again, after it has put submissions off many times in a row.
const ENTER_PAUSE: Duration = Duration::from_millis(1);

/// An error number of the kernel, positive (errno(3)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

/// What was being set up when the kernel refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// io_uring_setup(2).
    Setup,
    /// The table of registered files.
    RegisterFiles,
    /// A ring of provided buffers.
    RegisterBuffers,
    /// Memory for bytes set aside.
    ReserveMemory,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Setup => "setting up an io_uring",
            Self::RegisterFiles => "registering the file table of an io_uring",
            Self::RegisterBuffers => "registering a buffer ring of an io_uring",
            Self::ReserveMemory => "reserving memory",
        })
    }
}

/// Why there is no ring: the step, the kernel's answer, the cure.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{step}: {errno}; {cure}")]
pub struct RingError {
    /// What was being set up.
    pub step: Step,
    /// What the kernel answered.
    pub errno: Errno,
    cure: &'static str,
}

impl RingError {
    /// `step` was refused.
    pub fn new(step: Step, error: &io::Error) -> Self {
        let errno = Errno(error.raw_os_error().unwrap_or(libc::EINVAL));
        let cure = match (errno.0, step) {
            (libc::EPERM | libc::ENOSYS | libc::EACCES, _) => {
                "io_uring is blocked: `sysctl kernel.io_uring_disabled` must be 0, and a seccomp filter (a \
                 container's default profile, SystemCallFilter= of a unit) must allow io_uring_setup, \
                 io_uring_enter and io_uring_register; kernels before 6.1 lack parts of it"
            }
            (libc::ENOMEM, step) => memory_cure(step),
            (libc::EMFILE | libc::ENFILE, _) => {
                "open files are short: raise RLIMIT_NOFILE (LimitNOFILE= in a unit, `ulimit -n`) or ask for \
                 fewer connections or flows"
            }
            (libc::EINVAL, _) => {
                "the kernel is too old or its io_uring is cut down: Linux 6.1 or newer is needed"
            }
            _ => "see dmesg for what the kernel says of it",
        };
        Self { step, errno, cure }
    }
}

/// What is short where the kernel says ENOMEM: it says so of three limits, and of memory itself.
fn memory_cure(step: Step) -> &'static str {
    // mapping memory has nothing to do with locked memory; setting up and registering rings has, and maps some
    let is_mapping = step == Step::ReserveMemory || memory::is_used_up();
    if is_mapping && sys::is_limited(MemoryLimit::AddressSpace) {
        "the address space is limited: lift RLIMIT_AS (LimitAS=infinity in a unit, `ulimit -v unlimited`); what is \
         reserved there costs no memory until it is used"
    } else if is_mapping && sys::is_limited(MemoryLimit::Data) {
        "the data segment is limited: lift RLIMIT_DATA (LimitDATA=infinity in a unit, `ulimit -d unlimited`); what is \
         reserved there costs no memory until it is used"
    } else if !is_mapping && sys::is_limited(MemoryLimit::Locked) {
        "locked memory is short: raise RLIMIT_MEMLOCK (LimitMEMLOCK= in a unit, `ulimit -l`) or ask for fewer workers \
         or threads"
    } else {
        "memory is short: `free -m` shows how much there is, vm.overcommit_memory=2 and MemoryMax= of a unit give less; \
         or ask for fewer workers or threads"
    }
}

/// How a ring is made.
#[derive(Clone, Copy, Debug)]
pub struct RingConfig {
    /// Operations that can be queued before they must be submitted; a power of two.
    pub submission_entries: u32,
    /// Completions that fit before the kernel has to end multishots; a power of two.
    pub completion_entries: u32,
    /// Files, listening sockets and connections together.
    pub files: u32,
    /// How they are known to the kernel.
    pub file_table: FileTable,
    /// Look for completions for so long before sleeping, while that bears fruit; zero for never.
    pub busy_poll: Duration,
}

/// A file of a ring: its number in the ring's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File(pub u32);

/// Builds an operation on a file, however the ring knows it.
macro_rules! on {
    ($ring:ident, $file:expr, |$target:ident| $operation:expr) => {
        match &$ring.descriptors {
            None => {
                let $target = Fixed($file.0);
                $operation.build()
            }
            Some(descriptors) => {
                let $target = Fd(descriptors.get($file));
                $operation.build()
            }
        }
    };
}

/// Whether an operation may wait in the kernel until its socket is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// `MSG_DONTWAIT`: it ends during its submission, with `EAGAIN` if it has to.
    Inline,
    /// It ends when it can.
    Wait,
}

impl Patience {
    fn flags(self) -> i32 {
        match self {
            Self::Inline => libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            Self::Wait => libc::MSG_NOSIGNAL,
        }
    }
}

/// How long a turn may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// Until a completion is there.
    Completion,
    /// The same, but so long at the most.
    Timeout(Duration),
}

/// A time for [`Ring::wake_after`], in memory that lives as long as the process: the kernel reads it when the
/// operation is submitted.
#[derive(Clone, Copy, Debug)]
pub struct Interval(&'static Timespec);

impl Interval {
    /// So long.
    pub fn new(duration: Duration) -> Self {
        Self(Box::leak(Box::new(Timespec::from(duration))))
    }
}

/// What the kernel says of an operation.
pub struct Completion {
    ring: Identity,
    token: Token,
    result: i32,
    /// A buffer that was taken is in them no longer.
    flags: Cell<u32>,
}

impl std::fmt::Debug for Completion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { token, result, flags, .. } = self;
        let mut fields = f.debug_struct("Completion");
        fields.field("token", token).field("result", result).field("flags", &flags.get());
        fields.finish_non_exhaustive()
    }
}

impl Completion {
    fn new(ring: Identity, token: Token, result: i32, flags: u32) -> Self {
        Self { ring, token, result, flags: Cell::new(flags) }
    }

    /// The token that the operation was submitted with.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Bytes, or whatever the operation counts.
    pub fn result(&self) -> Result<u32, Errno> {
        u32::try_from(self.result).map_err(|_| Errno(-self.result))
    }

    /// Whether a multishot goes on. If not it has ended, whatever the result says: it does so after
    /// errors, when buffers or completion entries run out, and after every empty datagram.
    pub fn more(&self) -> bool {
        cqueue::more(self.flags())
    }

    /// The time of a [`Ring::wake_after`] has passed; else there was no timer to be had.
    pub fn is_elapsed(&self) -> bool {
        self.result == -libc::ETIME
    }

    fn flags(&self) -> u32 {
        self.flags.get()
    }

    /// From now on it speaks of no buffer: nobody can take the same one again.
    fn forget_buffer(&self) {
        const BUFFER: u32 = 1 << 0; // IORING_CQE_F_BUFFER
        self.flags.set(self.flags() & !BUFFER);
    }
}

/// An `io_uring` of the thread that made it.
pub struct Ring {
    identity: Identity,
    uring: Uring,
    operations: Operations,
    /// What receives into each buffer ring.
    receivers: Vec<(Identity, Tokens)>,
    /// Where files are not registered: what they are instead.
    descriptors: Option<Descriptors>,
    polling: Polling,
    /// Completions that had to be copied out in the middle of a turn.
    early: Vec<Completion>,
    /// What a submission in the middle of a turn failed with; the next turn reports it.
    failed: Option<io::Error>,
    /// Submissions in a row that the kernel put off, and that brought no completion either.
    failures: Failures,
}

impl Ring {
    /// Sets a ring up for the calling thread, which must be the one that uses it. It can do what the methods
    /// of this type do, and nothing else.
    pub fn new(config: RingConfig) -> Result<Self, RingError> {
        let mut uring = Uring::new(&config).map_err(|error| RingError::new(Step::Setup, &error))?;
        let descriptors = match config.file_table {
            FileTable::Registered => {
                let failed = |error: io::Error| RingError::new(Step::RegisterFiles, &error);
                uring.register_files(config.files).map_err(failed)?;
                None
            }
            FileTable::Ordinary => Some(Descriptors::new(config.files)),
        };
        // without it everything works the same
        let _ = uring.register_ring_fd();
        uring.enable().map_err(|error| RingError::new(Step::Setup, &error))?;
        let polling = Polling::new(config.busy_poll);
        Ok(Self {
            identity: Identity::new(),
            uring,
            operations: Operations::new(),
            receivers: Vec::new(),
            descriptors,
            polling,
            early: Vec::new(),
            failed: None,
            failures: Failures::default(),
        })
    }

    fn uring(&self) -> &Uring {
        &self.uring
    }

    /// Makes `fd` known as `file`. The descriptor itself stays open and ordinary for as long as the file is known.
    pub fn register_file(
        &mut self,
        file: File,
        fd: Arc<impl AsFd + Send + Sync + 'static>,
    ) -> Result<(), RingError> {
        if let Some(descriptors) = &mut self.descriptors {
            descriptors.share(file, fd);
            return Ok(());
        }
        self.update_file(file, &*fd)
    }

    fn update_file(&self, file: File, fd: &impl AsFd) -> Result<(), RingError> {
        self.uring
            .update_file(file, fd.as_fd().as_raw_fd())
            .map_err(|error| RingError::new(Step::RegisterFiles, &error))
    }

    /// The same for one that nobody else needs: it is closed when the file is taken out.
    pub fn take_file(&mut self, file: File, fd: OwnedFd) -> Result<(), RingError> {
        match &mut self.descriptors {
            Some(descriptors) => descriptors.give(file, fd),
            None => self.update_file(file, &fd)?,
        }
        Ok(())
    }

    /// Takes a file out of the table: if nothing else holds it open it is closed, once what is in flight
    /// on it is done. A file that is not there is left alone.
    pub fn unregister_file(&mut self, file: File) {
        match &mut self.descriptors {
            Some(descriptors) => descriptors.remove(file),
            None => drop(self.uring.update_file(file, -1)),
        }
    }

    /// Gives connections files from `first` on only, so that those below can be registered and
    /// unregistered by number.
    pub fn reserve_files_below(&mut self, first: File, count: u32) -> Result<(), RingError> {
        if let Some(descriptors) = &mut self.descriptors {
            descriptors.allocate(first, count);
            return Ok(());
        }
        self.uring.allocate_files(first, count).map_err(|error| RingError::new(Step::RegisterFiles, &error))
    }

    /// Takes every file out of the table, connections included: what nothing else holds open is closed.
    pub fn unregister_files(&mut self) -> io::Result<()> {
        match &mut self.descriptors {
            Some(descriptors) => {
                descriptors.clear();
                Ok(())
            }
            None => self.uring.unregister_files(),
        }
    }

    /// Submits what is queued, sleeps as `wait` says, and appends the completions to `completions`.
    ///
    /// Errors are final: io_uring_enter(2) no longer works for this ring.
    pub fn turn(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> io::Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        completions.append(&mut self.early);
        let wait = if completions.is_empty() { wait } else { Wait::No };
        if wait != Wait::No && self.polling.is_wanted() {
            self.turn_polling(wait, completions)
        } else {
            self.enter(wait, completions)
        }
    }

    /// Submits, sleeps, and takes out the completions.
    fn enter(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> io::Result<()> {
        let before = completions.len();
        let entered = self.uring.enter(wait);
        self.uring.reap(self.identity, completions);
        match entered {
            Err(error) if !is_passing(&error) => return Err(error),
            Err(error) if error.raw_os_error() != Some(libc::ETIME) && completions.len() == before => {
                self.put_off();
            }
            _ => self.failures.forget(),
        }
        Ok(())
    }

    /// The kernel has put a submission off once more. It does not sleep then, whatever it was asked for, so we do.
    fn put_off(&mut self) {
        if self.failures.add() {
            sys::sleep(ENTER_PAUSE);
        }
    }

    /// A turn that looks for completions for a while before it sleeps.
    fn turn_polling(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> io::Result<()> {
        // what ends by its own submission says nothing of whether polling pays
        if self.uring.has_queued() {
            self.enter(Wait::No, completions)?;
        }
        if !completions.is_empty() {
            self.polling.turned(completions.len());
            return Ok(());
        }
        let begun = sys::now();
        if let Some(duration) = self.polling.duration() {
            loop {
                if self.uring.has_work() {
                    self.enter(Wait::No, completions)?;
                } else {
                    std::hint::spin_loop();
                }
                if !completions.is_empty() || sys::now() - begun >= duration {
                    break;
                }
            }
            self.polling.polled(!completions.is_empty());
        }
        if completions.is_empty() {
            self.enter(wait, completions)?;
            self.polling.slept(sys::now() - begun);
        }
        self.polling.turned(completions.len());
        Ok(())
    }

    /// Whether there are quiet moments at all: the kernel fills buffers only while we enter (`DEFER_TASKRUN`).
    pub fn has_quiet(&self) -> bool {
        self.uring.is_deferred()
    }

    /// A moment without anything received that was not taken out of the completion queue. It lasts until the ring is
    /// entered again, which the borrow forbids. To be asked for when all that was taken out is handled. `None`: later.
    pub fn quiet(&self) -> Option<Quiet<'_>> {
        let quiet = self.uring.is_deferred() && self.early.is_empty() && !self.uring.has_completed();
        quiet.then_some(Quiet { ring: self.identity, borrow: PhantomData })
    }

    /// Queues an operation that brings no file.
    fn push(&mut self, entry: squeue::Entry, token: Token) {
        self.operations.claim(token, Brings::Other);
        self.queue(&entry.user_data(token.user_data()));
    }

    /// Queues an operation that receives into `buffers`.
    fn push_receive(&mut self, entry: squeue::Entry, buffers: &BufferRing, token: Token) {
        if !buffers.expects(token) {
            self.expect(buffers, token);
        }
        self.push(entry, token);
    }

    /// Tells `buffers` that completions with `token` are its own. The process ends if another buffer ring can't be told
    /// from it then.
    fn expect(&mut self, buffers: &BufferRing, token: Token) {
        let (identity, tokens) = (buffers.identity(), buffers.expect(token, self.identity));
        self.receivers.retain(|(other, _)| *other != identity);
        let is_shared = self.receivers.iter().any(|(_, others)| others.overlaps(tokens));
        assert!(!is_shared, "{token:?} receives into two buffer rings");
        self.receivers.push((identity, tokens));
    }

    /// Queues an operation; submits those before it if the queue is full.
    fn queue(&mut self, entry: &squeue::Entry) {
        // SAFETY: all that an entry points at lives as long as the process: the operations below see to it
        while !unsafe { self.uring.push(entry) } {
            self.flush();
            if self.failed.is_some() {
                return;
            }
        }
    }

    /// Submits what is queued, now. Operations that end inline have ended when this returns; their
    /// completions are in the next turn.
    pub fn flush(&mut self) {
        while self.failed.is_none() && self.uring.has_queued() {
            match self.uring.enter(Wait::No) {
                Ok(()) => self.failures.forget(),
                // EBUSY: completions must be taken out before more operations go in
                Err(error) if is_passing(&error) => {
                    let before = self.early.len();
                    self.uring.reap(self.identity, &mut self.early);
                    if self.early.len() == before {
                        self.put_off();
                    }
                }
                Err(error) => self.failed = Some(error),
            }
        }
    }

    /// Submits what is queued by one call, and takes out the completions. False if it was not all of the `count`
    /// operations that were queued last.
    fn submit_together(&mut self, count: usize, completions: &mut Vec<Completion>) -> io::Result<bool> {
        const TRIES: u32 = 16;
        completions.append(&mut self.early);
        for _ in 0..TRIES {
            let before = self.uring.queued();
            self.enter(Wait::No, completions)?;
            let after = self.uring.queued();
            if after < before {
                return Ok(before == count && after == 0);
            }
        }
        Ok(false)
    }

    /// Accepts connections of `listener` until it ends (multishot, Linux 5.19); [`Self::accepted`] tells the file
    /// of each.
    pub fn accept(&mut self, listener: File, token: Token) {
        let direct = self.descriptors.is_none();
        let flags = self.accept_flags();
        let entry = on!(self, listener, |target| opcode::AcceptMulti::new(target)
            .allocate_file_index(direct)
            .flags(flags));
        self.push_accept(entry, token);
    }

    /// Accepts one connection of `listener`, and has its peer's name written to `name`: a multishot has only one
    /// place for the names of all.
    pub fn accept_one(&mut self, listener: File, name: &mut PeerName, token: Token) {
        let (addr, len) = name.prepare();
        let slot = self.descriptors.is_none().then(DestinationSlot::auto_target);
        let flags = self.accept_flags();
        let entry = on!(self, listener, |target| opcode::Accept::new(target, addr, len)
            .file_index(slot)
            .flags(flags));
        self.push_accept(entry, token);
    }

    fn push_accept(&mut self, entry: squeue::Entry, token: Token) {
        self.operations.claim(token, Brings::File);
        self.queue(&entry.user_data(token.user_data()));
    }

    /// A direct descriptor can't be inherited.
    fn accept_flags(&self) -> i32 {
        if self.descriptors.is_none() { 0 } else { libc::SOCK_CLOEXEC }
    }

    /// The file of the connection that an accept's completion has brought; `None`: it was closed again, since
    /// there was no room for it.
    pub fn accepted(&mut self, completion: Completion) -> Result<Option<File>, Errno> {
        let brings = self.operations.brings(completion.token);
        assert!(
            completion.ring == self.identity && brings == Some(Brings::File),
            "no accept: {completion:?}"
        );
        let number = completion.result()?;
        match &mut self.descriptors {
            None => Ok(Some(File(number))),
            // SAFETY: accept(2): the result is a new descriptor, since the completion is that of an accept of this
            // ring. It is taken by value, and nobody else makes one: it is asked for once
            Some(descriptors) => Ok(unsafe { descriptors.take_in(number as i32) }),
        }
    }

    /// Receives from a stream into `buffers` until it ends (multishot, Linux 6.0).
    pub fn receive(&mut self, file: File, buffers: &BufferRing, token: Token) {
        let entry = on!(self, file, |target| opcode::RecvMulti::new(target, buffers.group()));
        self.push_receive(entry, buffers, token);
    }

    /// Receives once from a stream, up to `bytes_max` bytes into one of `buffers`. It ends during its
    /// submission, with `EAGAIN` if nothing is there: a receive that waited could be moved to a thread of the
    /// kernel with a buffer in hand that the kernel fills for others, too.
    pub fn receive_once(&mut self, file: File, buffers: &BufferRing, bytes_max: u32, token: Token) {
        let entry = on!(self, file, |target| opcode::Recv::new(target, std::ptr::null_mut(), bytes_max)
            .flags(Patience::Inline.flags())
            .buf_group(buffers.group()));
        self.push_receive(entry.flags(squeue::Flags::BUFFER_SELECT), buffers, token);
    }

    /// Receives datagrams with name and control messages into `buffers` until it ends (multishot,
    /// Linux 6.0); read them by [`BufferRing::datagram`].
    pub fn receive_datagrams(&mut self, file: File, buffers: &BufferRing, token: Token) {
        let entry =
            on!(self, file, |target| opcode::RecvMsgMulti::new(target, buffers.layout(), buffers.group()));
        self.push_receive(entry, buffers, token);
    }

    /// Sends bytes of a stream. It ends during its submission, with `EAGAIN` if there is no room.
    pub fn send(&mut self, file: File, bytes: PinnedBytes, token: Token) {
        let entry = on!(self, file, |target| opcode::Send::new(target, bytes.as_ptr(), bytes.bytes())
            .flags(Patience::Inline.flags()));
        self.push(entry, token);
    }

    /// Sends a message.
    pub fn send_message(&mut self, file: File, message: Message, patience: Patience, token: Token) {
        let entry = on!(self, file, |target| opcode::SendMsg::new(target, message.header())
            .flags(patience.flags() as u32));
        self.push(entry, token);
    }

    /// Sends a payload to the address that it bears, without control messages (Linux 6.1: SEND takes an
    /// address), which costs the kernel less than a message. Trains are cut as the socket is set
    /// ([`crate::kernel::sys::IntOption::SEGMENT`]). It ends during its submission ([`Patience::Inline`]) and has
    /// a completion only if it fails.
    pub fn send_to(&mut self, file: File, datagram: Addressed, token: Token) {
        let payload = datagram.payload();
        let (name, name_len) = datagram.name();
        let entry = on!(self, file, |target| opcode::Send::new(target, payload.as_ptr(), payload.bytes())
            .flags(Patience::Inline.flags())
            .dest_addr(name)
            .dest_addr_len(name_len));
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS), token);
    }

    /// Ends the operation that was submitted as `target`; its last completion still comes. The
    /// cancellation's own result says whether there was one (`ENOENT`: it had ended by itself).
    pub fn cancel(&mut self, target: Token, token: Token) {
        let entry = opcode::AsyncCancel::new(target.user_data()).build();
        self.push(entry, token);
    }

    /// Sends a FIN behind everything that was sent before.
    pub fn shutdown(&mut self, file: File, token: Token) {
        let entry = on!(self, file, |target| opcode::Shutdown::new(target, libc::SHUT_WR));
        self.push(entry, token);
    }

    /// Closes a connection. It has a completion only if it fails. The kernel may use the number
    /// again at once, so nothing else may be in flight on it.
    pub fn close(&mut self, file: File, token: Token) {
        let entry = match &mut self.descriptors {
            None => opcode::Close::new(Fixed(file.0)).build(),
            Some(descriptors) => opcode::Close::new(Fd(descriptors.give_up(file))).build(),
        };
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS), token);
    }

    /// Completes once, with `ETIME`, when `interval` has passed.
    pub fn wake_after(&mut self, interval: Interval, token: Token) {
        let entry = opcode::Timeout::new(interval.0).build();
        self.push(entry, token);
    }

    /// Completes once when `file` is readable.
    pub fn poll_readable(&mut self, file: File, token: Token) {
        let entry = on!(self, file, |target| opcode::PollAdd::new(target, libc::POLLIN as u32));
        self.push(entry, token);
    }

    /// Completes each time when `file` becomes writable after a send has found no room, and at its ends, until
    /// it ends itself (multishot, Linux 5.13). The result is what poll(2) would say. It tells changes only: a
    /// poll that completes once would do so at once, again and again, where the peer has sent its FIN.
    pub fn watch_writable(&mut self, file: File, token: Token) {
        let entry = on!(self, file, |target| opcode::PollAdd::new(target, libc::POLLOUT as u32).multi(true));
        self.push(entry, token);
    }
}

/// Proof that the kernel has filled no buffer that we have not been told of, and fills none for as long as this lives.
#[derive(Clone, Copy, Debug)]
pub struct Quiet<'a> {
    ring: Identity,
    borrow: PhantomData<&'a Ring>,
}

/// Errors of io_uring_enter(2) after which one simply goes on: a signal, a timeout, a completion queue
/// that must be emptied first, memory short for the moment.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN))
}

#[cfg(test)]
mod tests;
