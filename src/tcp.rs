//! The TCP datapath: what a connection sends comes back on it, in order, byte for byte.
//!
//! ```text
//! accept ─► direct descriptor ─► receive (multishot) ─► piece of a provided buffer ─► send, inline
//!                                      ▲                                               │ all out
//!                                      └── buffer goes back to the kernel ◄────────────┤
//!                                                                                      ▼ not all
//!                 receiving stops ◄── the rest is copied aside: a provided buffer never waits for a peer
//! ```
//!
//! A connection whose peer sends much at a time receives once for each send instead of by multishot, so
//! that a peer that sends but does not read can make us keep one receive's bytes and no more.
//!
//! Each connection has at most one send in flight: two could overtake each other. A direct descriptor
//! is closed only when nothing is in flight on it, so its number can't be used again under an operation.

mod connection;
mod listener;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use self::connection::{Cause, Connection, Phase, Receiving};
use self::listener::{Accepting, Listener};
use crate::addr::Domain;
use crate::idle::IdleClock;
use crate::limits::ConnectionsPerPrefix;
use crate::ring::{
    Arena, BufferConfig, BufferRing, Completion, Errno, File, Patience, PeerName, Ring, RingError, Token,
};
use crate::sockets::{Fate, LISTEN_BACKLOG, Listening};
use crate::stats::Counters;
use crate::sys;
use crate::verdict::{self, StreamSend};

/// Receive buffers of all connections together: large messages whole, small ones side by side, and all
/// of it in the cache.
const BUFFERS: BufferConfig = BufferConfig { group: 0, count: 16, buffer_bytes: 64 << 10, incremental: true };
/// The same for kernels where a buffer is used up by one receive, however short.
const WHOLE_BUFFERS: BufferConfig =
    BufferConfig { group: 0, count: 128, buffer_bytes: 32 << 10, incremental: false };
/// A receive of more bytes shows a peer that streams.
const STREAMING_BYTES: u32 = 16 << 10;
/// What such a peer's receives are limited to. The next one begins when all of it is out, so that no more
/// has to be set aside for the connection.
const STREAMING_RECEIVE_BYTES_MAX: u32 = 64 << 10;
/// Bytes set aside for all connections whose peers don't read, all workers together.
const ASIDE_BYTES: u32 = 64 << 20;
/// What a connection may still bring at the end of the server: more than its receive queue holds, unless
/// somebody raised net.ipv4.tcp_rmem above its default of 6 MiB.
const EMPTYING_BYTES_MAX: u32 = 8 << 20;
/// Bytes set aside are kept in chunks of this size.
const CHUNK_BYTES: u32 = 16 << 10;

/// How much a worker takes on.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections served at a time.
    pub connections: usize,
    /// Workers that share the memory for bytes set aside.
    pub workers: usize,
    /// Connections on which nothing was sent or received for so long are closed; zero for never.
    pub idle_timeout: Duration,
    /// How many each source may have, all workers together; `None`: any number.
    pub per_prefix: Option<Arc<ConnectionsPerPrefix>>,
}

/// The numbers of the operations that this datapath submits.
#[derive(Clone, Copy, Debug)]
pub struct Operations {
    /// Accept; the index is the listener's.
    pub accept: u8,
    /// Receive on a connection; the index is its file.
    pub receive: u8,
    /// Send on a connection.
    pub send: u8,
    /// Shutdown of a connection.
    pub shutdown: u8,
    /// Close of a connection; only failures complete.
    pub close: u8,
    /// Cancellation of an accept or a receive.
    pub cancel: u8,
    /// A tick of the clock that finds idle connections.
    pub tick: u8,
}

impl Operations {
    fn accept(self, number: usize) -> Token {
        Token::new(self.accept, 0, number as u32)
    }

    fn cancel(self) -> Token {
        Token::new(self.cancel, 0, 0)
    }
}

/// All listeners and connections of a worker.
pub struct Tcp {
    operations: Operations,
    listeners: Vec<Listener>,
    buffers: BufferRing,
    aside: Arena,
    /// By file, from `first_connection` on.
    connections: Vec<Connection>,
    first_connection: u32,
    /// Connections to look after at the end of the turn.
    listed: Vec<File>,
    /// Connections whose receive waits for buffers.
    starved: VecDeque<File>,
    /// Connections that hold provided buffers, because there was no room to set their bytes aside.
    crowded: Vec<File>,
    /// The connection that is being closed to make room, and its generation.
    given_up: Option<(File, u32)>,
    /// Connections accepted above the limit, in order.
    parked: VecDeque<File>,
    per_prefix: Option<Arc<ConnectionsPerPrefix>>,
    limit: usize,
    served: usize,
    turn: u64,
    clock: IdleClock,
    draining: bool,
}

impl Tcp {
    /// Registered files that connections need: the kernel accepts a full backlog beyond the limit
    /// before a cancellation takes effect, and would close what finds no place in the table.
    pub fn files(limit: usize, listeners: usize) -> usize {
        limit + listeners * (LISTEN_BACKLOG as usize + 1)
    }

    /// Registers `listening` from file `first` on. Connections get files from `first_connection` on.
    pub fn new(
        ring: &Ring,
        listening: Vec<Listening>,
        first: u32,
        first_connection: u32,
        limits: Limits,
        operations: Operations,
    ) -> Result<Self, RingError> {
        let mut listeners = Vec::new();
        for (number, listening) in listening.into_iter().enumerate() {
            let file = File(first + number as u32);
            ring.register_file(file, listening.as_fd())?;
            listeners.push(Listener {
                addr: listening.addr,
                domain: Domain::of(listening.addr),
                fate: listening.fate,
                listening: Some(listening),
                file,
                accepting: Accepting::Ended,
                peer: limits.per_prefix.is_some().then(PeerName::default),
            });
        }
        let buffers = BufferRing::new(ring, BUFFERS).or_else(|_| BufferRing::new(ring, WHOLE_BUFFERS))?;
        let chunks = ASIDE_BYTES / CHUNK_BYTES / limits.workers as u32;
        let table = Self::files(limits.connections, listeners.len());
        Ok(Self {
            operations,
            listeners,
            buffers,
            aside: Arena::new(chunks, CHUNK_BYTES)?,
            connections: (0..table).map(|_| Connection::new(0, Domain::Ipv4)).collect(),
            first_connection,
            listed: Vec::new(),
            starved: VecDeque::new(),
            crowded: Vec::new(),
            given_up: None,
            parked: VecDeque::new(),
            per_prefix: limits.per_prefix,
            limit: limits.connections,
            served: 0,
            turn: 0,
            clock: IdleClock::new(limits.idle_timeout),
            draining: false,
        })
    }

    /// The listener that an accept's token means, for messages.
    pub fn addr(&self, token: Token) -> SocketAddr {
        self.listeners[token.index() as usize].addr
    }

    /// Handles the completion of an accept. An error is final for the worker: the listener or the ring
    /// is unusable.
    pub fn accepted(&mut self, completion: &Completion, counters: &Counters) -> Result<(), Errno> {
        let listener = &mut self.listeners[completion.token().index() as usize];
        let domain = listener.domain;
        let counters = &counters[domain];
        if !completion.more() {
            let for_good = listener.accepting == Accepting::Leaving;
            listener.accepting = if for_good { Accepting::Off } else { Accepting::Ended };
        }
        match completion.result() {
            Ok(file) => {
                let file = File(file);
                let peer = listener.peer.as_ref().and_then(PeerName::get);
                let source =
                    self.per_prefix.as_ref().zip(peer).map(|(sources, peer)| sources.admit(peer.ip()));
                let connection = self.connection(file);
                debug_assert_eq!(connection.phase, Phase::Free, "the kernel gave out a file in use");
                *connection = Connection::new(connection.generation.wrapping_add(1), domain);
                counters.tcp_accepted.add(1);
                counters.tcp_open.add(1);
                if let Some(None) = source {
                    connection.phase = Phase::Closing(Cause::PrefixLimit);
                    self.served += 1;
                    self.list(file);
                } else {
                    connection.prefix = source.flatten();
                    connection.phase = Phase::Parked;
                    self.parked.push_back(file);
                }
            }
            Err(errno) => match verdict::of_accept(errno) {
                verdict::Receive::Cancelled => {}
                verdict::Receive::Fatal => return Err(errno),
                _ => counters.tcp_accept_errors.add(1),
            },
        }
        Ok(())
    }

    /// Handles the completion of a receive.
    pub fn received(&mut self, completion: &Completion, counters: &Counters) {
        let piece = self.buffers.take(completion);
        let Some(file) = self.file_of(completion.token()) else {
            if let Some(piece) = piece {
                self.buffers.recycle(piece);
            }
            return;
        };
        self.list(file);
        let connection = self.connection(file);
        let traffic = &counters[connection.domain];
        let was = connection.receiving;
        if !completion.more() {
            connection.receiving = Receiving::Off;
        }
        match completion.result() {
            Ok(0) => {
                connection.phase = match connection.phase {
                    Phase::Open | Phase::Emptying(_) | Phase::Finishing(_) => {
                        Phase::Finishing(Cause::Finished)
                    }
                    Phase::Lingering => Phase::Closing(Cause::Drained),
                    other => other,
                };
            }
            Ok(bytes) => {
                if connection.phase.echoes() {
                    traffic.tcp_bytes_in.add(bytes.into());
                }
                connection.streaming |= bytes > STREAMING_BYTES;
                if let Phase::Emptying(before) = connection.phase {
                    let now = before + bytes;
                    let more = now < EMPTYING_BYTES_MAX;
                    connection.phase =
                        if more { Phase::Emptying(now) } else { Phase::Finishing(Cause::Drained) };
                }
            }
            Err(errno) => match verdict::of_stream(errno) {
                verdict::Receive::Starved => traffic.tcp_no_buffers.add(1),
                verdict::Receive::Cancelled => {}
                verdict::Receive::Rearm => {
                    let emptied = was == Receiving::Rest && errno.0 == libc::EAGAIN;
                    if emptied && matches!(connection.phase, Phase::Emptying(_)) {
                        connection.phase = Phase::Finishing(Cause::Drained);
                    }
                }
                verdict::Receive::Reset | verdict::Receive::Fatal => {
                    connection.phase = Phase::Closing(Cause::of(errno));
                }
            },
        }
        let Some(piece) = piece else { return };
        if !connection.phase.echoes() || piece.bytes() == 0 {
            self.buffers.recycle(piece);
            return;
        }
        connection.pieces.push_back(piece);
        if !connection.aside.is_empty() {
            self.set_aside(file, counters);
        }
    }

    /// Handles the completion of a send.
    pub fn sent(&mut self, completion: &Completion, counters: &Counters) {
        let Some(file) = self.file_of(completion.token()) else { return };
        self.list(file);
        let connection = self.connection(file);
        connection.sending = false;
        match completion.result() {
            Ok(bytes) => {
                counters[connection.domain].tcp_bytes_out.add(bytes.into());
                self.advance(file, bytes, counters);
            }
            Err(errno) => match verdict::of_stream_send(errno) {
                StreamSend::Stalled => self.set_aside(file, counters),
                StreamSend::Again => {}
                StreamSend::Reset => {
                    // a send that was cancelled has its cause already
                    if !matches!(connection.phase, Phase::Closing(_)) {
                        connection.phase = Phase::Closing(Cause::of(errno));
                    }
                }
            },
        }
    }

    /// Handles the completion of a shutdown: our FIN is out.
    pub fn shut_down(&mut self, completion: &Completion) {
        let Some(file) = self.file_of(completion.token()) else { return };
        self.list(file);
        let connection = self.connection(file);
        connection.sending = false;
        if completion.result().is_err() {
            connection.phase = Phase::Closing(Cause::Drained);
        }
    }

    /// Handles a tick of the clock: closes the connections that were idle for too long.
    pub fn ticked(&mut self) {
        self.clock.ticked();
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            let waits = matches!(connection.phase, Phase::Free | Phase::Parked | Phase::Closing(_));
            if !waits && self.clock.is_idle(connection.active_tick) {
                connection.phase = Phase::Closing(Cause::Idle);
                self.list(File(self.first_connection + index as u32));
            }
        }
    }

    /// Ends the turn: every connection that something happened to gets its next operation.
    pub fn finish_turn(&mut self, ring: &mut Ring, counters: &Counters) {
        self.turn += 1;
        let mut listed = std::mem::take(&mut self.listed);
        for file in listed.drain(..) {
            self.connection(file).listed = false;
            self.look_after(file, ring, counters);
        }
        self.listed = listed;
        self.make_room(ring, counters);
        // who found no buffer is served in turn as buffers come back, one each: the rest wait on
        for _ in 0..self.buffers.available() {
            let Some(file) = self.starved.pop_front() else { break };
            self.connection(file).starved = false;
            self.look_after(file, ring, counters);
        }
        while self.served < self.limit || self.draining {
            let Some(file) = self.parked.pop_front() else { break };
            self.served += 1;
            let (now, draining) = (self.clock.now(), self.draining);
            let connection = self.connection(file);
            connection.active_tick = now;
            connection.phase = if draining { Phase::Emptying(0) } else { Phase::Open };
            self.look_after(file, ring, counters);
        }
        if self.served > 0 {
            self.clock.run(ring, Token::new(self.operations.tick, 0, 0));
        }
        self.arm_listeners(ring, counters);
    }

    /// Accepts below the limit, stops above it.
    fn arm_listeners(&mut self, ring: &mut Ring, counters: &Counters) {
        let full = self.served >= self.limit && !self.draining;
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            match listener.accepting {
                Accepting::Armed if full => {
                    counters[listener.domain].tcp_limit_reached.add(1);
                    listener.accepting = Accepting::Cancelling;
                    ring.cancel(self.operations.accept(number), self.operations.cancel());
                }
                Accepting::Ended if !full => listener.accept(ring, self.operations.accept(number)),
                _ => {}
            }
        }
    }

    /// Lets nothing new into the listeners that end with us; who is in their queues is still accepted.
    /// Connections echo what they have received, then get our FIN.
    pub fn begin_drain(&mut self) {
        self.draining = true;
        for listener in self.listeners.iter().filter(|listener| listener.fate == Fate::Ends) {
            if let Some(listening) = &listener.listening {
                // without the filter late connections are reset by the close, as by any other server
                let _ = sys::drop_incoming(listening.as_fd());
            }
        }
        for index in 0..self.connections.len() {
            if self.connections[index].phase == Phase::Open {
                self.connections[index].phase = Phase::Emptying(0);
                self.list(File(self.first_connection + index as u32));
            }
        }
    }

    /// Ends accepting: at once where the listener outlives us, else when its queue is empty. True when no
    /// connection is left.
    pub fn drain(&mut self, ring: &mut Ring) -> io::Result<bool> {
        let mut drained = self.served == 0 && self.parked.is_empty();
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            listener.end_if_left(ring, self.operations.accept(number), self.operations.cancel())?;
            drained &= listener.accepting == Accepting::Off;
        }
        Ok(drained)
    }

    /// Ends accepting on the listeners that are not wanted any more, once their queues are empty. True
    /// while there are any.
    pub fn retire(&mut self, ring: &mut Ring) -> io::Result<bool> {
        let mut left = false;
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            if listener.fate != Fate::Retires || listener.listening.is_none() {
                continue;
            }
            listener.end_if_left(ring, self.operations.accept(number), self.operations.cancel())?;
            if listener.accepting == Accepting::Off {
                ring.unregister_file(listener.file);
                listener.listening = None;
            }
            left = true;
        }
        Ok(left)
    }

    /// Decides what a connection does next: the one place where operations on connections begin.
    fn look_after(&mut self, file: File, ring: &mut Ring, counters: &Counters) {
        let operations = self.operations;
        let connection = &mut self.connections[(file.0 - self.first_connection) as usize];
        let receive = Token::new(operations.receive, connection.generation, file.0);
        let send = Token::new(operations.send, connection.generation, file.0);

        if let Phase::Closing(cause) = connection.phase {
            if matches!(connection.receiving, Receiving::Multishot | Receiving::Once) {
                connection.receiving = Receiving::Cancelling;
                ring.cancel(receive, operations.cancel());
            }
            // a receive of the rest needs no cancelling: it does not wait
            if connection.sending {
                ring.cancel(send, operations.cancel());
            }
            if connection.receiving == Receiving::Off && !connection.sending {
                self.close(file, cause, ring, counters);
            }
            return;
        }

        // bytes that wait for room would only be refused again
        let waits = connection.crowded && connection.aside.is_empty();
        if !connection.sending && !waits && connection.has_to_send() {
            connection.sending = true;
            if let Some(chunk) = connection.aside.front() {
                let bytes = self.aside.span(chunk).skip(connection.chunk_bytes_done);
                ring.send(file, bytes, Patience::Wait, send);
            } else if let Some(piece) = connection.pieces.front() {
                let bytes = self.buffers.span(piece).skip(connection.piece_bytes_done);
                ring.send(file, bytes, Patience::Inline, send);
            }
        }

        match (connection.phase, connection.receiving) {
            (Phase::Open | Phase::Emptying(_), Receiving::Off) => {
                let ready = !connection.has_to_send();
                if ready && self.buffers.available() == 0 {
                    if !connection.starved {
                        connection.starved = true;
                        self.starved.push_back(file);
                    }
                } else if ready && connection.phase != Phase::Open {
                    connection.receiving = Receiving::Rest;
                    let bytes_max = STREAMING_RECEIVE_BYTES_MAX;
                    ring.receive_once(file, &self.buffers, bytes_max, Patience::Inline, receive);
                } else if ready && connection.streaming {
                    connection.receiving = Receiving::Once;
                    let bytes_max = STREAMING_RECEIVE_BYTES_MAX;
                    ring.receive_once(file, &self.buffers, bytes_max, Patience::Wait, receive);
                } else if ready {
                    connection.receiving = Receiving::Multishot;
                    ring.receive(file, &self.buffers, receive);
                }
            }
            (Phase::Open, Receiving::Multishot) if connection.streaming || !connection.aside.is_empty() => {
                connection.receiving = Receiving::Cancelling;
                ring.cancel(receive, operations.cancel());
            }
            (Phase::Emptying(_) | Phase::Finishing(_), Receiving::Multishot | Receiving::Once) => {
                connection.receiving = Receiving::Cancelling;
                ring.cancel(receive, operations.cancel());
            }
            // what waits for room, too, has to be sent before
            (Phase::Finishing(cause), Receiving::Off) if !connection.sending && !connection.has_to_send() => {
                if cause == Cause::Drained {
                    connection.phase = Phase::Lingering;
                    connection.sending = true;
                    ring.shutdown(file, Token::new(operations.shutdown, connection.generation, file.0));
                } else {
                    self.close(file, cause, ring, counters);
                }
            }
            (Phase::Lingering, Receiving::Off) if !connection.sending && self.buffers.available() > 0 => {
                connection.receiving = Receiving::Once;
                let bytes_max = STREAMING_RECEIVE_BYTES_MAX;
                ring.receive_once(file, &self.buffers, bytes_max, Patience::Wait, receive);
            }
            (Phase::Lingering, Receiving::Off) if !connection.sending && !connection.starved => {
                connection.starved = true;
                self.starved.push_back(file);
            }
            _ => {}
        }
    }

    /// Closes a connection on which nothing is in flight.
    fn close(&mut self, file: File, cause: Cause, ring: &mut Ring, counters: &Counters) {
        let index = (file.0 - self.first_connection) as usize;
        let Connection { generation, domain, .. } = self.connections[index];
        let closed = std::mem::replace(&mut self.connections[index], Connection::new(generation, domain));
        for piece in closed.pieces {
            self.buffers.recycle(piece);
        }
        for chunk in closed.aside {
            self.aside.release(chunk);
        }
        if let (Some(sources), Some(prefix)) = (&self.per_prefix, closed.prefix) {
            sources.leave(prefix);
        }
        ring.close(file, Token::new(self.operations.close, generation, file.0));
        self.served -= 1;
        let counters = &counters[domain];
        counters.tcp_open.subtract(1);
        cause.counter(counters).add(1);
    }

    /// Takes `bytes` that were sent off what is to be sent.
    fn advance(&mut self, file: File, bytes: u32, counters: &Counters) {
        let connection = &mut self.connections[(file.0 - self.first_connection) as usize];
        if let Some(chunk) = connection.aside.front() {
            connection.chunk_bytes_done += bytes;
            if connection.chunk_bytes_done == chunk.bytes() {
                connection.chunk_bytes_done = 0;
                let chunk = connection.aside.pop_front().expect("it is there");
                self.aside.release(chunk);
            }
        } else if let Some(piece) = connection.pieces.front() {
            connection.piece_bytes_done += bytes;
            if connection.piece_bytes_done == piece.bytes() {
                connection.piece_bytes_done = 0;
                let piece = connection.pieces.pop_front().expect("it is there");
                self.buffers.recycle(piece);
            } else {
                self.set_aside(file, counters);
            }
        }
    }

    /// Copies what a connection has received out of the provided buffers, so that they need not wait
    /// for its peer. What finds no room is tried again at the end of each turn, see [`Self::make_room`].
    fn set_aside(&mut self, file: File, counters: &Counters) {
        let connection = &mut self.connections[(file.0 - self.first_connection) as usize];
        if connection.aside.is_empty() {
            connection.stalled_turn = self.turn;
            counters[connection.domain].tcp_stalls.add(1);
        }
        while let Some(piece) = connection.pieces.front() {
            let rest = &self.buffers.bytes(piece)[connection.piece_bytes_done as usize..];
            let Some(chunk) = self.aside.keep(rest) else {
                if !connection.crowded {
                    connection.crowded = true;
                    self.crowded.push(file);
                }
                return;
            };
            connection.piece_bytes_done += chunk.bytes();
            connection.aside.push_back(chunk);
            if connection.piece_bytes_done == piece.bytes() {
                connection.piece_bytes_done = 0;
                let piece = connection.pieces.pop_front().expect("it is there");
                self.buffers.recycle(piece);
            }
        }
    }

    /// Sets aside what found no room before. As long as there is none, the connection whose peer has not
    /// read for the longest time is closed, one after the other: otherwise peers that don't read would
    /// keep the provided buffers from everybody else.
    fn make_room(&mut self, ring: &mut Ring, counters: &Counters) {
        if self.crowded.is_empty() {
            return;
        }
        for file in std::mem::take(&mut self.crowded) {
            // a file whose connection was closed meanwhile may have another one
            let connection = self.connection(file);
            if std::mem::take(&mut connection.crowded) {
                self.set_aside(file, counters);
                self.look_after(file, ring, counters);
            }
        }
        let closing = self.given_up.is_some_and(|(file, generation)| {
            let connection = self.connection(file);
            connection.generation == generation && matches!(connection.phase, Phase::Closing(_))
        });
        if !self.crowded.is_empty() && !closing {
            self.give_up_longest_stalled(ring, counters);
        }
    }

    /// Closes the connection whose peer has not read for the longest time.
    fn give_up_longest_stalled(&mut self, ring: &mut Ring, counters: &Counters) {
        let stalled = (0_u32..).zip(&self.connections).filter(|(_, connection)| {
            !connection.aside.is_empty() && matches!(connection.phase, Phase::Open | Phase::Finishing(_))
        });
        let longest = stalled.min_by_key(|(_, connection)| connection.stalled_turn).map(|(index, _)| index);
        if let Some(index) = longest {
            let file = File(self.first_connection + index);
            let connection = self.connection(file);
            connection.phase = Phase::Closing(Cause::Stalled);
            self.given_up = Some((file, self.connection(file).generation));
            self.look_after(file, ring, counters);
        }
    }

    /// The connection that a token means, if it is still the same one.
    fn file_of(&self, token: Token) -> Option<File> {
        let connection = self.connections.get((token.index() - self.first_connection) as usize)?;
        let same = connection.phase != Phase::Free
            && Token::new(token.operation(), connection.generation, token.index()) == token;
        same.then_some(File(token.index()))
    }

    fn connection(&mut self, file: File) -> &mut Connection {
        &mut self.connections[(file.0 - self.first_connection) as usize]
    }

    /// Something has happened on `file`: it is looked after at the end of the turn.
    fn list(&mut self, file: File) {
        let now = self.clock.now();
        let connection = self.connection(file);
        connection.active_tick = now;
        if !connection.listed {
            connection.listed = true;
            self.listed.push(file);
        }
    }
}
