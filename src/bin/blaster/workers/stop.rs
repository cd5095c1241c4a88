//! The request to end a run early.

use std::sync::atomic::{AtomicU32, Ordering};

/// The request to end early. The first one stops the sending, and replies are awaited; the second one ends the run at once.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    times: AtomicU32,
}

impl Stop {
    /// Asks to stop; the second time, to stop at once.
    pub(crate) fn ask(&self) {
        self.times.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn times(&self) -> u32 {
        self.times.load(Ordering::Relaxed)
    }

    /// Whether to stop sending.
    pub(crate) fn is_asked(&self) -> bool {
        self.times() > 0
    }

    /// Whether to stop waiting as well.
    pub(crate) fn is_urgent(&self) -> bool {
        self.times() > 1
    }
}
