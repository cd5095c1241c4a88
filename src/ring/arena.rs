//! A store for bytes that have to outlive the buffer they were received into.

use super::memory::{Mapping, Span};
#[cfg(ring_poison)]
use super::poison;
use super::{RingError, Step};

/// A fixed store of equal chunks for bytes that have to outlive the buffer they were received into.
#[derive(Debug)]
pub struct Arena {
    memory: Mapping,
    chunk_bytes: u32,
    free: Vec<u32>,
}

/// Bytes kept in an [`Arena`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a chunk that is not given back is lost to the arena"]
pub struct Chunk {
    index: u32,
    bytes: u32,
}

impl Arena {
    /// Reserves `chunks` chunks of `chunk_bytes` bytes; pages count once they are written.
    pub fn new(chunks: u32, chunk_bytes: u32) -> Result<Self, RingError> {
        let memory = Mapping::new(chunks as usize * chunk_bytes as usize)
            .map_err(|error| RingError::new(Step::ReserveMemory, &error))?;
        // the kernel reads chunks, nobody here does: they are allowed for as long as they are written
        #[cfg(ring_poison)]
        poison::forbid(memory.span(0, chunks as usize * chunk_bytes as usize));
        Ok(Self { memory, chunk_bytes, free: (0..chunks).rev().collect() })
    }

    /// Copies the head of `bytes`, as much as a chunk holds; the chunk knows how much that was. `None`
    /// when no chunk is free.
    pub fn keep(&mut self, bytes: &[u8]) -> Option<Chunk> {
        let index = self.free.pop()?;
        let len = bytes.len().min(self.chunk_bytes as usize);
        #[cfg(ring_poison)]
        poison::allow(self.span(&Chunk { index, bytes: len as u32 }));
        let place = self.memory.base();
        // SAFETY: the chunk is inside the mapping and free, so nobody else refers to it; source and
        // destination are different memory
        unsafe {
            let chunk = place.add(index as usize * self.chunk_bytes as usize);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), chunk, len);
        }
        let chunk = Chunk { index, bytes: len as u32 };
        #[cfg(ring_poison)]
        poison::forbid(self.span(&chunk));
        Some(chunk)
    }

    /// Where the chunk's bytes are, to send from.
    pub fn span(&self, chunk: &Chunk) -> Span {
        self.memory.span(chunk.index as usize * self.chunk_bytes as usize, chunk.bytes as usize)
    }

    /// Takes a chunk back; no send from it may be in flight.
    pub fn release(&mut self, chunk: Chunk) {
        let Chunk { index, .. } = chunk;
        self.free.push(index);
    }
}

impl Chunk {
    /// How many bytes it keeps.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }
}
