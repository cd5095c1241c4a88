//! The pipe through which a worker moves the pages of large messages from receive queues into send queues.
//!
//! It never waits for a peer: what finds no room in a send queue is copied out of it at once, and it is empty again for
//! the next connection.

use std::os::fd::RawFd;

use super::poured::Poured;
use super::spill::CHUNK_BYTES;
use crate::echo::files::FileRange;
use crate::kernel::pipe::{PIPE_BYTES, Pipe};
use crate::kernel::ring::{Arena, Chunk, Errno, File, Ring};
use crate::kernel::sys;

/// Free chunks that hold all of a pipe.
const CHUNKS_MIN: usize = PIPE_BYTES.div_ceil(CHUNK_BYTES) as usize;

/// Why large messages are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Copies {
    /// There is no pipe, or it moves nothing.
    #[error(
        "a pipe that moves pages can't be made: {0}; with EMFILE raise RLIMIT_NOFILE (LimitNOFILE= in a unit, `ulimit -n`), \
         with EPERM raise fs.pipe-user-pages-soft, or allow splice(2) in the unit's SystemCallFilter= or the container's \
         profile"
    )]
    NoPipe(Errno),
    /// Connections have no descriptor that a pipe could be filled from.
    #[error("this kernel makes no ordinary descriptor of a ring's own; Linux 6.8 does")]
    NoDescriptors,
}

/// A worker's pipe.
pub(super) struct Splicer {
    pipe: Result<Pipe, Copies>,
    /// The first number for descriptors of connections. Those that `tubectl register-pid` looks for come before, and a
    /// gap that ends its search.
    first_descriptor: RawFd,
    poured: Poured,
}

impl Splicer {
    /// With a pipe, if there is one to be had and the connections of these files can have descriptors. `workers` share
    /// the memory that waits for peers.
    pub(super) fn new(
        ring: &Ring,
        connections: FileRange,
        first_descriptor: Option<RawFd>,
        workers: usize,
    ) -> Self {
        let pipe = match first_descriptor {
            None => Err(Copies::NoPipe(Errno(libc::EMFILE))),
            Some(_) if !ring.has_descriptors() => Err(Copies::NoDescriptors),
            Some(_) => Pipe::new().map_err(Copies::NoPipe),
        };
        let first_descriptor = first_descriptor.unwrap_or(RawFd::MAX);
        Self { pipe, first_descriptor, poured: Poured::new(connections, workers) }
    }

    /// Why large messages are copied, if they are.
    pub(super) fn copies(&self) -> Option<Copies> {
        self.pipe.as_ref().err().copied()
    }

    /// The first number for descriptors of connections.
    pub(super) fn first_descriptor(&self) -> RawFd {
        self.first_descriptor
    }

    /// Moves what a connection has received into the pipe, if what its peer doesn't take can be kept. Returns how many
    /// bytes that were; why they are none, a receive tells.
    pub(super) fn fill(
        &mut self,
        connection: File,
        ring: &Ring,
        arena: &Arena,
        turn: u64,
    ) -> Result<u32, Errno> {
        let (Ok(pipe), Some(fd)) = (&mut self.pipe, ring.descriptor(connection)) else { return Ok(0) };
        assert_eq!(pipe.bytes(), 0, "another connection's bytes are in the pipe");
        let queued = |file| ring.descriptor(file).and_then(|fd| sys::send_queue_bytes(fd).ok());
        if arena.free() < CHUNKS_MIN || !self.poured.has_room(turn, queued) {
            return Ok(0);
        }
        pipe.fill(fd, PIPE_BYTES)
    }

    /// Moves what the pipe holds into the connection's send queue. Returns how many bytes that took.
    pub(super) fn pour(&mut self, connection: File, ring: &Ring) -> Result<u32, Errno> {
        let (Ok(pipe), Some(fd)) = (&mut self.pipe, ring.descriptor(connection)) else {
            return Err(Errno(libc::EBADF));
        };
        let bytes = pipe.pour(fd)?;
        self.poured.add(connection, bytes);
        Ok(bytes)
    }

    /// The pipe holds nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.pipe.as_ref().is_ok_and(|pipe| pipe.bytes() == 0)
    }

    /// Copies what is left in the pipe to `arena`. After an error there is no pipe any more: the next connection would
    /// get what is in it.
    pub(super) fn empty(&mut self, arena: &mut Arena, mut keep: impl FnMut(Chunk)) -> Result<(), Errno> {
        let Ok(pipe) = &mut self.pipe else { return Ok(()) };
        while pipe.bytes() > 0 {
            let kept = arena.keep_from(|room| pipe.read(room));
            let chunk = match kept {
                Ok(Some(chunk)) => chunk,
                Ok(None) => unreachable!("the pipe was filled while so many chunks were free"),
                Err(Errno(libc::EINTR)) => continue,
                Err(errno) => {
                    self.pipe = Err(Copies::NoPipe(errno));
                    return Err(errno);
                }
            };
            keep(chunk);
        }
        Ok(())
    }

    /// There is no connection.
    pub(super) fn assert_idle(&self) {
        debug_assert!(self.poured.is_empty(), "a connection that has gone is counted");
    }

    /// The connection is closed.
    pub(super) fn closed(&mut self, connection: File) {
        self.poured.forget(connection);
    }
}
