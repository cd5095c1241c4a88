//! One connection, or several one after the other: it sends messages, reads their echoes, and counts the outcomes.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream as StdStream};
use std::rc::Rc;
use std::time::Duration;

use tokio_uring::net::TcpStream;

use crate::model::counts::{Class, Connections, Tally};
use crate::model::payload::Header;
use crate::model::results::{Example, MessageNumber, Results, SentMessage, first_bytes};
use crate::tcp::echo::{Difference, Echo, Echoed, Expected};
use crate::tcp::local_end;
use crate::tcp::plan::Mode;
use crate::tcp::shared::Shared;

/// Bytes of one read.
const READ_BYTES: usize = 64 << 10;
/// Pause after a failed connection, so that blaster does not flood a server that is gone.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// Connection number `id`; in the mode `connect` also the connections that follow it. With --each-once: visit number `id`.
pub(super) struct Connection {
    shared: Rc<Shared>,
    id: u32,
    peer: SocketAddr,
    /// The local address, if it is not for the routing table to choose.
    local: Option<SocketAddr>,
    sequence: Cell<u64>,
    echo: RefCell<Echo>,
    /// Nothing more is sent on it.
    has_sent_all: Cell<bool>,
    /// Blaster has shut it down: it did not answer in time.
    was_shut_down: Cell<bool>,
    /// It ended without an error; in the mode `connect`, the last one did.
    is_in_order: Cell<bool>,
}

impl Connection {
    pub(super) fn new(shared: Rc<Shared>, id: u32) -> Self {
        let (peer, local) = shared.plan.addresses(id);
        Self {
            shared,
            id,
            peer,
            local,
            sequence: Cell::new(0),
            echo: RefCell::default(),
            has_sent_all: Cell::new(false),
            was_shut_down: Cell::new(false),
            is_in_order: Cell::new(false),
        }
    }

    /// Whether it ended without an error; in the mode `connect`, whether the last one did.
    pub(super) fn is_in_order(&self) -> bool {
        self.is_in_order.get()
    }

    /// Uses one connection until the end of the run.
    pub(super) async fn use_until_end(self: Rc<Self>, stream: StdStream) {
        let stream = Rc::new(TcpStream::from_std(stream));
        self.note_connection(|connections| {
            connections.attempted += 1;
            connections.established += 1;
        });
        let ended = match self.prepare(&stream) {
            Ok(()) if self.shared.plan.mode == Mode::Stream => self.stream(&stream).await,
            Ok(()) => self.ping_pong(&stream).await,
            Err(error) => Err(error),
        };
        self.note_end(ended);
    }

    /// Connects, echoes one message and closes, again and again.
    pub(super) async fn connect_repeatedly(self: Rc<Self>) {
        while let Some(now_ns) = self.shared.next_send_ns() {
            if !self.connect_and_echo(now_ns).await {
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }

    /// Connects, echoes one message and closes. Returns whether the connection ended without an error.
    pub(super) async fn connect_and_echo(&self, now_ns: u64) -> bool {
        self.note_connection(|connections| connections.attempted += 1);
        match self.connect().await {
            Ok(stream) => {
                self.note_connection(|connections| connections.established += 1);
                let stream = Rc::new(stream);
                let ended = self.echo_once_in_time(&stream, now_ns).await;
                let is_in_order = ended.is_ok();
                self.note_end(ended);
                is_in_order
            }
            Err(error) => {
                let is_measured = self.shared.results.borrow().outcomes.is_measured(now_ns);
                self.note_failure(&error, is_measured);
                false
            }
        }
    }

    /// Counts a connection that was not established before the clock started. It belongs to the measured time, too.
    pub(super) fn note_missing(&self, error: &io::Error) {
        self.note_connection(|connections| connections.attempted += 1);
        self.note_failure(error, true);
    }

    /// Counts a connection that was not established.
    fn note_failure(&self, error: &io::Error, is_measured: bool) {
        // without a local port blaster did not reach the server: it may still be there
        let is_ours = error.kind() == io::ErrorKind::AddrNotAvailable;
        self.is_in_order.set(is_ours && self.is_in_order.get());
        self.note_connection(|connections| {
            connections.failed += 1;
            connections.refused += u64::from(error.kind() == io::ErrorKind::ConnectionRefused);
            connections.timed_out += u64::from(error.kind() == io::ErrorKind::TimedOut);
        });
        if !is_ours {
            self.shared.plan.note_latest(self.id, Class::Lost, self.shared.clock.now_ns());
        }
        let errno = error.raw_os_error().unwrap_or(libc::ETIMEDOUT);
        let mut results = self.shared.results.borrow_mut();
        results.note_local_error(errno);
        if is_measured {
            self.tally(&mut results, |tally| match errno {
                libc::EADDRNOTAVAIL | libc::EACCES | libc::EPERM => tally.refused += 1,
                _ => tally.failed += 1,
            });
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let timeout = self.shared.plan.traffic.timeout();
        let peer = self.peer;
        // a connection that is given up must end at once: there may be many
        if self.local.is_some() || self.shared.plan.traffic.visits.is_some() {
            let socket = local_end::socket(peer, self.local)?;
            let stream = local_end::connect(socket, peer, timeout).await?;
            return Ok(TcpStream::from_std(stream));
        }
        let connected = TcpStream::connect(peer);
        let connected = tokio::time::timeout(timeout, connected).await;
        let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        local_end::refuse_itself(&stream, peer)?;
        Ok(stream)
    }

    /// Sends each message at once (TCP_NODELAY), and lets the end of the run find the stream.
    fn prepare(&self, stream: &Rc<TcpStream>) -> io::Result<()> {
        stream.set_nodelay(true)?;
        self.shared.watch_stream(stream);
        Ok(())
    }

    /// Ends a connection that does not answer in time: the server may still serve the next one.
    async fn echo_once_in_time(&self, stream: &Rc<TcpStream>, now_ns: u64) -> io::Result<()> {
        self.was_shut_down.set(false);
        let mut echo = std::pin::pin!(self.echo_once(stream, now_ns));
        if let Ok(ended) = tokio::time::timeout(self.shared.plan.extent.linger, &mut echo).await {
            return ended;
        }
        self.was_shut_down.set(true);
        // this ends its reads and writes; if they were dropped, the kernel would keep their buffers
        let _ = stream.shutdown(Shutdown::Both);
        echo.await
    }

    async fn echo_once(&self, stream: &Rc<TcpStream>, now_ns: u64) -> io::Result<()> {
        self.prepare(stream)?;
        self.send(stream, Vec::new(), now_ns).await?;
        let buffer = self.receive_all(stream, vec![0; READ_BYTES]).await?;
        stream.shutdown(Shutdown::Write)?;
        // the server ends its side now; bytes before that are too many
        let (received, buffer) = stream.read(buffer).await;
        self.judge(&buffer[..received?]);
        // blaster made this end, not the server
        if self.is_shut_down() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    async fn ping_pong(&self, stream: &Rc<TcpStream>) -> io::Result<()> {
        let mut message = Vec::new();
        let mut buffer = vec![0; READ_BYTES];
        while let Some(now_ns) = self.shared.next_send_ns() {
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
                while let Some(now_ns) = this.shared.next_send_ns() {
                    match this.send(&stream, message, now_ns).await {
                        Ok(sent) => message = sent,
                        Err(error) => {
                            result = Err(error);
                            break;
                        }
                    }
                }
                this.has_sent_all.set(true);
                // the server sees this end, echoes the rest, and ends its side; the reader waits for that
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

    /// Sends the next message; `message` is the buffer for it.
    async fn send(&self, stream: &TcpStream, mut message: Vec<u8>, now_ns: u64) -> io::Result<Vec<u8>> {
        let traffic = &self.shared.plan.traffic;
        let sequence = self.sequence.replace(self.sequence.get() + 1);
        let header = traffic.header(self.id, sequence, now_ns);
        let bytes = traffic.message_bytes(self.id, sequence) as usize;
        message.resize(bytes, 0);
        traffic.bodies.write(&header, &mut message);
        self.echo.borrow_mut().expect(&header, bytes);
        {
            let mut results = self.shared.results.borrow_mut();
            let counts = &mut results.outcomes.at(now_ns).counts;
            counts.sent += 1;
            counts.bytes_sent += bytes as u64;
            if results.outcomes.is_measured(now_ns) {
                self.tally(&mut results, |tally| tally.sent += 1);
            }
        }
        self.shared.show(|counts| counts.sent += 1);
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

    /// Judges received bytes.
    fn judge(&self, mut bytes: &[u8]) {
        let now_ns = self.shared.clock.now_ns();
        self.shared.progress.last_received_ns.set(now_ns);
        let traffic = &self.shared.plan.traffic;
        let mut results = self.shared.results.borrow_mut();
        let results = &mut *results;
        results.outcomes.at(now_ns).counts.bytes_received += bytes.len() as u64;
        let (mut ok, mut damaged) = (0, 0);
        while !bytes.is_empty() {
            let Ok((echoed, rest)) = self.echo.borrow_mut().feed(&traffic.bodies, bytes) else {
                results.outcomes.at(now_ns).counts.unattributed += 1;
                self.show_example("unattributed", bytes.len(), bytes, None, results);
                break;
            };
            bytes = rest;
            let Some(Echoed { expected, difference, head }) = echoed else { continue };
            let waited_ns = now_ns.saturating_sub(expected.sent_ns);
            let class = match difference {
                Some(_) => Class::Corrupted,
                None if waited_ns > traffic.timeout_ns => Class::Late,
                None => Class::Ok,
            };
            if class == Class::Corrupted {
                let is_crossed = self.other_message(&expected, &head).is_some();
                results.outcomes.at(now_ns).counts.crossed += u64::from(is_crossed);
                let kind = if is_crossed { "crossed" } else { class.name() };
                self.show_example(kind, expected.bytes, &head, Some((expected, difference)), results);
            }
            self.classify(expected.sent_ns, class, results);
            if class == Class::Ok {
                ok += 1;
                self.shared.progress.last_ok_ns.set(now_ns);
                self.shared.live.round_trips.note(waited_ns);
            } else {
                damaged += 1;
            }
            if class != Class::Corrupted {
                results.round_trips.record(expected.sent_ns, waited_ns);
            }
        }
        self.shared.show(|counts| {
            counts.ok += ok;
            counts.damaged += damaged;
        });
    }

    /// The other message of this run that an echo of `expected` begins like.
    fn other_message(&self, expected: &Expected, head: &[u8]) -> Option<MessageNumber> {
        let header =
            Header::decode(head).filter(|header| header.run_id == self.shared.plan.traffic.run_id)?;
        let found = MessageNumber { flow: header.flow, sequence: header.sequence };
        (found != MessageNumber { flow: self.id, sequence: expected.sequence }).then_some(found)
    }

    /// Keeps one of the first few wrong echoes for the report. `came`: its beginning. `answers`: the message, and the first
    /// byte that differs.
    fn show_example(
        &self,
        kind: &str,
        came_bytes: usize,
        came: &[u8],
        answers: Option<(Expected, Option<Difference>)>,
        results: &mut Results,
    ) {
        if !results.wants_example(kind) {
            return;
        }
        let traffic = &self.shared.plan.traffic;
        let peer = self.peer;
        let bytes_of = answers.as_ref().and_then(|(expected, _)| self.other_message(expected, came));
        let answers = answers.map(|(expected, difference)| {
            let sent = expected.message(&traffic.bodies);
            let number = MessageNumber { flow: self.id, sequence: expected.sequence };
            SentMessage {
                differs_at: difference.map(|it| it.at),
                sent_byte: difference.map(|it| sent[it.at]),
                came_byte: difference.map(|it| it.came),
                ..SentMessage::new(peer, number, &sent, &[])
            }
        });
        results.examples.push(Example {
            kind: kind.into(),
            came_from: Some(peer),
            came_bytes,
            came_first: first_bytes(came),
            answers,
            in_flight: None,
            bytes_of,
        });
    }

    /// Counts a message that was sent at `sent_ns` in its class.
    fn classify(&self, sent_ns: u64, class: Class, results: &mut Results) {
        *results.outcomes.at(sent_ns).counts.of_mut(class) += 1;
        self.shared.plan.note_latest(self.id, class, sent_ns);
        if class != Class::Ok && results.outcomes.is_measured(sent_ns) {
            self.tally(results, |tally| *tally.of_mut(class) += 1);
        }
    }

    /// Changes the counts of the destination and of the source.
    fn tally(&self, results: &mut Results, change: impl Fn(&mut Tally)) {
        let (destination, source) = self.shared.plan.places(self.id);
        change(results.destinations.at(destination));
        if let Some(source) = source {
            change(results.sources.at(source));
        }
    }

    fn note_connection(&self, change: impl FnOnce(&mut Connections)) {
        change(&mut self.shared.results.borrow_mut().connections);
    }

    /// Whether blaster has shut it down.
    fn is_shut_down(&self) -> bool {
        self.was_shut_down.get() || self.shared.progress.was_shut_down.get()
    }

    /// Counts the end of a connection.
    fn note_end(&self, ended: io::Result<()>) {
        self.is_in_order.set(ended.is_ok());
        if ended.is_err() && self.is_shut_down() {
            self.note_connection(|connections| connections.stuck += 1);
        } else if let Err(error) = ended {
            self.note_connection(|connections| {
                connections.broken += 1;
                connections.closed += u64::from(error.kind() == io::ErrorKind::UnexpectedEof);
                let is_reset =
                    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe);
                connections.reset += u64::from(is_reset);
            });
            if let Some(errno) = error.raw_os_error() {
                self.shared.results.borrow_mut().note_local_error(errno);
            }
        }
        self.count_unanswered();
    }

    /// Counts what has not come back by the end: lost if nothing came; truncated, or corrupted, if a part of it came.
    pub(super) fn count_unanswered(&self) {
        let mut results = self.shared.results.borrow_mut();
        for left in self.echo.borrow_mut().end() {
            let class = match (left.came_bytes, left.difference) {
                (0, _) => Class::Lost,
                (_, None) => Class::Truncated,
                (_, Some(_)) => Class::Corrupted,
            };
            self.classify(left.expected.sent_ns, class, &mut results);
            if class.is_wrong() {
                let answers = Some((left.expected, left.difference));
                self.show_example(class.name(), left.came_bytes, left.head(), answers, &mut results);
            }
        }
    }
}
