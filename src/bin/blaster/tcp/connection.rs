//! One connection, or a row of them: sends messages, reads their echoes, keeps its books.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Shutdown, TcpStream as StdStream};
use std::rc::Rc;
use std::time::Duration;

use tokio_uring::net::TcpStream;

use super::echo::{Echo, Echoed, Expected};
use super::{Mode, Shared, bound};
use crate::model::outcomes::Class;
use crate::model::payload::Header;
use crate::model::results::{Example, Results, SentMessage};

/// Bytes read at once when streaming.
const READ_BYTES: usize = 64 << 10;
/// Pause after a connection that did not come about, so that a server that is gone is not hammered.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// Connection number `id`, and, where connections come and go, those that follow it.
pub(super) struct Connection {
    shared: Rc<Shared>,
    id: u32,
    sequence: Cell<u64>,
    echo: RefCell<Echo>,
    /// Nothing more will be sent on it.
    has_sent_all: Cell<bool>,
    /// It was shut down for want of an answer.
    was_shut_down: Cell<bool>,
    /// It ended as it should have; where connections come and go, the last of them.
    is_in_order: Cell<bool>,
}

impl Connection {
    pub(super) fn new(shared: Rc<Shared>, id: u32) -> Self {
        Self {
            shared,
            id,
            sequence: Cell::new(0),
            echo: RefCell::default(),
            has_sent_all: Cell::new(false),
            was_shut_down: Cell::new(false),
            is_in_order: Cell::new(false),
        }
    }

    /// Whether it, or the last of its row, ended as it should have.
    pub(super) fn is_in_order(&self) -> bool {
        self.is_in_order.get()
    }

    /// Uses one connection until the end of the run.
    pub(super) async fn serve(self: Rc<Self>, stream: StdStream) {
        let stream = Rc::new(TcpStream::from_std(stream));
        self.note_connection(|connections| {
            connections.attempted += 1;
            connections.established += 1;
        });
        let ended = match self.prepare(&stream) {
            Ok(()) if self.shared.load.mode == Mode::Stream => self.stream(&stream).await,
            Ok(()) => self.ping_pong(&stream).await,
            Err(error) => Err(error),
        };
        self.note_end(ended);
    }

    /// Connects, echoes one message and closes, again and again.
    pub(super) async fn connect_repeatedly(self: Rc<Self>) {
        while let Some(now_ns) = self.shared.take_turn() {
            self.note_connection(|connections| connections.attempted += 1);
            match self.connect().await {
                Ok(stream) => {
                    self.note_connection(|connections| connections.established += 1);
                    let stream = Rc::new(stream);
                    let ended = self.echo_once_in_time(&stream, now_ns).await;
                    self.note_end(ended);
                }
                Err(error) => {
                    // without a local port nothing was asked of the server: it may be there
                    let is_ours = error.kind() == io::ErrorKind::AddrNotAvailable;
                    self.is_in_order.set(is_ours && self.is_in_order.get());
                    self.note_connection(|connections| connections.failed += 1);
                    self.shared.results.borrow_mut().refuse(error.raw_os_error().unwrap_or(libc::ETIMEDOUT));
                    tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                }
            }
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let load = &self.shared.load;
        let (peer, local) = load.ends(self.id);
        if let Some(local) = local {
            let stream = bound::connect(bound::bind(local)?, peer, load.timeout).await?;
            return Ok(TcpStream::from_std(stream));
        }
        let connected = TcpStream::connect(peer);
        let connected = tokio::time::timeout(load.timeout, connected).await;
        let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        bound::check_other_end(&stream, peer)?;
        Ok(stream)
    }

    /// No message waits for more bytes to travel with, and the end of the run finds the stream.
    fn prepare(&self, stream: &Rc<TcpStream>) -> io::Result<()> {
        stream.set_nodelay(true)?;
        self.shared.watch_stream(stream);
        Ok(())
    }

    /// A server that leaves one connection hanging may well serve the next.
    async fn echo_once_in_time(&self, stream: &Rc<TcpStream>, now_ns: u64) -> io::Result<()> {
        self.was_shut_down.set(false);
        let mut echo = std::pin::pin!(self.echo_once(stream, now_ns));
        if let Ok(ended) = tokio::time::timeout(self.shared.load.linger, &mut echo).await {
            return ended;
        }
        self.was_shut_down.set(true);
        // with this its reads and writes end; dropped in their midst they would keep their buffers
        let _ = stream.shutdown(Shutdown::Both);
        echo.await
    }

    async fn echo_once(&self, stream: &Rc<TcpStream>, now_ns: u64) -> io::Result<()> {
        self.prepare(stream)?;
        self.send(stream, Vec::new(), now_ns).await?;
        let buffer = self.receive_all(stream, vec![0; READ_BYTES]).await?;
        stream.shutdown(Shutdown::Write)?;
        // the server's end of it; whatever comes before that is too much
        let (received, buffer) = stream.read(buffer).await;
        self.judge(&buffer[..received?]);
        // an end that blaster made is none of the server's
        if self.was_cut() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    async fn ping_pong(&self, stream: &Rc<TcpStream>) -> io::Result<()> {
        let mut message = Vec::new();
        let mut buffer = vec![0; READ_BYTES];
        while let Some(now_ns) = self.shared.take_turn() {
            message = self.send(stream, message, now_ns).await?;
            buffer = self.receive_all(stream, buffer).await?;
        }
        stream.shutdown(Shutdown::Write)
    }

    async fn stream(self: &Rc<Self>, stream: &Rc<TcpStream>) -> io::Result<()> {
        let writer = {
            let (this, stream) = (Rc::clone(self), Rc::clone(stream));
            tokio_uring::spawn(async move {
                let mut message = Vec::new();
                let mut result = Ok(());
                while let Some(now_ns) = this.shared.take_turn() {
                    match this.send(&stream, message, now_ns).await {
                        Ok(sent) => message = sent,
                        Err(error) => {
                            result = Err(error);
                            break;
                        }
                    }
                }
                this.has_sent_all.set(true);
                // the server sees the end, echoes what is left, and ends its side: the reader waits for that
                result.and_then(|()| stream.shutdown(Shutdown::Write))
            })
        };
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let (received, used) = stream.read(buffer).await;
            buffer = used;
            match received? {
                0 => break,
                received => self.judge(&buffer[..received]),
            }
        }
        if !self.has_sent_all.get() || !self.echo.borrow().is_complete() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        writer.await.unwrap_or(Ok(()))
    }

    /// Sends the next message; `message` is where it is written.
    async fn send(&self, stream: &TcpStream, mut message: Vec<u8>, now_ns: u64) -> io::Result<Vec<u8>> {
        let load = &self.shared.load;
        let sequence = self.sequence.replace(self.sequence.get() + 1);
        let header = Header { run_id: load.run_id, flow: self.id, sequence, intended_ns: now_ns };
        let bytes = load.sizes.of_message(load.seed, self.id, sequence) as usize;
        message.resize(bytes, 0);
        load.bodies.write(&header, &mut message);
        self.echo.borrow_mut().expect(&header, bytes);
        {
            let mut results = self.shared.results.borrow_mut();
            let counts = &mut results.outcomes.page(now_ns).counts;
            counts.sent += 1;
            counts.bytes_sent += bytes as u64;
        }
        self.shared.show(|shown| shown.sent += 1);
        let (written, message) = stream.write_all(message).await;
        written.map(|()| message)
    }

    /// Reads until the echo is complete.
    async fn receive_all(&self, stream: &TcpStream, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
        while !self.echo.borrow().is_complete() {
            let (received, used) = stream.read(buffer).await;
            buffer = used;
            match received? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                received => self.judge(&buffer[..received]),
            }
        }
        Ok(buffer)
    }

    fn judge(&self, mut bytes: &[u8]) {
        let now_ns = self.shared.clock.get().now_ns();
        self.shared.received_at_ns.set(now_ns);
        let mut results = self.shared.results.borrow_mut();
        let results = &mut *results;
        results.outcomes.page(now_ns).counts.bytes_received += bytes.len() as u64;
        let (mut ok, mut damaged) = (0, 0);
        while !bytes.is_empty() {
            let Ok((echoed, rest)) = self.echo.borrow_mut().feed(&self.shared.load.bodies, bytes) else {
                results.outcomes.page(now_ns).counts.unattributed += 1;
                self.show_example("unattributed", bytes.len(), None, results);
                break;
            };
            bytes = rest;
            let Some(Echoed { expected, differs_at }) = echoed else { continue };
            let waited_ns = now_ns.saturating_sub(expected.sent_ns);
            let class = match differs_at {
                Some(_) => Class::Corrupted,
                None if waited_ns > self.shared.load.timeout.as_nanos() as u64 => Class::Late,
                None => Class::Ok,
            };
            if let Some(kind) = class.wrong() {
                self.show_example(kind, expected.bytes, Some((expected, differs_at)), results);
            }
            let page = results.outcomes.page(expected.sent_ns);
            *page.counts.of(class) += 1;
            if class == Class::Ok {
                ok += 1;
                self.shared.right_at_ns.set(now_ns);
                self.shared.live.round_trips.note(waited_ns);
            } else {
                damaged += 1;
            }
            if class != Class::Corrupted {
                results.round_trips.record(expected.sent_ns, waited_ns);
            }
        }
        self.shared.show(|shown| {
            shown.ok += ok;
            shown.damaged += damaged;
        });
    }

    /// Keeps one of a few wrong echoes to look at: of this message, from this byte on another.
    fn show_example(
        &self,
        kind: &str,
        came_bytes: usize,
        answers: Option<(Expected, Option<usize>)>,
        results: &mut Results,
    ) {
        if !results.wants_example(kind) {
            return;
        }
        let peer = self.shared.load.targets.of_flow(self.id);
        let answers = answers.map(|(expected, differs_at)| SentMessage {
            sent_to: peer,
            sent_bytes: expected.bytes,
            flow: self.id,
            sequence: expected.sequence,
            differs_at,
        });
        results.examples.push(Example { kind: kind.into(), came_from: Some(peer), came_bytes, answers });
    }

    fn note_connection(&self, change: impl FnOnce(&mut crate::model::results::Connections)) {
        change(&mut self.shared.results.borrow_mut().connections);
    }

    /// Whether it ended, if it has ended, because blaster shut it down.
    fn was_cut(&self) -> bool {
        self.was_shut_down.get() || self.shared.was_shut_down.get()
    }

    /// The end of a connection, as it was or as it should not have been.
    fn note_end(&self, ended: io::Result<()>) {
        self.is_in_order.set(ended.is_ok());
        if ended.is_err() && self.was_cut() {
            self.note_connection(|connections| connections.stuck += 1);
        } else if let Err(error) = ended {
            self.note_connection(|connections| connections.broken += 1);
            if let Some(errno) = error.raw_os_error() {
                self.shared.results.borrow_mut().refuse(errno);
            }
        }
        self.count_unanswered();
    }

    /// What has not come back by now never will: cut short, or lost.
    pub(super) fn count_unanswered(&self) {
        let mut results = self.shared.results.borrow_mut();
        for (expected, came_bytes) in self.echo.borrow_mut().end() {
            let class = if came_bytes > 0 { Class::Truncated } else { Class::Lost };
            *results.outcomes.page(expected.sent_ns).counts.of(class) += 1;
            if let Some(kind) = class.wrong() {
                self.show_example(kind, came_bytes, Some((expected, None)), &mut results);
            }
        }
    }
}
