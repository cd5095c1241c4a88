//! The pipe of a worker: bytes between a receive queue and a send queue.

use std::io;

use super::kernel::{Kernel, Object};
use super::tcp::Tcp;

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

impl Pipe {
    /// Moves bytes from a connection to the pipe, or from there to a connection.
    pub(super) fn splice(
        &mut self,
        (from, to): (Object, Object),
        bytes_max: u32,
        tcp: &mut Tcp,
        kernel: &mut Kernel,
    ) -> io::Result<u32> {
        let moved = match (from, to) {
            (Object::Connection(connection), Object::PipeIn) => {
                assert!(self.bytes.is_empty(), "two connections' bytes in one pipe");
                let bytes_max = PIPE_BYTES.min(bytes_max as usize);
                tcp.splice_in(connection, bytes_max, kernel).map(|bytes| {
                    self.splices += u64::from(!bytes.is_empty());
                    self.bytes = bytes;
                    self.bytes.len()
                })
            }
            (Object::PipeOut, Object::Connection(connection)) => {
                let bytes = &self.bytes[..self.bytes.len().min(bytes_max as usize)];
                assert!(!bytes.is_empty(), "nothing is moved");
                let moved = tcp.splice_out(connection, bytes, kernel);
                if let Ok(moved) = moved {
                    self.bytes.drain(..moved);
                }
                moved
            }
            other => panic!("nobody splices from and to {other:?}"),
        };
        moved.map(|bytes| bytes as u32).map_err(io::Error::from_raw_os_error)
    }

    /// Copies bytes out of the pipe.
    pub(super) fn read(&mut self, room: &mut [u8], kernel: &mut Kernel) -> io::Result<usize> {
        if kernel.chance.happens(kernel.faults.passing) {
            return Err(io::Error::from_raw_os_error(libc::EINTR));
        }
        let bytes = room.len().min(self.bytes.len());
        assert!(bytes > 0, "nothing is read");
        room[..bytes].copy_from_slice(&self.bytes[..bytes]);
        self.bytes.drain(..bytes);
        Ok(bytes)
    }
}
