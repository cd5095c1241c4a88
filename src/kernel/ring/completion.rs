//! What comes out of a ring.

use std::cell::Cell;

use io_uring::cqueue;

use super::identity::Identity;
use super::{Errno, Token};

/// What the kernel says of an operation.
pub struct Completion {
    pub(super) ring: Identity,
    pub(super) token: Token,
    result: i32,
    /// A buffer that was taken is in them no longer.
    flags: Cell<u32>,
}

impl std::fmt::Debug for Completion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { token, result, flags, .. } = self;
        let mut fields = f.debug_struct("Completion");
        fields.field("token", token).field("result", result).field("flags", &flags.get());
        fields.finish_non_exhaustive()
    }
}

impl Completion {
    pub(super) fn new(ring: Identity, token: Token, result: i32, flags: u32) -> Self {
        Self { ring, token, result, flags: Cell::new(flags) }
    }

    /// The token that the operation was submitted with.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Bytes, or whatever the operation counts.
    pub fn result(&self) -> Result<u32, Errno> {
        u32::try_from(self.result).map_err(|_| Errno(-self.result))
    }

    /// Whether a multishot goes on. If not it has ended, whatever the result says: it does so after
    /// errors, when buffers or completion entries run out, and after every empty datagram.
    pub fn more(&self) -> bool {
        cqueue::more(self.flags())
    }

    /// The time of a [`super::Ring::wake_after`] has passed; else there was no timer to be had.
    pub fn is_elapsed(&self) -> bool {
        self.result == -libc::ETIME
    }

    pub(super) fn flags(&self) -> u32 {
        self.flags.get()
    }

    /// From now on it speaks of no buffer: nobody can take the same one again.
    pub(super) fn forget_buffer(&self) {
        const BUFFER: u32 = 1 << 0; // IORING_CQE_F_BUFFER
        self.flags.set(self.flags() & !BUFFER);
    }
}
