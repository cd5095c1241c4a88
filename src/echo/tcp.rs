//! The TCP datapath: each connection gets back what it sends, in order, byte for byte.
//!
//! ```text
//! accept ─► direct descriptor ─► receive (multishot) ─► part of a provided buffer ─► send, inline
//!                                      ▲                                              │ all sent
//!                                      └── buffer goes back to the kernel ◄───────────┤
//!                                                                                     ▼ not all
//!               receiving stops ◄── the rest is spilled: a provided buffer never waits for a peer
//!
//! a connection that brings much at a time ─► poll for bytes ─► splice: receive queue ─► pipe ─► send queue
//!                    where it can't be spliced ─► receive once (does not wait) ─► send
//! ```
//!
//! A connection is *parked* from its accept to the end of the turn. It is *starved* when it found no buffer.
//!
//! A turn is one round of the worker's loop. It hands each completion to [`Tcp`], which changes the state of a connection
//! and marks it dirty (`completions`). At the end of the turn [`Tcp::finish_turn`] decides what each dirty connection does
//! next, and submits it (`next_operations`).
//!
//! * `connection` and `phase`: the state of a connection, and every change of it.
//! * `unsent`: what a connection has received and not sent back yet.
//! * `manner`: how it is received from. `splicer`: the worker's pipe. `poured`: what was spliced and waits for peers.
//! * `table`: all connections, by file. `places`: which of them are served.
//! * `receive_buffers`: the buffers that all connections receive into. `spill`: memory for what their peers don't take.
//! * `listener`: how far accepting is. `cause`: why connections were closed.
//!
//! In the kernel only multishots and polls wait for a connection; sends and single receives do not wait. Urgent data and
//! the peer's FIN wake whatever waits. A single receive would then find no bytes, and the kernel would hand it to a
//! thread that blocks: one thread for each such connection, each with a provided buffer that other connections use, too.
//! A peer could cause that with one segment.
//!
//! A direct descriptor is closed only when nothing is in flight on it, so no operation meets another connection with
//! the same number.

mod cause;
mod completions;
mod connection;
mod listener;
mod manner;
mod next_operations;
mod phase;
mod places;
mod poured;
mod receive_buffers;
mod spill;
mod splicer;
mod table;
mod unsent;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use self::listener::Listeners;
use self::places::Places;
pub use self::receive_buffers::BufferCounts;
use self::receive_buffers::ReceiveBuffers;
use self::spill::Spill;
pub use self::splicer::Copies;
use self::splicer::Splicer;
use self::table::Table;
use crate::echo::files::FileRange;
use crate::kernel::pause::{PAUSE, Pause};
use crate::kernel::ring::{File, Ring, RingError, Token, WholeBuffers};
use crate::policy::errno_policy::SocketStage;
use crate::policy::limits::ConnectionsPerPrefix;
use crate::sockets::listening::{LISTEN_BACKLOG, Listening};

/// How much a worker takes on.
#[derive(Clone, Debug)]
pub struct TcpLimits {
    /// Connections served at a time.
    pub connections: usize,
    /// Workers that share the memory for spilled bytes.
    pub workers: usize,
    /// Connections on which nothing was sent or received for this long are closed; zero for never.
    pub idle_timeout: Duration,
    /// Each accept brings one connection. Then the worker knows the peer's address, and accepts none above the limit.
    pub single_accept: bool,
    /// Receive buffers of all connections together.
    pub buffers: BufferCounts,
    /// Bytes that a connection may still bring after the server was told to end.
    pub final_read_bytes: u32,
    /// The first number for descriptors of connections that are spliced. `None`: large messages are copied.
    pub first_descriptor: Option<RawFd>,
}

/// All listeners and connections of a worker.
pub struct Tcp {
    listeners: Listeners,
    places: Places,
    table: Table,
    buffers: ReceiveBuffers,
    spill: Spill,
    splicer: Splicer,
    /// Connections whose send or whose poll for room failed for a shortage.
    retries: VecDeque<File>,
    /// The pause of `retries`, and of connections that find no buffer again and again.
    pause: Pause,
    stage: SocketStage,
    /// The server ends. That may begin while the listeners are still being armed.
    draining: bool,
    final_read_bytes: u32,
    turn: u64,
}

impl Tcp {
    /// Files that connections need. Unless accepts are single, the kernel accepts a full backlog above the limit before
    /// a cancellation takes effect, and would close what finds no place in the table.
    pub fn files(limit: usize, listeners: usize, single_accept: bool) -> usize {
        let beyond = if single_accept { 1 } else { LISTEN_BACKLOG as usize + 1 };
        limit.saturating_add(listeners * beyond)
    }

    /// Registers the sockets as the files of `listeners`. The kernel gives connections the files of `connections`.
    /// Nothing was queued in the ring before.
    pub fn new(
        ring: &mut Ring,
        listening: Vec<Listening>,
        (listeners, connections): (FileRange, FileRange),
        limits: &TcpLimits,
        per_prefix: Option<Arc<ConnectionsPerPrefix>>,
    ) -> Result<Self, RingError> {
        let has_listeners = !listening.is_empty();
        Ok(Self {
            listeners: Listeners::new(ring, listening, listeners, limits.single_accept)?,
            places: Places::new(limits.connections, per_prefix),
            table: Table::new(connections, limits.idle_timeout),
            buffers: ReceiveBuffers::new(ring, limits.buffers, has_listeners)?,
            spill: Spill::new(limits.workers)?,
            splicer: Splicer::new(ring, connections, limits.first_descriptor, limits.workers),
            retries: VecDeque::new(),
            pause: Pause::new(PAUSE),
            stage: SocketStage::Arming,
            draining: false,
            final_read_bytes: limits.final_read_bytes,
            turn: 0,
        })
    }

    /// Why each receive uses up a buffer, if it does.
    pub fn whole_buffers(&self) -> Option<WholeBuffers> {
        self.buffers.whole()
    }

    /// Why large messages are copied, if they are.
    pub fn copies(&self) -> Option<Copies> {
        self.splicer.copies()
    }

    /// Every listener has shown that it works.
    pub fn begin_serving(&mut self) {
        self.stage = SocketStage::Serving;
    }

    /// How long a turn may sleep; `None`: for ever. It is limited only while something waits for the end of a pause.
    pub fn sleep(&self) -> Option<Duration> {
        let clock = self.table.sleep().filter(|_| self.places.serves());
        [self.listeners.sleep(), self.pause.sleep(), clock].into_iter().flatten().min()
    }

    /// The next turn has something to do, whether anything completes or not: there are buffers for connections that
    /// wait for them.
    pub fn has_ready_work(&self) -> bool {
        self.buffers.has_ready_work()
    }

    /// The address of the listener that an accept's token means, for messages.
    pub fn addr(&self, token: Token) -> SocketAddr {
        self.listeners.addr(token)
    }

    /// Whether the listener that an accept's token means still listens.
    pub fn listens(&self, token: Token) -> bool {
        self.listeners.listens(token)
    }

    // The end of the server.

    /// Lets no new connection into the queues of the listeners that end with the process; the next process gets the
    /// others. Connections in those queues are still accepted. Connections echo what the kernel has received, then get our FIN.
    pub fn begin_drain(&mut self) {
        self.draining = true;
        self.listeners.begin_drain();
        let bytes = self.final_read_bytes;
        self.table.change_each(|connection, _| connection.begin_drain(bytes));
    }

    /// Ends accepting: at once where the listener is kept for the next process, else when its queue is empty. True when
    /// no connection is left.
    pub fn drain(&mut self, ring: &mut Ring) -> io::Result<bool> {
        let drained = self.listeners.drain(ring)?;
        let is_empty = self.places.is_empty();
        if is_empty {
            self.splicer.assert_idle();
        }
        Ok(drained && is_empty)
    }

    /// Closes the retired listeners, those that no option names any more, once their queues are empty. True when none
    /// is left.
    pub fn close_retired(&mut self, ring: &mut Ring) -> io::Result<bool> {
        self.listeners.close_retired(ring)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_room_for_what_is_accepted_beyond_the_limit() {
        assert_eq!(Tcp::files(100, 0, false), 100);
        assert_eq!(Tcp::files(100, 3, true), 103);
        assert_eq!(Tcp::files(100, 3, false), 100 + 3 * (LISTEN_BACKLOG as usize + 1));
    }
}
