//! A number that one thread writes and others read.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number with one writer. Readers see it a moment late, never half written.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `more`; for the one writer only.
    #[inline]
    pub fn add(&self, more: u64) {
        // no read-modify-write: there is one writer, so a locked instruction would buy nothing
        self.0.store(self.0.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }

    /// Takes `less` away from a gauge; for the one writer only.
    #[inline]
    pub fn subtract(&self, less: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) - less, Ordering::Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
