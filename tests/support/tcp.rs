//! Conversations over TCP: both directions at once, streams cut at random, every byte compared.

use super::random::Random;
use super::{PATIENCE, sys};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// One connection. It sends a reproducible stream in pieces of random size, and compares the echo with the same stream.
pub struct Conversation {
    /// The connection; it does not block.
    pub stream: TcpStream,
    seed: u64,
    outgoing: Random,
    incoming: Random,
    cuts: Random,
    /// The largest piece that is written or read at once.
    piece_bytes_max: usize,
    /// Bytes that are produced, but not yet taken by the socket.
    piece: Vec<u8>,
    len: usize,
    to_produce: usize,
    to_receive: usize,
}

impl Conversation {
    /// Opens a connection. `seed` makes its stream different from others, and `len` is the length of the stream.
    pub fn open(target: SocketAddr, seed: u64, len: usize, piece_bytes_max: usize) -> Self {
        let stream = connect(target);
        Self::over(stream, seed, len, piece_bytes_max)
    }

    /// Uses an open connection.
    pub fn over(stream: TcpStream, seed: u64, len: usize, piece_bytes_max: usize) -> Self {
        stream.set_nonblocking(true).expect("a connection that does not block");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Self {
            stream,
            seed,
            outgoing: Random::new(seed),
            incoming: Random::new(seed),
            cuts: Random::new(!seed),
            piece_bytes_max,
            piece: Vec::new(),
            len,
            to_produce: len,
            to_receive: len,
        }
    }

    /// Whether bytes are left to send.
    fn sends(&self) -> bool {
        self.to_produce > 0 || !self.piece.is_empty()
    }

    /// Whether every byte was sent and its echo received.
    pub fn is_finished(&self) -> bool {
        !self.sends() && self.to_receive == 0
    }

    /// Sends one piece, or the rest of the last one; false if the socket takes no more.
    pub fn send_piece(&mut self) -> bool {
        if self.piece.is_empty() {
            let len = self.cuts.between(1, self.piece_bytes_max).min(self.to_produce);
            self.piece = self.outgoing.bytes(len);
            self.to_produce -= len;
        }
        match self.stream.write(&self.piece) {
            Ok(taken) => drop(self.piece.drain(..taken)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => panic!("conversation {}: send: {error}", self.seed),
        }
        true
    }

    /// Receives and compares one piece.
    fn receive_piece(&mut self) {
        let mut piece = vec![0; self.cuts.between(1, self.piece_bytes_max)];
        match self.stream.read(&mut piece) {
            Ok(0) => panic!("conversation {}: ended, {} bytes early", self.seed, self.to_receive),
            Ok(len) => {
                assert!(len <= self.to_receive, "conversation {}: more came back than was sent", self.seed);
                let place = self.to_receive;
                assert!(
                    piece[..len] == self.incoming.bytes(len),
                    "conversation {}: other bytes came back, {place} before the end",
                    self.seed
                );
                self.to_receive -= len;
            }
            // a stopped process is interrupted (signal(7))
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => panic!("conversation {}: receive: {error}", self.seed),
        }
    }

    /// Number of bytes that the socket has taken.
    pub fn taken_so_far(&self) -> usize {
        self.len - self.to_produce - self.piece.len()
    }

    /// Ends the stream after the bytes that were sent so far and the rest of a piece that was begun.
    pub fn send_no_more(&mut self) {
        self.to_receive -= self.to_produce;
        self.to_produce = 0;
    }

    /// Sends a FIN and expects the server's FIN, without data before it.
    pub fn close(mut self) {
        assert!(self.is_finished());
        self.stream.set_nonblocking(false).expect("a connection that blocks");
        self.stream.shutdown(Shutdown::Write).expect("send a FIN");
        expect_end(&mut self.stream);
    }
}

/// Runs all these conversations at once until each is finished.
pub fn converse(conversations: &mut [Conversation]) {
    let end = Instant::now() + PATIENCE * 3;
    loop {
        let mut unfinished: Vec<_> = conversations.iter_mut().filter(|c| !c.is_finished()).collect();
        if unfinished.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "{} conversations are not finished", unfinished.len());
        let wanted = |c: &Conversation| if c.sends() { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
        let mut entries: Vec<_> = unfinished.iter().map(|c| sys::poll_entry(&c.stream, wanted(c))).collect();
        let active = sys::poll(&mut entries, PATIENCE);
        assert!(active > 0, "{} conversations stand still", unfinished.len());
        for (conversation, entry) in unfinished.iter_mut().zip(&entries) {
            if entry.revents & libc::POLLOUT != 0 {
                conversation.send_piece();
            }
            if entry.revents & !libc::POLLOUT != 0 {
                conversation.receive_piece();
            }
        }
    }
}

/// Lets all conversations send until no socket takes more, so that every buffer on the way is full.
pub fn send_until_full(conversations: &mut [Conversation], quiet: Duration) {
    loop {
        for conversation in &mut *conversations {
            while conversation.sends() && conversation.send_piece() {}
        }
        let sending = conversations.iter().filter(|c| c.sends());
        let mut entries: Vec<_> = sending.map(|c| sys::poll_entry(&c.stream, libc::POLLOUT)).collect();
        if sys::poll(&mut entries, quiet) == 0 {
            return;
        }
    }
}

/// A connection whose reads fail after a time limit instead of waiting for ever.
pub fn connect(target: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&target, PATIENCE);
    let stream = stream.unwrap_or_else(|error| panic!("connect to {target}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("set the patience");
    stream.set_write_timeout(Some(PATIENCE)).expect("set the patience");
    stream
}

/// Sends these bytes and expects them back.
pub fn echo(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("send");
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).unwrap_or_else(|error| panic!("no echo of {} bytes: {error}", bytes.len()));
    assert!(back == bytes, "other bytes came back");
}

/// Expects the server's FIN, without data before it.
pub fn expect_end(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the end of the stream");
    assert!(rest.is_empty(), "{} bytes too many at the end", rest.len());
}
