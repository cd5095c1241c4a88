//! The request to end a run early.

use std::sync::atomic::{AtomicU32, Ordering};

/// The wish to end early: asked once, stop sending and wait for what is on its way; asked twice, at once.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    times: AtomicU32,
}

impl Stop {
    /// Asks to stop, or, if that was asked before, to hurry.
    pub(crate) fn ask(&self) {
        self.times.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was asked.
    pub(crate) fn times(&self) -> u32 {
        self.times.load(Ordering::Relaxed)
    }

    /// Whether to stop sending.
    pub(crate) fn is_asked(&self) -> bool {
        self.times() > 0
    }

    /// Whether to stop waiting, too.
    pub(crate) fn is_urgent(&self) -> bool {
        self.times() > 1
    }
}
