//! What a ring and its operations are told.

use std::time::Duration;

use io_uring::types::Timespec;

use super::FileTable;

/// How a ring is made.
#[derive(Clone, Copy, Debug)]
pub struct RingConfig {
    /// Operations that can be queued before they must be submitted; a power of two.
    pub submission_entries: u32,
    /// Completions that fit before the kernel has to end multishots; a power of two.
    pub completion_entries: u32,
    /// Files, listening sockets and connections together.
    pub files: u32,
    /// How they are known to the kernel.
    pub file_table: FileTable,
    /// Look for completions for so long before sleeping, while that bears fruit; zero for never.
    pub busy_poll: Duration,
}

/// A file of a ring: its number in the ring's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File(pub u32);

/// Whether an operation may wait in the kernel until its socket is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// `MSG_DONTWAIT`: it ends during its submission, with `EAGAIN` if it has to.
    Inline,
    /// It ends when it can.
    Wait,
}

impl Patience {
    pub(super) fn flags(self) -> i32 {
        match self {
            Self::Inline => libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            Self::Wait => libc::MSG_NOSIGNAL,
        }
    }
}

/// How long a turn may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// Until a completion is there.
    Completion,
    /// The same, but so long at the most.
    Timeout(Duration),
}

/// A time for [`super::Ring::wake_after`], in memory that lives as long as the process: the kernel reads it when the
/// operation is submitted.
#[derive(Clone, Copy, Debug)]
pub struct Interval(pub(super) &'static Timespec);

impl Interval {
    /// So long.
    pub fn new(duration: Duration) -> Self {
        Self(Box::leak(Box::new(Timespec::from(duration))))
    }
}
