//! A counter that one thread writes and others read.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writer. Readers may see a value late, but never a half-written one.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `more`. Only the one writer may call this.
    #[inline]
    pub fn add(&self, more: u64) {
        // with one writer, a slower atomic read-modify-write would gain nothing
        self.0.store(self.0.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }

    /// Subtracts `less` from a gauge. Only the one writer may call this.
    #[inline]
    pub fn subtract(&self, less: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) - less, Ordering::Relaxed);
    }

    /// The current value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
