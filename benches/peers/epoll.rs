//! TCP by epoll, edge-triggered (level-triggered cost 2 to 8% more under every load of the table): read, write,
//! and keep what a slow peer does not take.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use crate::kernel::{self, Epoll};

/// One read. Larger ones fall out of the cache, smaller ones cost more system calls.
const READ_BYTES: usize = 64 << 10;
const ANSWERS: usize = 1024;

struct Connection {
    stream: TcpStream,
    /// What the peer has not taken yet. Nothing is read meanwhile.
    kept: Vec<u8>,
}

pub(super) fn serve(listener: &TcpListener) -> Result<()> {
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
            if connection.serve(ready, &mut buffer).is_none() {
                connections[fd] = None;
            }
        }
    }
}

fn accept_all(
    listener: &TcpListener,
    epoll: &Epoll,
    connections: &mut Vec<Option<Connection>>,
) -> Result<()> {
    // Declared once, in both directions, and never changed.
    let interest = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
    loop {
        let fd: OwnedFd = match kernel::accept(listener) {
            Ok(fd) => fd,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.kind() == ErrorKind::ConnectionAborted => continue,
            Err(e) => return Err(e),
        };
        epoll.add(&fd, interest)?;
        let at = fd.as_raw_fd() as usize;
        if connections.len() <= at {
            connections.resize_with(at + 1, || None);
        }
        connections[at] = Some(Connection { stream: fd.into(), kept: vec![] });
    }
}

impl Connection {
    /// Echoes what is there; None when the connection is over.
    fn serve(&mut self, ready: i32, buffer: &mut [u8]) -> Option<()> {
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
            let read = match self.stream.read(buffer) {
                Ok(0) => return None,
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Some(()),
                Err(_) => return None,
            };
            let written = write(&mut self.stream, &buffer[..read])?;
            if written < read {
                self.kept.extend_from_slice(&buffer[written..read]);
                return Some(());
            }
            // A short read has emptied the socket (epoll(7)), unless the peer's FIN stands behind it, which
            // is not told a second time.
            if read < buffer.len() && ready & libc::EPOLLRDHUP == 0 {
                return Some(());
            }
        }
    }
}

/// Writes what fits; None when the peer is gone.
fn write(stream: &mut TcpStream, bytes: &[u8]) -> Option<usize> {
    match stream.write(bytes) {
        Ok(written) => Some(written),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Some(0),
        Err(_) => None,
    }
}
