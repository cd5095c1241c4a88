//! A ring: its set-up, its files, its turns, and each operation that it can do.

#![allow(unsafe_code)] // entries that point at memory, and descriptors that accepts bring

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{DestinationSlot, Fd, Fixed};
use io_uring::{opcode, squeue};

use super::files::{Descriptors, Installed};
use super::identity::{Brings, Identity, Operations, Tokens};
use super::poll::Polling;
use super::{
    Addressed, BufferRing, Completion, Errno, File, FileTable, Interval, Message, Patience, PeerName,
    PinnedBytes, RingConfig, RingError, Step, Token, Wait,
};
use crate::kernel::pause::Failures;
use crate::kernel::seam::Uring;
use crate::kernel::sys;

/// How long to wait until the kernel is asked again, after it has put submissions off many times in a row.
const ENTER_PAUSE: Duration = Duration::from_millis(1);

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

/// An `io_uring` of the thread that made it.
pub struct Ring {
    pub(super) identity: Identity,
    pub(super) uring: Uring,
    operations: Operations,
    /// What receives into each buffer ring.
    pub(super) receivers: Vec<(Identity, Tokens)>,
    /// Where files are not registered: what they are instead.
    pub(super) descriptors: Option<Descriptors>,
    /// Ordinary descriptors beside direct ones.
    installed: Installed,
    pub(super) polling: Polling,
    /// Completions that had to be copied out in the middle of a turn.
    early: Vec<Completion>,
    /// What a submission in the middle of a turn failed with; the next turn reports it.
    failed: Option<io::Error>,
    /// Submissions in a row that the kernel put off, and that brought no completion either.
    failures: Failures,
    /// Groups of provided buffers so far.
    buffer_groups: u16,
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
            installed: Installed::default(),
            polling,
            early: Vec::new(),
            failed: None,
            failures: Failures::default(),
            buffer_groups: 0,
        })
    }

    /// A number for a group of provided buffers that no other one of this ring has.
    pub(super) fn new_buffer_group(&mut self) -> u16 {
        let group = self.buffer_groups;
        self.buffer_groups = group.checked_add(1).expect("a ring has fewer groups");
        group
    }

    pub(super) fn uring(&self) -> &Uring {
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
        self.installed = Installed::default();
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
        reap(&self.uring, self.identity, completions);
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
    pub(super) fn push(&mut self, entry: squeue::Entry, token: Token) {
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
    pub(super) fn expect(&mut self, buffers: &BufferRing, token: Token) {
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

    /// Whether something is queued that was not submitted: a turn that the kernel has put off leaves it there.
    pub fn has_queued(&self) -> bool {
        self.uring.has_queued()
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
                    reap(&self.uring, self.identity, &mut self.early);
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
    pub(super) fn submit_together(
        &mut self,
        count: usize,
        completions: &mut Vec<Completion>,
    ) -> io::Result<bool> {
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

    /// Whether connections have ordinary descriptors, or can get them.
    pub fn has_descriptors(&self) -> bool {
        self.descriptors.is_some() || self.uring.installs_descriptors()
    }

    /// The ordinary descriptor of a connection, if it has one.
    pub fn descriptor(&self, connection: File) -> Option<BorrowedFd<'_>> {
        match &self.descriptors {
            Some(descriptors) => descriptors.borrow(connection),
            None => self.installed.borrow(connection),
        }
    }

    /// Makes an ordinary descriptor of a connection, beside its direct one (`IORING_OP_FIXED_FD_INSTALL`, Linux 6.8);
    /// [`Self::installed`] takes it. It ends during its submission.
    pub fn install_descriptor(&mut self, connection: File, token: Token) {
        self.operations.claim(token, Brings::Descriptor);
        let entry = opcode::FixedFdInstall::new(Fixed(connection.0), 0).build();
        self.queue(&entry.user_data(token.user_data()));
    }

    /// Takes the descriptor that [`Self::install_descriptor`] has made, and gives it a number from `least` on. It is
    /// closed with the connection.
    pub fn installed(&mut self, connection: File, completion: Completion, least: RawFd) -> Result<(), Errno> {
        let brings = self.operations.brings(completion.token);
        assert!(
            completion.ring == self.identity && brings == Some(Brings::Descriptor),
            "no installation: {completion:?}"
        );
        let number = completion.result()?;
        // SAFETY: io_uring_enter(2): the result is a new descriptor, since the completion is that of an installation of
        // this ring. It is taken by value, and nobody else makes one: it is asked for once
        let fd = unsafe { OwnedFd::from_raw_fd(number as RawFd) };
        let fd = sys::renumber(fd, least)?;
        self.installed.give(connection, fd);
        Ok(())
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

    /// Sends all these bytes of a stream, or as many as find room. It ends during its submission, and has a completion
    /// only if it did not send all: then the result is how many it sent, or `EAGAIN` if there was no room at all.
    pub fn send_all(&mut self, file: File, bytes: PinnedBytes, token: Token) {
        // what ends short of MSG_WAITALL counts as failed, so that its completion is not skipped
        let flags = Patience::Inline.flags() | libc::MSG_WAITALL;
        let entry =
            on!(self, file, |target| opcode::Send::new(target, bytes.as_ptr(), bytes.bytes()).flags(flags));
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS), token);
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
        self.installed.remove(file);
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

    /// Completes once when `file` is writable, or at its end. A socket that connects is writable when it has connected,
    /// or failed to.
    pub fn poll_writable(&mut self, file: File, token: Token) {
        let entry = on!(self, file, |target| opcode::PollAdd::new(target, libc::POLLOUT as u32));
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
    pub(super) ring: Identity,
    borrow: PhantomData<&'a Ring>,
}

/// Takes out what the completion queue of `ring` holds.
fn reap(uring: &Uring, ring: Identity, completions: &mut Vec<Completion>) {
    completions.extend(uring.reap().map(|(user_data, result, flags)| {
        Completion::new(ring, Token::from_user_data(user_data), result, flags)
    }));
}

/// Errors of io_uring_enter(2) after which one simply goes on: a signal, a timeout, a completion queue
/// that must be emptied first, memory short for the moment.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN))
}
