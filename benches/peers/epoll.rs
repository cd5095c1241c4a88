//! TCP by epoll, edge-triggered (level-triggered cost 2 to 8% more under every load of the table): read, write,
//! and keep what a slow peer does not take.
//!
//! With a pipe, a connection that brings much at a time is spliced instead: socket, pipe, same socket. The pages of
//! its receive queue become those of its send queue, and no byte is copied.

use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use crate::kernel::{self, Epoll};

/// One read. Larger ones fall out of the cache, smaller ones cost more system calls.
const READ_BYTES: usize = 64 << 10;
const ANSWERS: usize = 1024;
/// Who brings so much at a time is spliced the next time. With less, two splices cost more than two copies.
const SPLICE_BYTES_MIN: usize = 4 << 10;
/// What copied connections want to be told: in both directions, never changed.
const EDGES: i32 = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;

struct Connection {
    stream: TcpStream,
    /// What the peer has not taken yet. Nothing is read meanwhile.
    kept: Vec<u8>,
    /// The last turn brought much: the next one is spliced.
    large: bool,
    /// What epoll was told
    interest: i32,
}

/// One serves all connections: it is empty between their turns. It holds 16 pieces, which a socket's pages fill as
/// well as a larger one.
pub(super) struct Pipe {
    read: PipeReader,
    write: PipeWriter,
}

impl Pipe {
    pub(super) fn new() -> Result<Self> {
        let (read, write) = std::io::pipe()?;
        Ok(Self { read, write })
    }
}

/// Copies, or splices where that is cheaper if there is a pipe.
pub(super) fn serve(listener: &TcpListener, mut pipe: Option<Pipe>) -> Result<()> {
    listener.set_nonblocking(true)?;
    let mut epoll = Epoll::new(ANSWERS)?;
    epoll.add(listener, libc::EPOLLIN)?;
    let mut connections: Vec<Option<Connection>> = vec![];
    let mut buffer = vec![0; READ_BYTES];
    loop {
        for i in 0..epoll.wait()? {
            let (fd, ready) = epoll.answer(i);
            if fd == listener.as_raw_fd() as usize {
                accept_all(listener, &epoll, &mut connections)?;
                continue;
            }
            let Some(connection) = connections.get_mut(fd).and_then(Option::as_mut) else { continue };
            if connection.serve(ready, &mut buffer, pipe.as_mut()).is_none() {
                connections[fd] = None;
            } else if connection.interest != connection.wanted() {
                connection.interest = connection.wanted();
                epoll.modify(&connection.stream, connection.interest)?;
            }
        }
    }
}

fn accept_all(
    listener: &TcpListener,
    epoll: &Epoll,
    connections: &mut Vec<Option<Connection>>,
) -> Result<()> {
    loop {
        let fd: OwnedFd = match kernel::accept(listener) {
            Ok(fd) => fd,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.kind() == ErrorKind::ConnectionAborted => continue,
            Err(e) => return Err(e),
        };
        epoll.add(&fd, EDGES)?;
        let at = fd.as_raw_fd() as usize;
        if connections.len() <= at {
            connections.resize_with(at + 1, || None);
        }
        connections[at] = Some(Connection { stream: fd.into(), kept: vec![], large: false, interest: EDGES });
    }
}

impl Connection {
    /// Echoes what is there; None when the connection is over.
    fn serve(&mut self, ready: i32, buffer: &mut [u8], mut pipe: Option<&mut Pipe>) -> Option<()> {
        if !self.kept.is_empty() {
            let written = write(&mut self.stream, &self.kept)?;
            self.kept.drain(..written);
            if !self.kept.is_empty() {
                return Some(());
            }
        } else if ready == libc::EPOLLOUT {
            return Some(()); // writable from the start, as every connection is told once
        }
        loop {
            let spliced = self.large;
            let moved = match &mut pipe {
                Some(pipe) if spliced => self.splice(pipe)?,
                _ => self.copy(buffer)?,
            };
            if moved == 0 || !self.kept.is_empty() {
                return Some(());
            }
            self.large = pipe.is_some() && moved >= SPLICE_BYTES_MIN;
            // A short read has emptied the socket (epoll(7)), unless the peer's FIN stands behind it, which is not
            // told a second time. Whether there is more behind a splice, epoll tells.
            let emptied = moved < buffer.len() && ready & libc::EPOLLRDHUP == 0;
            if emptied || spliced || self.large {
                return Some(());
            }
        }
    }

    /// Spliced connections are level-triggered: a short splice may only have filled the pipe, and another one to
    /// see whether it did costs more than that.
    fn wanted(&self) -> i32 {
        match (self.large, self.kept.is_empty()) {
            (false, _) => EDGES,
            (true, true) => libc::EPOLLIN,
            (true, false) => libc::EPOLLOUT,
        }
    }

    /// One read and one write; how much was read.
    fn copy(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let read = some(self.stream.read(buffer))?;
        if read > 0 {
            let written = write(&mut self.stream, &buffer[..read])?;
            self.kept.extend_from_slice(&buffer[written..read]);
        }
        Some(read)
    }

    /// One splice in and one out; how much was moved. What the peer doesn't take leaves the pipe, which is everybody's.
    fn splice(&mut self, pipe: &mut Pipe) -> Option<usize> {
        let moved = some(kernel::splice(&self.stream, &pipe.write, READ_BYTES))?;
        if moved > 0 {
            let taken = unless_blocked(kernel::splice(&pipe.read, &self.stream, moved));
            let left = moved - taken.unwrap_or(0); // also of a connection that is over
            self.kept.reserve(left);
            (&pipe.read).take(left as u64).read_to_end(&mut self.kept).ok()?;
            taken?;
        }
        Some(moved)
    }
}

/// What came, 0 if nothing is there; None when the connection is over.
fn some(read: Result<usize>) -> Option<usize> {
    match read {
        Ok(0) => None,
        read => unless_blocked(read),
    }
}

/// Writes what fits; None when the peer is gone.
fn write(stream: &mut TcpStream, bytes: &[u8]) -> Option<usize> {
    unless_blocked(stream.write(bytes))
}

/// 0 where the socket would block; None when the peer is gone.
fn unless_blocked(moved: Result<usize>) -> Option<usize> {
    match moved {
        Ok(moved) => Some(moved),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Some(0),
        Err(_) => None,
    }
}
