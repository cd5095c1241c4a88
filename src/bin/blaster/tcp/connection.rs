//! One connection, or a row of them: sends messages, reads their echoes, keeps its books.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Shutdown, TcpStream as StdStream};
use std::rc::Rc;
use std::time::Duration;

use tokio_uring::net::TcpStream;

use super::echo::Echo;
use super::{Mode, Shared};
use crate::books::Class;
use crate::payload::Header;

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
}

impl Connection {
    pub(super) fn new(shared: Rc<Shared>, id: u32) -> Self {
        Self { shared, id, sequence: Cell::new(0), echo: RefCell::default(), has_sent_all: Cell::new(false) }
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
    pub(super) async fn come_and_go(self: Rc<Self>) {
        while let Some(now_ns) = self.shared.take_turn() {
            self.note_connection(|connections| connections.attempted += 1);
            let peer = self.shared.load.targets.of_flow(self.id);
            let connect = tokio::time::timeout(self.shared.load.timeout, TcpStream::connect(peer));
            match connect.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => {
                    self.note_connection(|connections| connections.established += 1);
                    let stream = Rc::new(stream);
                    let ended = self.echo_once(&stream, now_ns).await;
                    self.note_end(ended);
                }
                Err(error) => {
                    self.note_connection(|connections| connections.failed += 1);
                    self.shared.tally.borrow_mut().refuse(error.raw_os_error().unwrap_or(libc::ETIMEDOUT));
                    tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                }
            }
        }
    }

    /// No message waits for more bytes to travel with, and the end of the run finds the stream.
    fn prepare(&self, stream: &Rc<TcpStream>) -> io::Result<()> {
        stream.set_nodelay(true)?;
        self.shared.watch_stream(stream);
        Ok(())
    }

    async fn echo_once(&self, stream: &Rc<TcpStream>, now_ns: u64) -> io::Result<()> {
        self.prepare(stream)?;
        self.send(stream, Vec::new(), now_ns).await?;
        let buffer = self.receive_all(stream, vec![0; READ_BYTES]).await?;
        stream.shutdown(Shutdown::Write)?;
        // the server's end of it; whatever comes before that is too much
        let (received, buffer) = stream.read(buffer).await;
        self.judge(&buffer[..received?]);
        Ok(())
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
        if !self.has_sent_all.get() {
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
            let mut tally = self.shared.tally.borrow_mut();
            let counts = &mut tally.books.page(now_ns).counts;
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
        let mut tally = self.shared.tally.borrow_mut();
        tally.books.page(now_ns).counts.bytes_received += bytes.len() as u64;
        let (mut ok, mut damaged) = (0, 0);
        while !bytes.is_empty() {
            let Ok((echoed, rest)) = self.echo.borrow_mut().feed(&self.shared.load.bodies, bytes) else {
                tally.books.page(now_ns).counts.unattributed += 1;
                break;
            };
            bytes = rest;
            let Some(echoed) = echoed else { continue };
            let waited_ns = now_ns.saturating_sub(echoed.sent_ns);
            let class = match echoed.intact {
                false => Class::Corrupted,
                true if waited_ns > self.shared.load.timeout.as_nanos() as u64 => Class::Late,
                true => Class::Ok,
            };
            let page = tally.books.page(echoed.sent_ns);
            *page.counts.of(class) += 1;
            if class == Class::Ok {
                ok += 1;
                self.shared.live.round_trips.note(waited_ns);
            } else {
                damaged += 1;
            }
            if class != Class::Corrupted {
                tally.round_trips.record(echoed.sent_ns, waited_ns);
            }
        }
        drop(tally);
        self.shared.show(|shown| {
            shown.ok += ok;
            shown.damaged += damaged;
        });
    }

    fn note_connection(&self, change: impl FnOnce(&mut crate::tally::Connections)) {
        change(&mut self.shared.tally.borrow_mut().connections);
    }

    /// The end of a connection, as it was or as it should not have been.
    fn note_end(&self, ended: io::Result<()>) {
        if let Err(error) = ended {
            self.note_connection(|connections| connections.broken += 1);
            if let Some(errno) = error.raw_os_error() {
                self.shared.tally.borrow_mut().refuse(errno);
            }
        }
        self.close_books();
    }

    /// What has not come back by now never will: cut short, or lost.
    pub(super) fn close_books(&self) {
        let mut tally = self.shared.tally.borrow_mut();
        for (expected, has_begun) in self.echo.borrow_mut().end() {
            let class = if has_begun { Class::Truncated } else { Class::Lost };
            *tally.books.page(expected.sent_ns).counts.of(class) += 1;
        }
    }
}
