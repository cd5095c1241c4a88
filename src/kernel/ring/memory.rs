//! Memory that the kernel reads and writes on its own time.
//!
//! A ring is torn down asynchronously after its last descriptor is closed, so nothing that a ring knows
//! of is ever unmapped: a ring and its memory live as long as the process.

#![allow(unsafe_code)]

use std::io;
use std::ptr::{self, NonNull};

/// An anonymous mapping, page-aligned and zeroed, that is never unmapped. Pages that nobody touches
/// cost nothing.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to its one owner; nothing in it is tied to a thread
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `bytes`. Errors as mmap(2): `ENOMEM` when the address space is used up.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        Ok(Self { base: map(bytes)?, bytes })
    }

    pub(super) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Gives the pages back to the system; whoever touches them next finds zeroes (madvise(2), `MADV_DONTNEED`).
    pub(super) fn give_back(&mut self) {
        // SAFETY: the mapping is ours, private and anonymous: its pages may go at any time. What was in them is lost,
        // and a mutable borrow means that no reference to it lives. If the kernel refuses, they stay
        unsafe { libc::madvise(self.base.as_ptr().cast(), self.bytes, libc::MADV_DONTNEED) };
    }

    /// The place of `bytes` bytes from `offset` on.
    pub(super) fn pinned(&self, offset: usize, bytes: usize) -> PinnedBytes {
        assert!(
            offset.checked_add(bytes).is_some_and(|end| end <= self.bytes),
            "bytes outside their mapping"
        );
        // SAFETY: the assertion keeps the result inside the mapping
        PinnedBytes { base: unsafe { self.base.as_ptr().add(offset) }, bytes: bytes as u32 }
    }
}

/// New memory of `bytes`, which nobody else has.
fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: mmap(2) with a null hint and no file creates a new mapping, touching no existing one
    let base = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(NonNull::new(base.cast()).expect("mmap(2) never maps page zero without a hint"))
}

/// Whether no more memory can be mapped, as much as a worker or a thread maps at a time.
pub(super) fn is_used_up() -> bool {
    const BYTES: usize = 64 << 20;
    map(BYTES)
        .map(|base| {
            // SAFETY: the mapping is ours, whole, and nobody knows of it
            unsafe { libc::munmap(base.as_ptr().cast(), BYTES) };
        })
        .is_err()
}

/// Bytes that stay mapped for the life of the process: what an operation may point at.
#[derive(Clone, Copy, Debug)]
pub struct PinnedBytes {
    base: *const u8,
    bytes: u32,
}

impl PinnedBytes {
    /// How many bytes.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// What is left when the first `bytes` are done with.
    #[must_use]
    pub fn skip(self, bytes: u32) -> Self {
        self.part(bytes, self.bytes - bytes)
    }

    /// `bytes` bytes from `offset` on.
    #[must_use]
    pub fn part(self, offset: u32, bytes: u32) -> Self {
        assert!(offset <= self.bytes && bytes <= self.bytes - offset, "part outside the pinned bytes");
        // SAFETY: the assertion keeps the result inside these bytes, which are inside a mapping
        Self { base: unsafe { self.base.add(offset as usize) }, bytes }
    }

    pub(super) fn as_ptr(self) -> *const u8 {
        self.base
    }
}
