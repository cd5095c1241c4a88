//! A store for bytes that have to outlive the buffer they were received into.

#![allow(unsafe_code)]

use std::convert::Infallible;

use super::identity::Identity;
use super::memory::{Mapping, PinnedBytes};
#[cfg(ring_poison)]
use super::poison;
use super::{RingError, Step};

/// So much of an empty arena is given back to the system: who stalls now and then keeps its pages.
const GIVE_BACK_BYTES: u32 = 1 << 20;

/// A fixed store of equal chunks for bytes that have to outlive the buffer they were received into.
#[derive(Debug)]
pub struct Arena {
    identity: Identity,
    memory: Mapping,
    chunk_bytes: u32,
    chunks: u32,
    free: Vec<u32>,
    /// So many of the first chunks were written since the memory was given back, at the most.
    touched: u32,
}

/// Bytes kept in an [`Arena`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a chunk that is not given back is lost to the arena"]
pub struct Chunk {
    arena: Identity,
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
        poison::forbid(memory.pinned(0, chunks as usize * chunk_bytes as usize));
        let free = (0..chunks).rev().collect();
        Ok(Self { identity: Identity::new(), memory, chunk_bytes, chunks, free, touched: 0 })
    }

    /// Copies the head of `bytes`, as much as a chunk holds; the chunk knows how much that was. `None`
    /// when no chunk is free.
    pub fn keep(&mut self, bytes: &[u8]) -> Option<Chunk> {
        let kept = self.keep_from(|place| {
            let len = bytes.len().min(place.len());
            place[..len].copy_from_slice(&bytes[..len]);
            Ok(len as u32)
        });
        kept.unwrap_or_else(|nothing: Infallible| match nothing {})
    }

    /// Has `write` fill a chunk from its beginning; it says how many bytes it wrote. `None` when no chunk is free.
    pub fn keep_from<E>(
        &mut self,
        write: impl FnOnce(&mut [u8]) -> Result<u32, E>,
    ) -> Result<Option<Chunk>, E> {
        let Some(&index) = self.free.last() else { return Ok(None) };
        let whole = Chunk { arena: self.identity, index, bytes: self.chunk_bytes };
        let place = self.pinned(&whole);
        #[cfg(ring_poison)]
        poison::allow(place);
        // SAFETY: the chunk is inside the mapping, which was zeroed, and free, since only chunks of this arena come back,
        // each once. So nobody else refers to it for as long as `self` is borrowed
        let place =
            unsafe { std::slice::from_raw_parts_mut(place.as_ptr().cast_mut(), self.chunk_bytes as usize) };
        let written = write(place);
        #[cfg(ring_poison)]
        poison::forbid(self.pinned(&whole));
        let bytes = written?;
        assert!(bytes <= self.chunk_bytes, "more than a chunk holds");
        self.free.pop();
        self.touched = self.touched.max(index + 1);
        Ok(Some(Chunk { bytes, ..whole }))
    }

    /// Chunks that are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Where the chunk's bytes are, to send from.
    pub fn pinned(&self, chunk: &Chunk) -> PinnedBytes {
        assert_eq!(chunk.arena, self.identity, "a chunk of another arena");
        self.memory.pinned(chunk.index as usize * self.chunk_bytes as usize, chunk.bytes as usize)
    }

    /// Takes a chunk back; no send from it may be in flight. With the last one the memory goes back to the system, if
    /// it is worth while.
    pub fn release(&mut self, chunk: Chunk) {
        let Chunk { arena, index, .. } = chunk;
        assert_eq!(arena, self.identity, "a chunk of another arena");
        self.free.push(index);
        let is_empty = self.free.len() == self.chunks as usize;
        if is_empty && self.touched >= GIVE_BACK_BYTES / self.chunk_bytes {
            self.memory.give_back();
            self.touched = 0;
            // the first ones first, as at the start: or a single one that is far behind would count as all before it
            self.free.clear();
            self.free.extend((0..self.chunks).rev());
        }
    }
}

impl Chunk {
    /// How many bytes it keeps.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }
}
