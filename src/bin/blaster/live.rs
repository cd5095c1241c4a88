//! What a running worker shows to the others, and what it hears from them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counts that a worker keeps up to date for whoever looks on; the books are in the tally.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Datagrams or messages sent.
    pub(crate) sent: u64,
    /// Answered rightly and in time.
    pub(crate) ok: u64,
    /// Answered otherwise, or reported undeliverable.
    pub(crate) damaged: u64,
    /// Refused by the local kernel.
    pub(crate) refused: u64,
}

/// The place where one worker shows its counts. It has a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Live {
    sent: AtomicU64,
    ok: AtomicU64,
    damaged: AtomicU64,
    refused: AtomicU64,
}

impl Live {
    /// Shows the worker's counts; only that worker does.
    pub(crate) fn show(&self, shown: Shown) {
        self.sent.store(shown.sent, Ordering::Relaxed);
        self.ok.store(shown.ok, Ordering::Relaxed);
        self.damaged.store(shown.damaged, Ordering::Relaxed);
        self.refused.store(shown.refused, Ordering::Relaxed);
    }

    /// The counts as they were a moment ago.
    pub(crate) fn look(&self) -> Shown {
        Shown {
            sent: self.sent.load(Ordering::Relaxed),
            ok: self.ok.load(Ordering::Relaxed),
            damaged: self.damaged.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}

/// The wish to end early: asked once, stop sending and wait for what is on its way; asked twice, at once.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    asked: AtomicBool,
    urgent: AtomicBool,
}

impl Stop {
    /// Asks to stop, or, if that was asked before, to hurry.
    pub(crate) fn ask(&self) {
        if self.asked.swap(true, Ordering::Relaxed) {
            self.urgent.store(true, Ordering::Relaxed);
        }
    }

    /// Whether to stop sending.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Whether to stop waiting, too.
    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Relaxed)
    }
}
