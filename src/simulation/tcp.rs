//! TCP as a process meets it: listeners with connections in their queues, connections with bytes in both
//! directions, and what each is owed.

mod accept;
mod bytes;
mod operations;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::kernel::{InFlight, Kernel, Object};
use super::ledger::VANISHED;
use super::peer::Peer;
use crate::kernel::pause::FAILURES_MAX;

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
