//! Datagrams and parts of streams that are made here rather than received: slots with payload memory of their own.

#![allow(unsafe_code)]

use std::io;
use std::net::SocketAddr;

use super::memory::{Mapping, PinnedBytes};
#[cfg(ring_poison)]
use super::poison;
use crate::kernel::addr::RawAddr;

/// Slots that hold a payload and the address it goes to. They live as long as the process, since a send
/// in flight reads both.
pub struct Outgoing {
    memory: Mapping,
    payload_bytes: u32,
    names: &'static mut [RawAddr],
}

impl Outgoing {
    /// Makes `count` slots with room for `payload_bytes` bytes each; pages count once they are written.
    pub fn new(count: u32, payload_bytes: u32) -> io::Result<Self> {
        let memory = Mapping::new(count as usize * payload_bytes as usize)?;
        Ok(Self { memory, payload_bytes, names: Box::leak(vec![RawAddr::EMPTY; count as usize].into()) })
    }

    /// The room for the payload of `slot`, to be written. Leave it alone while a send from the slot is
    /// in flight: what it says meanwhile is what is sent.
    pub fn payload(&mut self, slot: u32) -> &mut [u8] {
        let pinned = self.pinned(slot, self.payload_bytes);
        #[cfg(ring_poison)]
        poison::allow(pinned);
        // SAFETY: the bytes lie in a mapping that is never unmapped and that only this method gives out
        // as Rust memory, for as long as `self` is borrowed. The kernel only ever reads it
        unsafe { std::slice::from_raw_parts_mut(pinned.as_ptr().cast_mut(), self.payload_bytes as usize) }
    }

    /// Addresses the first `bytes` bytes of `slot` to `peer`.
    pub fn address(&mut self, slot: u32, peer: SocketAddr, bytes: u32) -> Addressed {
        let payload = self.pinned(slot, bytes);
        #[cfg(ring_poison)]
        poison::forbid(self.pinned(slot, self.payload_bytes)); // until it is to be written again
        let name = &mut self.names[slot as usize];
        *name = RawAddr::from(peer);
        let name = name.as_bytes();
        Addressed { payload, name: name.as_ptr(), name_bytes: name.len() as u32 }
    }

    /// The first `bytes` bytes of `slot`, for a stream.
    pub fn filled(&mut self, slot: u32, bytes: u32) -> PinnedBytes {
        #[cfg(ring_poison)]
        poison::forbid(self.pinned(slot, self.payload_bytes)); // until it is to be written again
        self.pinned(slot, bytes)
    }

    /// Gives the memory back to the system. No send from it may be in flight.
    pub fn give_back(&mut self) {
        self.memory.give_back();
    }

    fn pinned(&self, slot: u32, bytes: u32) -> PinnedBytes {
        assert!(bytes <= self.payload_bytes, "more than the slot holds");
        self.memory.pinned(slot as usize * self.payload_bytes as usize, bytes as usize)
    }
}

/// A payload and where it goes, both in memory that lives as long as the process.
#[derive(Clone, Copy, Debug)]
pub struct Addressed {
    payload: PinnedBytes,
    name: *const u8,
    name_bytes: u32,
}

impl Addressed {
    pub(super) fn payload(self) -> PinnedBytes {
        self.payload
    }

    /// The address as send(2)'s relatives take it: pointer and length.
    pub(super) fn name(self) -> (*const libc::sockaddr, libc::socklen_t) {
        (self.name.cast(), self.name_bytes)
    }
}
