//! TCP as a process meets it: listeners with connections in their queues, connections with bytes in both
//! directions, and what each is owed.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::abi::{self, FILE_INDEX_ALLOC, Sqe};
use super::content;
use super::kernel::{InFlight, Kernel, Object, Operation};
use super::ledger::VANISHED;
use super::peer::Peer;
use crate::kernel::addr::RawAddr;
use crate::kernel::pause::FAILURES_MAX;

/// Bytes that a receive queue holds.
const WINDOW_BYTES: u64 = 256 << 10;
/// Who sends so much at a time is received from once for each send, until it has sent less so many times in a row.
const STREAMING_BYTES: u64 = 16 << 10;
const SMALL_PIECES_MAX: u32 = 8;
/// The fewest bytes whose pages may wait for a peer.
const SPLICED_BYTES_MIN: usize = 16 << 10;
/// Accepting rests so long after it failed for want of a descriptor or of memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What it may bring when the process ends, until its receive is cancelled included.
const EMPTYING_BYTES_MAX: u64 = (320 + 64 + 256) << 10;
/// What a process may have received of a connection and not sent back: what its buffers hold.
const HELD_BYTES_MAX: u64 = 600 << 10;

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) addr: SocketAddr,
    pub(super) queue: VecDeque<usize>,
    accept: Option<InFlight>,
    pub(super) filtered: bool,
    /// The process is to keep an accept armed, unless it has as many connections as it may.
    pub(super) served: bool,
    /// Accepts in a row that ended without a connection.
    fruitless: u32,
    /// For want of a descriptor or of memory the process is not to accept before.
    rests_until: Duration,
}

/// A connection; bytes are counted from its beginning.
// many fields: each is a fact that the connection is judged by
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub(super) struct Connection {
    pub(super) peer: Peer,
    salt: u64,
    /// The peer has sent so many, and then its FIN.
    pub(super) sent: u64,
    pub(super) fin: bool,
    /// The process has received so many, and then the end.
    received: u64,
    ended: bool,
    /// The process has sent back so many, and then its FIN.
    pub(super) echoed: u64,
    finished: bool,
    /// The peer has read so many.
    pub(super) read: u64,
    /// Room for what the peer has not read.
    room: u64,
    /// The connection is broken, and the process has not been told; then it has.
    error: Option<i32>,
    pub(super) broken: bool,
    told: bool,
    pub(super) accepted: bool,
    served: bool,
    pub(super) closed: bool,
    /// What was in the receive queue or before when the process was told to end.
    owed: Option<u64>,
    /// What the process had received when it let nothing new in any more.
    received_before: Option<u64>,
    receive: Option<InFlight>,
    /// The latest one goes on by itself.
    multishot: bool,
    readable: Option<InFlight>,
    writable: Option<InFlight>,
    /// What the poll for room has not told yet, should it come to be.
    untold: i16,
    /// It sends much at a time; it once did; and so many pieces in a row were small.
    streams: bool,
    has_streamed: bool,
    small_pieces: u32,
    /// Receives in a row that ended without a byte for no reason of its own.
    fruitless: u32,
    /// A send has come short, if only once.
    stalled: bool,
    /// The last one found no room, and no poll has told of any since.
    full: bool,
    shutdown: Option<InFlight>,
    /// Its file does not wait.
    pub(super) nonblocking: bool,
    /// A splice has taken a part of what was in the pipe.
    splices: bool,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Books {
    pub(super) accepted: u64,
    pub(super) refused: u64,
    pub(super) closed: u64,
    /// Closed by the process although neither the connection was broken nor everything echoed.
    pub(super) given_up: u64,
    pub(super) echoed_bytes: u64,
}

#[derive(Default)]
pub(super) struct Tcp {
    pub(super) listeners: Vec<Listener>,
    pub(super) connections: Vec<Connection>,
    pub(super) books: Books,
    /// The process may close connections that owe nobody anything.
    pub(super) may_close_idle: bool,
    /// It serves at most so many at a time, until it is told to end.
    pub(super) limit: usize,
    pub(super) draining: bool,
}

impl Tcp {
    pub(super) fn listen(&mut self, addr: SocketAddr) -> Object {
        let queue = VecDeque::new();
        let (filtered, served) = (false, true);
        let (fruitless, rests_until) = (0, Duration::ZERO);
        let accept = None;
        self.listeners.push(Listener { addr, queue, accept, filtered, served, fruitless, rests_until });
        Object::Listener(self.listeners.len() - 1)
    }

    /// The peer of a connection does something.
    pub(super) fn advance_peer(&mut self, connection: usize, kernel: &mut Kernel) {
        let this = &mut self.connections[connection];
        if this.broken {
            return;
        }
        let mut acted = false;
        let most = this.peer.reads_at_most(this.echoed - this.read);
        if most > 0 {
            this.read += kernel.chance.between(1, most) as u64;
            acted = true;
        }
        let most = this.peer.sends_at_most(this.read == this.sent, this.window());
        if most > 0 && !this.fin {
            let bytes = if kernel.chance.one_in(2) { most } else { kernel.chance.between(1, most) } as u64;
            this.sent += bytes;
            this.peer.left -= bytes;
            acted = true;
        }
        let is_left = this.is_finished() && this.read == this.echoed;
        if !this.fin && this.peer.ends(this.read == this.sent, is_left) {
            this.fin = true;
            acted = true;
        }
        if !this.closed && kernel.chance.happens(kernel.faults.reset) {
            let vanished = kernel.chance.pick(&VANISHED);
            this.break_with(kernel.chance.pick(&[libc::ECONNRESET, libc::ECONNRESET, vanished, libc::EIO]));
            acted = true;
        }
        if acted {
            kernel.progress();
            kernel.activate(Object::Connection(connection));
            kernel.activate(Object::Peer(connection));
        }
    }

    /// Somebody connects.
    pub(super) fn connect(&mut self, listener: usize, peer: Peer, kernel: &mut Kernel) {
        if self.listeners[listener].filtered {
            return;
        }
        let room = kernel.chance.pick(&[1, 1000, 20 << 10, 4 << 20]).max(peer.left / 200);
        let salt = kernel.chance.below(1 << 20) as u64;
        self.connections.push(Connection {
            peer,
            salt,
            sent: 0,
            fin: false,
            received: 0,
            ended: false,
            echoed: 0,
            finished: false,
            read: 0,
            room,
            error: None,
            broken: false,
            told: false,
            accepted: false,
            served: false,
            closed: false,
            owed: None,
            received_before: None,
            receive: None,
            multishot: false,
            readable: None,
            writable: None,
            untold: 0,
            streams: false,
            has_streamed: false,
            small_pieces: 0,
            fruitless: 0,
            stalled: false,
            full: false,
            shutdown: None,
            nonblocking: false,
            splices: false,
        });
        let connection = self.connections.len() - 1;
        self.listeners[listener].queue.push_back(connection);
        kernel.activate(Object::Listener(listener));
        kernel.activate(Object::Peer(connection));
    }

    /// The process ends: it lets nothing new in.
    pub(super) fn begin_emptying(&mut self) {
        for connection in &mut self.connections {
            connection.received_before.get_or_insert(connection.received);
        }
    }

    /// Somebody was about to connect as the filter came.
    pub(super) fn connect_late(&mut self, listener: usize, peer: Peer, kernel: &mut Kernel) {
        self.listeners[listener].filtered = false;
        self.connect(listener, peer, kernel);
        self.listeners[listener].filtered = true;
        self.connections.last_mut().expect("just made").owed = Some(0);
    }

    /// Connections that are open, as far as the process knows or will know.
    pub(super) fn open(&self) -> usize {
        self.connections.iter().filter(|connection| !connection.closed).count()
    }

    // Operations.

    /// An ACCEPT is submitted, multishot or not.
    pub(super) fn accept(&mut self, listener: usize, operation: Operation, kernel: &mut Kernel) {
        assert_eq!(operation.sqe.file_index, FILE_INDEX_ALLOC, "connections are direct descriptors");
        assert!(self.listeners[listener].accept.is_none(), "a listener is armed twice");
        // several share one pause; at the end of the process nobody waits for it
        let Listener { rests_until, filtered, .. } = self.listeners[listener];
        let waits = self.listeners.len() == 1 && !filtered;
        assert!(
            !waits || kernel.now >= rests_until,
            "what has failed for want of something is tried at once"
        );
        self.listeners[listener].accept = Some(kernel.begin(operation));
        kernel.activate(Object::Listener(listener));
        // what is there comes during the submission, as a rule
        if !kernel.chance.one_in(4) {
            self.advance_listener(listener, kernel);
        }
    }

    /// An ACCEPT is cancelled.
    pub(super) fn check_leaving(&self, listener: usize) {
        let Listener { addr, served, .. } = self.listeners[listener];
        let has_cause = self.held() >= self.limit || self.draining || !served;
        assert!(has_cause, "accepting on {addr} ends below the limit");
    }

    /// An operation that waits on a connection is cancelled.
    pub(super) fn check_stopped(&self, connection: usize) {
        let this = &self.connections[connection];
        let restrained = this.stalled || this.has_streamed;
        let ends = this.fin || this.broken || this.owed.is_some() || this.fruitless > FAILURES_MAX.into();
        let has_cause = restrained || ends || self.may_close_idle;
        assert!(has_cause, "connection {connection} is kept from sending");
    }

    pub(super) fn advance_listener(&mut self, listener: usize, kernel: &mut Kernel) {
        let Some(accept) = self.listeners[listener].accept else { return };
        let sqe = kernel.get(accept).sqe;
        let end = if kernel.get(accept).cancelled {
            Some(-libc::ECANCELED)
        } else if kernel.persists(|persistent| persistent.accept) {
            Some(-kernel.faults.persistent.accept_errno)
        } else if kernel.chance.happens(kernel.faults.receive) {
            Some(-kernel.chance.pick(&[libc::ECONNABORTED, libc::EMFILE, libc::ENOMEM, libc::EPROTO]))
        } else if let Some(connection) = self.listeners[listener].queue.pop_front() {
            kernel.progress();
            match kernel.install(Object::Connection(connection)) {
                None => {
                    // as the kernel does it: taken from the queue, and closed
                    self.connections[connection].closed = true;
                    self.books.refused += 1;
                    Some(-libc::ENFILE)
                }
                Some(file) => {
                    self.connections[connection].accepted = true;
                    self.books.accepted += 1;
                    kernel.ledger.count("tcp_closed_prefix_limit", (sqe.addr() != 0).into());
                    if sqe.addr() != 0 {
                        let name = RawAddr::from(self.connections[connection].peer.addr);
                        assert_eq!(sqe.ioprio & abi::ACCEPT_MULTISHOT, 0, "one place for many names");
                        sqe.write_name(name.as_bytes());
                    }
                    if sqe.ioprio & abi::ACCEPT_MULTISHOT == 0 {
                        Some(file as i32)
                    } else {
                        self.listeners[listener].fruitless = 0;
                        if !kernel.complete_more(&sqe, file as i32, 0) {
                            self.listeners[listener].accept = None;
                            kernel.end(accept);
                        }
                        None
                    }
                }
            }
        } else {
            None
        };
        if let Some(result) = end {
            if result == -libc::ECANCELED {
                let cancelled = kernel.get(accept).cancelled;
                kernel.ledger.count_perhaps("tcp_accept_errors", (!cancelled).into());
            } else {
                kernel.ledger.count("tcp_accept_errors", (result < 0).into());
                if [libc::EMFILE, libc::ENFILE, libc::ENOMEM].contains(&-result) {
                    self.listeners[listener].rests_until = kernel.now + ACCEPT_PAUSE;
                    kernel.ledger.count("tcp_accept_pauses", 1);
                }
            }
            let this = &mut self.listeners[listener];
            this.accept = None;
            this.fruitless = if result < 0 { this.fruitless + 1 } else { 0 };
            kernel.ledger.count("tcp_accept_pauses", (this.fruitless > FAILURES_MAX.into()).into());
            kernel.end(accept);
            kernel.complete(&sqe, result, 0);
        }
        let Listener { queue, accept, .. } = &self.listeners[listener];
        if accept.is_some() && !queue.is_empty() {
            kernel.activate(Object::Listener(listener));
        }
    }

    /// A RECV is submitted, multishot or not.
    pub(super) fn receive(&mut self, connection: usize, operation: Operation, kernel: &mut Kernel) {
        self.connections[connection].served = true;
        let served = self.connections.iter().filter(|this| this.served && !this.closed).count();
        assert!(served <= self.limit || self.draining, "{served} connections are served");
        let this = &mut self.connections[connection];
        let sqe = operation.sqe;
        assert!(sqe.flags & abi::BUFFER_SELECT != 0, "received into provided buffers");
        assert!(this.receive.is_none(), "two receives on one connection");
        let all_out = this.received == this.echoed || this.finished;
        assert!(all_out, "more is received before what was received is out");
        let multishot = sqe.ioprio & abi::RECV_MULTISHOT != 0;
        this.multishot = multishot;
        assert!(!multishot || !this.nonblocking, "a multishot that ends when there is nothing");
        assert!(multishot || operation.is_inline(), "a receive that could end up in a thread of the kernel");
        assert!(multishot != this.streams || this.owed.is_some(), "much at a time: {}", this.streams);
        if kernel.group(sqe.buf_group).is_empty() {
            kernel.ledger.count("tcp_no_buffers", 1);
            kernel.complete(&sqe, -libc::ENOBUFS, 0);
        } else if multishot {
            this.receive = Some(kernel.begin(operation));
            kernel.activate(Object::Connection(connection));
            while !kernel.chance.one_in(4) && self.connections[connection].receive.is_some() {
                self.advance(connection, kernel);
            }
        } else if kernel.persists(|persistent| persistent.stream) {
            let result = this.fail(kernel);
            kernel.complete(&sqe, result, 0);
        } else {
            let (result, flags) = this.take(&sqe, kernel).unwrap_or_else(|| {
                this.count_fruitless(kernel);
                (-libc::EAGAIN, 0)
            });
            kernel.complete(&sqe, result, flags);
            kernel.activate(Object::Peer(connection));
        }
    }

    /// A SEND is submitted.
    pub(super) fn send(&mut self, connection: usize, operation: Operation, kernel: &mut Kernel) {
        let this = &mut self.connections[connection];
        assert!(this.shutdown.is_none(), "a send behind a FIN");
        assert!(!this.finished, "bytes behind our FIN");
        assert!(operation.is_inline(), "a send that could end up in a thread of the kernel");
        // who can't wait for room has to try
        let waits = kernel.faults.persistent.poll.is_zero();
        assert!(!this.full || !waits, "a send that can only find no room");
        let sqe = operation.sqe;
        let send = kernel.begin(operation);
        let result = this.give(&sqe.sent(sqe.len() as usize), kernel, &mut self.books).unwrap_or_else(|| {
            this.untold |= libc::POLLOUT;
            this.full = true;
            -libc::EAGAIN
        });
        let stalls = result < sqe.len() as i32;
        kernel.ledger.count("tcp_stalls", stalls.into());
        this.stalled |= stalls;
        kernel.end(send);
        kernel.complete(&sqe, result, 0);
        kernel.activate(Object::Peer(connection));
        kernel.activate(Object::Connection(connection));
    }

    /// Bytes are moved to a pipe. Fails with an errno.
    pub(super) fn splice_in(
        &mut self,
        connection: usize,
        bytes_max: usize,
        kernel: &mut Kernel,
    ) -> Result<Vec<u8>, i32> {
        let this = &mut self.connections[connection];
        assert!(this.nonblocking, "a splice that waits for a peer");
        assert!(this.receive.is_none() && this.readable.is_none(), "a receive could be overtaken");
        assert!(this.received == this.echoed, "more is received before what was received is out");
        if kernel.chance.happens(kernel.faults.passing) {
            // before urgent data it says that it is at the end
            return kernel.chance.pick(&[Err(libc::EINTR), Err(libc::EAGAIN), Ok(())]).map(|()| Vec::new());
        }
        let there = (this.sent - this.received) as usize;
        if there > 0 {
            let bytes = this.bring(there.min(bytes_max), kernel);
            kernel.activate(Object::Peer(connection));
            return Ok(bytes);
        }
        if let Some(errno) = this.error.take() {
            this.told = true;
            kernel.ledger.count_told(errno);
            return Err(errno);
        }
        if this.fin || this.broken { Ok(Vec::new()) } else { Err(libc::EAGAIN) }
    }

    /// Bytes are moved from a pipe. Returns how many, or an errno.
    pub(super) fn splice_out(
        &mut self,
        connection: usize,
        bytes: &[u8],
        kernel: &mut Kernel,
    ) -> Result<usize, i32> {
        let this = &mut self.connections[connection];
        assert!(this.nonblocking, "a splice that waits for a peer");
        assert!(bytes.len() >= SPLICED_BYTES_MIN || this.splices, "the pages of few bytes wait for a peer");
        assert!(this.shutdown.is_none() && !this.finished, "bytes behind our FIN");
        let result = this.give(bytes, kernel, &mut self.books).unwrap_or_else(|| {
            this.untold |= libc::POLLOUT;
            this.full = true;
            -libc::EAGAIN
        });
        let stalls = result < bytes.len() as i32;
        kernel.ledger.count("tcp_stalls", stalls.into());
        kernel.ledger.count("tcp_bytes_spliced", result.max(0) as u64);
        this.stalled |= stalls;
        // the rest of what was spliced
        this.splices = stalls && result > 0;
        kernel.activate(Object::Peer(connection));
        kernel.activate(Object::Connection(connection));
        usize::try_from(result).map_err(|_| -result)
    }

    /// A POLL_ADD is submitted: once for bytes, or for room as long as it goes.
    pub(super) fn poll(&mut self, connection: usize, operation: Operation, kernel: &mut Kernel) {
        let this = &mut self.connections[connection];
        let multishot = operation.sqe.len() & abi::POLL_ADD_MULTI != 0;
        let events = operation.sqe.op_flags as i16;
        if events == libc::POLLOUT && kernel.persists(|persistent| persistent.poll) {
            kernel.complete(&operation.sqe, -libc::ENOMEM, 0);
            return;
        }
        let poll = kernel.begin(operation);
        let place = if events == libc::POLLIN {
            assert!(!multishot && this.receive.is_none(), "bytes are waited for twice");
            &mut this.readable
        } else {
            assert_eq!((multishot, events), (true, libc::POLLOUT), "it would spin behind the peer's FIN");
            this.untold = libc::POLLOUT | libc::POLLRDHUP | libc::POLLHUP;
            &mut this.writable
        };
        assert!(place.replace(poll).is_none(), "polled twice");
        kernel.activate(Object::Connection(connection));
        if !kernel.chance.one_in(4) {
            self.advance(connection, kernel);
        }
    }

    /// A SHUTDOWN is submitted, which the kernel's threads carry out.
    pub(super) fn shut_down(&mut self, connection: usize, operation: Operation, kernel: &mut Kernel) {
        assert_eq!(operation.sqe.len(), libc::SHUT_WR as u32);
        let this = &mut self.connections[connection];
        assert!(this.shutdown.is_none(), "a second FIN");
        this.shutdown = Some(kernel.begin(operation));
        kernel.activate(Object::Connection(connection));
    }

    pub(super) fn advance(&mut self, connection: usize, kernel: &mut Kernel) {
        let this = &mut self.connections[connection];
        let mut again = false;
        if let Some(receive) = this.receive {
            let sqe = kernel.get(receive).sqe;
            let end = if kernel.get(receive).cancelled {
                Some((-libc::ECANCELED, 0))
            } else if kernel.chance.happens(kernel.faults.passing) {
                this.count_fruitless(kernel);
                Some((-libc::EINTR, 0))
            } else if kernel.persists(|persistent| persistent.stream) {
                Some((this.fail(kernel), 0))
            } else {
                match this.take(&sqe, kernel) {
                    // of a multishot it is bytes only that it goes on after
                    Some((result @ 1.., flags)) if sqe.ioprio & abi::RECV_MULTISHOT != 0 => {
                        again = kernel.complete_more(&sqe, result, flags);
                        if !again {
                            this.receive = None;
                            kernel.end(receive);
                        }
                        None
                    }
                    other => other,
                }
            };
            if let Some((result, flags)) = end {
                this.receive = None;
                kernel.end(receive);
                kernel.complete(&sqe, result, flags);
            }
        }
        if let Some(poll) = this.readable {
            let result = if kernel.get(poll).cancelled {
                Some(-libc::ECANCELED)
            } else {
                (this.sent > this.received || this.fin || this.broken).then_some(libc::POLLIN.into())
            };
            if let Some(result) = result {
                this.readable = None;
                let operation = kernel.end(poll);
                kernel.complete(&operation.sqe, result, 0);
            }
        }
        this.advance_writable(kernel);
        if let Some(shutdown) = this.shutdown.take() {
            let operation = kernel.end(shutdown);
            let result = if this.broken { -libc::ENOTCONN } else { 0 };
            if this.broken {
                this.told = true;
            } else {
                assert_eq!(this.echoed, this.received, "a FIN before all is echoed");
                assert!(this.received >= this.owed.unwrap_or(0), "a FIN before all is received");
                this.finished = true;
            }
            kernel.complete(&operation.sqe, result, 0);
        }
        if again {
            kernel.activate(Object::Connection(connection));
        }
        kernel.activate(Object::Peer(connection));
    }

    /// The process closes its end.
    pub(super) fn close(&mut self, connection: usize, kernel: &mut Kernel) {
        let this = &mut self.connections[connection];
        let complete = this.finished || this.echoed == this.sent;
        let orderly = this.ended && complete;
        if !this.told && !orderly {
            let fruitless = this.fruitless > FAILURES_MAX.into();
            let excused = this.stalled || this.owed.is_some() || fruitless || self.may_close_idle;
            assert!(excused, "connection {connection} is given up, and its peer has always read");
            self.books.given_up += 1;
        }
        self.books.closed += 1;
        this.closed = true;
        kernel.progress();
    }

    /// The process was told to end.
    pub(super) fn begin_drain(&mut self) {
        self.draining = true;
        for connection in &mut self.connections {
            connection.owed = Some(connection.sent);
        }
    }

    /// Connections that the process has.
    pub(super) fn held(&self) -> usize {
        self.connections.iter().filter(|connection| connection.accepted && !connection.closed).count()
    }

    /// The process sleeps: it lets nobody bring more whose bytes wait, or who brings much at a time.
    pub(super) fn check_restraint(&self) {
        for (number, this) in self.connections.iter().enumerate() {
            let waits = this.received > this.echoed || this.streams;
            let goes_on = this.receive.is_some() && this.multishot && !this.broken;
            assert!(!waits || !goes_on, "connection {number} can bring more than is to be kept");
        }
    }

    /// All is quiet: nobody is owed anything.
    pub(super) fn check_quiet(&self, limit: usize) {
        let full = self.held() >= limit;
        for Listener { addr, queue, accept, served, .. } in &self.listeners {
            assert!(!served || full || accept.is_some(), "nobody accepts on {addr}");
            assert!(full || queue.is_empty(), "somebody waits to be accepted on {addr}");
            assert!(
                !full || accept.is_none(),
                "who comes to {addr} above the limit does not wait in the queue"
            );
        }
        for (number, this) in self.connections.iter().enumerate() {
            if this.accepted && !this.closed && !full {
                assert!(!this.fin && !this.broken, "connection {number} has not ended");
                assert_eq!(this.received, this.sent, "connection {number} is not received from");
                assert_eq!(this.echoed, this.sent, "connection {number} is owed an echo");
                let armed = this.receive.is_some() || this.readable.is_some();
                assert!(armed, "connection {number} is not armed");
            }
        }
    }
}

impl Connection {
    /// Bytes that the peer may send at once.
    pub(super) fn window(&self) -> u64 {
        if self.broken || self.closed { 0 } else { WINDOW_BYTES - (self.sent - self.received) }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished || self.closed
    }

    /// The peer sends as much as it can, and reads the echo.
    pub(super) fn flood(&mut self) {
        self.peer.flood();
        self.room = self.room.max(64 << 10);
    }

    /// The peer, or the network, breaks the connection.
    pub(super) fn break_with(&mut self, errno: i32) {
        self.broken = true;
        self.error = Some(errno);
    }

    /// Room for what is sent to the peer.
    fn room(&self) -> u64 {
        self.room - (self.echoed - self.read).min(self.room)
    }

    /// What has come to be since the poll for room told last.
    fn news(&mut self) -> i16 {
        let mut now = 0;
        if self.room() > 0 {
            now |= libc::POLLOUT;
        }
        if self.fin {
            now |= libc::POLLRDHUP;
        }
        if self.broken {
            now |= libc::POLLHUP;
        }
        let news = self.untold & now;
        self.untold &= !now;
        news
    }

    /// A receive fails as all of the time do: its result.
    fn fail(&mut self, kernel: &mut Kernel) -> i32 {
        let errno = kernel.faults.persistent.stream_errno;
        if errno == libc::ENOBUFS {
            kernel.ledger.count("tcp_no_buffers", 1);
        } else {
            self.count_fruitless(kernel);
        }
        -errno
    }

    /// A receive ends without a byte. After so many in a row the process may give the connection up.
    fn count_fruitless(&mut self, kernel: &mut Kernel) {
        self.fruitless += 1;
        let for_nothing = kernel.faults.passing > 0 || !kernel.faults.persistent.stream.is_zero();
        let too_many = for_nothing && self.fruitless > FAILURES_MAX.into();
        kernel.ledger.count("tcp_closed_error", too_many.into());
    }

    /// Goes on with the poll for room.
    fn advance_writable(&mut self, kernel: &mut Kernel) {
        if let Some(poll) = self.writable {
            let events = self.news();
            self.full &= events & (libc::POLLOUT | libc::POLLHUP) == 0;
            let sqe = kernel.get(poll).sqe;
            let ended = if kernel.get(poll).cancelled {
                kernel.complete(&sqe, -libc::ECANCELED, 0);
                true
            } else {
                events != 0 && !kernel.complete_more(&sqe, events.into(), 0)
            };
            if ended {
                self.writable = None;
                kernel.end(poll);
            }
        }
    }

    /// What a receive gets, if it doesn't have to wait: result and flags.
    fn take(&mut self, sqe: &Sqe, kernel: &mut Kernel) -> Option<(i32, u32)> {
        let bytes = self.sent - self.received;
        let group = kernel.group(sqe.buf_group);
        if bytes == 0 {
            if let Some(errno) = self.error.take() {
                self.told = true;
                kernel.ledger.count_told(errno);
                kernel.progress();
                return Some((-errno, 0));
            } else if self.fin || self.broken {
                if !self.ended && !self.told {
                    kernel.ledger.count("tcp_closed_finished", 1);
                }
                self.ended = true;
                self.told |= self.broken;
                kernel.progress();
                return Some((0, 0));
            }
            return None;
        } else if group.is_empty() {
            kernel.ledger.count("tcp_no_buffers", 1);
            return Some((-libc::ENOBUFS, 0));
        }
        let limit = if sqe.len() == 0 { u32::MAX } else { sqe.len() };
        let room = group.room().min(limit).min(content::PART_BYTES_MAX as u32);
        let most = bytes.min(room.into()) as usize;
        let bytes = self.bring(most, kernel);
        let flags = kernel.group(sqe.buf_group).fill(&bytes);
        Some((bytes.len() as i32, flags))
    }

    /// The process gets some of what the peer has sent, `most` at the most.
    fn bring(&mut self, most: usize, kernel: &mut Kernel) -> Vec<u8> {
        let bytes = if kernel.chance.one_in(4) { kernel.chance.between(1, most) } else { most };
        let content = content::stream(self.salt, self.received, bytes).to_vec();
        self.received += bytes as u64;
        self.fruitless = 0;
        self.small_pieces = if bytes as u64 >= STREAMING_BYTES { 0 } else { self.small_pieces + 1 };
        self.streams |= bytes as u64 >= STREAMING_BYTES;
        self.streams &= self.small_pieces < SMALL_PIECES_MAX;
        self.has_streamed |= self.streams;
        let late = self.received_before.map_or(0, |before| self.received - before);
        assert!(
            late <= EMPTYING_BYTES_MAX || self.finished,
            "a peer that sends on keeps the process from its end"
        );
        kernel.ledger.count("tcp_bytes_in", bytes as u64);
        assert!(self.received - self.echoed <= HELD_BYTES_MAX || self.finished, "too much is kept");
        kernel.progress();
        content
    }

    /// The peer has not read so many bytes.
    pub(super) fn unread(&self) -> u64 {
        self.echoed - self.read
    }

    /// What a send comes to, if it doesn't have to wait.
    fn give(&mut self, all: &[u8], kernel: &mut Kernel, books: &mut Books) -> Option<i32> {
        if self.broken {
            self.told = true;
            let errno = self.error.take().unwrap_or(libc::EPIPE);
            kernel.ledger.count_told(errno);
            return Some(-errno);
        }
        let passing = kernel.chance.happens(kernel.faults.passing);
        if passing || kernel.persists(|persistent| persistent.send) {
            return Some(-kernel.chance.pick(&[libc::ENOMEM, libc::ENOBUFS, libc::EINTR]));
        }
        let room = self.room();
        if room == 0 {
            return None;
        }
        let most = all.len().min(room as usize);
        let short = kernel.chance.happens(kernel.faults.short);
        let bytes = if short { kernel.chance.between(1, most) } else { most };
        let sent = &all[..bytes];
        let due = (self.received - self.echoed) as usize;
        assert!(all.len() <= due, "{} bytes are sent, but {due} are due", all.len());
        assert!(sent == content::stream(self.salt, self.echoed, bytes), "other bytes than were received");
        self.echoed += bytes as u64;
        books.echoed_bytes += bytes as u64;
        kernel.progress();
        Some(bytes as i32)
    }
}
