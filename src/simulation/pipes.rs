//! The pipe of a worker: bytes between a receive queue and a send queue.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::kernel::Object;
use super::world::World;

/// Bytes that a pipe holds at the most.
const PIPE_BYTES: usize = 64 << 10;

/// What the pipe holds.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    bytes: Vec<u8>,
    splices: u64,
}

impl Pipe {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many times it was filled.
    pub(super) fn splices(&self) -> u64 {
        self.splices
    }
}

impl World {
    /// The two ends of a pipe, if there is one to be had.
    pub(crate) fn pipe(&mut self) -> io::Result<(OwnedFd, OwnedFd)> {
        if self.kernel.chance.one_in(8) {
            let errno = self.kernel.chance.pick(&[libc::EMFILE, libc::ENFILE, libc::EPERM, libc::ENOSYS]);
            return Err(io::Error::from_raw_os_error(errno));
        }
        Ok((self.descriptor(Object::PipeOut), self.descriptor(Object::PipeIn)))
    }

    /// Moves bytes from a connection to the pipe, or from there to a connection.
    pub(crate) fn splice(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        bytes_max: u32,
    ) -> io::Result<u32> {
        let Self { kernel, tcp, pipe, .. } = self;
        let moved = match (kernel.object(from.as_raw_fd()), kernel.object(to.as_raw_fd())) {
            (Object::Connection(connection), Object::PipeIn) => {
                assert!(pipe.bytes.is_empty(), "two connections' bytes in one pipe");
                let bytes_max = PIPE_BYTES.min(bytes_max as usize);
                tcp.splice_in(connection, bytes_max, kernel).map(|bytes| {
                    pipe.bytes = bytes;
                    pipe.splices += u64::from(!pipe.bytes.is_empty());
                    pipe.bytes.len()
                })
            }
            (Object::PipeOut, Object::Connection(connection)) => {
                let bytes = &pipe.bytes[..pipe.bytes.len().min(bytes_max as usize)];
                assert!(!bytes.is_empty(), "nothing is moved");
                let moved = tcp.splice_out(connection, bytes, kernel);
                if let Ok(moved) = moved {
                    pipe.bytes.drain(..moved);
                }
                moved
            }
            other => panic!("nobody splices from and to {other:?}"),
        };
        moved.map(|bytes| bytes as u32).map_err(io::Error::from_raw_os_error)
    }

    /// Copies bytes out of the pipe.
    pub(crate) fn read(&mut self, file: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<usize> {
        assert_eq!(self.kernel.object(file.as_raw_fd()), Object::PipeOut);
        if self.kernel.chance.happens(self.kernel.faults.passing) {
            return Err(io::Error::from_raw_os_error(libc::EINTR));
        }
        let bytes = room.len().min(self.pipe.bytes.len());
        assert!(bytes > 0, "nothing is read");
        room[..bytes].copy_from_slice(&self.pipe.bytes[..bytes]);
        self.pipe.bytes.drain(..bytes);
        Ok(bytes)
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
}
