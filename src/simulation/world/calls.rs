//! System calls beside the ring.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::World;
use crate::kernel::sys;
use crate::simulation::kernel::Object;

impl World {
    /// Time goes on a little whenever somebody looks.
    pub(crate) fn now(&mut self) -> Instant {
        static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
        self.kernel.now += Duration::from_nanos(100);
        *BEGINNING + self.kernel.now
    }

    /// The process sleeps.
    pub(crate) fn sleep(&mut self, time: Duration) {
        let end = self.kernel.now + time;
        self.kernel.progress();
        while self.kernel.now < end {
            self.kernel.sleep(end);
        }
    }

    /// What a hash is keyed with.
    pub(crate) fn secret(&mut self) -> u64 {
        self.kernel.chance.word()
    }

    pub(crate) fn drop_incoming(&mut self, socket: BorrowedFd<'_>) {
        match self.kernel.object(socket.as_raw_fd()) {
            Object::Udp(socket) => {
                // what was on its way already
                if self.kernel.chance.one_in(4) {
                    // if it is dropped it is too late to be counted
                    let dropped = self.udp.books.dropped;
                    self.datagram_for(socket);
                    self.udp.books.dropped = dropped;
                }
                self.udp.sockets[socket].filtered = true;
            }
            Object::Listener(listener) => {
                self.tcp.listeners[listener].filtered = true;
                self.tcp.begin_emptying();
                if self.kernel.chance.one_in(4) {
                    self.late.push(listener);
                }
            }
            other => panic!("a filter on {other:?}"),
        }
    }

    pub(crate) fn socket_drops(&self, socket: BorrowedFd<'_>) -> u32 {
        match self.kernel.object(socket.as_raw_fd()) {
            Object::Udp(socket) => self.udp.sockets[socket].drops,
            other => panic!("no datagrams are dropped at {other:?}"),
        }
    }

    pub(crate) fn receive_queue_bytes(&self, socket: BorrowedFd<'_>) -> u32 {
        match self.kernel.object(socket.as_raw_fd()) {
            Object::Udp(socket) => u32::from(!self.udp.is_queue_empty(socket)) * 1000,
            other => panic!("no queue of datagrams: {other:?}"),
        }
    }

    pub(crate) fn accept_queue_len(&self, listener: BorrowedFd<'_>) -> u32 {
        match self.kernel.object(listener.as_raw_fd()) {
            Object::Listener(listener) => self.tcp.listeners[listener].queue.len() as u32,
            other => panic!("no queue of connections: {other:?}"),
        }
    }

    /// A socket bound to a pair of address and port, to send from.
    pub(crate) fn bind(&mut self, pair: SocketAddr) -> io::Result<OwnedFd> {
        let error = if pair.port() < 1024 {
            Some(libc::EACCES)
        } else {
            let fails = self.kernel.chance.happens(self.kernel.faults.bind);
            let errors = [
                libc::EADDRINUSE,
                libc::EADDRNOTAVAIL,
                libc::EMFILE,
                libc::ENFILE,
                libc::EPERM,
                libc::EACCES,
                libc::ENOBUFS,
                libc::ENOMEM,
                libc::ENODEV,
            ];
            fails.then(|| self.kernel.chance.pick(&errors))
        };
        assert_ne!(pair.port(), 5001, "a port that was excepted is bound");
        if let Some(error) = error {
            self.kernel.ledger.count_unbound(error, pair.port());
            return Err(io::Error::from_raw_os_error(error));
        }
        let object = self.udp.bind(pair);
        Ok(self.descriptor(object))
    }

    pub(crate) fn stream_pair(&mut self) -> (OwnedFd, OwnedFd) {
        let (ours, theirs) = self.streams.open();
        (self.descriptor(ours), self.descriptor(theirs))
    }

    pub(crate) fn send_now(&mut self, end: BorrowedFd<'_>, bytes: &[u8]) {
        match self.kernel.object(end.as_raw_fd()) {
            Object::StreamEnd(stream) => self.streams.write(stream, bytes),
            other => panic!("no stream is written to: {other:?}"),
        }
    }

    pub(crate) fn end_stream(&mut self, end: BorrowedFd<'_>) {
        match self.kernel.object(end.as_raw_fd()) {
            Object::StreamEnd(stream) => self.streams.end(stream),
            other => panic!("no stream ends: {other:?}"),
        }
    }

    /// The two ends of a pipe, if there is one to be had.
    pub(crate) fn pipe(&mut self) -> io::Result<(OwnedFd, OwnedFd)> {
        if self.kernel.chance.one_in(8) {
            let errno = self.kernel.chance.pick(&[libc::EMFILE, libc::ENFILE, libc::EPERM, libc::ENOSYS]);
            return Err(io::Error::from_raw_os_error(errno));
        }
        Ok((self.descriptor(Object::PipeOut), self.descriptor(Object::PipeIn)))
    }

    pub(crate) fn splice(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        bytes_max: u32,
    ) -> io::Result<u32> {
        let ends = (self.kernel.object(from.as_raw_fd()), self.kernel.object(to.as_raw_fd()));
        self.pipe.splice(ends, bytes_max, &mut self.tcp, &mut self.kernel)
    }

    pub(crate) fn read(&mut self, file: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<usize> {
        assert_eq!(self.kernel.object(file.as_raw_fd()), Object::PipeOut);
        self.pipe.read(room, &mut self.kernel)
    }

    /// The same file under another number.
    pub(crate) fn renumber(&mut self, fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let object = self.kernel.object(fd.as_raw_fd());
        if self.kernel.chance.happens(self.kernel.faults.bind) {
            self.kernel.ledger.count("tcp_no_descriptors", 1);
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        Ok(self.descriptor(object))
    }

    /// The file of a connection waits, or not.
    pub(crate) fn set_nonblocking(&mut self, file: BorrowedFd<'_>, nonblocking: bool) {
        match self.kernel.object(file.as_raw_fd()) {
            Object::Connection(connection) => self.tcp.connections[connection].nonblocking = nonblocking,
            other => panic!("nobody waits for {other:?}"),
        }
    }

    /// What the peer of a connection has not read.
    pub(crate) fn send_queue_bytes(&self, socket: BorrowedFd<'_>) -> u32 {
        match self.kernel.object(socket.as_raw_fd()) {
            Object::Connection(connection) => self.tcp.connections[connection].unread() as u32,
            other => panic!("no send queue of a stream: {other:?}"),
        }
    }

    /// A descriptor that stands for an object.
    pub(in crate::simulation) fn descriptor(&mut self, object: Object) -> OwnedFd {
        let fd = sys::eventfd().expect("a descriptor");
        self.kernel.open(fd.as_fd().as_raw_fd(), object);
        fd
    }

    /// The process closes all its files at once.
    pub(crate) fn unregister_files(&mut self) {
        for object in self.kernel.unregister_files() {
            if let Object::Connection(connection) = object {
                self.tcp.close(connection, &mut self.kernel);
            }
        }
    }
}
